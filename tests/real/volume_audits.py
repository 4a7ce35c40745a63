"""A whole audit of volumes with known truth: copies of training people, each changed in another way, among strangers.

    python tests/real/volume_audits.py FOLDER OUTPUT [--training 30] [--copies 12] [--strangers 12] [--holdout 0] [--only NAME ...] [OPTION ...]

Volumes of FOLDER, one a person, are drawn with a fixed seed and written below OUTPUT as sets; further options go to ``doppelscan audit``. Prints what
was flagged, as what, of whom, in which time and memory (Markdown).
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
from doppelscan.images import plant_volume
from volumes import read

CHANGES = (
    "exact", "flip-x", "axes 2 0 1", "rotation 10 x", "rotation 20 z", "shift 10 % y", "crop 15 %", "gamma 1.5", "3 mm and back", "elastic",
    "blend 75/25", "half replaced",
)  # fmt: skip


def write(pixels: np.ndarray, spacing: tuple[float, ...], path: Path) -> None:
    nib.save(nib.Nifti1Image(np.round(pixels * 255).astype(np.uint8), np.diag([*spacing, 1.0])), path)


def make_sets(
    folder: Path, output: Path, training: int, copies: int, strangers: int, holdout: int, changes: list[str]
) -> dict[str, tuple[str, str]]:
    """Synthetic file -> (change, person who is copied or nobody)."""
    paths = sorted(folder.glob("*.nii.gz"))
    order = np.random.default_rng(0).permutation(len(paths))[: training + strangers + holdout].tolist()
    chosen = [paths[i] for i in order]
    sets = {
        "training": chosen[:training],
        "synthetic": chosen[training : training + strangers],
        "holdout": chosen[training + strangers :],
    }
    truth = {}
    for name, own in sets.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        for path in own:
            shutil.copy(path, output / name / path.name)
            truth[path.name] = ("stranger", "")
    rng = np.random.default_rng(0)
    for i in range(copies):
        change, source, partner = changes[i % len(changes)], chosen[i % training], chosen[training + i % max(1, strangers)]
        made = plant_volume(*read(source), change, rng, read(partner))
        name = f"copy{i:03d}.nii.gz"
        write(made.pixels, made.spacing, output / "synthetic" / name)
        truth[name] = (change, source.name)
    return truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    for name, default in (("training", 30), ("copies", 12), ("strangers", 12), ("holdout", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*")
    asked, options = parser.parse_known_args()
    truth = make_sets(
        asked.folder, asked.output, asked.training, asked.copies, asked.strangers, asked.holdout, asked.only or list(CHANGES)
    )
    command = [
        sys.executable, "-m", "doppelscan.cli", "audit", "--training", "training", "--synthetic", "synthetic", "--output", "audit",
        "--patient-pattern", "(.*)__", *(["--holdout", "holdout"] if asked.holdout else []), *options,
    ]  # fmt: skip
    start = time.monotonic()
    subprocess.run(command, cwd=asked.output, check=True)
    seconds = time.monotonic() - start
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    with open(asked.output / "audit" / "scores.csv", newline="") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    print(
        "| change | flagged | kind | source right | verified | explained | next | q | pose |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, (change, source) in sorted(truth.items(), key=lambda one: one[0]):
        if name in rows:
            row = rows[name]
            right = Path(row["match"]).name == source if source else ""
            print(
                f"| {change} | {row['flagged']} | {row['finding']} | {right} | {float(row['verified']):.3f} | {float(row['share']):.3f} "
                f"| {float(row['runner_up']):.3f} | {float(row['q_value']):.3f} | {row['pose']} |"
            )
    summary = json.loads((asked.output / "audit" / "summary.json").read_text())
    print(f"\n{summary['conclusion']}: {summary['reason']}")
    for one in (summary["self_test"] or {"copies": []})["copies"]:
        print(
            f"planted {one['name']}: {one['found']} of {one['planted']} found, {one['right_source']} right, {one['called_copy']} copy"
        )
    for one in (summary["self_test"] or {"negatives": []})["negatives"]:
        print(f"negative {one['name']}: {one['flagged']} of {one['images']} flagged, {one['accused']} accused")
    flagged = Counter((truth[name][1] != "", row["flagged"]) for name, row in rows.items())
    print(
        f"copies flagged {flagged[True, 'true']} of {asked.copies}, strangers {flagged[False, 'true']} of {asked.strangers}; {seconds:.0f} s, "
        f"peak {memory:.2f} GB; {summary['seconds']}"
    )


if __name__ == "__main__":
    main()
