"""Copies of every transform, parts, blends, neighbouring slices and strangers in one audit: what each is found as.

``python tests/real/hard_cases.py MRI_DIR OUTPUT_DIR [--source ds002748_t1:axial]``: 45 % of the patients are training, 35 % holdout, the others
strangers. Of neighbouring slices of a training patient one is in the training set and the other is shown as synthetic.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import doppelscan
import numpy as np
from doppelscan.images import COPY_TRANSFORMS, plant_copy, read_pixels
from doppelscan.images.transforms import take_slice, window
from PIL import Image
from scipy import ndimage
from split import rows


def resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BILINEAR)) if image.shape != shape else image


def paste(source: np.ndarray, host: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A half, or a disc of a tenth of the image whose centre lies in the anatomy, of ``source`` in ``host``; the edge is blurred."""
    height, width = source.shape
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y + 0.5) / height, (x + 0.5) / width
    if kind == "half":
        distance = [x - 0.5, 0.5 - x, y - 0.5, 0.5 - y][rng.integers(4)]
    else:
        rows_, columns = np.nonzero(ndimage.gaussian_filter(source, 2) > 0.15)
        one = rng.integers(len(rows_))
        centre = np.clip(((rows_[one] + 0.5) / height, (columns[one] + 0.5) / width), 0.25, 0.75)
        distance = np.sqrt(0.1 / np.pi) - np.hypot(y - centre[0], x - centre[1])
    inside = 1 / (1 + np.exp(-distance * max(height, width) / 1.5))
    return (inside * source + (1 - inside) * resized(host, source.shape)).astype(np.float32)


def load(mri: Path, source: str) -> list[tuple[str, np.ndarray, bool]]:
    name, _, plane = source.partition(":")
    found = []
    for row in rows(mri):
        if row.get("source", name) == name and (not plane or row["plane"] == plane):
            pixels = read_pixels([str(mri / row["path"])])
            pixels = take_slice(pixels, 2, pixels.shape[2] // 2) if pixels.ndim == 3 else pixels
            found.append((row["subject"], window(pixels), "adjacent" in row.get("note", "")))
    return found


def make(mri: Path, source: str, output: Path, seed: int = 3) -> None:
    rng = np.random.default_rng(seed)
    images = load(mri, source)
    patients = sorted({patient for patient, _, _ in images})
    rng.shuffle(patients)
    place = {p: k / len(patients) for k, p in enumerate(patients)}
    training, holdout, strangers, neighbours, seen = [], [], [], [], set()
    for patient, pixels, adjacent in images:
        if place[patient] >= 0.45:
            (holdout if place[patient] < 0.8 else strangers).append((patient, pixels))
        elif adjacent and patient in seen:
            neighbours.append((patient, pixels))
        else:
            seen.update({patient} if adjacent else set())
            training.append((patient, pixels))

    def any_of(members: list) -> np.ndarray:
        return members[rng.integers(len(members))][1]

    synthetic, truth = [], []

    def add(image: np.ndarray, kind: str, *sources: int) -> None:
        synthetic.append(image)
        truth.append((kind, *(f"{training[i][0]}__{i:04d}.png" for i in sources)))

    for name in COPY_TRANSFORMS:
        i = int(rng.integers(len(training)))
        add(plant_copy(training[i][1], name, rng, any_of(strangers)), "copy", i)
    for kind in ("half", "disc"):
        for host in (strangers, training):
            for _ in range(6):
                i, j = (int(rng.integers(len(group))) for group in (training, host))
                known = (i, j) if host is training else (i,)
                add(
                    paste(training[i][1], host[j][1], kind, rng),
                    f"{kind} in {'training' if host is training else 'stranger'}",
                    *known,
                )
    for weight in (0.5, 0.7):
        for _ in range(6):
            i, j = rng.integers(len(training), size=2).tolist()
            second = resized(training[j][1], training[i][1].shape)
            add(weight * training[i][1] + (1 - weight) * second, f"blend {weight:.1f}", i, j)
    for patient, pixels in neighbours[:12]:
        near = next(i for i, one in enumerate(training) if one[0] == patient)
        add(pixels, "neighbour", near)
    for _, pixels in strangers:
        add(pixels, "stranger")
    shutil.rmtree(output, ignore_errors=True)
    named = [
        (name, [(f"{p}__{i:04d}", x) for i, (p, x) in enumerate(part)])
        for name, part in (("training", training), ("holdout", holdout))
    ]
    named.append(("synthetic", [(f"s{i:04d}", x) for i, x in enumerate(synthetic)]))
    for name, members in named:
        (output / name).mkdir(parents=True)
        for stem, pixels in members:
            Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(output / name / f"{stem}.png")
    with open(output / "truth.csv", "w", newline="") as file:
        csv.writer(file).writerows([f"s{i:04d}.png", *row] for i, row in enumerate(truth))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mri", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", default="ds002748_t1:axial")
    options = parser.parse_args()
    make(options.mri, options.source, options.output)
    sets = {name: options.output / name for name in ("training", "synthetic", "holdout")}
    result = doppelscan.audit(**sets, output=options.output / "report", patient_pattern=r"^([^_]+?)(?:__|\.png)")
    with open(options.output / "truth.csv", newline="") as file:
        truth = {row[0]: row[1:] for row in csv.reader(file)}
    kinds, right = defaultdict(Counter), Counter()
    for row in result.scores:
        kind, *sources = truth[os.path.basename(row["image"])]
        kinds[kind][row["finding"] or "not flagged"] += 1
        found = os.path.basename(row["part_match" if row["finding"] == "part" else "match"])
        same = found in sources or (kind == "neighbour" and found.split("__")[0] == sources[0].split("__")[0])
        right[kind] += bool(row["finding"]) and same
    print("| planted | images | found as | right source |\n|---|---|---|---|")
    for kind, count in kinds.items():
        total = sum(count.values())
        print(
            f"| {kind} | {total} | {', '.join(f'{n} {k}' for k, n in count.most_common())} | {right[kind] if kind != 'stranger' else '-'} |"
        )
    print(result.conclusion.reason)
    print(result.summary["effective_control"], result.summary["control_against_training"], len(result.summary["near_duplicates"]))


if __name__ == "__main__":
    main()
