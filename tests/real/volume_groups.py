"""Which volumes are there twice, in two sets and in one, names hidden: ``python tests/real/volume_groups.py FOLDER OUTPUT_DIR [--people 12] [--strangers 8]``.

FOLDER holds a NIfTI file a person. Set a: so many people. Set b: other people, and one copy of somebody of a through each transform of the benchmark of
volumes. Files get names that say nothing. ``doppelscan leak`` and ``doppelscan duplicates`` see the files, the truth stays here.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import doppelscan
import nibabel as nib
import numpy as np
from doppelscan.images import VOLUME_TRANSFORMS, plant_volume
from doppelscan.workflows import OverlapResult
from volumes import read


def write(path: Path, pixels: np.ndarray, spacing: tuple[float, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.round(pixels * 255).clip(0, 255).astype(np.uint8), np.diag([*spacing, 1.0])), path)


def build(folder: Path, output: Path, people: int, strangers: int, seed: int) -> dict[str, tuple[str, str]]:
    """Write the sets: name of a file -> who it is and how it was changed."""
    rng = np.random.default_rng(seed)
    files = sorted(folder.glob("*.nii.gz"))
    *chosen, partner = (files[i] for i in rng.permutation(len(files))[: people + strangers + 1])
    names = rng.permutation(10000).tolist()
    truth: dict[str, tuple[str, str]] = {}

    def add(part: str, pixels: np.ndarray, spacing: tuple[float, ...], who: str, how: str) -> None:
        name = f"{names[len(truth)]:05d}"
        write(output / part / f"{name}.nii.gz", pixels, spacing)
        truth[name] = (who, how)

    for number, file in enumerate(chosen):
        add("a" if number < people else "b", *read(file), file.name, "")
    for number, how in enumerate(VOLUME_TRANSFORMS):
        file = chosen[number % people]
        made = plant_volume(*read(file), how, rng, read(partner))
        add("b", made.pixels, made.spacing, file.name, how)
    return truth


def short(name: str) -> str:
    return Path(name).name.split(".")[0]


def told(result: OverlapResult, truth: dict[str, tuple[str, str]], crossing: bool) -> dict[str, object]:
    """Joins that are right and wrong, of pairs of a person's volumes (of two sets those between them)."""
    group = {short(row["image"]): row["group"] for row in result.groups}
    side = {short(row["image"]): row["set"] for row in result.groups}
    names = sorted(group)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :] if not crossing or side[one] != side[other]]
    own = [pair for pair in pairs if truth[pair[0]][0] == truth[pair[1]][0]]
    joined = [pair for pair in pairs if group[pair[0]] and group[pair[0]] == group[pair[1]]]
    wrong = [pair for pair in joined if pair not in own]
    return {
        "pairs": len(own),
        "joined": len(joined) - len(wrong),
        "wrong": len(wrong),
        "missed": sorted(truth[one][1] or truth[other][1] for one, other in own if (one, other) not in joined),
        "highest_unlinked": result.summary["highest_unlinked"],
        "relations": {truth[short(row["image"])][1]: row["relation"] for row in result.groups if truth[short(row["image"])][1]},
        "seconds": round(sum(result.summary["seconds"].values()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--strangers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    truth = build(args.folder, args.output / "sets", args.people, args.strangers, args.seed)
    place, store, start = args.output / "sets", args.output / "store", time.time()
    found = doppelscan.leak(a=place / "a", b=place / "b", output=args.output / "leak", store=store, device="cpu")
    result = {"volumes": len(truth), "leak": told(found, truth, True)}
    doubles = doppelscan.duplicates(place, output=args.output / "doubles", store=store, keep="one", device="cpu")
    result |= {"duplicates": told(doubles, truth, False), "removable": doubles.summary["removable"]}
    (args.output / "truth.json").write_text(json.dumps(truth, indent=1))
    print(json.dumps({**result, "wall": round(time.time() - start)}, indent=1))


if __name__ == "__main__":
    main()
