"""From the nearest training images of each layer to similarity, MI, ONI and consensus (arXiv 2602.13066, eq. 3, 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.memorization.nearest import Nearest, falling_order, interleaved

__all__ = ["EPS", "MemorizationScores", "geometric_mean", "scores_of"]

EPS = 1e-6


@dataclass(frozen=True)
class MemorizationScores:
    """Scores of M images over K layers.

    Attributes:
        similarity: float64 [M], geometric mean over layers of the nearest training cosine, 0 to 1 (eq. 3).
        distance: float64 [M], 1 - similarity.
        mi: float64 [M], (similarity - null mean) / null standard deviation (eq. 5).
        oni: float64 [M], -tanh(mi): -1 memorized, +1 novel (eq. 6).
        consensus: int64 [M], largest number of layers that name the same neighbour, 1 to K.
        neighbour: int64 [M, K], row of the nearest training image in each layer.
        layer_similarity: float64 [M, K], its cosine, clipped to [0, 1].
        margin: float64 [M, K], cosine of the nearest minus that of the nearest that is another image; 0 where there is no other.
        match: int64 [M], the neighbour that most layers name; of equals, the one named by the first layer of the largest margin.
        pose: int64 [M], pose (view) in which ``match`` was met: of the query, or of the reference when that holds the poses.
        candidates: int64 [M, k], training rows, first of each layer, second of each layer, ...; -1 fills up where fewer take part.
        clipped: number of layer cosines below 0 that were set to 0.
    """

    similarity: np.ndarray
    distance: np.ndarray
    mi: np.ndarray
    oni: np.ndarray
    consensus: np.ndarray
    neighbour: np.ndarray
    layer_similarity: np.ndarray
    margin: np.ndarray
    match: np.ndarray
    pose: np.ndarray
    candidates: np.ndarray
    clipped: int


def geometric_mean(found: Sequence[Nearest]) -> tuple[np.ndarray, np.ndarray, int]:
    """Eq. 3 of the layers' nearest: similarity [M], clipped layer cosines [M, K] and how many were below 0."""
    raw = np.stack([f.similarity[:, 0] for f in found], 1).astype(np.float64)
    clipped = np.clip(raw, 0, 1)
    return np.exp(np.log(clipped + EPS).mean(1)), clipped, int((raw < 0).sum())


def scores_of(found: Sequence[Nearest], null_mean: float, null_std: float, candidates: int) -> MemorizationScores:
    """Scores of M images by the nearest of each layer and the null's mean and standard deviation; ``candidates`` are kept."""
    similarity, layer_similarity, clipped = geometric_mean(found)
    mi = (similarity - null_mean) / null_std
    neighbour, margin = np.stack([f.rows[:, 0] for f in found], 1), np.stack([f.margin for f in found], 1).astype(np.float64)
    agree = (neighbour[:, :, None] == neighbour[:, None]).sum(2)
    # Most layers first, then the layer that is surest: a margin is at most 2.
    speaker = falling_order(3.0 * agree + margin)[:, 0]
    image = np.arange(len(neighbour))
    return MemorizationScores(
        similarity=similarity,
        distance=1 - similarity,
        mi=mi,
        oni=-np.tanh(mi),
        consensus=agree.max(1),
        neighbour=neighbour,
        layer_similarity=layer_similarity,
        margin=margin,
        match=neighbour[image, speaker],
        pose=np.stack([f.poses[:, 0] for f in found], 1)[image, speaker],
        candidates=interleaved([f.rows for f in found], candidates),
        clipped=clipped,
    )
