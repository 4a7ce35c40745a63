"""Copies and strangers on pages, between bars and on light backgrounds in one audit: how many of each are flagged.

``python tests/real/surrounds.py MRI_DIR OUTPUT_DIR [--source ds002748_t1:axial] [--copies 5]``: of up to 60 people half are training, a quarter holdout, a
quarter strangers; one image each. Strangers lie on the same pages, and a sixth on none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import doppelscan
import numpy as np
from encoders import HARDER
from hard_cases import load
from PIL import Image


def on_page(image: np.ndarray, level: float) -> np.ndarray:
    height, width = image.shape
    page = np.full((int(1.4 * height), int(1.4 * width)), level, np.float32)
    page[height // 5 : height // 5 + height, width // 5 : width // 5 + width] = image
    return page


SURROUNDS = {
    **{name: HARDER[name] for name in ("gray background", "white background", "white bars")},
    "white page": lambda image: on_page(image, 1.0),
    "gray page": lambda image: on_page(image, 0.6),
}


def save(image: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image.clip(0, 1) * 255).round().astype(np.uint8)).save(path)


def make(images: list[np.ndarray], output: Path, copies: int) -> None:
    half, quarter = len(images) // 2, len(images) // 4
    for row, image in enumerate(images[: half + quarter]):
        save(image, output / ("training" if row < half else "holdout") / f"{row:02d}.png")
    for number in range(copies * len(SURROUNDS)):
        kind = list(SURROUNDS)[number // copies]
        save(SURROUNDS[kind](images[number % half]), output / "synthetic" / f"{kind}_{number % half:02d}.png")
    kinds = [*SURROUNDS.values(), lambda image: image]
    for row, image in enumerate(images[half + quarter :]):
        save(kinds[row % len(kinds)](image), output / "synthetic" / f"stranger_{row:02d}.png")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", default="ds002748_t1:axial")
    parser.add_argument("--copies", type=int, default=5, help="of each surround")
    options = parser.parse_args()
    one_each = {patient: image for patient, image, _ in reversed(load(options.data, options.source))}
    people = np.random.default_rng(1).permutation(sorted(one_each))[:60]
    make([one_each[person] for person in people], options.output, options.copies)
    sets = {name: options.output / name for name in ("training", "holdout", "synthetic")}
    result = doppelscan.audit(**sets, output=options.output / "audit", self_test=False)
    shown, flagged, sourced = Counter(), Counter(), Counter()
    for row in result.scores:
        kind, own = Path(row["image"]).stem.split("_")
        shown[kind] += 1
        flagged[kind] += bool(row["flagged"])
        sourced[kind] += kind != "stranger" and Path(row["match"]).stem == own
    print("| | flagged | with their source |\n|---|---|---|")
    for kind in shown:
        print(f"| {kind} | {flagged[kind]} of {shown[kind]} | {sourced[kind] if kind != 'stranger' else '-'} |")


if __name__ == "__main__":
    main()
