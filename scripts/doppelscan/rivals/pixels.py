"""Rivals that look at pixels: correlation, squared error, SSIM and a perceptual hash, as :mod:`doppelscan.search` has them, and FSIM."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import unit_float
from doppelscan.rivals.fsim import FeatureSimilarity
from doppelscan.rivals.ranking import LastFit, Ranking, nearest_in_blocks, require_squares
from doppelscan.search import NormalisedCorrelation, PerceptualHash, PlainSSIM, Similarity

__all__ = ["MeanSquaredError", "PixelRival", "fsim_rival", "mse_rival", "ncc_rival", "phash_rival", "ssim_rival"]

BLOCK = 128


class PixelRival:
    """Ranks by the largest of a :class:`~doppelscan.search.Similarity` with the training images.

    None of these has a published cut: they are compared by how they rank.

    Args:
        name: as it stands in a table.
        similarity: fitted on the training images.
    """

    def __init__(self, name: str, similarity: Similarity) -> None:
        self.name, self.similarity = name, similarity
        self._fit = LastFit()

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`."""
        require_squares(training, images, holdout)
        return nearest_in_blocks(self._fit.of(training, self.similarity.fit).similarity, images, BLOCK)


class MeanSquaredError:
    """Minus the mean squared difference of the whole images at ``size`` pixels, in one pose; 0 for equal images."""

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def _ready(self, images: torch.Tensor) -> torch.Tensor:
        # In double: |a|^2 + |b|^2 - 2ab of near-equal images cancels in single.
        return F.interpolate(unit_float(images), (self.size, self.size), mode="bilinear", antialias=True).flatten(1).double()

    def fit(self, images: torch.Tensor) -> MeanSquaredError:
        """Keep the training images."""
        self.reference = self._ready(images)
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float64 [M, N]."""
        ready = self._ready(images)
        squares = ready.square().sum(1)[:, None] + self.reference.square().sum(1)[None] - 2 * ready @ self.reference.T
        return -(squares.clamp_min(0) / self.size**2).numpy()


def ncc_rival(poses: int = 1) -> PixelRival:
    """Normalised cross-correlation (Pearson's) of the whole images at 64 pixels; with 8 ``poses`` the best flip and quarter turn."""
    return PixelRival(_posed("NCC", poses), NormalisedCorrelation(64, poses))


def mse_rival() -> PixelRival:
    """Mean squared error of the whole images at 64 pixels."""
    return PixelRival("MSE", MeanSquaredError())


def ssim_rival() -> PixelRival:
    """SSIM (Wang et al. 2004) at 128 pixels, not registered, with scikit-image's uniform window of 7 pixels."""
    return PixelRival("SSIM", PlainSSIM(128))


def fsim_rival() -> PixelRival:
    """FSIM (Zhang et al. 2011) at 128 pixels, not registered."""
    return PixelRival("FSIM", FeatureSimilarity(128))


def phash_rival(poses: int = 1) -> PixelRival:
    """Perceptual hash of 16 x 16 bits, imagehash's, needs ``pip install ".[rivals]"``; with 8 ``poses`` the best flip and quarter turn."""
    return PixelRival(_posed("pHash", poses), PerceptualHash(16, poses))


def _posed(name: str, poses: int) -> str:
    return name if poses == 1 else f"{name}, {poses} poses"
