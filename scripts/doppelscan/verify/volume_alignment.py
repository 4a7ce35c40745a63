"""Align volumes on each other: band-passed structure and Gauss-Newton over affine maps, batched; :mod:`~doppelscan.images.alignment` in 3D.

A sampling matrix float [3, 4] takes a place u in [-1, 1]^3 of the fixed cube, in the order x, y, z, to the place in the moving one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from doppelscan.images.cubes import blur_volumes
from doppelscan.images.foreground import otsu_threshold

__all__ = [
    "align_volumes",
    "band_pass_volumes",
    "bend_volumes",
    "bent_grid",
    "better_half",
    "cell_agreement",
    "cube_grid",
    "sample_volumes",
    "shrink_volumes",
    "tissue_masks",
]

# Masks end softly, so that their product leaves out up to a tenth of the structure where they fit: no reason to enlarge what covers it.
COVERED = 0.85
# How far a mild bending goes along an axis, in [-1, 1]: 2.5 % of the side, as that of images. And what it is damped by where there is no structure, of
# squared slopes in [-1, 1].
BENT, DAMPED = 0.05, 1.0


def band_pass_volumes(volumes: torch.Tensor, sigma: float, tissue: torch.Tensor) -> torch.Tensor:
    """Fine structure of the anatomy: what differs from the tissue within ``sigma`` voxels, in local units, 0 outside of it.

    Means are taken over the tissue alone (normalized convolution, Knutsson and Westin 1993): the outline of a head is what strangers share, and
    that of a half head is nobody's.

    Args:
        volumes: float [B, 1, S, S, S] in [0, 1].
        sigma: in voxels.
        tissue: float [B, 1, S, S, S] in [0, 1], see :func:`tissue_masks`.
    """
    lifted = volumes.clamp_min(0) ** 0.7 * tissue

    def mean(values: torch.Tensor, width: float) -> torch.Tensor:
        return blur_volumes(values, width) / blur_volumes(tissue, width).clamp_min(1e-3)

    fine = (mean(lifted, 0.6) - mean(lifted, sigma)) * tissue
    local = mean(fine * fine, 2 * sigma).clamp_min(0).sqrt()
    return fine / (local + 0.03)


def tissue_masks(volumes: torch.Tensor, held: torch.Tensor, level: float = 0.02, most: float = 0.35) -> torch.Tensor:
    """1 where a volume holds anatomy: not outside of its field of view, nor in the dark that reaches in from there; else 0.

    Dark is what lies below a share of Otsu's threshold, and the passages into it are three voxels wide, so that it does not enter the sulci. Where
    that is less than ``most`` of the field of view there is no background: dark tissue belongs to the comparison, and only what is black
    (below ``level``, filled up by a shift or a rotation) does not.

    Args:
        volumes: float [B, 1, S, S, S] in [0, 1].
        held: float [B, 1, S, S, S], 1 inside of the field of view.

    Returns:
        float [B, 1, S, S, S], 1 or 0.
    """
    smooth = blur_volumes(volumes, 0.7)
    threshold = 0.7 * otsu_threshold(smooth)
    masks = []
    arrays = (one[:, 0].cpu().numpy() for one in (smooth, held))
    for image, field, limit in zip(*arrays, threshold.cpu().tolist(), strict=True):
        outside = _reached(image < limit, field < 0.5)
        if (outside & (field >= 0.5)).sum() < most * (field >= 0.5).sum():
            outside = _reached(image < level, field < 0.5)
        masks.append(~outside)
    return torch.from_numpy(np.stack(masks)).float().to(volumes.device)[:, None]


def _reached(dark: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Of ``dark`` bool [S, S, S], what is connected to ``outside`` or to the border by passages three voxels wide, and ``outside``."""
    # One voxel of dark around it, so that the border is a way in.
    wide = np.pad(dark | outside, 1, constant_values=True)
    labels, _ = ndimage.label(ndimage.binary_erosion(wide, iterations=1, border_value=1))
    reached = ndimage.binary_dilation(labels == labels[0, 0, 0], iterations=1) & wide
    return reached[1:-1, 1:-1, 1:-1] | outside


def shrink_volumes(volumes: torch.Tensor, size: int) -> torch.Tensor:
    """``volumes`` [B, C, S, S, S] at ``size`` voxels a side, a divisor of S, by the mean of each block."""
    factor = volumes.shape[-1] // size
    return volumes if factor == 1 else F.avg_pool3d(volumes, factor)


