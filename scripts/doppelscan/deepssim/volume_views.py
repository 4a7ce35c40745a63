"""Structure-preserving augmentation of cubes, and what it changes in an embedding: :mod:`augment` and :mod:`nuisance` in 3D.

All geometry of a view (rotation about any axis, scale, shift, elastic bending) is one sampling. A crop leaves background behind, as a stored volume does. The foreground is found afterwards, with the errors that finding it makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from doppelscan.deepssim.nuisance import differences_of_views
from doppelscan.images import cut_cubes

__all__ = ["VolumeStrength", "augment_volumes", "volume_view_differences"]


@dataclass(frozen=True)
class VolumeStrength:
    """How far a view of a volume may go; each effect is drawn with ``probability``, rotation, scale and shift with ``geometry``.

    Attributes:
        rotation: degrees to either side, about an axis of any direction.
        scale: largest zoom, and its inverse.
        shift: share of the field of view.
        gamma: largest exponent, and its inverse.
        bias: standard deviation of the log bias field.
        noise: largest standard deviation, of a [0, 1] volume.
        blur: largest sigma in voxels of a cube of 40.
        reduction: largest factor of down- and up-sampling.
        elastic: largest standard deviation of the displacement, share of the field of view.
        crop: largest share of the field that is cut from each of the six sides.
    """

    probability: float = 0.5
    geometry: float = 0.85
    rotation: float = 25.0
    scale: float = 1.25
    shift: float = 0.12
    gamma: float = 1.8
    bias: float = 0.3
    noise: float = 0.06
    blur: float = 0.8
    reduction: float = 2.5
    elastic: float = 0.012
    crop: float = 0.18


def smooth_volumes(count: int, size: int, cells: int, generator: torch.Generator) -> torch.Tensor:
    """Smooth random fields [count, size, size, size], about zero mean and unit variance: noise on ``cells`` a side, interpolated."""
    # Between two of them linear interpolation leaves 2 / 3 of the variance on each axis.
    coarse = torch.randn(count, 1, cells, cells, cells, generator=generator) * 1.5**1.5
    return F.interpolate(coarse, (size, size, size), mode="trilinear", align_corners=True)[:, 0]


def augment_volumes(volumes: torch.Tensor, strength: VolumeStrength, generator: torch.Generator) -> torch.Tensor:
    """Augment ``volumes`` float [B, 1, S, S, S] in [0, 1]; the random numbers come from ``generator`` (on the CPU)."""
    count, size, device = len(volumes), volumes.shape[-1], volumes.device

    def chosen(probability: float = strength.probability) -> torch.Tensor:
        return (torch.rand(count, generator=generator) < probability).float()

    def symmetric(probability: float = strength.probability) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * chosen(probability)

    def each(values: torch.Tensor) -> torch.Tensor:
        return values.to(device).view(-1, 1, 1, 1, 1)

    views = _moved(
        volumes,
        strength,
        symmetric(strength.geometry),
        symmetric(strength.geometry),
        chosen(strength.geometry),
        chosen(),
        generator,
    )
    views = views.clamp(0, 1) ** each(torch.exp(math.log(strength.gamma) * symmetric()))
    biased = chosen().nonzero().flatten()
    amount = strength.bias * torch.rand(len(biased), 1, 1, 1, generator=generator)
    views[biased] *= torch.exp(amount * smooth_volumes(len(biased), size, 4, generator))[:, None].to(device)
    views = _cropped(views, strength, chosen(), generator)
    views = _softened(views, strength, generator)
    noise = each(strength.noise * chosen() * torch.rand(count, generator=generator))
    return views + noise * torch.randn(views.shape, generator=generator).to(device)


def turns(axes: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [B, 3, 3] about ``axes`` [B, 3] (unit vectors) by ``angles`` [B] in radians (Rodrigues)."""
    x, y, z = axes.unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    sine, cosine = torch.sin(angles).view(-1, 1, 1), torch.cos(angles).view(-1, 1, 1)
    return torch.eye(3) + sine * cross + (1 - cosine) * (cross @ cross)


