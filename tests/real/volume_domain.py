"""Which real volumes are called unlike the training set: strangers, planted volumes through every transform, parts, other anatomy and noise.

    python tests/real/volume_domain.py FOLDER --other FOLDER [--people 24] [--holdout 24] [--copies 2]

The volumes of ``FOLDER`` are training, holdout and strangers; two copies and two strangers go through each transform. Prints how many of each are
unlike, by the rules that ship.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from doppelscan.decide import VolumeRules, unlike_volumes
from doppelscan.decide.volume_domain import anatomy_extents
from doppelscan.deepssim import DeepSSIMEncoder, load_weights
from doppelscan.images import VOLUME_TRANSFORMS, ImageRecord, plant_volume
from doppelscan.locations import encoder_weights
from doppelscan.search import EmbeddedVolumes
from doppelscan.workflows import VolumeEmbedder
from doppelscan.workflows.volume_embed import CutVolume
from volumes import read

Volume = tuple[np.ndarray, tuple[float, float, float]]
LOST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "middle half": lambda p: p[tuple(slice(n // 4, 3 * n // 4) for n in p.shape)],
    "ten slices": lambda p: p[:, :, p.shape[2] // 2 - 5 : p.shape[2] // 2 + 5],
    "a third": lambda p: p[: p.shape[0] // 3],
    "a half": lambda p: p[: p.shape[0] // 2],
    "two thirds": lambda p: p[: 2 * p.shape[0] // 3],
    "inverted": lambda p: 1 - p,
    "tissue inverted": lambda p: np.where(p > 0.03, 1 - p, 0),
    "noise of its shape": lambda p: np.random.default_rng(0).random(p.shape),
}


@dataclass(frozen=True)
class Given:
    """A volume that is there."""

    pixels: np.ndarray
    spacing: tuple[float, float, float]

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume:
        return embedder.cut((self.pixels.astype(np.float32), self.spacing, self.pixels.shape))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--holdout", type=int, default=24)
    parser.add_argument("--copies", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(asked.folder.rglob("*.nii.gz"))
    count = asked.people + asked.holdout + 2 * asked.copies
    real = [read(paths[row]) for row in np.random.default_rng(0).permutation(len(paths))[:count].tolist()]
    network = load_weights(DeepSSIMEncoder(outputs=["embedding", "layer2"]), encoder_weights()).to(
        memory_format=torch.channels_last
    )
    embedder = VolumeEmbedder(network)
    with tempfile.TemporaryDirectory() as folder:
        store = embedder.store(folder, 48)

        def embedded(name: str, volumes: list[Volume]) -> EmbeddedVolumes:
            keys = [f"{name} {i}" for i in range(len(volumes))]
            embedder.fill(store, keys, [Given(*one) for one in volumes], 48, name)
            return EmbeddedVolumes(
                [ImageRecord(key, (), key, key, whole=True) for key in keys], keys, store, embedder.inferer.output_slices
            )

        training = embedded("training", real[: asked.people])
        holdout = embedded("holdout", real[asked.people : asked.people + asked.holdout])
        rules, least = VolumeRules(), anatomy_extents(training).min()

        def told(name: str, volumes: EmbeddedVolumes) -> None:
            apart, sizes = unlike_volumes(volumes, training, rules, holdout)[0], anatomy_extents(volumes) / least
            print(f"| {name} | {apart.sum()} of {len(apart)} | {sizes.min():.2f} to {sizes.max():.2f} |", flush=True)

        print("| volumes | unlike | anatomy, of the training volume with the least |\n|---|---|---|")
        told("holdout", holdout)
        strangers = real[-2 * asked.copies :]
        for name, lose in LOST.items():
            kept = [(lose(pixels), spacing) for pixels, spacing in [*real[:2], *strangers[:2]]]
            told(name, embedded(name, [one for one in kept if min(one[0].shape) >= 8]))
        told("other anatomy", embedded("other", [read(path) for path in sorted(asked.other.rglob("*.nii.gz"))[:6]]))
        for name in VOLUME_TRANSFORMS:
            rng, sources = np.random.default_rng(1), [*real[2 : 2 + asked.copies], *strangers[asked.copies :]]
            planted = [plant_volume(*one, name, rng, strangers[i % 2]) for i, one in enumerate(sources)]
            told(name, embedded(name, [(one.pixels, one.spacing) for one in planted]))


if __name__ == "__main__":
    main()
