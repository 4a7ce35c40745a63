"""Exact nearest training images by FAISS, in blocks, so that memory does not grow with the number of pairs."""

from __future__ import annotations

import faiss
import numpy as np

__all__ = ["best_of_poses", "top_k"]


def top_k(queries: np.ndarray, reference: np.ndarray, k: int, block: int = 65536) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest inner products of each query with the reference.

    Args:
        queries: float32 [M, D].
        reference: float32 [N, D].
        k: how many; at most N are returned.
        block: reference rows searched at a time.

    Returns:
        float32 [M, k] similarities, falling, and int64 [M, k] reference rows; equal similarities come in order of the row.
    """
    k = min(k, len(reference))
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    best, rows = None, None
    for start in range(0, len(reference), block):
        part = np.ascontiguousarray(reference[start : start + block], dtype=np.float32)
        index = faiss.IndexFlatIP(part.shape[1])
        index.add(part)
        found, where = index.search(queries, min(k, len(part)))
        where = where + start
        if best is not None:
            found, where = np.concatenate([best, found], 1), np.concatenate([rows, where], 1)
        order = np.lexsort((where, -found), axis=1)[:, :k]
        best, rows = np.take_along_axis(found, order, 1), np.take_along_axis(where, order, 1)
    assert best is not None and rows is not None
    return best, rows


def best_of_poses(queries: np.ndarray, reference: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ``k`` best reference rows of each query over its poses.

    Args:
        queries: float32 [M, P, D].
        reference: float32 [N, D].
        k: how many.

    Returns:
        similarities float32 [M, k], rows int64 [M, k], poses int64 [M, k]. k is cut to N.
    """
    count, poses, size = queries.shape
    similarity, rows = top_k(queries.reshape(-1, size), reference, k)
    kept = similarity.shape[1]
    similarity, rows = similarity.reshape(count, -1), rows.reshape(count, -1)
    pose = np.repeat(np.arange(poses), kept)[None].repeat(count, 0)
    order = np.argsort(-similarity, axis=1, kind="stable")
    similarity, rows, pose = (np.take_along_axis(a, order, 1) for a in (similarity, rows, pose))
    out = [np.empty((count, kept), a.dtype) for a in (similarity, rows, pose)]
    for i in range(count):
        _, first = np.unique(rows[i], return_index=True)
        first = np.sort(first)[:kept]
        for target, source in zip(out, (similarity, rows, pose), strict=True):
            target[i] = source[i, first]
    return out[0], out[1], out[2]
