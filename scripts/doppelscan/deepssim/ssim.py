"""SSIM of many pairs at once: the target that the encoder regresses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from doppelscan.images import align

__all__ = ["align_to_first", "pairwise_ssim", "published_ssim", "registered_ssim", "ssim"]

K1, K2 = 0.01, 0.03


def _window_means(images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    if images.ndim == 5:
        plane = F.avg_pool3d(images, (1, 1, size), (1, 1, stride))
        return F.avg_pool3d(F.avg_pool3d(plane, (1, size, 1), (1, stride, 1)), (size, 1, 1), (stride, 1, 1))
    return F.avg_pool2d(F.avg_pool2d(images, (size, 1), (stride, 1)), (1, size), (1, stride))


def _unbiased(images: torch.Tensor, size: int) -> float:
    count = size ** (images.ndim - 2)
    return count / (count - 1)


def _moments(images: torch.Tensor, size: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    mean = _window_means(images, size, stride)
    unbiased = _unbiased(images, size)  # sample covariance, as skimage's structural_similarity does
    return mean, (_window_means(images * images, size, stride) - mean * mean) * unbiased


def _joint_range(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Joint data range of each pair: a range of the first image only would make SSIM depend on the order of the two."""
    high = torch.maximum(a.flatten(1).amax(1), b.flatten(1).amax(1))
    low = torch.minimum(a.flatten(1).amin(1), b.flatten(1).amin(1))
    return (high - low).clamp_min(1e-8)


def ssim(
    first: torch.Tensor, second: torch.Tensor, window_size: int = 7, stride: int = 1, data_range: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean structural similarity of each pair (Wang et al. 2004; uniform window, joint data range, symmetric).

    Args:
        first: float [B, 1, H, W], or volumes [B, 1, D, H, W].
        second: the same shape.
        window_size: side of the uniform window in pixels.
        stride: average over every so many windows a side.
        data_range: float [B] of each pair; None takes that of both images together.

    Returns:
        float [B] in [-1, 1].
    """
    mean_a, var_a = _moments(first, window_size, stride)
    mean_b, var_b = _moments(second, window_size, stride)
    data_range = _joint_range(first, second) if data_range is None else data_range
    return _mean_ssim(first * second, mean_a, var_a, mean_b, var_b, data_range, window_size, stride)


def _mean_ssim(product, mean_a, var_a, mean_b, var_b, data_range, size, stride) -> torch.Tensor:
    covariance = (_window_means(product, size, stride) - mean_a * mean_b) * _unbiased(product, size)
    per_pair = (-1, *[1] * (product.ndim - 1))
    c1 = ((K1 * data_range) ** 2).view(per_pair)
    c2 = ((K2 * data_range) ** 2).view(per_pair)
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.mean(tuple(range(1, value.ndim)))


def pairwise_ssim(first: torch.Tensor, second: torch.Tensor, window_size: int = 7, stride: int = 1) -> torch.Tensor:
    """SSIM of all pairs: float [N, 1, ...] and [M, 1, ...] of images or volumes -> [N, M]; window means are computed once an image.

    A ``stride`` of 2 averages over every other window a side: a quarter of the work for nearly the same mean.
    """
    mean_a, var_a = _moments(first, window_size, stride)
    mean_b, var_b = _moments(second, window_size, stride)
    high = torch.maximum(first.flatten(1).amax(1)[:, None], second.flatten(1).amax(1)[None])
    low = torch.minimum(first.flatten(1).amin(1)[:, None], second.flatten(1).amin(1)[None])
    data_range = (high - low).clamp_min(1e-8)
    rows = []
    for i in range(len(first)):
        one = slice(i, i + 1)
        rows.append(_mean_ssim(first[one] * second, mean_a[one], var_a[one], mean_b, var_b, data_range[i], window_size, stride))
    return torch.stack(rows)


def _unit(images: torch.Tensor) -> torch.Tensor:
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-8)


def _aligned(
    fixed: torch.Tensor,
    moving: torch.Tensor,
    others: torch.Tensor | None = None,
    iterations: int = 6,
    shrink: int = 2,
    stride: int = 1,
) -> tuple[torch.Tensor, ...]:
    """``moving`` (and ``others``, by the same transform) on ``fixed``, kept only where that raises the SSIM with ``fixed``."""
    count = len(moving)
    small = [max(16, side // shrink) for side in moving.shape[-2:]]
    pair = [F.interpolate(_unit(images), small, mode="area").expand(count, -1, -1, -1) for images in (fixed, moving)]
    start = torch.eye(2, 3, device=moving.device).expand(count, 2, 3)
    matrices, _ = align(pair[0], pair[1], start, torch.ones_like(pair[0]), iterations)
    grid = F.affine_grid(matrices, list(moving.shape), align_corners=False)
    fixed = fixed.expand(count, -1, -1, -1)
    moved = F.grid_sample(moving, grid, align_corners=False, padding_mode="border")
    closer = (ssim(fixed, moved, stride=stride) > ssim(fixed, moving, stride=stride)).view(-1, 1, 1, 1)
    if others is None:
        return (torch.where(closer, moved, moving),)
    moved_others = F.grid_sample(others, grid, align_corners=False, padding_mode="border")
    return torch.where(closer, moved, moving), torch.where(closer, moved_others, others)


def registered_ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SSIM of each pair after ``second`` was registered on ``first``: the target of arXiv 2509.16582, section 3.

    Rotation, scale and shift, by Gauss-Newton on band-passed structure from where the foreground squares put the pair; both
    directions are tried and the higher counts, so that the result is symmetric.

    Args:
        first: float [B, 1, S, S], z-scored foreground squares.
        second: float [B, 1, S, S].

    Returns:
        float [B] in [-1, 1].
    """
    (forward,), (backward,) = _aligned(first, second), _aligned(second, first)
    return torch.maximum(ssim(first, forward), ssim(second, backward))


def published_ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SSIM(a, phi(b)) of each pair as published: the target of arXiv 2509.16582, section 3.

    phi registers b on a (rotation, scale and shift, from where the images are; b as it is where that is not nearer), in this direction alone.
    Every 7 x 7 window counts, and the data range is that of a, as in the authors' code: the value depends on the order of the two, which
    :func:`registered_ssim` mends.

    Args:
        first: float [B, 1, S, S], whole images, z-scored.
        second: float [B, 1, S, S].

    Returns:
        float [B] in [-1, 1].
    """
    (moved,) = _aligned(first, second)
    flat = first.flatten(1)
    return ssim(first, moved, data_range=(flat.amax(1) - flat.amin(1)).clamp_min(1e-8))


def align_to_first(images: torch.Tensor, variants: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Register each of ``images`` [B, 1, S, S] on the first; its variant moves with it. All pairs then share one frame.

    Coarser than :func:`registered_ssim`, since training does it for every batch.
    """
    return _aligned(images[:1], images, variants, 4, 3, 4)  # type: ignore[return-value]
