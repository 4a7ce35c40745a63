"""Align images on each other by a similarity transform: Gauss-Newton on band-passed structure, batched.

Band-passed, because gamma, window and bias field change slowly over the image and say nothing about where the anatomy lies.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images.foreground import gaussian_blur

__all__ = ["align", "band_pass", "correlation", "sampling_grid", "within"]


def band_pass(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Fine structure of ``images`` [B, 1, S, S]: what differs from its surroundings of ``sigma`` pixels, in local units."""
    lifted = images.clamp_min(0) ** 0.7
    fine = gaussian_blur(lifted, 0.6) - gaussian_blur(lifted, sigma)
    local = gaussian_blur(fine * fine, 2 * sigma).sqrt()
    return fine / (local + 0.03)


def correlation(first: torch.Tensor, second: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted Pearson correlation [B] of the rows of ``first`` and ``second`` [B, P]."""
    total = weight.sum(1, keepdim=True).clamp_min(1)
    a = (first - (first * weight).sum(1, keepdim=True) / total) * weight
    b = (second - (second * weight).sum(1, keepdim=True) / total) * weight
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-8)


def align(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    matrices: torch.Tensor,
    seen: torch.Tensor,
    iterations: int,
    extent: torch.Tensor | None = None,
    which: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Refine the sampling matrices that bring ``moving`` on ``fixed``: rotation, scale, shift and a free gain.

    Args:
        fixed: float [M, 1, S, S] in [0, 1]; M is B or 1, or anything with ``which``.
        moving: float [B, 1, S, S] in [0, 1].
        matrices: float [B, 2, 3], where to start; from a point of ``fixed`` to the point of ``moving`` in [-1, 1] coordinates.
        seen: float [M, 1, S, S], 1 where ``fixed`` holds image.
        iterations: Gauss-Newton steps.
        extent: float [B, 2], how far ``moving`` holds image from its centre to the right and down, 1 to its edges; None is 1.
        which: int64 [B], the row of ``fixed`` that each is brought on; None takes them one by one.

    Returns:
        the best matrices [B, 2, 3] that were met and their band-passed correlation [B].
    """
    count, size = len(moving), fixed.shape[-1]
    sigma = size / 24
    target, seen = band_pass(fixed, sigma).flatten(1), seen.flatten(1)
    if which is not None:
        target, seen = target[which], seen[which]
    target = target.expand(count, -1)
    structure = band_pass(moving, sigma)
    gradient = torch.cat([structure, *_gradients(structure)], 1)
    x, y, _ = _points(size, fixed.device).unbind(1)
    best = matrices.clone()
    best_score = torch.full((count,), -2.0, device=fixed.device)
    current = matrices.clone()
    for step in range(iterations + 1):
        grid = sampling_grid(current, size)
        warped = F.grid_sample(gradient, grid, align_corners=False).flatten(2)
        inside = within(grid, extent).flatten(1) * seen
        image, gx, gy = warped[:, 0], warped[:, 1], warped[:, 2]
        score = correlation(image, target, inside)
        better = score > best_score
        best = torch.where(better[:, None, None], current, best)
        best_score = torch.where(better, score, best_score)
        if step == iterations:
            break
        columns = torch.stack([gx * x + gy * y, gy * x - gx * y, gx, gy, image, torch.ones_like(image)], 1) * inside[:, None]
        normal = columns @ columns.transpose(1, 2)
        damping = torch.diag_embed(1e-3 * normal.diagonal(dim1=1, dim2=2) + 1e-6)
        right = columns @ (target * inside)[..., None]
        solution = torch.linalg.solve(normal + damping, right)[..., 0]
        gain = solution[:, 4].clamp_min(0.2)
        delta = (solution[:, :4] / gain[:, None]).clamp(-0.08, 0.08)
        a, b, tx, ty = delta.unbind(1)
        current = current + torch.stack([torch.stack([a, -b, tx], 1), torch.stack([b, a, ty], 1)], 1)
    return best, best_score


@lru_cache(maxsize=16)
def _points(size: int, device: torch.device) -> torch.Tensor:
    """x, y and 1 of the pixels of an image [S, S] in [-1, 1] coordinates: float32 [S * S, 3]."""
    axis = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size * 2 - 1
    x, y = axis.repeat(size), axis.repeat_interleave(size)
    return torch.stack([x, y, torch.ones_like(x)], 1)


def sampling_grid(matrices: torch.Tensor, size: int) -> torch.Tensor:
    """As ``F.affine_grid`` of ``matrices`` [B, 2, 3] without aligned corners, several times faster on a CPU: float32 [B, S, S, 2]."""
    return (_points(size, matrices.device) @ matrices.transpose(1, 2)).view(-1, size, size, 2)


def within(grid: torch.Tensor, extent: torch.Tensor | None = None) -> torch.Tensor:
    """1 where a sampling ``grid`` [B, S, S, 2] points inside of the image, or of its ``extent`` float [B, 2], else 0: float [B, S, S]."""
    reach = grid.abs() if extent is None else grid.abs() / extent[:, None, None]
    return (reach.amax(-1) <= 1).float()


def _gradients(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """d/dx and d/dy in [-1, 1] coordinates, central differences."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    scale = images.shape[-1] / 4
    return (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * scale, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * scale
