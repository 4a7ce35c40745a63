"""Nearest rows, exact, by any similarity that comes in blocks of the reference, so that it may be larger than memory.

After FAISS's ``contrib/exhaustive_search.py``: an iterator of blocks and a heap of results. The index, the retrieval of candidates, the
search by local structure and the search for near-duplicates are all this one. Similarities that differ by less than :data:`TIE` are
equal, and of equals the first row comes first: which of two rows is named never hangs on how a processor rounds a sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import faiss
import numpy as np
import torch

from doppelscan.memorization.clustered import ClusteredRows
from doppelscan.memorization.rows import Rows, blocks_of

__all__ = ["TIE", "Nearest", "NearestInBlocks", "falling_order", "interleaved", "nearest_rows"]

# The products of unit vectors of a thousand values are rounded by up to 1e-6, and by another 1e-6 when a vector was made in another batch.
TIE = 1e-5
REFERENCE_ROWS = 8192  # compared at a time
SIMILARITIES = 2**22  # of a block, 16 MB
GROUP = 64  # rows of a query's own group that clusters may propose before others
SPARE = 8  # rows kept beyond those asked for, so that a tie at the last place is decided by the row too


@dataclass(frozen=True)
class Nearest:
    """The nearest of M queries.

    Attributes:
        similarity: float [M, k], falling but for ties; -inf where there is no row.
        rows: int64 [M, k], which rows of the reference, equals in order of the row; -1 fills up where fewer take part.
        poses: int64 [M, k], in which pose each was met, the first of equals.
    """

    similarity: np.ndarray
    rows: np.ndarray
    poses: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """float [M], similarity of the nearest less that of the second; 0 where there is no second."""
        margin = np.zeros_like(self.similarity[:, 0])
        if self.rows.shape[1] > 1:
            second = self.rows[:, 1] >= 0
            margin[second] = self.similarity[second, 0] - self.similarity[second, 1]
        return margin.clip(0)

    @classmethod
    def joined(cls, parts: Sequence[Nearest]) -> Nearest:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class NearestInBlocks:
    """Collects the nearest rows of M queries from similarities that come in blocks, in order of the rows.

    Args:
        queries: M.
        k: how many rows to name.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k = k
        shape = (queries, k + SPARE)
        self._kept = Nearest(np.full(shape, -np.inf, np.float32), np.full(shape, -1), np.zeros(shape, np.int64))

    def add(self, similarity: torch.Tensor, rows: np.ndarray, left_out: torch.Tensor | None = None) -> None:
        """Add a block.

        Args:
            similarity: float [M, ..., n]; the axes between are poses, the best of which counts.
            rows: int64 [n], which rows these are, rising.
            left_out: bool [M, n], rows that do not take part for a query.
        """
        poses = tuple(range(1, similarity.ndim - 1))
        best = similarity.amax(poses) if poses else similarity
        if left_out is not None:
            best = best.masked_fill(left_out, -torch.inf)
        value, columns = _highest(best, self.k + SPARE)
        crowded = value[:, -1] >= value[:, 0] - TIE
        if crowded.any():  # more tie with the nearest than are kept: these are made equal, so that the first of them are kept
            some = best[torch.from_numpy(crowded)]
            columns[crowded] = _highest(torch.minimum(some, some.amax(1, keepdim=True) - TIE), self.k + SPARE)[1]
        none, columns = columns < 0, columns.clip(0)
        places = torch.from_numpy(columns).to(similarity.device).view(len(best), *(1 for _ in poses), -1)
        found = similarity.gather(-1, places.expand(*similarity.shape[:-1], -1)).reshape(len(best), -1, columns.shape[1])
        highest = found.amax(1)
        pose = (found >= highest[:, None] - TIE).byte().argmax(1).cpu().numpy()
        block = Nearest(np.where(none, -np.inf, highest.cpu().numpy()), np.where(none, -1, rows[columns]), pose)
        self._kept = _merged(self._kept, block, self.k + SPARE)

    def found(self) -> Nearest:
        """The nearest of what was added."""
        kept = self._kept
        return Nearest(kept.similarity[:, : self.k], kept.rows[:, : self.k], kept.poses[:, : self.k])


