"""The same pixels: which images are a training image as it is, in one of the 8 poses, resized, windowed to 8 bit, or with inverted intensities.

That needs no statistics, no encoder and no registration. Each image is reduced to a few numbers that none of these changes and
that a tree finds again: even, symmetric cosine coefficients of its z-scored pixels are the same in all 8 poses, change their sign with the
intensities, and by Parseval's theorem cannot differ by more than the pixels do. What the tree finds is then compared pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree

from doppelscan.deepssim import quarter_turn_poses
from doppelscan.images import unit_float
from doppelscan.search import EmbeddedSet

__all__ = ["IdenticalImage", "IdenticalPixels"]

# Squared correlation at 64 pixels: resizing keeps 0.998 and more (bilinear, bicubic, Lanczos), 8-bit windows 0.9999; a slice 1 mm away has 0.994
# at most (docs/benchmarks.md).
SAME = 0.998
SIZE, SMALL = 64, 96
MARGIN = 1 / 32
BLOCK = 512
FREQUENCIES = [(k, m) for m in (0, 2, 4, 6, 8) for k in range(0, m + 1, 2) if m]


@dataclass(frozen=True)
class IdenticalImage:
    """A training image with the same pixels.

    Attributes:
        row: its row in the training set; of several, the first.
        pose: number of the flip-and-turn pose that maps it on the image, see :class:`~doppelscan.verify.Pose`.
        inverted: dark and bright are exchanged.
        correlation: squared correlation of the pixels at 64 x 64, at least 0.998.
    """

    row: int
    pose: int
    inverted: bool
    correlation: float


class IdenticalPixels:
    """Finds the training images whose pixels an image has.

    Args:
        training: the training set; its thumbnails are read a block at a time and not kept.
    """

    def __init__(self, training: EmbeddedSet) -> None:
        self.training = training
        longer = [training.native_shapes(part).max(1) for part in _blocks(len(training))]
        # Images of few pixels have no detail at 64 pixels that resizing would keep.
        self.size = SIZE if np.median(np.concatenate(longer)) >= SMALL else SIZE // 2
        self.tree = cKDTree(np.concatenate([_signatures(self._zscored(training, part)) for part in _blocks(len(training))]))

    def find(self, images: EmbeddedSet) -> list[IdenticalImage | None]:
        """The training image of the same pixels, or None, for each of ``images``."""
        # Pixels that correlate so well differ by at most this (root mean square of z-scores), and so do the signatures.
        reach = math.sqrt(2 * (1 - math.sqrt(SAME)))
        result: list[IdenticalImage | None] = []
        for part in _blocks(len(images)):
            pixels = self._zscored(images, part)
            own = _signatures(pixels)
            near = [
                sorted({*plain, *turned})
                for plain, turned in zip(*(self.tree.query_ball_point(s, reach) for s in (own, -own)), strict=True)
            ]
            result += [self._compared(one, rows) for one, rows in zip(pixels, near, strict=True)]
        return result

    def _compared(self, image: torch.Tensor, rows: list[int]) -> IdenticalImage | None:
        """The first of the best among the training ``rows``, when it is the same."""
        best: IdenticalImage | None = None
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            posed = quarter_turn_poses(self._zscored(self.training, part))
            product = (posed * image).mean((2, 3, 4))
            # Rounded, so that equal images compete by their row and pose and not by the rounding of a sum.
            same = (product.square().T * 1e5).round() / 1e5
            value = float(same.max())
            if value < SAME or (best is not None and value <= best.correlation):
                continue
            row, pose = divmod(int((same.flatten() == same.max()).nonzero()[0]), 8)
            best = IdenticalImage(part[row], pose, bool(product[pose, row] < 0), value)
        return best

    def _zscored(self, images: EmbeddedSet, rows: Sequence[int]) -> torch.Tensor:
        """float32 [n, 1, S, S], z-scored where an image lies and 0 in its padding; mean square 1."""
        small = F.interpolate(unit_float(images.thumbnails(rows)), (self.size, self.size), mode="area")
        held = _held(torch.from_numpy(images.native_shapes(rows).astype(np.float32)), self.size)
        mean = (small * held).sum((1, 2, 3), keepdim=True) / held.sum((1, 2, 3), keepdim=True)
        centred = (small - mean) * held
        return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def _blocks(count: int) -> Iterator[range]:
    for start in range(0, count, BLOCK):
        yield range(start, min(start + BLOCK, count))


def _held(shapes: torch.Tensor, size: int) -> torch.Tensor:
    """float32 [n, 1, size, size], 1 where an image of native ``shapes`` [n, 2] lies, without the edge that its padding was blurred into."""
    longer = shapes.amax(1, keepdim=True)
    reach = size / 2 * shapes / longer - torch.where(shapes < longer, MARGIN * size, -1.0)
    place = (torch.arange(size) + 0.5 - size / 2).abs()
    # A soft edge: the shape of a resized image is rounded.
    rows, columns = ((reach[:, side, None].clamp_min(1) - place + 0.5).clamp(0, 1) for side in (0, 1))
    return (rows[:, :, None] * columns[:, None])[:, None]


def _signatures(pixels: torch.Tensor) -> np.ndarray:
    """float64 [n, 14], orthonormal coefficients of z-scored ``pixels`` [n, 1, S, S] that are the same in all 8 poses."""
    size = pixels.shape[-1]
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = {k: torch.cos(math.pi * k * place) * (1.0 if k == 0 else math.sqrt(2)) for k in range(0, 9, 2)}
    basis = []
    for k, m in FREQUENCIES:
        wave = torch.outer(waves[k], waves[m])
        basis.append(wave if k == m else (wave + wave.T) / math.sqrt(2))
    flat = torch.stack(basis).flatten(1)
    return (pixels.double().flatten(1) @ flat.T / size**2).numpy()
