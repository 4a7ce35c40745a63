"""Which training images could be the source of a synthetic one: union of the whitened embedding's and the index's nearest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.memorization import MemorizationIndex, MemorizationScores, Whitening
from doppelscan.search.topk import best_of_poses

__all__ = ["CandidateSearch", "Proposals"]


@dataclass(frozen=True)
class Proposals:
    """Candidates of M images.

    Attributes:
        rows: int64 [M, k] training rows, most likely first; -1 fills up where fewer were found.
        embedding: float32 [M, k] whitened identity similarity of each, best of the poses.
        deepssim: float32 [M, k] the deepssim head's cosine of each, best of the poses.
        index: the Memorization Index of the images, or None when the training set is too small for a null.
    """

    rows: np.ndarray
    embedding: np.ndarray
    deepssim: np.ndarray
    index: MemorizationScores | None


class CandidateSearch:
    """Retrieval of candidates against one training set.

    Args:
        candidates: how many are kept for each image.
        seed: of the index's null.

    Attributes:
        index: the fitted :class:`~doppelscan.memorization.MemorizationIndex`, or None with :attr:`index_reason`.
    """

    def __init__(self, candidates: int = 20, seed: int = 0) -> None:
        self.candidates, self.seed = candidates, seed
        self.index: MemorizationIndex | None = None
        self.index_reason = ""

    def fit(
        self,
        training: Mapping[str, np.ndarray],
        patients: Sequence[str],
        posed: Mapping[str, np.ndarray] | None = None,
        posed_rows: np.ndarray | None = None,
        null_of: MemorizationIndex | None = None,
        view_differences: Mapping[str, np.ndarray] | None = None,
    ) -> CandidateSearch:
        """Fit on the training set.

        Args:
            training: ``deepssim``, ``embedding`` and layer features, each float32 [N, C].
            patients: patient of each training image.
            posed: layer features [n, P, C] of some training images in all poses, for the null of the index.
            posed_rows: int [n], which they are.
            null_of: an index whose null is taken over, for folds of its own training set.
            view_differences: of ``embedding`` and the layers, each [V, C], see :func:`doppelscan.deepssim.view_differences`; whitening
                uses them.
        """
        layers = {name: value for name, value in training.items() if name.startswith("layer")}
        self.deepssim = training["deepssim"]
        enough = len(training["embedding"]) > 1
        views = view_differences or {}
        self.whitening = Whitening().fit(training["embedding"], views.get("embedding")) if enough else None
        self.embedding = self._white(training["embedding"])
        if not layers:
            self.index_reason = "the encoder has no layer features."
            return self
        try:
            layers_posed = None if posed is None else {name: posed[name] for name in layers}
            index = MemorizationIndex(candidates=self.candidates, seed=self.seed)
            self.index = index.fit(layers, patients, layers_posed, posed_rows, null_of, views)
        except ValueError as error:
            self.index_reason = str(error)
        return self

    def _white(self, values: np.ndarray) -> np.ndarray:
        return values if self.whitening is None else self.whitening.transform(values)

    def propose(self, queries: Mapping[str, np.ndarray]) -> Proposals:
        """Candidates of ``queries``: the same names as in fit, each float32 [M, P, C]."""
        white = self._white(queries["embedding"])
        _, rows, _ = best_of_poses(white, self.embedding, self.candidates)
        index = None
        lists = [rows]
        if self.index is not None:
            index = self.index.score({name: value for name, value in queries.items() if name.startswith("layer")})
            lists.append(index.candidates)
        merged = _union(lists, min(self.candidates, len(self.embedding)))
        return Proposals(
            merged,
            _pair_similarity(white, self.embedding, merged),
            _pair_similarity(queries["deepssim"], self.deepssim, merged),
            index,
        )


def _union(lists: list[np.ndarray], kept: int) -> np.ndarray:
    """First of each list, second of each list, ..., without repeats: int64 [M, kept], filled up with -1."""
    result = np.full((len(lists[0]), kept), -1, np.int64)
    longest = max(part.shape[1] for part in lists)
    for i in range(len(result)):
        order = dict.fromkeys(int(part[i, j]) for j in range(longest) for part in lists if j < part.shape[1])
        chosen = list(order)[:kept]
        result[i, : len(chosen)] = chosen
    return result


def _pair_similarity(queries: np.ndarray, reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Largest cosine over poses of each query [M, P, D] with its rows [M, k] of the reference."""
    result = np.empty(rows.shape, np.float32)
    for i, row in enumerate(rows):
        result[i] = (queries[i] @ reference[row].T).max(0)
    result[rows < 0] = -1
    return result
