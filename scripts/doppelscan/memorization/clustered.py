"""Rows in an inverted file: of very many, those of the clusters nearest to a query are compared alone.

FAISS's ``IndexIVFScalarQuantizer`` with spherical k-means. What it finds is a proposal: :func:`~doppelscan.memorization.nearest_rows` takes the exact
cosine of it, so a row that is found has the same similarity as without clusters; a row can be missed. A copy lies beside its source,
in the same cluster or the next.
"""

from __future__ import annotations

import math
from typing import Any

import faiss
import numpy as np

from doppelscan.memorization.mapped import MappedIndex
from doppelscan.memorization.rows import Rows, blocks_of, kept
from doppelscan.memorization.whitening import unit_length

__all__ = ["ClusteredRows", "inverted_file", "searched"]

# Clusters for N rows: 4 * sqrt(N), as FAISS's guidelines say; each is trained with 40 rows.
TRAINED_WITH, ITERATIONS = 40, 5
PROBES = 32
BITS = {16: faiss.ScalarQuantizer.QT_fp16, 8: faiss.ScalarQuantizer.QT_8bit}


def searched(rows: Rows, clustered: bool = False) -> Rows:
    """``rows`` of unit length as they are searched: in memory, at half precision where they are many, or in an inverted file."""
    return ClusteredRows(rows) if clustered else kept(rows, unit=True)


def inverted_file(rows: Rows, bits: int = 16, probes: int = PROBES, seed: int = 0) -> MappedIndex:
    """An inverted file of ``rows`` float [N, C] or [N, Q, C] of unit length, by their inner products; of Q poses each is a row of its own.

    Args:
        rows: read in blocks, once for the clusters and once to be added.
        bits: of a value, 16 or 8.
        probes: clusters that a query is compared with.
        seed: of the clusters.
    """
    size = rows.shape[-1]
    count = int(np.prod(rows.shape[:-1]))
    clusters = max(1, min(int(4 * math.sqrt(count)), count // TRAINED_WITH))
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(size), size, clusters, BITS[bits], faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.seed = True, ITERATIONS, seed
    index.cp.min_points_per_centroid = 1  # of fewer rows than 39 there is one cluster, which FAISS would warn of on the terminal
    step = max(1, count // (TRAINED_WITH * clusters))

    def flat(block: slice) -> np.ndarray:
        return np.ascontiguousarray(rows[block], np.float32).reshape(-1, size)

    index.train(np.concatenate([flat(block)[::step] for block in blocks_of(rows)]))
    for block in blocks_of(rows):
        index.add(flat(block))
    index.nprobe = min(probes, clusters)
    index.make_direct_map()
    return MappedIndex(index)


class ClusteredRows:
    """Rows float32 of unit length, kept once, at half precision, in an inverted file.

    Args:
        rows: [N, C] or [N, Q, C], read in blocks.
        probes: clusters that a query is compared with.
        seed: of the clusters.
    """

    def __init__(self, rows: Rows, probes: int = PROBES, seed: int = 0) -> None:
        self.shape = tuple(rows.shape)
        self.poses = 1 if len(self.shape) == 2 else self.shape[1]
        self.file = inverted_file(rows, 16, probes, seed)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        which = np.arange(len(self))[rows]
        places = (which[..., None] * self.poses + np.arange(self.poses)).reshape(-1).astype(np.int64)
        return unit_length(self.file.index.reconstruct_batch(places).reshape(*which.shape, *self.shape[1:]))

    def proposed(self, queries: np.ndarray, count: int, left_out: np.ndarray | None = None) -> np.ndarray:
        """Rows near to each of ``queries`` float32 [M, P, C] in any of the poses, the nearest first: int64 [M, P * count * Q], -1 is none.

        Args:
            queries: of unit length.
            count: rows to name for each pose; one that is near in several is named several times.
            left_out: bool [N], rows that are not to be named.
        """
        chosen = None
        if left_out is not None and left_out.any():
            bits = np.packbits(np.repeat(~left_out, self.poses), bitorder="little")
            selected = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]  # FAISS wraps it for arrays
            chosen = faiss.SearchParametersIVF(sel=selected, nprobe=self.file.index.nprobe)  # type: ignore[call-arg]
        flat = np.ascontiguousarray(queries, np.float32).reshape(-1, queries.shape[-1])
        values, rows = self.file.index.search(flat, min(count * self.poses, self.file.index.ntotal), params=chosen)
        rows = np.where(rows < 0, -1, rows // self.poses).reshape(len(queries), -1)
        values = np.where(rows < 0, -np.inf, values.reshape(len(queries), -1))
        return np.take_along_axis(rows, np.argsort(-values, axis=1, kind="stable"), 1)
