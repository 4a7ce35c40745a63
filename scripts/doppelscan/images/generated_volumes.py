"""Volumes of people that never lived: random anatomy in 3D, random contrast, as :mod:`generated` makes slices.

A *cohort* shares coarse anatomy and contrast, its *people* differ in shape, folds and ventricles.
"""

from __future__ import annotations

import numpy as np
import torch

from doppelscan.images.cubes import blur_volumes
from doppelscan.images.generated import low_passed

__all__ = ["generate_head", "generate_volumes", "smooth_volume_fields"]


def smooth_volume_fields(count: int, size: int, sigma: float, generator: torch.Generator) -> torch.Tensor:
    """Gaussian random fields [count, size, size, size] of zero mean and unit variance, smooth over ``sigma`` voxels (periodic)."""
    white = torch.randn(count, size, size, size, generator=generator)
    whole, half = torch.fft.fftfreq(size) ** 2, torch.fft.rfftfreq(size) ** 2
    return low_passed(white, whole[:, None, None] + whole[:, None] + half, sigma)


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _axes(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def generate_head(seed: int, size: int = 64, cohort: int = 0) -> np.ndarray:
    """A brain-like volume: an ellipsoid with a folded cortex, white matter, deep nuclei and ventricles, not the same left and right.

    Args:
        seed: of the person: the same seed gives the same volume.
        size: voxels a side.
        cohort: seed of what people share: the coarse shape and the contrast.

    Returns:
        float32 [size, size, size] in [0, 1], 0 outside of the head; x to the right, y to the front, z upwards.
    """
    shared = torch.Generator().manual_seed(1_000_003 * cohort + 17)
    own = torch.Generator().manual_seed(1_000_003 * cohort + 97 * seed + 31)
    return _head(shared, own, size).numpy()


def _head(shared: torch.Generator, own: torch.Generator, size: int) -> torch.Tensor:
    x, y, z = _axes(size)
    drawn = torch.randn(12, generator=own).tolist()
    radii = [_uniform(shared, low, high) * (1 + 0.03 * one) for (low, high), one in zip(
        ((0.6, 0.72), (0.78, 0.88), (0.58, 0.68)), drawn[:3], strict=True)]  # fmt: skip
    lumps = 0.05 * smooth_volume_fields(1, size, size / 7, shared)[0] + 0.03 * smooth_volume_fields(1, size, size / 9, own)[0]
    # Narrower in front and flat below, so that no axis pose looks like another.
    narrow = 1 - 0.14 * y
    below = torch.where(z < 0, 1.2, 1.0)
    depth = 1 - ((x / (radii[0] * narrow)) ** 2 + (y / radii[1]) ** 2 + (z * below / radii[2]) ** 2).sqrt() + lumps

    # Sulci: sheets where a field that is smooth along the surface crosses 0; they fade with depth.
    sheets = smooth_volume_fields(2, size, size / 26, own)
    sulci = torch.exp(-((sheets[0] / 0.28) ** 2)) * torch.sigmoid((0.26 - depth) * 30)
    cortex = torch.sigmoid((0.1 + 0.05 * sheets[1] - depth + 0.14 * torch.exp(-((sheets[0] / 0.6) ** 2))) * 50)
    fissure = torch.exp(-(((x - 0.015 * drawn[3]) / 0.025) ** 2)) * torch.sigmoid((z - 0.05) * 20)

    horns = torch.zeros_like(x)
    for side, one in ((-1, drawn[4]), (1, drawn[5])):
        bend = 0.1 + 0.05 * y + 0.02 * one
        across = (x - side * bend) / (0.055 * (1 + 0.2 * drawn[6]) * (1 + 0.1 * one))
        along = (y - 0.05 * drawn[7]) / 0.36
        up = (z - 0.12 + 0.25 * y**2 - 0.02 * drawn[8]) / 0.1
        horns = torch.maximum(horns, torch.sigmoid((1 - (across**2 + along**2 + up**2).sqrt()) * 12))
    nuclei = torch.sigmoid((1 - (((x.abs() - 0.22) / 0.1) ** 2 + ((y - 0.08) / 0.2) ** 2 + ((z - 0.02) / 0.15) ** 2).sqrt()) * 10)
    lower = torch.sigmoid((1 - ((x / 0.42) ** 2 + ((y + 0.5) / 0.26) ** 2 + ((z + 0.42) / 0.22) ** 2).sqrt()) * 14)

    white, gray, fluid = _uniform(shared, 0.8, 0.95), _uniform(shared, 0.45, 0.62), _uniform(shared, 0.06, 0.2)
    tissue = white + (gray - white) * torch.maximum(cortex, 0.8 * nuclei)
    leaves = torch.cos(34 * (z + 0.4 * y) + 1.5 * sheets[1])
    tissue = tissue * (1 - lower) + lower * (gray + (white - gray) * (0.35 + 0.25 * leaves))
    tissue = tissue + 0.04 * smooth_volume_fields(1, size, size / 40, own)[0]
    dark = torch.stack([sulci, fissure * torch.sigmoid(depth * 40), horns]).amax(0)
    image = tissue + (fluid - tissue) * dark
    image = image * torch.sigmoid(depth * 60)
    image = blur_volumes(image[None], max(0.4, size / 110))[0]
    return image.clamp(0, 1) * (depth > -0.05)


def generate_volumes(people: int, size: int = 48, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One cohort of generated people, of brains or of any anatomy, with a contrast of its own.

    Args:
        people: number of people, >= 1.
        size: voxels a side.
        seed: the same seed gives the same volumes.

    Returns:
        uint8 [people, 1, size, size, size] and the people's numbers int64 [people].
    """
    generator = torch.Generator().manual_seed(seed)
    if _uniform(generator, 0, 1) < 0.4:
        shared_seed = int(torch.randint(1 << 30, (), generator=generator))
        made = [_head(torch.Generator().manual_seed(shared_seed), generator, size) for _ in range(people)]
        volumes = torch.stack(made)
    else:
        volumes = _free_anatomy(people, size, generator)
    if _uniform(generator, 0, 1) < 0.3:  # another contrast: bright fluid, dark white matter
        volumes = torch.where(volumes > 0.02, 1.05 - volumes, volumes)
    bias = torch.exp(0.15 * smooth_volume_fields(people, size, size / 3, generator))
    volumes = volumes * bias + _uniform(generator, 0, 0.03) * torch.randn(volumes.shape, generator=generator)
    low, high = (volumes.flatten(1).quantile(share, 1).view(-1, 1, 1, 1) for share in (0.002, 0.998))
    volumes = ((volumes - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    return (volumes[:, None] * 255).round().to(torch.uint8), torch.arange(people)


def _free_anatomy(people: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Label maps as the soft arg-max of smooth fields (SynthMorph, Hoffmann et al. 2021) [people, size, size, size], in a body or without background."""
    labels = int(torch.randint(4, 8, (), generator=generator))
    coarse = size / _uniform(generator, 6, 12)
    likeness, finer = _uniform(generator, 0.05, 0.5), _uniform(generator, 0.05, 0.4)
    shared = smooth_volume_fields(labels, size, coarse, generator)
    means = torch.rand(labels, generator=generator) ** _uniform(generator, 0.8, 2.2) * 0.85 + 0.15
    filled = _uniform(generator, 0, 1) < 0.3
    radii = [_uniform(generator, 0.5, 0.95) for _ in range(3)]
    outline = _uniform(generator, 0.02, 0.12) * smooth_volume_fields(1, size, size / 6, generator)[0]
    texture, blur = _uniform(generator, 0.02, 0.12), _uniform(generator, 0.4, 0.8)
    x, y, z = _axes(size)
    made = []
    for _ in range(people):
        maps = shared + likeness * smooth_volume_fields(labels, size, coarse, generator)
        maps = maps + finer * smooth_volume_fields(labels, size, coarse / 2.5, generator)
        image = torch.einsum("lxyz,l->xyz", torch.softmax(maps * 12, 0), means)
        image = image + texture * smooth_volume_fields(1, size, size / 30, generator)[0]
        if not filled:
            scale = [radius * (1 + 0.05 * float(torch.randn((), generator=generator))) for radius in radii]
            own = 0.05 * smooth_volume_fields(1, size, size / 8, generator)[0]
            body = 1 - ((x / scale[0]) ** 2 + (y / scale[1]) ** 2 + (z / scale[2]) ** 2).sqrt() + outline + own
            image = image.clamp_min(0.02) * torch.sigmoid(body * 60)
        made.append(blur_volumes(image[None], blur)[0])
    return torch.stack(made)
