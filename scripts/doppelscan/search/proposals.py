"""Which training images could be the source of a synthetic one: union of the nearest by each head, each layer and by local structure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from doppelscan.errors import InputError
from doppelscan.memorization import (
    FeatureMoments,
    FirstPose,
    MemorizationIndex,
    MemorizationScores,
    Rows,
    TransformedRows,
    Whitening,
    content_groups,
    falling_order,
    interleaved,
    kept,
    moments_of,
    nearest_rows,
    repeated,
    searched,
)
from doppelscan.search.patches import PatchMatches, PatchSearch

# Of a candidate's 8 flip-and-turn poses the three that the embedding likes best: the right one is among them in 99.6 % (docs/benchmarks.md).
POSES_KEPT = 3

__all__ = ["CandidateSearch", "Proposals", "likely_poses", "view_similarity"]


@dataclass(frozen=True)
class Proposals:
    """Candidates of M images.

    Attributes:
        rows: int64 [M, k] training rows, most likely first; -1 fills up where fewer were found.
        embedding: float32 [M, k] whitened identity similarity of each, best of the poses.
        deepssim: float32 [M, k] the deepssim head's cosine of each, best of the poses.
        poses: int64 [M, k, n] the flip-and-turn poses to register each candidate in, numbers of :class:`~doppelscan.verify.Pose`;
            None when the queries came in one pose.
        index: the Memorization Index of the images, or None when the training set is too small for a null.
        patches: local structure found in place, or None without thumbnails.
    """

    rows: np.ndarray
    embedding: np.ndarray
    deepssim: np.ndarray
    poses: np.ndarray | None
    index: MemorizationScores | None
    patches: PatchMatches | None


class CandidateSearch:
    """Retrieval of candidates against one training set.

    Args:
        candidates: how many are kept for each image.
        seed: of the index's null.
        device: where similarities are computed.
        clustered: compare an image with the training images of the nearest clusters alone, see :class:`~doppelscan.memorization.ClusteredRows`:
            for hundreds of thousands of them.

    Attributes:
        index: the fitted :class:`~doppelscan.memorization.MemorizationIndex`, or None with :attr:`index_reason`.
        patches: the fitted :class:`PatchSearch`, or None when fitted without thumbnails.
    """

    def __init__(self, candidates: int = 20, seed: int = 0, device: str | torch.device = "cpu", clustered: bool = False) -> None:
        self.candidates, self.seed, self.device, self.clustered = candidates, seed, device, clustered
        self.patches: PatchSearch | None = None
        self.index: MemorizationIndex | None = None
        self.index_reason = ""

    def fit(
        self,
        training: Mapping[str, Rows],
        patients: Sequence[str] | None = None,
        posed: Mapping[str, np.ndarray] | None = None,
        posed_rows: np.ndarray | None = None,
        null_of: MemorizationIndex | None = None,
        view_differences: Mapping[str, np.ndarray] | None = None,
        thumbnails: Any = None,
        keys: Sequence | None = None,
    ) -> CandidateSearch:
        """Fit on the training set.

        Args:
            training: ``deepssim``, ``embedding`` and layer features, each float32 [N, C], heads also [N, Q, C] in views; read in blocks, and kept
                at half precision where they are many.
            patients: patient of each training image; None leaves the index out, which :meth:`fit_index` then adds.
            posed: layer features [n, P, C] of some training images in all poses, for the null of the index.
            posed_rows: int [n], which they are.
            null_of: an index whose null is taken over, for folds of its own training set.
            view_differences: of ``embedding`` and the layers, each [V, C], see :func:`doppelscan.deepssim.view_differences`; whitening
                uses them.
            thumbnails: of the training images, for the search by local structure, see :meth:`PatchDescriptor.fit`; None leaves it out.
            keys: content of each training image: images of one key are one candidate, named by the first of them. None compares what
                ``training`` holds of them.
        """
        self.groups = content_groups(training.values(), keys)
        self.repeated = repeated(self.groups)
        self.patches = (
            None if thumbnails is None else PatchSearch(device=self.device, clustered=self.clustered).fit(thumbnails, self.groups)
        )
        self.deepssim = searched(training["deepssim"], self.clustered)
        embedding, views = training["embedding"], view_differences or {}
        self.whitening: Whitening | None = None
        if len(embedding) > 1:
            seen = FeatureMoments.of_differences(views.get("embedding"))
            self.whitening = Whitening().fit_moments(moments_of("embedding", FirstPose(embedding)), seen)
        white = TransformedRows(embedding, self.whitened)
        self.embedding = kept(white) if self.whitening is None else searched(white, self.clustered)
        return self if patients is None else self.fit_index(training, patients, posed, posed_rows, null_of, views)

    def fit_index(
        self,
        training: Mapping[str, Rows],
        patients: Sequence[str],
        posed: Mapping[str, np.ndarray] | None = None,
        posed_rows: np.ndarray | None = None,
        null_of: MemorizationIndex | None = None,
        view_differences: Mapping[str, np.ndarray] | None = None,
    ) -> CandidateSearch:
        """Fit the Memorization Index, whose null needs to know who is who; parameters as of :meth:`fit`."""
        layers = {name: value for name, value in training.items() if name.startswith("layer")}
        if not layers:
            self.index_reason = "the encoder has no layer features."
            return self
        try:
            layers_posed = None if posed is None else {name: posed[name] for name in layers}
            index = MemorizationIndex(candidates=self.candidates, seed=self.seed, device=self.device, clustered=self.clustered)
            self.index = index.fit(layers, patients, layers_posed, posed_rows, null_of, view_differences, self.groups)
        except InputError as error:
            self.index_reason = str(error)
        return self

    def without(self, rows: np.ndarray) -> CandidateSearch:
        """The same search in which some training images are not found; it shares everything else, also how it whitens.

        Args:
            rows: bool [N], which.
        """
        made = copy.copy(self)
        made.repeated = repeated(self.groups, rows)
        made.patches = None if self.patches is None else self.patches.without(rows)
        made.index = None if self.index is None else self.index.without(rows)
        return made

    def recall(self, queries: np.ndarray) -> tuple[int, int]:
        """For how many of ``queries`` float32 [M, V, D] the training image that an exact search of the embedding names first is proposed, and M."""
        white = self.whitened(queries)
        exact = nearest_rows(white, TransformedRows(self.embedding, np.asarray), 1, left_out=self.repeated, device=self.device).rows
        return int((self._nearest(white, self.embedding) == exact).any(1).sum()), len(exact)

    def whitened(self, values: np.ndarray) -> np.ndarray:
        """Embeddings [..., D] as the training set's are compared: whitened, of unit length."""
        return values if self.whitening is None else self.whitening.transform(values)

    def _nearest(self, queries: np.ndarray, reference: Rows) -> np.ndarray:
        return nearest_rows(queries, reference, self.candidates, left_out=self.repeated, device=self.device).rows

    def propose(self, queries: Mapping[str, np.ndarray], thumbnails: torch.Tensor | None = None) -> Proposals:
        """Candidates of ``queries``: the same names as in fit, each float32 [M, V, C], in views as :class:`PoseInferer` makes them.

        ``thumbnails`` uint8 [M, 1, S, S] are searched by local structure, when the search was fitted with thumbnails.
        """
        white = self.whitened(queries["embedding"])
        lists = [self._nearest(white, self.embedding)]
        index = patches = None
        if self.index is not None:
            index = self.index.score({name: value for name, value in queries.items() if name.startswith("layer")})
            lists.append(np.concatenate([index.match[:, None], index.candidates], 1))
        lists.append(self._nearest(queries["deepssim"], self.deepssim))
        if self.patches is not None and thumbnails is not None:
            patches = self.patches.search(thumbnails)
            lists.append(patches.rows)
        # The first of each is always among them: it is what that score alone would name.
        merged = interleaved(lists, min(max(self.candidates, len(lists)), len(self.embedding)))
        views = view_similarity(white, self.embedding, merged)
        in_place = None if patches is None else (merged[:, :, None] == patches.rows[:, None]).any(-1)
        return Proposals(
            merged,
            views.max(1),
            view_similarity(queries["deepssim"], self.deepssim, merged).max(1),
            None if views.shape[1] % 8 else likely_poses(views, in_place),
            index,
            patches,
        )


