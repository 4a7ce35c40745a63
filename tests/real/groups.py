"""Who and what is there twice, names hidden: ``python tests/real/groups.py DATA OUTPUT_DIR [--source ds002748_t1] [--people 40]``.

DATA is a folder with manifest.csv (path, subject, and source or the folder of a file). Files get names that say nothing. Of each source: half of the people
with all their images, copies planted of some, changed by every transform; of the other half one image each, as strangers. People whom the shipped encoder
was trained on are left out. ``doppelscan duplicates`` sees the files, the truth stays here.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import doppelscan
import numpy as np
from doppelscan.images import COPY_TRANSFORMS, plant_copy, read_pixels
from doppelscan.images.transforms import take_slice, window
from hard_cases import resized
from identical_copies import CHANGES
from made_files import save_png
from sklearn.metrics import roc_auc_score
from split import HELD_OUT, rows, trains

NEVER_TRAINED = {*HELD_OUT, "kermany"}


def changed(image: np.ndarray, name: str, rng: np.random.Generator, partner: np.ndarray) -> np.ndarray:
    """float32 [H, W] in [0, 1]."""
    if name in CHANGES:
        made = np.asarray(CHANGES[name](image.astype(np.float32) * 255), np.float32)
        return np.clip(made / max(1.0, float(made.max())), 0, 1)
    return plant_copy(image, name, rng, resized(partner, image.shape))


def build(data: Path, source: str, people: int, folder: Path, seed: int) -> list[dict[str, Any]]:
    """Write the pool; one entry a file: name, subject, what it is a copy of and how it was changed."""
    rng = np.random.default_rng(seed)
    own = [row for row in rows(data) if row["source"] == source]
    own = [row for row in own if source in NEVER_TRAINED or not trains(source, row["subject"])]
    subjects = sorted({row["subject"] for row in own})
    rng.shuffle(subjects)
    several = [s for s in subjects if sum(row["subject"] == s for row in own) > 1]
    full = (several + [s for s in subjects if s not in several])[: people // 2]
    alone = [s for s in subjects if s not in full][: people - len(full)]
    taken = [row for row in own if row["subject"] in full]
    taken += [next(row for row in own if row["subject"] == s) for s in alone]
    order = rng.permutation(2 * len(taken) + 200).tolist()
    folder.mkdir(parents=True)
    truth: list[dict[str, Any]] = []

    def name(extension: str) -> str:
        return f"{order[len(truth)]:06d}{extension}"

    for row in taken:
        path = data / row["path"]
        made = name("".join(path.suffixes))
        os.symlink(path.resolve(), folder / made)
        truth.append(
            {
                "file": made,
                "subject": row["subject"],
                "adjacent": "adjacent" in row.get("note", ""),
                "copy_of": "",
                "how": "",
                "path": path,
            }
        )
    kinds = [*COPY_TRANSFORMS, *CHANGES]
    sources = [one for one in truth if one["subject"] in full]
    sources = [sources[i] for i in rng.permutation(len(sources))[: 2 * len(kinds)]]
    for number, one in enumerate(sources):
        how = kinds[number % len(kinds)]
        pixels, partner = (
            window(_flat(read_pixels([str(other["path"])]))) for other in (one, truth[int(rng.integers(len(truth)))])
        )
        made = name(".png")
        save_png(folder / made, changed(pixels, how, rng, partner))
        truth.append(
            {"file": made, "subject": one["subject"], "adjacent": False, "copy_of": one["file"], "how": how, "path": folder / made}
        )
    return truth


def _flat(pixels: np.ndarray) -> np.ndarray:
    return take_slice(pixels, 2, pixels.shape[2] // 2) if pixels.ndim == 3 else pixels


def pairs_of(labels: Sequence[Any]) -> set[frozenset[int]]:
    """All pairs of equal labels; empty labels are alone."""
    own = defaultdict(list)
    for row, label in enumerate(labels):
        if label:
            own[label].append(row)
    return {frozenset((a, b)) for members in own.values() for n, a in enumerate(members) for b in members[n + 1 :]}


def f1(found: set, true: set) -> dict[str, float]:
    right = len(found & true)
    precision, recall = right / max(1, len(found)), right / max(1, len(true))
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(1e-9, precision + recall),
        "pairs": len(true),
    }


def measure(truth: list[dict[str, Any]], result: Any) -> dict[str, Any]:
    row_of = {one["file"]: i for i, one in enumerate(truth)}
    found: list[Any] = [None] * len(truth)
    for row in result.groups:
        i = row_of[os.path.basename(row["image"].partition("#")[0])]
        if found[i] is None or float(row["score"]) > float(found[i]["score"]):
            found[i] = row
    read = [i for i, row in enumerate(found) if row is not None]
    count = Counter(one["subject"] for one in truth)
    original = {one["file"]: one["copy_of"] or one["file"] for one in truth}
    copied = {one["copy_of"] for one in truth if one["copy_of"]}
    has_copy = [bool(truth[i]["copy_of"]) or truth[i]["file"] in copied for i in range(len(truth))]
    strangers = [i for i in read if count[truth[i]["subject"]] == 1]
    scores = np.array([float(found[i]["score"]) if found[i] is not None else np.nan for i in range(len(truth))])

    def area(chosen: Callable[[int], bool]) -> float:
        some = [i for i in read if chosen(i)]
        labels = np.r_[np.ones(len(some)), np.zeros(len(strangers))]
        values = np.nan_to_num(scores[[*some, *strangers]], nan=0.0)
        return float(roc_auc_score(labels, values)) if some and strangers else float("nan")

    grouped = pairs_of([found[i]["group"] if found[i] is not None else "" for i in range(len(truth))])
    same_image = pairs_of([original[one["file"]] for one in truth])
    close = same_image | pairs_of([f"{one['subject']} near" if one["adjacent"] else "" for one in truth])
    by_link = {frozenset((a, b)) for a, b in close}
    # Of a copy and the neighbour of its original the pair is close, too.
    near = pairs_of(
        [one["subject"] if one["adjacent"] or truth[row_of[original[one["file"]]]]["adjacent"] else "" for one in truth]
    )
    by_person = pairs_of([one["subject"] for one in truth])
    hows: dict[str, list[int]] = defaultdict(list)
    called: dict[str, Counter] = defaultdict(Counter)
    for i, one in enumerate(truth):
        if one["copy_of"] and found[i] is not None:
            partner = row_of[one["copy_of"]]
            hows[one["how"]].append(int(frozenset((i, partner)) in grouped))
            called[one["how"]][found[i]["relation"] or "alone"] += 1
    wrong = sorted({tuple(sorted((truth[a]["subject"], truth[b]["subject"]))) for a, b in (tuple(p) for p in grouped - by_person)})
    return {
        "images": len(read), "people": len(count), "copies": sum(bool(one["copy_of"]) for one in truth), "strangers": len(strangers),
        "auc_copies": area(lambda i: has_copy[i]), "auc_adjacent": area(lambda i: truth[i]["adjacent"] and not has_copy[i] and count[truth[i]["subject"]] > 1),
        "highest_stranger": float(np.nanmax(scores[strangers])) if strangers else None,
        "close_pairs": f1({p for p in grouped if p in by_link | near or p not in by_person}, by_link | near),
        "people_pairs": f1(grouped, by_person),
        "missed_by": {how: f"{sum(v)} of {len(v)}" for how, v in hows.items() if sum(v) < len(v)},
        "called": {how: dict(v) for how, v in called.items()},
        "wrong_people": wrong[:20], "largest_group": result.summary["largest_group"], "doubted": result.summary["doubted_pairs"],
        "seconds": result.summary["seconds"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", action="append")
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for source in options.source or sorted({row["source"] for row in rows(options.data) if row.get("kind") != "generated"}):
        place = options.output / f"{source}-{options.people}-{options.seed}"
        truth = build(options.data, source, options.people, place / "images", options.seed)
        result = doppelscan.duplicates(
            place / "images", output=place / "out", store=options.output / "store", slice_range=(0.5, 0.6), slice_step=1000
        )
        measured = measure(truth, result)
        (place / "measured.json").write_text(json.dumps(measured, indent=1))
        told = {name: value for name, value in measured.items() if name not in ("called", "seconds")}
        print(source, json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
