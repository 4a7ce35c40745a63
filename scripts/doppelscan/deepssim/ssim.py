"""SSIM of many pairs at once: the target that the encoder regresses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["pairwise_ssim", "ssim"]

K1, K2 = 0.01, 0.03


def _window_means(images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    return F.avg_pool2d(F.avg_pool2d(images, (size, 1), (stride, 1)), (1, size), (1, stride))


def _moments(images: torch.Tensor, size: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    mean = _window_means(images, size, stride)
    unbiased = size * size / (size * size - 1)  # sample covariance, as skimage's structural_similarity does
    return mean, (_window_means(images * images, size, stride) - mean * mean) * unbiased


def _joint_range(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Joint data range of each pair: a range of the first image only would make SSIM depend on the order of the two."""
    high = torch.maximum(a.flatten(1).amax(1), b.flatten(1).amax(1))
    low = torch.minimum(a.flatten(1).amin(1), b.flatten(1).amin(1))
    return (high - low).clamp_min(1e-8)


def ssim(first: torch.Tensor, second: torch.Tensor, window_size: int = 7) -> torch.Tensor:
    """Mean structural similarity of each pair (Wang et al. 2004; uniform window, joint data range, symmetric).

    Args:
        first: float [B, 1, H, W].
        second: float [B, 1, H, W].
        window_size: side of the uniform window in pixels.

    Returns:
        float [B] in [-1, 1].
    """
    mean_a, var_a = _moments(first, window_size, 1)
    mean_b, var_b = _moments(second, window_size, 1)
    return _mean_ssim(first * second, mean_a, var_a, mean_b, var_b, _joint_range(first, second), window_size, 1)


def _mean_ssim(product, mean_a, var_a, mean_b, var_b, data_range, size, stride) -> torch.Tensor:
    unbiased = size * size / (size * size - 1)
    covariance = (_window_means(product, size, stride) - mean_a * mean_b) * unbiased
    c1 = ((K1 * data_range) ** 2).view(-1, 1, 1, 1)
    c2 = ((K2 * data_range) ** 2).view(-1, 1, 1, 1)
    value = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    value = value / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return value.mean((1, 2, 3))


def pairwise_ssim(first: torch.Tensor, second: torch.Tensor, window_size: int = 7, stride: int = 1) -> torch.Tensor:
    """SSIM of all pairs: float [N, 1, H, W] and [M, 1, H, W] -> [N, M]; window means are computed once an image.

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
