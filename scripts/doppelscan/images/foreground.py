"""Where the anatomy lies in an image: a centre and a side that follow the anatomy through shift, zoom and rotation.

Memorized copies come back shifted, cropped or rescaled. Centring the foreground and scaling it to a fixed size before the
encoder removes most of that, without any training. The estimate is made of first and second moments of a soft Otsu mask,
so it moves continuously with the image: there is no box that jumps when one pixel crosses a threshold.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

__all__ = ["blur_weights", "foreground_square", "gaussian_blur", "otsu_threshold"]

# A uniform disc of radius R has a moment radius of R / sqrt(2); 3.3 moment radii hold a brain's long axis with a margin.
SIDE_PER_MOMENT_RADIUS = 3.3
WORKING_SIZE = 64


def gaussian_blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``images`` [B, C, H, W] by a Gaussian of ``sigma`` pixels; edges are replicated."""
    height, width = images.shape[-2:]
    # Each axis is a product with a matrix: for images of up to a few hundred pixels several times faster than a convolution.
    rows, columns = (blur_weights(side, sigma, images.dtype, images.device) for side in (height, width))
    return rows @ (images @ columns.T)


@lru_cache(maxsize=64)
def blur_weights(side: int, sigma: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Weights [side, side] of the pixels of one axis for each blurred pixel."""
    radius = max(1, int(3 * sigma + 0.5))
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    place = (torch.arange(side)[:, None] + offsets).clamp(0, side - 1)
    weights = torch.zeros(side, side, dtype=torch.float64)
    weights.scatter_add_(1, place, (kernel / kernel.sum()).expand(side, -1))
    return weights.to(device=device, dtype=dtype)


def otsu_threshold(images: torch.Tensor, bins: int = 64) -> torch.Tensor:
    """Otsu's threshold of each image.

    Args:
        images: float [B, ...], values >= 0.
        bins: histogram bins between 0 and each image's maximum.

    Returns:
        float [B], the threshold that maximises the variance between the two classes.
    """
    flat = images.flatten(1)
    top = flat.amax(1, keepdim=True).clamp_min(1e-6)
    index = (flat / top * bins).long().clamp_(0, bins - 1)
    counts = torch.zeros(flat.shape[0], bins, device=flat.device).scatter_add_(1, index, torch.ones_like(flat))
    share = counts / flat.shape[1]
    centres = (torch.arange(bins, device=flat.device) + 0.5) / bins
    weight = share.cumsum(1)
    mean = (share * centres).cumsum(1)
    between = (mean[:, -1:] * weight - mean) ** 2 / (weight * (1 - weight)).clamp_min(1e-9)
    return centres[between.argmax(1)] * top[:, 0]


def foreground_square(images: torch.Tensor) -> torch.Tensor:
    """Centre and side of the square that holds the anatomy.

    Args:
        images: float [B, 1, H, W], any intensity scale. H and W may differ.

    Returns:
        float [B, 3]: x and y of the centre and the side, in units of the half of the longer image side, measured from the
        image centre: x = +1 is the right edge of a square image and side = 2 the whole of it. An image without contrast gives
        (0, 0, 2).
    """
    height, width = images.shape[-2:]
    longer = max(height, width)
    size = (max(4, round(WORKING_SIZE * height / longer)), max(4, round(WORKING_SIZE * width / longer)))
    small = F.interpolate(images, size, mode="area") if longer >= WORKING_SIZE else images
    flat = small.flatten(1)
    limits = torch.quantile(flat, torch.tensor([0.01, 0.99], dtype=flat.dtype, device=flat.device), dim=1)
    low, high = limits[0].view(-1, 1, 1, 1), limits[1].view(-1, 1, 1, 1)
    scaled = ((small - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    # The exponent lifts dim tissue beside bright fat; 0.7 was the most stable of 0.5, 0.7 and 1 under gamma and noise.
    smooth = gaussian_blur(scaled**0.7, 2.0 * longer / WORKING_SIZE if longer < WORKING_SIZE else 2.0)
    threshold = otsu_threshold(smooth).view(-1, 1, 1, 1)
    weight = ((smooth - 0.6 * threshold) / (0.4 * threshold).clamp_min(1e-12)).clamp(0, 1)[:, 0]
    rows, columns = weight.shape[-2:]
    x = (torch.arange(columns, device=images.device, dtype=images.dtype) + 0.5) / columns * 2 - 1
    y = (torch.arange(rows, device=images.device, dtype=images.dtype) + 0.5) / rows * 2 - 1
    x, y = x * width / longer, y * height / longer
    total = weight.sum((1, 2)).clamp_min(1e-6)
    centre_x = (weight.sum(1) * x).sum(1) / total
    centre_y = (weight.sum(2) * y).sum(1) / total
    variance = (weight.sum(1) * x**2).sum(1) / total - centre_x**2 + (weight.sum(2) * y**2).sum(1) / total - centre_y**2
    side = SIDE_PER_MOMENT_RADIUS * variance.clamp_min(0).sqrt()
    found = torch.stack([centre_x, centre_y, side.clamp(0.2, 3.0)], 1)
    flat_image = (limits[1] - limits[0]) <= 1e-12
    return torch.where(flat_image[:, None], found.new_tensor([0.0, 0.0, 2.0]), found)
