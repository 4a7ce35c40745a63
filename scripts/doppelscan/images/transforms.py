"""The one preprocessing, as MONAI dictionary transforms that the bundles' configs declare in this order.

``LoadSliced`` -> ``DarkSurroundd`` -> ``Windowd`` -> ``SquareThumbnaild`` (for verification and the report) -> ``ForegroundSquared`` -> MONAI's
``NormalizeIntensityd`` (z-score).
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from doppelscan.errors import ImageError
from doppelscan.images.readers import SMALLEST_SIDE, read_pixels
from doppelscan.images.squares import cut_foreground, own_squares, resample_boxes, whole_squares
from doppelscan.images.surround import darkened, light_surround, picture_box

__all__ = [
    "DarkSurroundd",
    "ForegroundSquared",
    "LoadSliced",
    "SquareThumbnaild",
    "Windowd",
    "from_thumbnail",
    "put_slice",
    "take_slice",
    "unit_float",
    "window",
]


def _version(paths: Sequence[str], channel: int | None) -> tuple | None:
    """Changes when one of the files does; None where one is missing."""
    try:
        states = [os.stat(path) for path in paths]
    except OSError:
        return None
    return tuple(paths), channel, tuple((state.st_size, state.st_mtime_ns) for state in states)


def take_slice(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Slice of a RAS+ volume [X, Y, Z] as it is looked at: float32 [H, W], the second remaining axis points up."""
    return np.rot90(np.take(volume, index, axis)).copy()


