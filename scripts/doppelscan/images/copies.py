"""Planted copies: what a memorizing generator could make of a training image, with the truth known.

Each transform takes and returns float32 [H, W] in [0, 1]; a partner image is used by the blend only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import ndimage

from doppelscan.errors import InputError

__all__ = ["COPY_TRANSFORMS", "PAPER_TRANSFORMS", "plant_copy"]


def _affine(image: np.ndarray, degrees: float = 0.0, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Rotate counter-clockwise, zoom about the centre and shift (right, down; shares of the longer side); outside is 0."""
    angle = math.radians(degrees)
    # ndimage maps output (row, column) to input.
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]) / zoom
    centre = (np.array(image.shape) - 1) / 2
    moved = np.array([shift[1], shift[0]]) * max(image.shape)
    return ndimage.affine_transform(image, matrix, centre - matrix @ (centre + moved), order=1)


def _smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return field / field.std()


def _elastic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    sigma, size = max(image.shape) / 12, max(image.shape) * 0.008
    rows, columns = np.meshgrid(*map(np.arange, image.shape), indexing="ij")
    moved = [rows + size * _smooth_noise(image.shape, sigma, rng), columns + size * _smooth_noise(image.shape, sigma, rng)]
    return ndimage.map_coordinates(image, moved, order=1)


def _bias(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    field = image * np.exp(0.3 * _smooth_noise(image.shape, max(image.shape) / 4, rng))
    return field / max(1.0, float(field.max()))


def _jpeg(image: np.ndarray, quality: int = 40) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), dtype=np.float32) / 255


def _down_up(image: np.ndarray, factor: float = 2.0) -> np.ndarray:
    height, width = image.shape
    picture = Image.fromarray(image.astype(np.float32))
    small = picture.resize((max(4, round(width / factor)), max(4, round(height / factor))), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _noise(image: np.ndarray, rng: np.random.Generator, sigma: float = 0.03) -> np.ndarray:
    return image + sigma * rng.standard_normal(image.shape)


def _blend(image: np.ndarray, partner: np.ndarray | None) -> np.ndarray:
    if partner is None:
        raise InputError("The 'partner' parameter must be an image for the transform 'blend'. Got None instead.")
    if partner.shape != image.shape:
        partner = np.asarray(Image.fromarray(partner.astype(np.float32)).resize(image.shape[::-1], Image.Resampling.BILINEAR))
    return 0.75 * image + 0.25 * partner


Transform = Callable[[np.ndarray, np.random.Generator, "np.ndarray | None"], np.ndarray]
COPY_TRANSFORMS: dict[str, Transform] = {
    "exact": lambda i, r, p: i,
    "noise": lambda i, r, p: _noise(i, r),
    "intensity": lambda i, r, p: 0.1 + 0.7 * i,
    "gamma 0.7": lambda i, r, p: i**0.7,
    "gamma 1.5": lambda i, r, p: i**1.5,
    "rotation 3": lambda i, r, p: _affine(i, 3.0),
    "rotation 5": lambda i, r, p: _affine(i, -5.0),
    "rotation 10": lambda i, r, p: _affine(i, 10.0),
    "rotation 15": lambda i, r, p: _affine(i, -15.0),
    "flip-x": lambda i, r, p: i[:, ::-1],
    "flip-y": lambda i, r, p: i[::-1],
    "quarter turn": lambda i, r, p: np.rot90(i),
    "shift 6 %": lambda i, r, p: _affine(i, shift=(0.06, -0.06)),
    "crop 15 %": lambda i, r, p: _affine(i, zoom=1 / 0.85),
    "blur": lambda i, r, p: ndimage.gaussian_filter(i, max(i.shape) / 160),
    "down-up": lambda i, r, p: _down_up(i),
    "bias field": lambda i, r, p: _bias(i, r),
    "elastic": lambda i, r, p: _elastic(i, r),
    "JPEG": lambda i, r, p: _jpeg(i),
    "blend 75/25": lambda i, r, p: _blend(i, p),
    "flip, rotation, noise": lambda i, r, p: _noise(_affine(i[:, ::-1], 8.0), r),
}

# The augmentations of the Memorization Index paper (arXiv 2602.13066, protocol): milder than ours.
PAPER_TRANSFORMS: dict[str, Transform] = {
    "clean": lambda i, r, p: i,
    "noise 0.01": lambda i, r, p: _noise(i, r, 0.01),
    "noise 0.02": lambda i, r, p: _noise(i, r, 0.02),
    "intensity 0.9-1.1": lambda i, r, p: i * r.uniform(0.9, 1.1),
    "rotation +-3": lambda i, r, p: _affine(i, r.choice((-3.0, 3.0))),
    "rotation +-5": lambda i, r, p: _affine(i, r.choice((-5.0, 5.0))),
    "h-flip": lambda i, r, p: i[:, ::-1],
    "v-flip": lambda i, r, p: i[::-1],
}


def plant_copy(image: np.ndarray, name: str, rng: np.random.Generator, partner: np.ndarray | None = None) -> np.ndarray:
    """Apply a transform of :data:`COPY_TRANSFORMS` or :data:`PAPER_TRANSFORMS` to ``image`` float32 [H, W] in [0, 1]; clipped to [0, 1]."""
    transform = COPY_TRANSFORMS.get(name) or PAPER_TRANSFORMS.get(name)
    if transform is None:
        known = ", ".join([*COPY_TRANSFORMS, *PAPER_TRANSFORMS])
        raise InputError(f"The 'name' parameter must be one of {known}. Got {name!r} instead.")
    return np.clip(transform(image, rng, partner), 0, 1).astype(np.float32)
