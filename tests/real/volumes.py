"""Planted copies of real volumes against strangers through the same transforms, by the search and the registration of an audit.

    python tests/real/volumes.py FOLDER [--people 36] [--strangers 12] [--copies 12] [--only NAME ...] [--json FILE] [--verbose]

Each copy and each stranger goes through a transform, is embedded by the shipped encoder in 48 axis poses, and the eight nearest training volumes are
registered, as :class:`~doppelscan.workflows.VolumeAudit` does it. "Flagged" counts what is verified to ``VolumeRules.least_verified``, without which no
audit flags; ``--only`` also takes the names of ``VOLUME_REGIONS``, ``VOLUME_BENDINGS`` and ``VOLUME_VISITS``. Prints a table (Markdown) and a line of means. ``--json`` keeps the rows in a file and
takes those that it holds: a table in several runs.
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
from doppelscan.decide import VolumeRules
from doppelscan.deepssim import DeepSSIMEncoder, VolumeSliceInferer, load_weights, volume_view_differences
from doppelscan.images import VOLUME_TRANSFORMS, CubeFrame, PlantedVolume, cut_cube, plant_volume
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.images.transforms import window
from doppelscan.locations import encoder_weights
from doppelscan.search import VolumeSearch
from doppelscan.verify.volumes import VolumeRegistration
from doppelscan.workflows.volume_audit import CANDIDATES, WHITENED
from sklearn.metrics import roc_auc_score


def read(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    image = nib.as_closest_canonical(nib.load(path))
    x, y, z = (float(one) for one in image.header.get_zooms()[:3])
    return window(image.get_fdata(dtype=np.float32)), (x, y, z)


def cut(pixels: np.ndarray, spacing: tuple[float, ...]) -> tuple[torch.Tensor, CubeFrame]:
    cube, frame = cut_cube(pixels, spacing)
    return torch.from_numpy(np.round(cube.clip(0, 1) * 255).astype(np.uint8))[None], frame


class Training:
    """Training volumes that volumes are searched among and registered on."""

    @torch.inference_mode()
    def __init__(self, volumes: list[tuple[np.ndarray, tuple[float, float, float]]], device: str) -> None:
        self.network = load_weights(DeepSSIMEncoder(outputs=["embedding"]), encoder_weights()).to(memory_format=torch.channels_last)
        self.inferer = VolumeSliceInferer(self.network.output_slices)
        plain = VolumeSliceInferer(self.network.output_slices, degrees=0.0, halves=False)
        self.register = VolumeRegistration(device=device)
        made = [cut(*one) for one in volumes]
        self.cubes, self.frames = torch.stack([cube for cube, _ in made]), [frame for _, frame in made]
        rows = np.concatenate([self.inferer(cube[None], self.network).numpy() for cube in self.cubes])
        differences = volume_view_differences(lambda some: plain(some, self.network)[:, 0], self.cubes[:WHITENED]).numpy()
        self.search = VolumeSearch(CANDIDATES, self.inferer.slots).fit(rows, differences, self.inferer.view_weights)

    @torch.inference_mode()
    def nearest(self, planted: PlantedVolume, seconds: dict[str, float]) -> dict:
        """What an audit measures of a volume."""
        start = time.process_time()
        cube, frame = cut(planted.pixels, planted.spacing)
        seconds["cube"] += time.process_time() - start
        start = time.process_time()
        found = self.search.propose(self.inferer.with_poses(48)(cube[None], self.network).numpy())
        seconds["search"] += time.process_time() - start
        start = time.process_time()
        rows = [int(row) for row in found.rows[0] if row >= 0]
        poses = [[inverse_axis_pose(int(number)) for number in own] for own in found.poses[0, : len(rows)]]
        frames = [[self.frames[row] for row in rows]]
        best = self.register(cube[None], self.cubes[rows][None], [frame], frames, poses=np.array([poses]))[0][0]
        seconds["registration"] += time.process_time() - start
        embedding = float(found.similarity[0, best.candidate])
        return {
            "rows": rows, "match": rows[best.candidate], "verified": best.score, "share": best.share, "pose": best.pose,
            "score": min(1.0, (0.85 * best.score + 0.05 * embedding) / 0.9),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=36)
    parser.add_argument("--strangers", type=int, default=12)
    parser.add_argument("--copies", type=int, default=12)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(asked.folder.rglob("*.nii.gz"))
    order = np.random.default_rng(0).permutation(len(paths))[: asked.people + asked.strangers].tolist()
    volumes = [read(paths[row]) for row in order]
    inside, outside = volumes[: asked.people], volumes[asked.people :]
    training = Training(inside, asked.device)
    least = VolumeRules().least_verified
    made: dict[str, dict] = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    for name in asked.only or VOLUME_TRANSFORMS:
        if name in made:
            continue
        rng = np.random.default_rng(1)
        seconds = {"cube": 0.0, "search": 0.0, "registration": 0.0}
        entry: dict = {"copies": [], "strangers": [], "proposed": [], "source": [], "rotation": [], "verified": [], "strange": []}
        for number, one in enumerate([*inside[: asked.copies], *outside]):
            source = number if number < min(asked.copies, len(inside)) else -1
            # Strangers are mixed with strangers, and nobody with himself.
            planted = plant_volume(*one, name, rng, outside[(number + 1 - asked.copies) % len(outside)])
            found = training.nearest(planted, seconds)
            if source >= 0:
                right = found["match"] == source
                entry["copies"].append(found["score"])
                entry["verified"].append(found["verified"])
                entry["proposed"].append(source in found["rows"])
                entry["source"].append(right)
                entry["rotation"].append(found["pose"].rotation_error(planted.matrix) if right else 180.0)
            else:
                entry["strangers"].append(found["score"])
                entry["strange"].append(found["verified"])
            if asked.verbose:
                error = f"{entry['rotation'][-1]:.2f}" if source >= 0 else ""
                told = f"{found['verified']:.3f} {found['share']:.3f} | {found['pose'].words()} | {error}"
                print(f"  {planted.words} {source} {found['match']} {told}", file=sys.stderr, flush=True)
        entry["seconds"] = {stage: one / (len(entry["copies"]) + len(entry["strangers"])) for stage, one in seconds.items()}
        made[name] = entry
        if asked.json:
            asked.json.write_text(json.dumps(made, default=float))
    tell(made, least)


def tell(made: dict[str, dict], least: float) -> None:
    print(
        "| transform | AUC | flagged | copies' lowest | strangers' highest | strangers flagged | proposed | source | rotation, median | 95 % |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    aucs, right, errors, flagged = [], [], [], 0
    for name, one in made.items():
        copies, strangers = one["copies"], one["strangers"]
        aucs.append(roc_auc_score([1] * len(copies) + [0] * len(strangers), copies + strangers))
        right += one["source"]
        errors += one["rotation"]
        accused = sum(value >= least for value in one["strange"])
        flagged += accused
        print(
            f"| {name} | {aucs[-1]:.3f} | {sum(value >= least for value in one['verified'])} of {len(copies)} | {min(one['verified']):.3f} "
            f"| {max(one['strange']):.3f} | {accused} | {np.mean(one['proposed']):.2f} | {np.mean(one['source']):.2f} "
            f"| {np.median(one['rotation']):.2f} | {np.quantile(one['rotation'], 0.95):.2f} |"
        )
    stages = {stage: np.mean([one["seconds"][stage] for one in made.values()]) for stage in ("cube", "search", "registration")}
    print(
        f"\n{len(made)} transforms: mean AUC {np.mean(aucs):.4f}, worst {min(aucs):.3f}; source {np.mean(right):.3f}; rotation within 1 degree "
        f"{np.mean(np.array(errors) <= 1):.3f}; strangers flagged {flagged} of {sum(len(one['strangers']) for one in made.values())}; seconds of a "
        "processor a volume: " + ", ".join(f"{stage} {one:.2f}" for stage, one in stages.items())
    )


if __name__ == "__main__":
    main()