def view_similarity(queries: np.ndarray, reference: Rows, rows: np.ndarray) -> np.ndarray:
    """Cosine of each view of each query [M, V, D] with its rows [M, k] of the reference [N, D], or [N, Q, D] the best of Q views: float32 [M, V, k]."""
    found = reference[rows]
    views = found.shape[2] if found.ndim == 4 else 1
    similarity = queries @ found.reshape(len(rows), -1, found.shape[-1]).swapaxes(1, 2)
    similarity = similarity.reshape(*queries.shape[:2], -1, views).max(-1)
    return np.where(rows[:, None] < 0, np.float32(-1), similarity)


def likely_poses(views: np.ndarray, in_place: np.ndarray | None = None) -> np.ndarray:
    """int64 [M, k, n]: the poses whose views are nearest, as they map a candidate on the query.

    Args:
        views: float [M, V, k], similarity of each view of a query in 8 poses, as of :func:`view_similarity`.
        in_place: bool [M, k], candidates that were found in place: identity and mirror join for them.
    """
    count, _, kept = views.shape
    by_pose = views.reshape(count, -1, 8, kept).max(1).transpose(0, 2, 1)
    best = falling_order(by_pose.reshape(-1, 8))[:, :POSES_KEPT].reshape(count, kept, -1)
    # The view was made of the query: what maps the candidate on the query is the inverse, and a mirrored pose is its own.
    numbers = np.where(best >= 4, best, (4 - best) % 4)
    if in_place is None:
        return numbers
    plain = np.where(in_place[..., None], np.array([0, 4]), numbers[..., :1])
    return np.concatenate([numbers, plain], -1)
