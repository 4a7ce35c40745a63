"""Is the source of a planted copy of a volume found by its slices, and do copies stand out from strangers through the same transforms?

``python tests/real/volume_retrieval.py FOLDER [--training 25] [--copies 12] [--strangers 12] [--split]``

Volumes are drawn with a fixed seed: training volumes, of which the first ``--copies`` are copied, and strangers. ``--split`` leaves out the
people whose slices trained the encoder (tests/real/split.py), for shared/data/mri3d/ds002748_t1.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from doppelscan.deepssim import DeepSSIMEncoder, VolumeSliceInferer, load_weights, volume_view_differences
from doppelscan.images import VOLUME_TRANSFORMS, cut_cubes, plant_volume
from doppelscan.locations import encoder_weights
from doppelscan.search import VolumeSearch
from sklearn.metrics import roc_auc_score
from split import trains


def read(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    image = nib.as_closest_canonical(nib.load(path))
    pixels = np.asarray(image.dataobj, np.float32)
    low, high = np.quantile(pixels, [0.005, 0.995])
    return ((pixels - low) / (high - low)).clip(0, 1).astype(np.float32), tuple(map(float, image.header.get_zooms()[:3]))


def cube(pixels: np.ndarray, spacing: tuple[float, ...]) -> torch.Tensor:
    return (cut_cubes(torch.from_numpy(pixels)[None, None], 64, spacing).clamp(0, 1) * 255).round().to(torch.uint8)


@torch.inference_mode()
def main(folder: Path, training: int, copies: int, strangers: int, split: bool) -> None:
    paths = [path for path in sorted(folder.glob("*.nii.gz")) if not split or not trains(folder.name, path.name.split("__")[0])]
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(0)).tolist()
    volumes = [read(paths[number]) for number in order[: training + strangers]]
    strangers = len(volumes) - training
    network = load_weights(DeepSSIMEncoder(outputs=["embedding"]), encoder_weights()).to(memory_format=torch.channels_last)
    inferer, plain = VolumeSliceInferer(network.output_slices), VolumeSliceInferer(network.output_slices, degrees=0.0, halves=False)
    cubes = torch.cat([cube(*one) for one in volumes[:training]])
    differences = volume_view_differences(lambda part: plain(part, network)[:, 0], cubes[:25]).numpy()
    search = VolumeSearch(training).fit(inferer(cubes, network).numpy(), differences, inferer.view_weights)
    rng = np.random.default_rng(0)
    ranks, tops, aucs, seconds = [], [], [], 0.0
    for name in VOLUME_TRANSFORMS:
        scores, own = [], []
        for number in [*range(copies), *range(training, training + strangers)]:
            partner = training + int(rng.integers(strangers))
            partner = training + (partner - training + 1) % strangers if partner == number else partner
            planted = plant_volume(*volumes[number], name, rng, volumes[partner])
            query = cube(planted.pixels, planted.spacing)
            start = time.perf_counter()
            found = search.propose(inferer.with_poses(48)(query, network).numpy())
            seconds += time.perf_counter() - start
            scores.append(found.similarity[0, 0])
            own += np.flatnonzero(found.rows[0] == number).tolist() if number < training else []
        is_copy = np.arange(len(scores)) < copies
        ranks.append(own)
        tops.append((is_copy, scores))
        aucs.append(roc_auc_score(is_copy, scores))
        print(f"{name:24s} first {np.mean(np.array(own) == 0):.3f}  AUC {aucs[-1]:.3f}", flush=True)
    flat = np.concatenate(ranks)
    within = ", ".join(f"{np.mean(flat < most):.3f}" for most in (1, 5, 10))
    pooled = roc_auc_score(np.concatenate([one[0] for one in tops]), np.concatenate([one[1] for one in tops]))
    print(f"{training} training volumes, {len(flat)} copies: source first, in 5, in 10: {within}; AUC {np.mean(aucs):.3f}, worst {min(aucs):.3f}, "
          f"pooled {pooled:.3f}; {1000 * seconds / sum(len(one[1]) for one in tops):.0f} ms a query on {torch.get_num_threads()} threads")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--training", type=int, default=25)
    parser.add_argument("--copies", type=int, default=12)
    parser.add_argument("--strangers", type=int, default=12)
    parser.add_argument("--split", action="store_true")
    main(**vars(parser.parse_args()))
