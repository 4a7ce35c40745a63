"""Align volumes on each other: band-passed structure and Gauss-Newton over affine maps, batched; :mod:`~doppelscan.images.alignment` in 3D.

A sampling matrix float [3, 4] takes a place u in [-1, 1]^3 of the fixed cube, in the order x, y, z, to the place in the moving one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import correlation
from doppelscan.images.cubes import blur_volumes

__all__ = ["align_volumes", "band_pass_volumes", "cube_grid", "sample_volumes", "shrink_volumes", "within_boxes"]


def band_pass_volumes(volumes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Fine structure of ``volumes`` [B, 1, S, S, S]: what differs from its surroundings of ``sigma`` voxels, in local units."""
    lifted = volumes.clamp_min(0) ** 0.7
    fine = blur_volumes(lifted, 0.6) - blur_volumes(lifted, sigma)
    local = blur_volumes(fine * fine, 2 * sigma).clamp_min(0).sqrt()
    return fine / (local + 0.03)


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


def within_boxes(grid: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """1 where ``grid`` [B, n, n, n, 3] points inside of ``boxes`` float [B, 2, 3] (lower and upper corner), else 0: float [B, n, n, n]."""
    low, high = boxes[:, 0, None, None, None], boxes[:, 1, None, None, None]
    return ((grid >= low) & (grid <= high)).all(-1).float()


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
    boxes: torch.Tensor,
    which: np.ndarray,
    iterations: int,
    step: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine the sampling matrices that bring ``moving`` on ``fixed``: an affine map and a free gain.

    Args:
        fixed: float [M, 1, S, S, S], band-passed.
        moving: float [B, 1, S, S, S], band-passed.
        matrices: float [B, 3, 4], where to start.
        seen: float [M, 1, S, S, S], 1 where ``fixed`` holds image.
        boxes: float [B, 2, 3], where ``moving`` holds image.
        which: int64 [B], the row of ``fixed`` that each is brought on.
        iterations: Gauss-Newton steps, damped.
        step: every so many voxels a side are compared.

    Returns:
        the best matrices [B, 3, 4] that were met and their correlation [B], -1 to 1.
    """
    count, size = len(moving), fixed.shape[-1]
    start = slice(step // 2, None, step)
    target = fixed[:, 0, start, start, start].flatten(1)[which]
    seen = seen[:, 0, start, start, start].flatten(1)[which]
    slopes = torch.cat([moving, *_gradients(moving)], 1) if iterations else moving
    points = _points(size, step, fixed.device).T
    best, current = matrices.clone(), matrices.clone()
    best_score = torch.full((count,), -2.0, device=fixed.device)
    for turn in range(iterations + 1):
        grid = cube_grid(current, size, step)
        warped = sample_volumes(slopes, grid).flatten(2)
        inside = within_boxes(grid, boxes).flatten(1) * seen
        image = warped[:, 0]
        # What an overlap leaves out must not make it the better one.
        score = correlation(image, target, inside) * _covered(target, seen, inside)
        better = score > best_score
        best = torch.where(better[:, None, None], current, best)
        best_score = torch.where(better, score, best_score)
        if turn == iterations:
            break
        weighted = warped[:, 1:] * inside[:, None]
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


def _covered(target: torch.Tensor, seen: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Root of the share [B] of the structure of ``target`` that lies ``inside``, of what is ``seen``."""
    energy = target * target
    return ((energy * inside).sum(1) / (energy * seen).sum(1).clamp_min(1e-8)).sqrt()