@lru_cache(maxsize=16)
def _points(size: int, step: int, device: torch.device) -> torch.Tensor:
    """x, y, z and 1 of every ``step``-th voxel a side of a cube: float32 [(size / step)^3, 4]."""
    axis = (torch.arange(step // 2, size, step, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z, torch.ones_like(x)], -1).view(-1, 4)


def cube_grid(matrices: torch.Tensor, size: int, step: int = 1) -> torch.Tensor:
    """Where ``matrices`` [B, 3, 4] take every ``step``-th voxel of a cube: float32 [B, n, n, n, 3], x, y, z in [-1, 1]."""
    count = len(range(step // 2, size, step))
    return (_points(size, step, matrices.device) @ matrices.transpose(1, 2)).view(-1, count, count, count, 3)


def sample_volumes(volumes: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """``volumes`` [B, C, S, S, S] at the places of ``grid`` [B, n, n, n, 3], linear, 0 outside: [B, C, n, n, n]."""
    # torch counts the places along the last axis first.
    return F.grid_sample(volumes, grid.flip(-1), align_corners=False)


def _gradients(volumes: torch.Tensor) -> list[torch.Tensor]:
    """d/dx, d/dy and d/dz in [-1, 1] coordinates, central differences."""
    padded = F.pad(volumes, (1,) * 6, mode="replicate")
    scale, inner = volumes.shape[-1] / 4, slice(1, -1)
    return [
        (padded[:, :, 2:, inner, inner] - padded[:, :, :-2, inner, inner]) * scale,
        (padded[:, :, inner, 2:, inner] - padded[:, :, inner, :-2, inner]) * scale,
        (padded[:, :, inner, inner, 2:] - padded[:, :, inner, inner, :-2]) * scale,
    ]


def align_volumes(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    matrices: torch.Tensor,
    seen: torch.Tensor,
    held: torch.Tensor,
    which: np.ndarray,
    iterations: int,
    step: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine the sampling matrices that bring ``moving`` on ``fixed``: an affine map and a free gain, by least squares that are weighted anew at
    each step by the agreement of cells, so that a half or a part of a copy is brought on its place whatever lies beside it.

    Args:
        fixed: float [M, 1, S, S, S], band-passed.
        moving: float [B, 1, S, S, S], band-passed.
        matrices: float [B, 3, 4], where to start.
        seen: float [M, 1, S, S, S], 1 where ``fixed`` holds anatomy.
        held: float [B, 1, S, S, S], 1 where ``moving`` holds anatomy.
        which: int64 [B], the row of ``fixed`` that each is brought on.
        iterations: Gauss-Newton steps, damped.
        step: every so many voxels a side are compared.

    Returns:
        the best matrices [B, 3, 4] that were met and the agreement [B] of the better half of their cells, -1 to 1.
    """
    count, size = len(moving), fixed.shape[-1]
    start = slice(step // 2, None, step)
    target = fixed[:, 0, start, start, start].flatten(1)[which]
    seen = seen[:, 0, start, start, start].flatten(1)[which]
    slopes = torch.cat([held, moving, *_gradients(moving)], 1) if iterations else torch.cat([held, moving], 1)
    points = _points(size, step, fixed.device).T
    best, current = matrices.clone(), matrices.clone()
    best_score = torch.full((count,), -2.0, device=fixed.device)
    for turn in range(iterations + 1):
        grid = cube_grid(current, size, step)
        warped = sample_volumes(slopes, grid).flatten(2)
        inside = warped[:, 0] * seen
        image = warped[:, 1]
        cells, structure = cell_agreement(image, target, inside)
        # What an overlap leaves out must not make it the better one.
        score = better_half(cells, structure) * _covered(target, seen, inside)
        better = score > best_score
        best = torch.where(better[:, None, None], current, best)
        best_score = torch.where(better, score, best_score)
        if turn == iterations:
            break
        # Where it disagrees, as in another person's half, it has no say.
        inside = inside * _spread((0.1 + cells.clamp_min(0)).square(), round(inside.shape[1] ** (1 / 3)))
        weighted = warped[:, 2:] * inside[:, None]
        columns = (weighted[:, :, None] * points).flatten(1, 2)
        columns = torch.cat([columns, (image * inside)[:, None], inside[:, None]], 1)
        normal = columns @ columns.transpose(1, 2)
        damping = torch.diag_embed(2e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-6)
        right = columns @ (target * inside)[..., None]
        solution = torch.linalg.solve(normal + damping, right)[..., 0]
        gain = solution[:, 12].clamp_min(0.2)
        delta = (solution[:, :12] / gain[:, None]).clamp(-0.08, 0.08)
        current = current + delta.view(-1, 3, 4)
    return best, best_score


def bend_volumes(
    fixed: torch.Tensor, moving: torch.Tensor, matrices: torch.Tensor, seen: torch.Tensor, held: torch.Tensor, iterations: int = 4
) -> torch.Tensor:
    """Bend ``moving`` on ``fixed`` after their affine registration, by a smooth field (Lucas and Kanade 1981, Gaussian windows of a sixteenth of the side).

    Args:
        fixed: float [B, 1, S, S, S], band-passed.
        moving: float [B, 1, S, S, S], band-passed.
        matrices: float [B, 3, 4], sampling matrices, registered.
        seen: float [B, 1, S, S, S], 1 where ``fixed`` holds anatomy.
        held: float [B, 1, S, S, S], 1 where ``moving`` holds anatomy.
        iterations: steps.

    Returns:
        float [B, 3, S, S, S], by how much each place u of the fixed cube is moved before its matrix, along x, y and z in [-1, 1]; at most
        :data:`BENT` each.
    """
    size = fixed.shape[-1]
    field = torch.zeros(len(fixed), 3, size, size, size, device=fixed.device)
    volumes = torch.cat([moving, held], 1)
    for _ in range(iterations):
        warped, inside = sample_volumes(volumes, bent_grid(matrices, field)).split(1, 1)
        inside = inside * seen
        x, y, z = (one * inside for one in _gradients(warped))
        error = (fixed - warped) * inside
        products = [x * x, y * y, z * z, x * y, x * z, y * z, x * error, y * error, z * error]
        sums = blur_volumes(torch.cat(products, 1), size / 16)
        step = _solved(*sums.unbind(1)).clamp(-3.0 / size, 3.0 / size)
        field = (field + blur_volumes(step, size / 32)).clamp(-BENT, BENT)
    return field


def bent_grid(matrices: torch.Tensor, field: torch.Tensor) -> torch.Tensor:
    """:func:`cube_grid` of ``matrices`` [B, 3, 4] after ``field`` [B, 3, S, S, S]: float32 [B, S, S, S, 3]."""
    linear = torch.einsum("bij,bjxyz->bxyzi", matrices[:, :, :3], field)
    return cube_grid(matrices, field.shape[-1]) + linear


def _solved(xx, yy, zz, xy, xz, yz, x, y, z) -> torch.Tensor:
    """Of symmetric systems of three, each float [B, S, S, S], damped by a tenth of their mean diagonal: float [B, 3, S, S, S]."""
    damping = 0.1 * (xx + yy + zz) / 3 + DAMPED
    xx, yy, zz = xx + damping, yy + damping, zz + damping
    a, b, c = yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy
    d, e, f = xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    found = torch.stack([a * x + b * y + c * z, b * x + d * y + e * z, c * x + e * y + f * z], 1)
    return found / (xx * a + xy * b + xz * c)[:, None]


def _covered(target: torch.Tensor, seen: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Root of the share [B] of the structure of ``target`` that lies ``inside``, of what is ``seen``; 1 from :data:`COVERED` on."""
    energy = target * target
    share = (energy * inside).sum(1) / (energy * seen).sum(1).clamp_min(1e-8)
    return (share / COVERED).clamp_max(1).sqrt()


def cell_agreement(first: torch.Tensor, second: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlation of two band-passed cubes, float [B, n^3], within cells of 4 voxels a side, and the structure of ``second`` there: [B, (n / 4)^3]."""
    side = round(first.shape[1] ** (1 / 3))
    sums = torch.stack([first * second, first * first, second * second], 1) * inside[:, None]
    product, one, other = F.avg_pool3d(sums.view(len(first), 3, side, side, side), 4).flatten(2).unbind(1)
    return product / ((one * other).sqrt() + 1e-3), other


def better_half(cells: torch.Tensor, weights: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """Mean agreement [B] of the best cells that hold ``share`` of the structure: ``cells`` and their structure ``weights`` float [B, L]."""
    order = cells.argsort(dim=1, descending=True, stable=True)
    value, weight = cells.gather(1, order), weights.gather(1, order)
    before = weight.cumsum(1) - weight
    weight = torch.minimum(weight, (weight.sum(1, keepdim=True) * share - before).clamp_min(0))
    return (value * weight).sum(1) / weight.sum(1).clamp_min(1e-8)


def _spread(cells: torch.Tensor, side: int) -> torch.Tensor:
    """Values of cells [B, L] over the voxels of a cube of ``side``, smoothly: [B, side^3]."""
    across = round(cells.shape[1] ** (1 / 3))
    return F.interpolate(cells.view(-1, 1, across, across, across), size=(side,) * 3, mode="trilinear").flatten(1)