def _percentiles(pixels: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Like ``np.percentile``; of 8-bit values by counting, since sorting was half the time of preparing an image."""
    with np.errstate(invalid="ignore"):
        levels = pixels.astype(np.uint8)
    if not np.array_equal(levels, pixels):
        low, high = np.percentile(pixels, (lower, upper))
        return float(low), float(high)
    ends = np.cumsum(np.bincount(levels.ravel(), minlength=256))
    found = []
    for share in (lower, upper):
        place = share / 100 * (pixels.size - 1)
        below, above = np.searchsorted(ends, [int(place), min(int(place) + 1, pixels.size - 1)], side="right")
        found.append(float(below + (above - below) * (place - int(place))))
    return found[0], found[1]


def unit_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [0, 1]; floating images come back as float32."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def window(pixels: np.ndarray, lower: float = 0.5, upper: float = 99.5) -> np.ndarray:
    """Scale ``pixels`` linearly so that the percentiles ``lower`` and ``upper`` come to 0 and 1, and clip.

    Raises:
        ImageError: NaN or Inf, or no contrast at all.
    """
    bad = int((~np.isfinite(pixels)).sum())
    if bad:
        raise ImageError(f"{bad} of {pixels.size} pixels are NaN or Inf")
    low, high = _percentiles(pixels, lower, upper)
    if high <= low:  # a few bright pixels on a flat ground are still an image
        low, high = float(pixels.min()), float(pixels.max())
    if high <= low:
        raise ImageError(f"a constant image (every pixel is {float(pixels.flat[0]):g})")
    return np.clip((pixels - low) / (high - low), 0, 1).astype(np.float32)


def _batch(pixels: np.ndarray) -> torch.Tensor:
    """[H, W] -> float32 [1, 1, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]


def from_thumbnail(square: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bring a map in the frame of a thumbnail, float32 [S, S], back on the image it was made of: float32 [height, width]."""
    height, width = int(shape[0]), int(shape[1])
    side, size = max(height, width), square.shape[0]
    scale = size / side
    box = [(side - width) / 2 * scale, (side - height) / 2 * scale, (side + width) / 2 * scale, (side + height) / 2 * scale]
    return resample_boxes(_batch(square), torch.tensor([box], dtype=torch.float64), (height, width))[0, 0].numpy()


def put_slice(volume: np.ndarray, slice_map: np.ndarray, axis: int, index: int) -> None:
    """Write a map [H, W] of a slice, as it is looked at, into ``volume`` [X, Y, Z]: what :func:`take_slice` took."""
    np.moveaxis(volume, axis, 0)[index] = np.rot90(slice_map, -1)


class LoadSliced(MapTransform):
    """Read the pixels of a record: float32 [1, H, W].

    Each key holds a path, a list of paths (a DICOM series) or an :class:`~doppelscan.images.ImageRecord`; the keys ``slice``,
    ``axis`` and ``channel`` of the item, when there, choose the slice of a volume. A volume without a choice gives its middle
    axial slice.

    Neighbouring records are slices of one volume: the last one that was read is kept between them, one for each transform and worker,
    until its files change.

    Raises:
        ImageError: the file cannot be read, or a side is below 8 pixels.
    """

    without_effect = ("_last",)

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self._last: tuple[tuple | None, np.ndarray | None] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": (None, None)}  # a worker reads its own

    def _pixels(self, paths: Sequence[str], channel: int | None) -> np.ndarray:
        version = _version(paths, channel)
        last, kept = self._last  # both at once: another thread may put another volume there meanwhile
        if kept is not None and version is not None and version == last:
            return kept
        pixels = read_pixels(list(paths), channel)
        if pixels.ndim == 3:
            self._last = version, pixels
        return pixels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            source = item[key]
            paths = (source,) if isinstance(source, str) else tuple(source) if isinstance(source, (list, tuple)) else (str(source),)
            pixels = self._pixels([str(path) for path in paths], item.get("channel"))
            if pixels.ndim == 3:
                axis = item.get("axis")
                axis = 2 if axis is None else axis
                index = item.get("slice")
                pixels = take_slice(pixels, axis, pixels.shape[axis] // 2 if index is None else index)
            if min(pixels.shape) < SMALLEST_SIDE:
                raise ImageError(f"{pixels.shape[0]} x {pixels.shape[1]} pixels; at least {SMALLEST_SIDE} a side are needed")
            item[key] = pixels[None]
        return item


def _eight_bit(squares: torch.Tensor) -> np.ndarray:
    return np.round(np.clip(squares.numpy(), 0, 1) * 255).astype(np.uint8)


def _as_read(thumbnail: np.ndarray, shape: Sequence[int], changed: bool) -> dict[Hashable, Any]:
    """What :class:`SquareThumbnaild` says of an image as its file has it, and whether that was ``changed``."""
    square = own_squares(unit_float(torch.from_numpy(thumbnail))[None], torch.tensor([tuple(shape)]))
    return {"as_read": _eight_bit(square[0]), "read_shape": np.array(shape, np.int32), "surround": np.array([changed], np.uint8)}


class DarkSurroundd(MapTransform):
    """Take a light surround off a 2D image, before the window is found: float32 [1, H, W].

    A picture on a page or between bars is cut out; a light background around the anatomy becomes dark. An image without one stays as it is.
    See :func:`~doppelscan.images.picture_box` and :func:`~doppelscan.images.without_light_surround`. Of an image that changes, what it was goes to
    ``as_read`` and ``read_shape``, see :class:`SquareThumbnaild`: an inverted image has a light background, too, and has the pixels of its source.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            pixels = np.asarray(item[key])[0]
            image = _batch(pixels)
            # What cannot be read is for the window to refuse.
            found = light_surround(image) if np.isfinite(pixels).all() else None
            if found is not None:
                item |= _as_read(_eight_bit(whole_squares(_batch(window(pixels)), 128)[0]), pixels.shape, True)
                box = picture_box(image[0, 0], found)
                picture = darkened(image, found)[0, 0] if box is None else image[0, 0, box[0] : box[2], box[1] : box[3]]
                item[key] = picture.numpy()[None]
        return item


class Windowd(MapTransform):
    """Scale to [0, 1] between two percentiles of the image (default 0.5 and 99.5) and clip; refuses NaN and flat images."""

    def __init__(self, keys: KeysCollection, lower: float = 0.5, upper: float = 99.5, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.lower, self.upper = lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = window(np.asarray(item[key])[0], self.lower, self.upper)[None]
        return item


class SquareThumbnaild(MapTransform):
    """Copy of the whole image, or of the picture that was cut out of it, padded to a square and resampled: uint8 [1, S, S] under ``thumbnail_key``.

    Its native height and width go to ``native_shape``. Verification registers these, so that a pose is one of the whole image. ``as_read`` is the image as
    its file has it on a square of its own, uint8 [1, 64, 64], windowed, ``read_shape`` its height and width there, ``surround`` uint8 [1], 1 where a
    light surround was taken off.
    """

    def __init__(
        self, keys: KeysCollection, spatial_size: int = 128, thumbnail_key: str = "thumbnail", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size, self.thumbnail_key = spatial_size, thumbnail_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            pixels = np.asarray(item[key])[0]
            thumbnail = _eight_bit(whole_squares(_batch(pixels), self.spatial_size)[0])
            item[self.thumbnail_key], item["native_shape"] = thumbnail, np.array(pixels.shape, np.int32)
            if "as_read" not in item:
                item |= _as_read(thumbnail, pixels.shape, False)
        return item


class ForegroundSquared(MapTransform):
    """Cut the square that holds the anatomy and resample it, keeping the aspect: float32 [1, S, S].

    See :func:`doppelscan.images.cut_foreground`, which training calls on its batches.
    """

    def __init__(self, keys: KeysCollection, spatial_size: int = 128, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size = spatial_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = cut_foreground(_batch(np.asarray(item[key])[0]), self.spatial_size)[0].numpy()
        return item
