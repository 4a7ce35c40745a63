"""Who trains the encoder and who tests it: half of the patients of each brain source, of the spine and of the chest X-rays, nobody of the
hippocampus.

Weights before 0.4.0 saw the spine in the last stage only, and no X-ray.

``python tests/real/split.py FOLDER OUTPUT_DIR`` writes one CSV (path, patient) per source of FOLDER/manifest.csv and part. The part of a
patient is the parity of the sha256 of ``source/patient``: it never changes when files are added.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

HELD_OUT = {"msd_hippocampus", "generated_alimzade"}


def trains(source: str, subject: str) -> bool:
    return source not in HELD_OUT and int(hashlib.sha256(f"{source}/{subject}".encode()).hexdigest(), 16) % 2 == 0


def rows(mri: Path) -> list[dict[str, str]]:
    """Rows of manifest.csv; a source that has no column is the folder of its files."""
    with open(mri / "manifest.csv", newline="") as file:
        return [{"source": Path(row["path"]).parts[0], "plane": "", **row} for row in csv.DictReader(file)]


def main(mri: Path, output: Path) -> None:
    parts: dict[tuple[str, str], list] = defaultdict(list)
    for row in rows(mri):
        part = "train" if trains(row["source"], row["subject"]) else "test"
        cohort = row["source"] + ("_coronal" if row["plane"] == "coronal" else "")
        parts[cohort, part].append((mri / row["path"], row["subject"]))
    output.mkdir(parents=True, exist_ok=True)
    for (cohort, part), members in sorted(parts.items()):
        with open(output / f"{cohort}_{part}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "patient"])
            writer.writerows(members)
        print(f"{cohort:28s} {part:5s} {len(members):4d} images of {len({m[1] for m in members})} patients")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
