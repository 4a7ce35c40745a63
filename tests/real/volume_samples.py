"""Are samples of a generator of volumes copies? Each is held against the volumes it was trained on, and against as many of people it never saw.

``python tests/real/volume_samples.py SAMPLES TRAINING OTHERS [--most 24] [--size 48] [--scores scores.csv]``

SAMPLES is a manifest.csv, TRAINING and OTHERS are folders or tables. Two looks:

- Voxels, that ask none of our scores and register nothing: the correlation of what is left of two cubes when the mean of all people of OTHERS is taken away.
  Real people of OTHERS against TRAINING say how near two people come. A sample above all of them is a copy of the nearest. With the scores.csv of an audit,
  how many of the copies it flags, how often as this very person, and how many others.
- Registration: a sample that owes training nothing agrees as well with others; a copy agrees with one training volume as nothing else does.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from doppelscan.images import CubeFrame, ForegroundCubed, LoadVolumed, Windowd, find_images
from doppelscan.verify import VolumeRegistration
from monai.transforms import Compose

Cubes = tuple[torch.Tensor, list[CubeFrame], list[str]]


def cubes(source: Path, most: int | None = None, size: int | None = None) -> Cubes:
    cut = ForegroundCubed("image", size) if size else ForegroundCubed("image")
    prepare = Compose([LoadVolumed("image"), Windowd("image"), cut])
    records = find_images(source, name="synthetic", volumes="whole").records[:most]
    items = [prepare({"image": list(one.paths)}) for one in records]
    return (
        torch.stack([torch.as_tensor(item["thumbnail"]) for item in items]),
        [item["cube_frame"] for item in items],
        [Path(one.paths[0]).name for one in records],
    )


def best(registration: VolumeRegistration, queries: Cubes, candidates: Cubes) -> np.ndarray:
    """float64 [M], the score of the candidate that agrees best; each in its own pose, for generators do not turn people."""
    poses = np.zeros((1, len(candidates[0]), 1), np.int64)
    found = []
    for cube, frame in zip(queries[0], queries[1], strict=True):
        found.append(registration(cube[None], candidates[0][None], [frame], [candidates[1]], poses=poses)[0][0].score)
    return np.array(found)


def directions(cubes: Cubes, mean: np.ndarray) -> np.ndarray:
    """float64 [M, V], what is left of each cube without ``mean``, centred, of unit norm."""
    left = cubes[0].flatten(1).numpy().astype(np.float64) - mean
    left -= left.mean(1, keepdims=True)
    return left / np.linalg.norm(left, axis=1, keepdims=True)


def told(scores: Path) -> dict[str, tuple[bool, str]]:
    with open(scores, newline="") as file:
        return {Path(row["image"]).name: (row["flagged"] == "true", Path(row["match"]).name) for row in csv.DictReader(file)}


def voxels(samples: Path, training: Path, others: Path, size: int, scores: Path | None) -> None:
    made, trained, strangers = (cubes(source, size=size) for source in (samples, training, others))
    mean = strangers[0].flatten(1).double().mean(0).numpy()
    known = directions(trained, mean)
    near, control = directions(made, mean) @ known.T, (directions(strangers, mean) @ known.T).max(1)
    order = np.argsort(-near, axis=1)
    first, second = (np.take_along_axis(near, order[:, rank : rank + 1], 1)[:, 0] for rank in (0, 1))
    copies = first > control.max()
    audited = told(scores) if scores else {}
    for name, one, two, source in zip(made[2], first, second, order[:, 0], strict=True):
        flagged, match = audited.get(name, ("", ""))
        print(f"{name}  nearest {trained[2][source]} {one:.3f}  next {two:.3f}  {flagged} {match}")
    print(
        f"voxels: {len(first)} samples, median {np.median(first):.3f} with the nearest training volume, {np.median(second):.3f} with the next; "
        f"{len(control)} real people {np.median(control):.3f}, at most {control.max():.3f}; copies {copies.sum()}, of {len(set(order[copies, 0]))} people"
    )
    if audited:
        right = [
            audited[name][0] and audited[name][1] == trained[2][source] for name, source in zip(made[2], order[:, 0], strict=True)
        ]
        flagged = np.array([audited[name][0] for name in made[2]])
        print(
            f"audit: flagged {flagged.sum()}; of the copies {flagged[copies].sum()}, as that person {np.array(right)[copies].sum()}"
        )


def main(samples: Path, training: Path, others: Path, most: int, size: int, scores: Path | None) -> None:
    voxels(samples, training, others, size, scores)
    registration = VolumeRegistration()
    trained = cubes(training, most)
    seen, strangers = cubes(samples, most), cubes(others, len(trained[0]))
    own, other, control = (best(registration, *pair) for pair in ((seen, trained), (seen, strangers), (strangers, trained)))
    for number, (one, two) in enumerate(zip(own, other, strict=True)):
        print(f"sample {number:3d}  training {one:.3f}  others {two:.3f}", flush=True)
    print(f"{len(own)} samples: median {np.median(own):.3f} with training, {np.median(other):.3f} with as many others; training wins {np.mean(own > other):.2f}; "
          f"above all of {len(control)} real people ({control.max():.3f}): {np.mean(own > control.max()):.2f}")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("samples", type=Path)
    parser.add_argument("training", type=Path)
    parser.add_argument("others", type=Path)
    parser.add_argument("--most", type=int, default=24)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--scores", type=Path)
    main(**vars(parser.parse_args()))
