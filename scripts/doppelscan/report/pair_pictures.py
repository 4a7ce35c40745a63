"""Pictures of a pair in one strip of tiles: image, match in its pose, difference, where they agree, match as it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from doppelscan.decide import Decision, ScoredImage
from doppelscan.report.volume_pictures import middle_planes, mosaic
from doppelscan.verify import FullSizePair

__all__ = ["PairPicture", "pair_picture", "plain_picture"]

# A difference of half the range, and more, has the full colour; docs and the page's colour bar say the same.
FULL_DIFFERENCE = 128
# Agreement is tinted from the first to the second.
AGREES_FROM, AGREES_FULLY = 0.2, 0.9


@dataclass(frozen=True)
class PairPicture:
    """A pair as WebP.

    Attributes:
        strip: the tiles side by side.
        tiles: how many: 5, or 2 (image and match) where the match was not brought into the pose.
        slices: of volumes, all slices of the image, of the match in its pose and of their agreement as mosaics; empty otherwise.
        large: the tiles at the resolution of the files; empty where they hold no more than the strip.
        side: pixels a side of a tile of ``large``, else 0.
    """

    strip: bytes
    tiles: int
    slices: tuple[bytes, ...] = ()
    large: bytes = b""
    side: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.strip) + len(self.large) + sum(map(len, self.slices))


def pair_picture(
    decision: Decision, scored: ScoredImage, aligned: Any, sliced: bool = True, full: FullSizePair | None = None
) -> PairPicture:
    """The five tiles of a pair.

    Args:
        decision: whose sets hold the thumbnails.
        scored: the image and its match.
        aligned: the :class:`~doppelscan.verify.AlignedPair`, or of volumes the ``AlignedVolume``.
        sliced: of volumes, with all slices.
        full: the pair at the resolution of its files.
    """
    image, match = _thumbnails(decision, scored)
    moved = np.round(aligned.moved * 255).clip(0, 255).astype(np.uint8)
    agreement, slices = aligned.agreement_map, tuple[bytes, ...]()
    if image.ndim == 3:
        told = np.round(np.nan_to_num(agreement, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
        slices = tuple(_webp(mosaic(one)) for one in (image, moved, told)) if sliced else ()
        image, match, moved, agreement = (middle_planes(one) for one in (image, match, moved, agreement))
    strip = _tiles(image, moved, match, agreement)
    if full is None:
        return PairPicture(strip, 5, slices)
    side = full.image.shape[1]
    wide = _resized(np.nan_to_num(agreement, nan=0.0), full.image.shape)
    return PairPicture(strip, 5, slices, _tiles(full.image, full.moved, full.match, wide), side)


def plain_picture(decision: Decision, scored: ScoredImage) -> PairPicture:
    """Image and match as they are, which needs no registration."""
    image, match = (middle_planes(one) if one.ndim == 3 else one for one in _thumbnails(decision, scored))
    return PairPicture(_strip(image, match), 2)


def _tiles(image: np.ndarray, moved: np.ndarray, match: np.ndarray, agreement: np.ndarray) -> bytes:
    return _strip(image, moved, _difference(image, moved), _overlay(image, agreement), match)


def _resized(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """float32 ``values`` of two axes as ``shape``, between which they are linear."""
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _thumbnails(decision: Decision, scored: ScoredImage) -> tuple[np.ndarray, np.ndarray]:
    return (
        decision.synthetic.images.thumbnails([scored.row])[0][0].numpy(),
        decision.training.thumbnails([scored.match])[0][0].numpy(),
    )


def _strip(*tiles: np.ndarray) -> bytes:
    return _webp(np.concatenate([np.repeat(one[..., None], 3, -1) if one.ndim == 2 else one for one in tiles], 1), 70)


def _webp(pixels: np.ndarray, quality: int = 60) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _difference(image: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Absolute difference as shades of one hue on white: uint8 [S, S, 3]."""
    amount = np.clip(np.abs(image.astype(np.float32) - moved.astype(np.float32)) / FULL_DIFFERENCE, 0, 1)[..., None]
    return np.round(255 - amount * (255 - np.array([192, 57, 43], np.float32))).astype(np.uint8)


def _overlay(image: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """``image`` in grey, tinted where it agrees with the match: uint8 [S, S, 3]. Half agreement is half the tint; no structure, none."""
    grey = np.repeat(image.astype(np.float32)[..., None], 3, -1) * 0.8
    # Cells reach over the edge of the anatomy; the black around it agrees with everything.
    lit = np.clip(image.astype(np.float32) / 25, 0, 1)
    told = np.clip((np.nan_to_num(agreement, nan=0.0) - AGREES_FROM) / (AGREES_FULLY - AGREES_FROM), 0, 1)
    amount = (lit * told)[..., None] * 0.6
    return np.round(grey + amount * (np.array([46, 160, 140], np.float32) - grey)).astype(np.uint8)