def _moved(volumes, strength, turn, zoom, shifted, bent, generator):
    count, size = len(volumes), volumes.shape[-1]
    axes = F.normalize(torch.randn(count, 3, generator=generator), dim=1)
    scale = torch.exp(zoom * math.log(strength.scale)).view(-1, 1, 1)
    offset = (torch.rand(count, 3, 1, generator=generator) * 2 - 1) * shifted.view(-1, 1, 1) * 2 * strength.shift
    theta = torch.cat([turns(axes, turn * math.radians(strength.rotation)) / scale, offset], 2)
    grid = F.affine_grid(theta.to(volumes), list(volumes.shape), align_corners=False)
    active = bent.nonzero().flatten()
    if len(active):
        fields = smooth_volumes(3 * len(active), size, 6, generator).view(len(active), 3, size, size, size)
        amount = 2 * strength.elastic * torch.rand(len(active), 1, 1, 1, 1, generator=generator)
        grid[active] += (fields * amount).permute(0, 2, 3, 4, 1).to(volumes)
    return F.grid_sample(volumes, grid, align_corners=False)


def _cropped(volumes, strength, cropped, generator):
    """Set to zero what lies outside a box."""
    count, size = len(volumes), volumes.shape[-1]
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    sides = torch.rand(count, 3, 2, generator=generator) * 2 * strength.crop * cropped.view(-1, 1, 1)
    inside = (axis >= -1 + sides[..., :1]) & (axis <= 1 - sides[..., 1:])  # [B, 3, S]
    kept = inside[:, 0, :, None, None] & inside[:, 1, None, :, None] & inside[:, 2, None, None, :]
    return volumes * kept[:, None].to(volumes)


def _softened(volumes, strength, generator):
    """Blur, or sample down and up, a random part of the batch; each with one strength for its part of the batch."""
    size = volumes.shape[-1]
    draw = torch.rand(len(volumes), generator=generator)
    level = torch.rand(2, generator=generator)
    result = volumes.clone()
    blurred = (draw < strength.probability / 2).nonzero().flatten()
    reduced = (draw > 1 - strength.probability / 2).nonzero().flatten()
    if len(blurred) and strength.blur > 0:
        weights = _blur(size, (0.3 + float(level[0]) * strength.blur) * size / 40).to(volumes)
        part = weights @ (volumes[blurred] @ weights.T)
        result[blurred] = (weights @ part.flatten(-2)).view_as(part)
    if len(reduced) and strength.reduction > 1:
        small = max(8, round(size / (1 + float(level[1]) * (strength.reduction - 1))))
        low = F.interpolate(volumes[reduced], (small, small, small), mode="area")
        result[reduced] = F.interpolate(low, (size, size, size), mode="trilinear")
    return result


def _blur(size: int, sigma: float) -> torch.Tensor:
    place = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


@torch.no_grad()
def volume_view_differences(
    embed: Callable[[torch.Tensor], torch.Tensor], cubes: torch.Tensor, views: int = 4, seed: int = 0, batch_size: int = 8
) -> torch.Tensor:
    """Embeddings of augmented views less that of the volume as it is: :func:`~doppelscan.deepssim.view_differences` in 3D.

    Args:
        embed: cubes float32 in [0, 1] [B, 1, S, S, S] -> [B, D].
        cubes: uint8 or float in [0, 1] [N, 1, S, S, S], see :func:`~doppelscan.images.cut_cubes`.
        views: of each volume; turned, scaled, shifted, cropped, with other contrast, field, sharpness and noise (:class:`VolumeStrength`).
        seed: the same seed draws the same views.
        batch_size: volumes at a time.

    Returns:
        float32 [N * views, D].
    """
    generator = torch.Generator().manual_seed(seed)
    strength = VolumeStrength()
    return differences_of_views(
        embed,
        lambda part: cut_cubes(augment_volumes(part, strength, generator), part.shape[-1]),
        cubes.split(batch_size),
        views,
    )
