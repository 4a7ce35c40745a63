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

from doppelscan.memorization.rows import Rows, blocks_of

__all__ = ["ClusteredRows", "inverted_file"]

# Clusters for N rows: 4 * sqrt(N), as FAISS's guidelines say; each is trained with 40 rows.
TRAINED_WITH, ITERATIONS = 40, 10
PROBES = 32
BITS = {16: faiss.ScalarQuantizer.QT_fp16, 8: faiss.ScalarQuantizer.QT_8bit}


def inverted_file(rows: Rows, bits: int = 16, probes: int = PROBES, seed: int = 0) -> faiss.IndexIVFScalarQuantizer:
    """An inverted file of ``rows`` float [N, C] of unit length, by their inner products.

    Args:
        rows: read in blocks, once for the clusters and once to be added.
        bits: of a value, 16 or 8.
        probes: clusters that a query is compared with.
        seed: of the clusters.
    """
    count, size = rows.shape
    clusters = max(1, min(int(4 * math.sqrt(count)), count // TRAINED_WITH))
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(size), size, clusters, BITS[bits], faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.seed = True, ITERATIONS, seed
    step = max(1, count // (TRAINED_WITH * clusters))
    index.train(np.concatenate([np.asarray(rows[block][::step], np.float32) for block in blocks_of(rows)]))
    for block in blocks_of(rows):
        index.add(np.ascontiguousarray(rows[block], np.float32))
    index.nprobe = min(probes, clusters)
    return index


class ClusteredRows:
    """Rows float32 [N, C] of unit length, kept once, at half precision, in an inverted file.

    Args:
        rows: read in blocks.
        probes: clusters that a query is compared with.
        seed: of the clusters.
    """

    def __init__(self, rows: Rows, probes: int = PROBES, seed: int = 0) -> None:
        self.shape = tuple(rows.shape)
        self.index = inverted_file(rows, 16, probes, seed)
        self.index.make_direct_map()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        which = np.arange(len(self))[rows]
        values = self.index.reconstruct_batch(which.ravel().astype(np.int64)).reshape(*which.shape, -1)
        values /= np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), np.float32(1e-12))
        return values

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "index": faiss.serialize_index(self.index), "probes": self.index.nprobe}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shape, self.index = state["shape"], faiss.deserialize_index(np.asarray(state["index"]))
        self.index.nprobe = state["probes"]

    def proposed(self, queries: np.ndarray, count: int, left_out: np.ndarray | None = None) -> np.ndarray:
        """Rows near to each of ``queries`` float32 [M, P, C] in any of its poses: int64 [M, count], -1 fills up.

        Args:
            queries: of unit length.
            count: rows to name.
            left_out: bool [N], rows that are not to be named.
        """
        chosen = None
        if left_out is not None and left_out.any():
            bits = np.packbits(~left_out, bitorder="little")
            chosen = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=self.index.nprobe)
        many, _, size = queries.shape
        flat = np.ascontiguousarray(queries, np.float32).reshape(-1, size)
        values, rows = self.index.search(flat, min(count, len(self)), params=chosen)
        values, rows = values.reshape(many, -1), rows.reshape(many, -1)
        order = np.argsort(-np.where(rows < 0, -np.inf, values), axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, 1)
        by_row = np.argsort(rows, axis=1, kind="stable")
        repeats = np.diff(np.take_along_axis(rows, by_row, 1), axis=1, prepend=-2) == 0
        again = np.zeros(rows.shape, bool)
        np.put_along_axis(again, by_row, repeats, 1)
        rows = np.where(again, -1, rows)
        first = np.argsort(rows < 0, axis=1, kind="stable")[:, :count]
        return np.take_along_axis(rows, first, 1)
