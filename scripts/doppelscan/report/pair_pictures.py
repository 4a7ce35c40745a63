"""Pictures of a pair in one strip of tiles: image, match in its pose, difference, where they agree, match as it is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from doppelscan.decide import Decision, ScoredImage
from doppelscan.report.agreement_scale import DIFFERS, FULL_DIFFERENCE, AgreementScale
from doppelscan.report.volume_pictures import middle_planes, mosaic
from doppelscan.verify import FullSizePair

__all__ = ["PairPicture", "pair_picture", "plain_picture"]

# Less than this share of the range, two grey levels of 8 bit, is no difference: rounding makes as much.
NO_DIFFERENCE = 0.01


@dataclass(frozen=True)
class PairPicture:
    """A pair as WebP.

    Attributes:
        strip: the tiles side by side.
        tiles: how many: 5, or 2 (image and match) where the match was not brought into the pose.
        slices: of volumes, all slices of the image, of the match in its pose and of their agreement as mosaics; empty otherwise.
        large: the tiles at the resolution of the files; empty where they hold no more than the strip.
        side: pixels a side of a tile of ``large``, else 0.
        largest: difference of image and match in its pose, as a share of the range, where it is largest; NaN where the match was not brought into the pose.
    """

    strip: bytes
    tiles: int
    slices: tuple[bytes, ...] = ()
    large: bytes = b""
    side: int = 0
    largest: float = float("nan")

    @property
    def same(self) -> bool:
        """There is no difference to be seen."""
        return self.largest < NO_DIFFERENCE

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.strip) + len(self.large) + sum(map(len, self.slices))


def pair_picture(
    decision: Decision,
    scored: ScoredImage,
    aligned: Any,
    scale: AgreementScale,
    sliced: bool = True,
    full: FullSizePair | None = None,
) -> PairPicture:
    """The five tiles of a pair.

    Args:
        decision: whose sets hold the thumbnails.
        scored: the image and its match.
        aligned: the :class:`~doppelscan.verify.AlignedPair`, or of volumes the ``AlignedVolume``.
        scale: what the colours of the agreement mean.
        sliced: of volumes, with all slices.
        full: the pair at the resolution of its files.
    """
    image, match = _thumbnails(decision, scored)
    moved = np.round(aligned.moved * 255).clip(0, 255).astype(np.uint8)
    agreement, slices = scale.known(aligned.agreement_map), tuple[bytes, ...]()
    largest = _largest(image, moved)
    if image.ndim == 3:
        told = np.round(agreement * 255).astype(np.uint8)
        slices = tuple(_webp(mosaic(one)) for one in (image, moved, told)) if sliced else ()
        image, match, moved, agreement = (middle_planes(one) for one in (image, match, moved, agreement))
    strip = _tiles(image, moved, match, agreement, scale)
    if full is None:
        return PairPicture(strip, 5, slices, largest=largest)
    side, largest = full.image.shape[1], max(largest, _largest(full.image, full.moved))
    wide = _resized(agreement, full.image.shape)
    return PairPicture(strip, 5, slices, _tiles(full.image, full.moved, full.match, wide, scale), side, largest)


def plain_picture(decision: Decision, scored: ScoredImage) -> PairPicture:
    """Image and match as they are, which needs no registration."""
    image, match = (middle_planes(one) if one.ndim == 3 else one for one in _thumbnails(decision, scored))
    return PairPicture(_strip(image, match), 2)


def _tiles(image: np.ndarray, moved: np.ndarray, match: np.ndarray, agreement: np.ndarray, scale: AgreementScale) -> bytes:
    return _strip(image, moved, _difference(image, moved), scale.tinted(image, agreement), match)


def _largest(image: np.ndarray, moved: np.ndarray) -> float:
    """The largest difference of two uint8 pictures, as a share of the range."""
    return float(np.abs(image.astype(np.int16) - moved.astype(np.int16)).max()) / 255


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
    return np.round(255 - amount * (255 - np.array(DIFFERS, np.float32))).astype(np.uint8)
