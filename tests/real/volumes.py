"""Planted copies of real volumes against strangers through the same transforms: what registration in 3D tells apart, and what it costs.

    python tests/real/volumes.py FOLDER [--people 36] [--strangers 36] [--copies 36] [--only NAME ...] [--size 64]

Half of the people are training, the others strangers. Each copy and each stranger goes through a transform; candidates are proposed by correlation at 16
voxels over the 48 axis poses (no network), and registered. Prints a table (Markdown) and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from doppelscan.images.cubes import CubeFrame, cut_cube
from doppelscan.images.planted_volumes import VOLUME_TRANSFORMS, plant_volume
from doppelscan.images.transforms import window
from doppelscan.verify.volume_alignment import shrink_volumes, tissue_masks
from doppelscan.verify.volume_coarse import COARSE, VolumeCoarseSearch, spread_rotations
from doppelscan.verify.volumes import VolumeRegistration
from sklearn.metrics import roc_auc_score


def read(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    image = nib.as_closest_canonical(nib.load(path))
    x, y, z = (float(one) for one in image.header.get_zooms()[:3])
    return window(image.get_fdata(dtype=np.float32)), (x, y, z)


def _tissue(cubes: torch.Tensor) -> torch.Tensor:
    middle = shrink_volumes(cubes, 2 * COARSE)
    return shrink_volumes(tissue_masks(middle, torch.ones_like(middle)), COARSE)


class Proposals:
    """Candidates by the coarse search with few rotations: all axis poses and shifts of all training volumes."""

    def __init__(self, cubes: torch.Tensor) -> None:
        self.small, self.tissue = shrink_volumes(cubes, COARSE), _tissue(cubes)
        self.search = VolumeCoarseSearch(spread_rotations(reach=16.0), (1.0,), 0.2, torch.device("cpu"))

    def __call__(self, cube: torch.Tensor, count: int, poses: int) -> tuple[np.ndarray, np.ndarray]:
        which = np.zeros(len(self.small), np.int64)
        query = shrink_volumes(cube[None], COARSE)
        _, numbers, _, value = self.search(query, _tissue(cube[None]), self.small, self.tissue, which, None, poses)
        best = value.view(-1, poses)[:, 0].argsort(descending=True)[:count].numpy()
        return best, numbers.reshape(-1, poses)[best]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=36)
    parser.add_argument("--strangers", type=int, default=36)
    parser.add_argument("--copies", type=int, default=36)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--poses", type=int, default=4)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)

    paths = sorted(asked.folder.rglob("*.nii.gz"))[: asked.people + asked.strangers]
    order = np.random.default_rng(0).permutation(len(paths))
    inside, outside = order[: asked.people], order[asked.people :]
    volumes = [read(path) for path in paths]
    made = [cut_cube(*volumes[row], asked.size) for row in inside]
    cubes = torch.from_numpy(np.stack([cube for cube, _ in made]))[:, None]
    frames = [frame for _, frame in made]
    propose = Proposals(cubes)
    register = VolumeRegistration(device=asked.device)

    def query(planted) -> tuple[torch.Tensor, CubeFrame, dict[str, float]]:
        start = time.process_time()
        cube, frame = cut_cube(planted.pixels, planted.spacing, asked.size)
        return torch.from_numpy(cube)[None], frame, {"cube": time.process_time() - start}

    table, errors_all, seconds = [], [], {"cube": 0.0, "propose": 0.0, "register": 0.0}
    queries = 0
    print("| transform | AUC | copies' lowest | strangers' highest | proposed | source | rotation median | 95 % |")
    print("|---|---|---|---|---|---|---|---|")
    for name in asked.only or VOLUME_TRANSFORMS:
        rng = np.random.default_rng(1)
        scores, right, proposed, errors = [], [], [], []
        sources = [*range(min(asked.copies, len(inside))), *(-1 for _ in outside[: asked.copies])]
        for number, source in enumerate(sources):
            row = inside[source] if source >= 0 else outside[number - min(asked.copies, len(inside))]
            partner = volumes[outside[int(rng.integers(len(outside)))]]
            planted = plant_volume(*volumes[row], name, rng, partner)
            cube, frame, spent = query(planted)
            start = time.process_time()
            rows, poses = propose(cube, asked.candidates, asked.poses)
            spent["propose"] = time.process_time() - start
            start = time.process_time()
            found = register(cube[None], cubes[rows][None], [frame], [[frames[one] for one in rows]], poses=poses[None])[0]
            spent["register"] = time.process_time() - start
            for stage, one in spent.items():
                seconds[stage] += one
            queries += 1
            scores.append(found[0].score)
            if source >= 0:
                proposed.append(source in rows)
                right.append(rows[found[0].candidate] == source)
                errors.append(found[0].pose.rotation_error(planted.matrix) if right[-1] else 180.0)
            if asked.verbose:
                best = found[0]
                print(
                    f"  {name} {source} {rows[best.candidate]} {planted.words}: score {best.score:.3f} detail {best.detail:.3f} agreement "
                    f"{best.agreement:.3f} share {best.share:.3f} ssim {best.ssim:.3f} overlap {best.overlap:.2f} | {best.pose.words()} "
                    f"| error {errors[-1] if source >= 0 else -1:.2f}",
                    file=sys.stderr,
                )
        copies = len(right)
        auc = roc_auc_score([1] * copies + [0] * (len(scores) - copies), scores)
        entry = {
            "transform": name,
            "auc": auc,
            "lowest": min(scores[:copies]),
            "highest": max(scores[copies:]),
            "proposed": float(np.mean(proposed)),
            "source": float(np.mean(right)),
            "rotation": float(np.median(errors)),
            "rotation_95": float(np.quantile(errors, 0.95)),
        }
        errors_all += errors
        table.append(entry)
        print(
            f"| {name} | {auc:.4f} | {entry['lowest']:.3f} | {entry['highest']:.3f} | {entry['proposed']:.3f} | {entry['source']:.3f} "
            f"| {entry['rotation']:.2f} | {entry['rotation_95']:.2f} |",
            flush=True,
        )
    told = {
        "mean_auc": float(np.mean([one["auc"] for one in table])),
        "worst_auc": min(one["auc"] for one in table),
        "source": float(np.mean([one["source"] for one in table])),
        "within_1_degree": float(np.mean(np.array(errors_all) <= 1)),
        "seconds": {stage: round(one / queries, 3) for stage, one in seconds.items()},
        "queries": queries,
        "table": table,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
