"""Rivals that compare a distance with other distances: Carlini et al.'s calibrated one and M3-Score's memorization axis."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.errors import InputError
from doppelscan.images import unit_float
from doppelscan.rivals.encoders import ContrastiveEmbedder, Embedder, query_poses
from doppelscan.rivals.ranking import LastFit, Ranking, require_squares

__all__ = ["CalibratedDistance", "M3Memorization", "PixelVectors"]

BLOCK = 256


class PixelVectors:
    """The pixels themselves as a vector, at ``size`` pixels a side; an :class:`~doppelscan.rivals.encoders.Embedder`."""

    poses = 1

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, size * size] in [0, 1]."""
        return F.interpolate(unit_float(images), (self.size, self.size), mode="bilinear", antialias=True).flatten(1)


class _Distances:
    """Euclidean distances of vectors to those of the training images, the smallest of the query's poses."""

    def __init__(self, name: str, embedder: Embedder) -> None:
        self.name, self.embedder = name, embedder
        self._fit = LastFit()

    def _reference(self, training: torch.Tensor) -> torch.Tensor:
        return self._fit.of(training, lambda t: self.embedder(t).double())

    def _nearest(self, training: torch.Tensor, images: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance float64 [M, k] to the k nearest training images, rising, and their rows int64 [M, k]."""
        if len(training) < k:
            raise InputError(
                f"The 'training' parameter of the rival {self.name} must hold {k} images or more. Got {len(training)}."
            )
        reference = self._reference(training)
        found = [self._nearest_block(reference, part, k) for part in images.split(BLOCK)]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _nearest_block(self, reference: torch.Tensor, images: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        views = [_apart(self.embedder(view).double(), reference) for view in query_poses(self.embedder, images)]
        sorted_distance, rows = torch.stack(views).amin(0).sort(dim=1, stable=True)
        return sorted_distance[:, :k].numpy(), rows[:, :k].numpy()


class CalibratedDistance(_Distances):
    """Carlini et al., "Extracting training data from diffusion models" (USENIX Security 2023), eq. 2 and section 5.2.

    Minus d(x, nearest) / (alpha * mean of d(x, y) over the next ``neighbours`` training images y): an image that lies much nearer to one
    training image than to the others is a copy; a plain image, which lies near to many, is none. They give a cut for CIFAR-10 only.

    Args:
        embedder: of the images; None takes pixels at 64 x 64, as they do at the 32 x 32 of CIFAR-10.
        neighbours: the next nearest; all there are where the training set is smaller.
        alpha: scales the score, and ranks nothing.
        name: as it stands in a table.
    """

    def __init__(
        self, embedder: Embedder | None = None, neighbours: int = 50, alpha: float = 0.5, name: str = "calibrated distance"
    ) -> None:
        super().__init__(name, embedder or PixelVectors())
        self.neighbours, self.alpha = neighbours, alpha

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`; needs 2 training images."""
        require_squares(training, images, holdout)
        distance, rows = self._nearest(training, images, min(self.neighbours + 1, max(2, len(training))))
        others = self.alpha * distance[:, 1:].mean(1)
        return Ranking(-distance[:, 0] / np.maximum(others, 1e-12), rows[:, 0])


class M3Memorization(_Distances):
    """The memorization axis of M3-Score (m3-score 0.1.0, Sathiyamohan 2026), image by image.

    Minus the distance to the nearest training image, in medians of the training images' own distance to their nearest: above -1 an
    image counts as memorized. Their features are RadioDINO-s16's at block 9, which has to be brought; here those of ``embedder``.

    Args:
        embedder: of the images; None takes the shipped contrastive encoder.
        name: as it stands in a table.
    """

    def __init__(self, embedder: Embedder | None = None, name: str = "M3 memorization") -> None:
        super().__init__(name, ContrastiveEmbedder() if embedder is None else embedder)
        self._median = LastFit()

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`; needs 2 training images."""
        require_squares(training, images, holdout)
        distance, rows = self._nearest(training, images, 1)
        return Ranking(-distance[:, 0] / max(self._median.of(training, self._own_distance), 1e-12), rows[:, 0], -1.0)

    def _own_distance(self, training: torch.Tensor) -> float:
        """Median distance of a training image to its nearest other."""
        if len(training) < 2:
            raise InputError(f"The 'training' parameter of the rival {self.name} must hold 2 images or more. Got {len(training)}.")
        reference = self._reference(training)
        apart = _apart(reference, reference).fill_diagonal_(float("inf"))
        return float(apart.amin(1).median())


def _apart(queries: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    # Not by a matrix product: that leaves a copy 1e-8 away from itself.
    return torch.cdist(queries, reference, compute_mode="donot_use_mm_for_euclid_dist")
