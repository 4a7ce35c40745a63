"""Which copies are found by their pixels alone, and which neighbouring slices are taken for copies: ``python tests/real/identical_copies.py DATA``.

DATA is a folder with manifest.csv (path, source, subject). Every seventh image of each source is copied and looked for among all; then every second
image is looked for among the others, where nothing is right.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from doppelscan.images import DarkSurroundd, ImageError, ImageRecord, LoadSliced, SquareThumbnaild, Windowd
from doppelscan.search import EmbeddedSet
from doppelscan.verify import IdenticalPixels
from PIL import Image

How = Image.Resampling
PREPARE = (DarkSurroundd("image"), Windowd("image"), SquareThumbnaild("image", 128))


class Thumbnails:
    """Stands for the store."""

    def __init__(self, prepared: Sequence[dict[Any, Any]]) -> None:
        self.arrays = {
            name: np.stack([one[name] for one in prepared]) for name in ("thumbnail", "native_shape", "as_read", "read_shape")
        }

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        return {name: self.arrays[name][[int(key) for key in keys]] for name in names}


def prepared(pixels: np.ndarray) -> dict[Any, Any]:
    item: dict[Any, Any] = {"image": np.ascontiguousarray(pixels, np.float32)[None]}
    for step in PREPARE:
        item = step(item)
    return item


def embedded(images: Sequence[np.ndarray]) -> EmbeddedSet:
    store: Any = Thumbnails([prepared(one) for one in images])
    records = [ImageRecord(str(i), (str(i),), str(i), str(i)) for i in range(len(images))]
    return EmbeddedSet(records, [str(i) for i in range(len(images))], store, {})


def resized(height: int, width: int, how: How) -> Callable[[np.ndarray], np.ndarray]:
    return lambda i: np.asarray(Image.fromarray(i).resize((width, height), how))


def longer(side: int, how: How) -> Callable[[np.ndarray], np.ndarray]:
    return lambda i: resized(*(max(8, round(side * s / max(i.shape))) for s in i.shape), how)(i)


def windowed(i: np.ndarray, percentile: float) -> np.ndarray:
    low, high = np.percentile(i, (percentile, 100 - percentile))
    return np.round(np.clip((i - low) / max(1e-6, high - low), 0, 1) * 255)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nothing": lambda i: i,
    "inverted": lambda i: i.max() - i,
    "mirrored and turned": lambda i: np.rot90(i[:, ::-1]),
    "window of percentiles 1 to 99": lambda i: windowed(i, 1),
    "a square of 128, bilinear": resized(128, 128, How.BILINEAR),
    "a square of 256, bicubic": resized(256, 256, How.BICUBIC),
    "half the size, box": lambda i: resized(max(8, i.shape[0] // 2), max(8, i.shape[1] // 2), How.BOX)(i),
    "64 pixels, bilinear": longer(64, How.BILINEAR),
    "64 pixels, Lanczos": longer(64, How.LANCZOS),
    "48 pixels, bilinear": longer(48, How.BILINEAR),
    "32 pixels, bilinear": longer(32, How.BILINEAR),
    "every second pixel": lambda i: i[::2, ::2],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=150, help="of a source")
    options = parser.parse_args()
    images: dict[str, list[np.ndarray]] = defaultdict(list)
    load = LoadSliced("image")
    with open(options.data / "manifest.csv", newline="") as file:
        for row in csv.DictReader(file):
            if len(images[row.get("source", "images")]) < options.images:
                try:
                    pixels = load({"image": str(options.data / row["path"])})["image"][0]
                    prepared(pixels)
                except ImageError:
                    continue
                images[row.get("source", "images")].append(pixels.astype(np.float32))
    print("| changed by | " + " | ".join(f"{name} ({len(range(0, len(own), 7))})" for name, own in images.items()) + " |")
    print("|---" * (len(images) + 1) + "|")
    search = {name: IdenticalPixels(embedded(own)) for name, own in images.items()}
    for change, apply in CHANGES.items():
        cells = []
        for name, own in images.items():
            rows = range(0, len(own), 7)
            found = search[name].find(embedded([apply(own[i]) for i in rows]))
            right = sum(one is not None and one.row == i for one, i in zip(found, rows, strict=True))
            wrong = sum(one is not None and one.row != i for one, i in zip(found, rows, strict=True))
            cells.append(f"{right}" + (f", wrong {wrong}" if wrong else ""))
        print(f"| {change} | " + " | ".join(cells) + " |", flush=True)
    for change in ("nothing", "64 pixels, bilinear", "32 pixels, bilinear"):
        cells = []
        for own in images.values():
            others = IdenticalPixels(embedded(own[1::2]))
            found = others.find(embedded([CHANGES[change](one) for one in own[::2]]))
            cells.append(f"{sum(one is not None for one in found)} of {len(found)}")
        print(f"| another slice, {change} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
