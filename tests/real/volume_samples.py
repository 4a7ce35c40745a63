"""Are samples of a generator of volumes copies? Each is registered on the volumes it was trained on, and on as many of people it never saw.

``python tests/real/volume_samples.py SAMPLES TRAINING OTHERS [--most 24]``

SAMPLES is a manifest.csv, TRAINING and OTHERS are folders. A sample that owes training nothing agrees as well with the others; a copy agrees with one
training volume as nothing else does. Real people of OTHERS, registered on TRAINING, say how well two people agree.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from doppelscan.images import CubeFrame, ForegroundCubed, LoadVolumed, Windowd, find_images
from doppelscan.verify import VolumeRegistration
from monai.transforms import Compose

Cubes = tuple[torch.Tensor, list[CubeFrame]]


def cubes(source: Path, most: int) -> Cubes:
    prepare = Compose([LoadVolumed("image"), Windowd("image"), ForegroundCubed("image")])
    items = [prepare({"image": list(one.paths)}) for one in find_images(source, name="synthetic", volumes="whole").records[:most]]
    return torch.stack([torch.as_tensor(item["thumbnail"]) for item in items]), [item["cube_frame"] for item in items]


def best(registration: VolumeRegistration, queries: Cubes, candidates: Cubes) -> np.ndarray:
    """float64 [M], the score of the candidate that agrees best; each in its own pose, for generators do not turn people."""
    poses = np.zeros((1, len(candidates[0]), 1), np.int64)
    found = []
    for cube, frame in zip(*queries, strict=True):
        found.append(registration(cube[None], candidates[0][None], [frame], [candidates[1]], poses=poses)[0][0].score)
    return np.array(found)


def main(samples: Path, training: Path, others: Path, most: int) -> None:
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
    main(**vars(parser.parse_args()))
