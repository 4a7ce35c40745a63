"""The same pixels: which images are a training image as it is, in one of the 8 poses, resized, windowed to 8 bit, or with inverted intensities.

That needs no statistics, no encoder and no registration. Each image is resampled to a small square, whatever its own shape, and reduced to a
few numbers that no disguise changes and that a tree finds again: even, symmetric cosine coefficients of its z-scored pixels are the same in
all 8 poses, change their sign with the intensities, and by Parseval's theorem cannot differ by more than the pixels do. What the tree finds is
then compared pixel by pixel, of images of different sizes up to the detail that the smaller one can hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree

from doppelscan.deepssim import quarter_turn_poses
from doppelscan.images import unit_float
from doppelscan.images.squares import OWN_SIZE
from doppelscan.search import EmbeddedSet
from doppelscan.verify.pose import Pose

__all__ = ["IdenticalImage", "IdenticalPixels"]

# Samples a side at which two images are compared; images that were resized to less than DETAILED pixels, coarsely: what kernels do to fine detail
# is more than a neighbouring slice differs by.
SIZE, COARSE_SIZE = OWN_SIZE, 16
DETAILED = 80
BLOCK = 512
FREQUENCIES = [(k, m) for m in (0, 2, 4, 6, 8) for k in range(0, m + 1, 2) if m]
# What a small kernel takes from the coarse structure of small images, as a root mean square of z-scores.
KERNEL = 0.08


@dataclass(frozen=True)
class IdenticalImage:
    """A training image with the same pixels.

    Attributes:
        row: its row in the training set; of several, the first.
        pose: number of the flip-and-turn pose that maps it on the image, see :class:`~doppelscan.verify.Pose`.
        inverted: dark and bright are exchanged.
        correlation: squared correlation of the pixels, of resized images with one radial spectrum.
        limit: what was asked of it.
    """

    row: int
    pose: int
    inverted: bool
    correlation: float
    limit: float

    @property
    def told(self) -> str:
        """What else differs, in words; nothing of images."""
        return ""

    @property
    def mapped(self) -> Pose:
        """What maps the training image on the image."""
        return Pose(self.pose >= 4, self.pose % 4, inverted=self.inverted)


class IdenticalPixels:
    """Finds the training images whose pixels an image has.

    Args:
        training: the training set; its images as read are read a block at a time and not kept.
        same: squared correlation from which pixels are the same.
        same_small: likewise of images that were resized to less than 80 pixels.
    """

    def __init__(self, training: EmbeddedSet, same: float = 0.998, same_small: float = 0.9985) -> None:
        self.training, self.same, self.same_small = training, same, same_small
        read = (training.as_read(part) for part in training.blocks(BLOCK))
        parts = [(_signatures(unit_float(squares)), int(shapes.max(1).min())) for squares, shapes in read]
        self.smallest = min(smallest for _, smallest in parts)
        self.tree = cKDTree(np.concatenate([signatures for signatures, _ in parts]))

    def find(self, images: EmbeddedSet) -> list[IdenticalImage | None]:
        """The training image of the same pixels, or None, for each of ``images``."""
        return self._found(images, lambda row, near: near)

    def repeats(self) -> list[IdenticalImage | None]:
        """The first training image before it that has the same pixels, or None, for each training image."""
        first: dict[str, int] = {}
        distinct = {first.setdefault(content, row) for row, content in enumerate(self.training.contents)}
        # A thousand copies of one file are compared with the first of them, not with each other.
        found = self._found(self.training, lambda row, near: [one for one in near if one < row and one in distinct])
        return found

    def _found(self, images: EmbeddedSet, asked: Callable[[int, list[int]], list[int]]) -> list[IdenticalImage | None]:
        """Of each image the best of the training rows near to it that are ``asked`` about."""
        # Pixels that correlate so well differ by at most this (root mean square of z-scores), and so do the signatures.
        reach = math.sqrt(2 * (1 - math.sqrt(self.same)))
        result: list[IdenticalImage | None] = []
        for part in images.blocks(BLOCK):
            read, shapes = images.as_read(part)
            squares = unit_float(read)
            own = _signatures(squares)
            small = np.minimum(shapes.max(1), self.smallest) < DETAILED
            near = [
                sorted({*plain, *turned})
                for plain, turned in zip(*(self.tree.query_ball_point(s, reach + KERNEL * small) for s in (own, -own)), strict=True)
            ]
            wanted = [asked(row, found) for row, found in zip(part, near, strict=True)]
            result += [self._compared(*one) for one in zip(squares, shapes, wanted, strict=True)]
        return result

    def _compared(self, image: torch.Tensor, shape: np.ndarray, rows: list[int]) -> IdenticalImage | None:
        """The first of the best among the training ``rows``, when it is the same."""
        best: IdenticalImage | None = None
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            read, shapes = self.training.as_read(part)
            squares = unit_float(read)
            resized = (np.sort(shapes, 1) != np.sort(shape)).any(1)
            longer = np.where(resized, np.minimum(shapes.max(1), shape.max()), DETAILED)
            kinds = np.stack([longer < DETAILED, resized], 1)
            for small, moved in np.unique(kinds, axis=0).tolist():
                kept = np.flatnonzero((kinds == (small, moved)).all(1))
                size, limit = (COARSE_SIZE, self.same_small) if small else (SIZE, self.same)
                posed = torch.stack([_zscored(one, size) for one in quarter_turn_poses(squares[kept])])
                product = _correlation(_zscored(image[None], size)[0], posed, moved)
                # Rounded, so that equal images compete by their row and pose and not by the rounding of a sum.
                same = (product.square().T * 1e5).round() / 1e5
                value = float(same.max())
                row, pose = divmod(int((same.flatten() == same.max()).nonzero()[0]), 8)
                found = IdenticalImage(part[int(kept[row])], pose, bool(product[pose, row] < 0), min(value, 1.0), limit)
                if value >= limit and (best is None or (-found.correlation, found.row) < (-best.correlation, best.row)):
                    best = found
        return best


def _zscored(squares: torch.Tensor, size: int) -> torch.Tensor:
    """``squares`` [n, 1, 64, 64] as float32 [n, 1, size, size] of mean 0 and mean square 1."""
    small = F.adaptive_avg_pool2d(squares, size)
    centred = small - small.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def _correlation(image: torch.Tensor, posed: torch.Tensor, resized: bool) -> torch.Tensor:
    """Correlation of ``image`` [1, S, S] with ``posed`` [8, n, 1, S, S], float32 [8, n].

    A kernel of resizing takes from the spectrum and keeps the phase: a resized image is compared with the radial spectrum of the other.
    """
    if not resized:
        return (posed * image).mean((2, 3, 4))
    size = image.shape[-1]
    across, along = torch.fft.fftfreq(size) * size, torch.fft.rfftfreq(size) * size
    ring = torch.hypot(across[:, None], along[None]).round().long().clamp_max(size // 2).flatten()
    # The half of the plane that is not there is the same again.
    weight = torch.where((along == 0) | (along == size // 2), 1.0, 2.0).expand(size, -1).flatten()

    def rings(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*values.shape[:-1], size // 2 + 1).index_add_(-1, ring, values * weight)

    one, others = torch.fft.rfft2(image[0]).flatten(), torch.fft.rfft2(posed[:, :, 0]).flatten(2)
    power, own = rings(others.abs().square()), rings(one.abs().square())
    shared = rings((others.conj() * one).real)
    return (shared * (power / own.clamp_min(1e-6)).sqrt()).sum(-1) / power.sum(-1).clamp_min(1e-6)


def _signatures(squares: torch.Tensor) -> np.ndarray:
    """float64 [n, 14], orthonormal coefficients of z-scored coarse ``squares`` [n, 1, 64, 64] that are the same in all 8 poses."""
    size = COARSE_SIZE
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    waves = {k: torch.cos(math.pi * k * place) * (1.0 if k == 0 else math.sqrt(2)) for k in range(0, 9, 2)}
    basis = []
    for k, m in FREQUENCIES:
        wave = torch.outer(waves[k], waves[m])
        basis.append(wave if k == m else (wave + wave.T) / math.sqrt(2))
    flat = torch.stack(basis).flatten(1)
    return (_zscored(squares, size).double().flatten(1) @ flat.T / size**2).numpy()
