"""What the self-test takes for the sharpness and noise of a synthetic set: ``python tests/real/spectrum_match.py DATA [SOURCE]``.

60 slices of 30 people train, 50 of 25 others are the holdout, and the synthetic set is that holdout itself, 25 slices of a dozen further people as they are,
noisy, or blurred. Also whether names alone tell who is who in each source of DATA: ``--names``.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from doppelscan.images import (
    ImageRecord,
    SpectrumMatch,
    SquareImages,
    SquareThumbnaild,
    Windowd,
    bids_subjects,
    propose_patients,
    read_pixels,
)
from scipy import ndimage

SEED, EACH = 7, 2


def squares(paths: list[Path], people: list[str]) -> SquareImages:
    """Images as the audit's thumbnails are."""
    square, windowed = SquareThumbnaild("image", 128), Windowd("image")
    made = [square(windowed({"image": read_pixels([str(path)])[None]})) for path in paths]
    pixels = np.stack([one["thumbnail"][0] for one in made]).astype(np.float32) / 255
    return SquareImages(pixels, np.stack([one["native_shape"] for one in made]), people)


def drawn(rows: list[dict[str, str]], data: Path, rng: np.random.Generator) -> list[SquareImages]:
    """Training, holdout and others: two slices of each person."""
    of: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of[row["subject"]].append(row["path"])
    people = sorted(who for who, paths in of.items() if len(paths) >= EACH)
    sets = []
    for chosen in (people[:30], people[30:55], people[55:68]):
        paths = [(who, path) for who in chosen for path in rng.choice(of[who], EACH, replace=False)]
        sets.append(squares([data / path for _, path in paths], [who for who, _ in paths]))
    return sets


def changed(images: SquareImages, change) -> SquareImages:
    return SquareImages(np.stack([np.clip(change(one), 0, 1) for one in images.pixels]), images.shapes, images.people)


def measure(rows: list[dict[str, str]], data: Path) -> None:
    rng = np.random.default_rng(SEED)
    training, holdout, others = drawn(rows, data, rng)
    sets = {
        "the holdout itself": holdout,
        "other people": others,
        **{
            f"other people, noise {s:g}": changed(others, lambda i, s=s: i + s * rng.standard_normal(i.shape))
            for s in (0.02, 0.05, 0.1)
        },
        **{f"other people, blur {s:g}": changed(others, lambda i, s=s: ndimage.gaussian_filter(i, s)) for s in (0.7, 1.0, 2.0)},
    }
    print("| synthetic set | noise planted | amplitude kept at 16, 32, 48 cycles | mean change of a pixel |\n|---|---|---|---|")
    for name, target in sets.items():
        match = SpectrumMatch(training, target, holdout)
        change = np.abs(match(training.pixels[:20], rng) - training.pixels[:20]).mean()
        print(f"| {name} | {match.sigma:.3f} | {', '.join(f'{g:.2f}' for g in match.gain[[16, 32, 48]])} | {change:.4f} |")


def names(rows: list[dict[str, str]]) -> None:
    of_source: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["kind"] == "real":
            of_source[row["source"]].append(row)
    for source, own in of_source.items():
        records = [ImageRecord(r["path"], (r["path"],), r["path"], r["path"], patient_known=False) for r in own]
        standard = bids_subjects(records)
        told = [("BIDS", [s or r.id for s, r in zip(standard, records, strict=True)])] if any(standard) else []
        told += [(one.words, list(one.patients)) for one in propose_patients(records)]
        print(
            source,
            len({r["subject"] for r in own}),
            "people;",
            "; ".join(f"{w}: F1 {f1([r['subject'] for r in own], p):.3f}" for w, p in told) or "names say nothing",
        )


def f1(truth: list[str], said: list[str]) -> float:
    """Pairwise F1 of two partitions."""

    def pairs(labels: list) -> float:
        counts = np.unique(np.unique(labels, return_inverse=True)[1], return_counts=True)[1]
        return float((counts * (counts - 1) / 2).sum())

    both = pairs([f"{a}\n{b}" for a, b in zip(truth, said, strict=True)])
    return 2 * both / max(1.0, pairs(truth) + pairs(said))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("source", nargs="?", default="ds002748_t1")
    parser.add_argument("--names", action="store_true")
    asked = parser.parse_args()
    with open(asked.data / "manifest.csv", newline="") as file:
        table = list(csv.DictReader(file))
    if asked.names:
        names(table)
    else:
        measure([row for row in table if row["path"].startswith(f"{asked.source}/")], asked.data)