def nearest_rows(
    queries: np.ndarray,
    reference: Rows,
    k: int,
    *,
    left_out: np.ndarray | None = None,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    device: str | torch.device = "cpu",
) -> Nearest:
    """The ``k`` rows with the largest inner product, the best over both sides' poses.

    Args:
        queries: float [M, C] or [M, P, C]; products are taken in their dtype.
        reference: float [N, C] or [N, Q, C], read once, in blocks; of :class:`~doppelscan.memorization.ClusteredRows` those that they propose.
        k: how many rows to name; at most N.
        left_out: bool [N], rows that do not take part, such as :func:`~doppelscan.memorization.repeated` ones.
        groups: int [M] and int [N]; a row of the query's own group does not take part. None compares all.
        device: where the products are computed.

    Returns:
        the nearest; a pose is the query's times Q, plus the reference's.
    """
    queries = queries[:, None] if queries.ndim == 2 else queries
    if isinstance(reference, ClusteredRows):
        return _nearest_of_clusters(queries, reference, min(k, len(reference)), left_out, groups)
    poses, size = queries.shape[1:]
    reference_poses = 1 if len(reference.shape) == 2 else reference.shape[1]
    step = max(1, SIMILARITIES // (poses * reference_poses * min(len(reference), REFERENCE_ROWS)))
    parts = torch.from_numpy(np.ascontiguousarray(queries)).to(device).split(step)
    collectors = [NearestInBlocks(len(part), min(k, len(reference))) for part in parts]
    taking_part = np.arange(len(reference)) if left_out is None else np.flatnonzero(~np.asarray(left_out))
    for block in blocks_of(reference, REFERENCE_ROWS * reference_poses * size):
        rows = taking_part[slice(*np.searchsorted(taking_part, (block.start, block.stop)))]
        if not len(rows):
            continue
        values = np.asarray(reference[block], dtype=queries.dtype)
        values = values if len(rows) == len(values) else values[rows - block.start]
        compared = torch.from_numpy(np.ascontiguousarray(values)).to(device).reshape(-1, size)
        for number, (part, collector) in enumerate(zip(parts, collectors, strict=True)):
            similarity = _products(part.reshape(-1, size), compared).view(len(part), poses, -1, reference_poses)
            own = None
            if groups is not None:
                own = torch.from_numpy(groups[0][number * step :][: len(part), None] == groups[1][rows]).to(device)
            collector.add(similarity.transpose(2, 3).squeeze((1, 2)), rows, own)
    return Nearest.joined([collector.found() for collector in collectors])


def _nearest_of_clusters(
    queries: np.ndarray,
    reference: ClusteredRows,
    k: int,
    left_out: np.ndarray | None,
    groups: tuple[np.ndarray, np.ndarray] | None,
) -> Nearest:
    """:func:`nearest_rows` of what clusters propose, twice as many as are asked for, in order of their exact products."""
    parts = []
    # Of a query's own group there may be many: they are proposed first and do not take part.
    wanted = min(len(reference), 2 * k + SPARE + (0 if groups is None else GROUP))
    step = max(1, SIMILARITIES // (wanted * int(np.prod(reference.shape[1:]))))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        rows = interleaved([reference.proposed(part, wanted, left_out)], wanted)
        others = reference[rows.clip(0)].reshape(len(part), -1, part.shape[-1])
        found = (part @ others.swapaxes(1, 2)).reshape(*part.shape[:2], rows.shape[1], reference.poses)
        found = found.swapaxes(2, 3).reshape(len(part), -1, rows.shape[1])
        none = rows < 0
        if groups is not None:
            none |= groups[0][start : start + step, None] == groups[1][rows.clip(0)]
        best = np.where(none, -np.inf, found.max(1))
        order = falling_order(best, np.where(none, len(reference), rows))[:, :k]
        similarity, named = np.take_along_axis(best, order, 1), np.take_along_axis(np.where(none, -1, rows), order, 1)
        posed = np.take_along_axis(found, order[:, None], 2)
        pose = (posed >= posed.max(1, keepdims=True) - TIE).argmax(1)
        parts.append(Nearest(similarity.astype(np.float32), named, pose))
    return Nearest.joined(parts)


def falling_order(similarity: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Order by falling similarity, of ties by rising row.

    Args:
        similarity: float [M, n] (or [n]).
        rows: int of the same shape; None takes the places themselves.

    Returns:
        int64 [M, n] (or [n]), places as of ``np.argsort``.
    """
    if similarity.ndim == 1:
        return falling_order(similarity[None], None if rows is None else rows[None])[0]
    order = np.argsort(-similarity, axis=1, kind="stable")
    ordered = np.take_along_axis(similarity, order, 1)
    tied, highest = np.zeros(order.shape, np.int64), ordered[:, 0].copy()
    for column in range(1, order.shape[1]):
        # A run of ties is what lies within TIE of its first, so that a slow slope is no run.
        lower = ordered[:, column] < highest - TIE
        tied[:, column] = tied[:, column - 1] + lower
        highest[lower] = ordered[lower, column]
    return np.take_along_axis(order, np.lexsort((order if rows is None else np.take_along_axis(rows, order, 1), tied), axis=1), 1)


def interleaved(lists: Sequence[np.ndarray], kept: int) -> np.ndarray:
    """First of each list, second of each list, ..., each row once.

    Args:
        lists: int64 [M, any], rows in order; -1 is none.
        kept: how many rows to keep.

    Returns:
        int64 [M, kept], filled up with -1.
    """
    longest = max(max(part.shape[1] for part in lists), kept)
    padded = [np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=-1) for part in lists]
    mixed = np.stack(padded, 2).reshape(len(padded[0]), -1)
    by_row = np.argsort(mixed, axis=1, kind="stable")
    new = np.diff(np.take_along_axis(mixed, by_row, 1), axis=1, prepend=-1) != 0
    first = np.zeros(mixed.shape, bool)
    np.put_along_axis(first, by_row, new, 1)
    places = np.argsort(~first, axis=1, kind="stable")[:, :kept]
    return np.where(np.take_along_axis(first, places, 1), np.take_along_axis(mixed, places, 1), -1)


def _products(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``first`` [M, C] by ``second`` [n, C]: [M, n]."""
    if first.device.type == "cpu":  # NumPy's OpenBLAS is a third faster than torch's MKL on AMD processors
        return torch.from_numpy(first.numpy() @ second.numpy().T)
    return first @ second.T


def _highest(values: torch.Tensor, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each line of [M, n] and their columns, -1 where there are fewer: [M, kept] each, equals in order of the column."""
    heap = faiss.ResultHeap(len(values), kept, keep_max=True)
    last = values.shape[1] - 1
    # Of equals the heap keeps those of the highest id.
    heap.add_result_subset(np.arange(len(values)), values.cpu().numpy(), last - np.arange(last + 1))
    heap.finalize()
    return heap.D, np.where(heap.I < 0, -1, last - heap.I)


def _merged(first: Nearest, second: Nearest, kept: int) -> Nearest:
    both = [np.concatenate([getattr(part, field.name) for part in (first, second)], 1) for field in fields(Nearest)]
    order = falling_order(both[0], both[1])[:, :kept]
    return Nearest(*(np.take_along_axis(column, order, 1) for column in both))
