"""Which training volumes could be the source of a synthetic one: the nearest by slices, whitened on the cohort, over axis poses and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.errors import InputError
from doppelscan.memorization import Rows, SlotWhitening, TransformedRows, kept, nearest_rows

__all__ = ["VolumeProposals", "VolumeSearch"]

# Of a candidate's 48 axis poses those that its best view likes best go to registration.
POSES_KEPT = 3
# And these two: as it lies, and as the most likely candidate lies. Of a stranger its views say too little, and a second candidate that is registered in
# wrong poses alone seems far from the volume, whatever it is.
POSES_SHARED = 2


@dataclass(frozen=True)
class VolumeProposals:
    """Candidates of M volumes.

    Attributes:
        rows: int64 [M, k] training rows, most likely first; -1 fills up where there are fewer.
        similarity: float32 [M, k], whitened, the best of the axis poses of the query and of the views of the candidate, as they are weighted.
        poses: int64 [M, k, n], axis poses of the *query*, numbers of :data:`~doppelscan.images.AXIS_POSES`, in which it looks most like the
            candidate, as it is, and in which it looks most like the first candidate; :func:`~doppelscan.images.cubes.inverse_axis_pose` poses the candidate instead.
        views: int64 [M, k], the view of the candidate that was nearest in the first of these: 0 as it is, else turned or halved, in the
            order of :class:`~doppelscan.deepssim.VolumeSliceInferer`.
    """

    rows: np.ndarray
    similarity: np.ndarray
    poses: np.ndarray
    views: np.ndarray


class VolumeSearch:
    """Retrieval of candidates against the volumes of one training set.

    Args:
        candidates: how many are kept for each volume.
        slots: embeddings in a row, :attr:`doppelscan.deepssim.VolumeSliceInferer.slots`.
        device: where similarities are computed.
    """

    def __init__(self, candidates: int = 10, slots: int = 9, device: str | torch.device = "cpu") -> None:
        self.candidates, self.slots, self.device = candidates, slots, device
        self.whitening: SlotWhitening | None = None

    def fit(
        self, training: Rows, view_differences: np.ndarray | None = None, view_weights: Sequence[float] | None = None
    ) -> VolumeSearch:
        """Fit on the training set.

        Args:
            training: a head's rows float32 [N, Q, K * C] in Q views, the first of the volumes as they are; read in blocks.
            view_differences: of the same head, [V, K * C], see :func:`~doppelscan.deepssim.volume_view_differences`.
            view_weights: what the similarity with each of the Q views counts, see :attr:`~doppelscan.deepssim.VolumeSliceInferer.view_weights`;
                None counts all alike.

        Raises:
            InputError: another number of weights than views.
        """
        views = training.shape[1]
        weights = np.ones(views) if view_weights is None else np.asarray(view_weights)
        if weights.shape != (views,):
            raise InputError(
                f"The 'view_weights' parameter must have one number for each of {views} views. Got {weights.shape}; take the inferer's."
            )
        self.view_weights = weights.astype(np.float32)[:, None]
        if len(training) > 1:
            plain = np.concatenate([np.asarray(training[start : start + 256])[:, 0] for start in range(0, len(training), 256)])
            self.whitening = SlotWhitening(self.slots).fit(plain, view_differences)
        self.training = kept(TransformedRows(training, lambda rows: self.whitened(rows) * self.view_weights), unit=True)
        return self

    def whitened(self, rows: np.ndarray) -> np.ndarray:
        """Rows [..., K * C] as they are compared: whitened, or of one training volume alone as they are."""
        return np.asarray(rows, np.float32) if self.whitening is None else self.whitening.transform(rows)

    def propose(self, queries: np.ndarray) -> VolumeProposals:
        """Candidates of ``queries`` float32 [M, 48, K * C], rows of the same head in 48 axis poses."""
        white = self.whitened(queries)
        found = nearest_rows(white, self.training, self.candidates, device=self.device)
        poses, views = self.likely(white, found.rows, shared=True)
        return VolumeProposals(found.rows, found.similarity.astype(np.float32), poses, views)

    def likely(self, white: np.ndarray, rows: np.ndarray, shared: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """In which poses whitened queries look most like given candidates, see :class:`VolumeProposals`.

        Args:
            white: float32 [M, 48, K * C].
            rows: int64 [M, k], training rows; what stands at -1 says nothing.
            shared: also the query as it is, and as it looks most like its first candidate.

        Returns:
            poses int64 [M, k, n] and views int64 [M, k].
        """
        candidates = np.asarray(self.training[rows.ravel().clip(0)], np.float32)
        candidates = candidates.reshape(*rows.shape, -1, white.shape[-1])
        products = np.einsum("mpc,mkqc->mkpq", white, candidates, optimize=True)
        ranked = np.argsort(-products.max(3), axis=2, kind="stable")
        poses = _with_shared(ranked) if shared else ranked[:, :, :POSES_KEPT]
        best = np.take_along_axis(products, poses[:, :, :1, None], 2)[:, :, 0]
        return poses, best.argmax(2)


def _with_shared(ranked: np.ndarray) -> np.ndarray:
    """The first poses of each candidate and those that all share, int64 [M, k, 5], of all poses by falling likelihood, int64 [M, k, 48]."""
    place = np.argsort(ranked, axis=2).astype(np.float64)
    first = ranked[:, :1, :1]
    for poses, behind in ((first, 0.6), (np.zeros_like(first), 0.4)):
        poses = np.broadcast_to(poses, (*ranked.shape[:2], 1))
        np.put_along_axis(place, poses, np.minimum(np.take_along_axis(place, poses, 2), POSES_KEPT - behind), 2)
    return np.argsort(place, axis=2, kind="stable")[:, :, : POSES_KEPT + POSES_SHARED]
