"""The one resampling of images, for training and for use: batched, on any device, anti-aliased.

A box of the image is resampled by a triangle filter that widens with the reduction, as Pillow's ``resize`` does it. The filter is
separable, so each axis is a small matrix of weights and a batch with a box of its own for each image is two matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from doppelscan.images.foreground import foreground_square
from doppelscan.images.surround import without_light_surround

__all__ = ["axis_weights", "cut_foreground", "own_squares", "resample_boxes", "unpadded", "whole_squares"]

# Samples a side at which whole images are compared whatever their shape, and what is left out along each side, where the padding to a square was blurred
# into the image.
OWN_SIZE, OWN_MARGIN = 64, 1 / 32
# A box that reaches out of the image by less, in pixels, does so by rounding.
ROUNDING = 1e-4


def axis_weights(start: torch.Tensor, stop: torch.Tensor, length: int, size: int) -> torch.Tensor:
    """Weights [B, size, length] of the pixels of one axis for ``size`` samples between ``start`` and ``stop`` [B], in pixels."""
    step = ((stop - start) / size).view(-1, 1, 1)
    width = step.clamp_min(1.0)
    # The filter looks one width beyond the box. Where the box ends inside, it sees the image there or, at its edge, nothing; where
    # the box reaches out, it sees zeros.
    outside = [(torch.ceil(reach) + 2) * (reach > ROUNDING) for reach in (-start, stop - length)]
    before, after = (int(reach.max()) for reach in outside)
    place = torch.arange(-before, length + after, dtype=start.dtype, device=start.device)
    seen = (place >= -outside[0].view(-1, 1)) & (place < length + outside[1].view(-1, 1))
    sample = torch.arange(size, dtype=start.dtype, device=start.device).view(-1, 1) + 0.5
    centre = start.view(-1, 1, 1) + sample * step
    weights = (1 - (place + 0.5 - centre).abs() / width).clamp_min(0) * seen[:, None]
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    return weights[..., before : before + length]


def resample_boxes(images: torch.Tensor, boxes: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample a box of each image.

    Args:
        images: float [B, C, H, W].
        boxes: float [B, 4], x and y of the upper left corner, then of the lower right one, in pixels; may reach out of the image, where
            it is 0.
        size: height and width of the result.

    Returns:
        float [B, C, height, width].
    """
    x0, y0, x1, y1 = boxes.to(images.device, torch.float64).unbind(1)
    rows = axis_weights(y0, y1, images.shape[-2], size[0]).to(images.dtype)
    columns = axis_weights(x0, x1, images.shape[-1], size[1]).to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(-1, -2)


def _resample_squares(images: torch.Tensor, squares: torch.Tensor, size: int) -> torch.Tensor:
    """Squares as of :func:`~doppelscan.images.foreground_square`."""
    height, width = images.shape[-2:]
    x, y, side = squares.to(torch.float64).unbind(1)
    half = max(height, width) / 2
    x, y = width / 2 + x * half, height / 2 + y * half
    reach = side * half / 2
    return resample_boxes(images, torch.stack([x - reach, y - reach, x + reach, y + reach], 1), (size, size))


def whole_squares(images: torch.Tensor, size: int) -> torch.Tensor:
    """``images`` float [B, C, H, W], padded by 0 to squares and resampled: [B, C, size, size]."""
    return _resample_squares(images, images.new_tensor([[0.0, 0.0, 2.0]]).expand(len(images), 3), size)


def own_squares(squares: torch.Tensor, shapes: torch.Tensor) -> torch.Tensor:
    """Each image on a square of its own.

    Args:
        squares: float [B, 1, S, S], of :func:`whole_squares`.
        shapes: [B, 2], height and width of the images that were padded to them.

    Returns:
        float [B, 1, 64, 64].
    """
    shapes = shapes.to(torch.float64)
    middle = squares.shape[-1] / 2
    reach = middle * (1 - 2 * OWN_MARGIN) * shapes / shapes.amax(1, keepdim=True)
    boxes = torch.cat([middle - reach.flip(1), middle + reach.flip(1)], 1)
    return resample_boxes(squares, boxes, (OWN_SIZE, OWN_SIZE))


def cut_foreground(images: torch.Tensor, size: int) -> torch.Tensor:
    """The square of each image that holds its anatomy, see :func:`~doppelscan.images.foreground_square`, 0 outside of the image.

    A light page, bars or a light background around it are dark first, see :func:`~doppelscan.images.without_light_surround`.

    Args:
        images: float [B, 1, H, W], any intensity scale. H and W may differ.
        size: side of the result.

    Returns:
        float [B, 1, size, size], on the intensity scale of ``images``.
    """
    images = without_light_surround(images)
    return _resample_squares(images, foreground_square(images), size)


def unpadded(square: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """What of a square [S, S] shows an image of ``shape`` (height, width) that was padded to it: [H, W], at least 8 pixels a side."""
    height, width = np.maximum(8, np.round(len(square) * np.asarray(shape) / max(shape))).astype(int)
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    return square[top : top + height, left : left + width]
