"""Nearest training features of whitened queries, exact, in blocks of the reference, so that it may be larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from doppelscan.memorization.rows import BLOCK_VALUES, Rows, blocks_of

__all__ = ["Nearest", "nearest"]

REFERENCE_ROWS = 8192  # compared at a time


@dataclass
class Nearest:
    """The nearest of M queries.

    Attributes:
        similarity: float [M], largest cosine.
        row: int64 [M], of the nearest; the first of equals.
        margin: float [M], cosine of the nearest less that of the second.
        pose: int64 [M], pose of the query times the reference's poses, plus pose of the reference.
        candidates: int64 [M, k], rows by falling cosine, equals in order of the row.
    """

    similarity: np.ndarray
    row: np.ndarray
    margin: np.ndarray
    pose: np.ndarray
    candidates: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Nearest]) -> Nearest:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def nearest(
    queries: np.ndarray,
    reference: Rows,
    candidates: int = 2,
    left_out: Sequence[bool] | np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> Nearest:
    """Largest cosine of each query over the reference and both sides' poses.

    Args:
        queries: float [M, P, C] of unit length.
        reference: float [N, C] or [N, Q, C] of unit length.
        candidates: how many rows to name; at most N.
        left_out: bool [N], rows that do not take part.
        device: where the products are computed.
    """
    count, poses, size = queries.shape
    wanted = max(2, candidates)
    reference_poses = 1 if len(reference.shape) == 2 else reference.shape[1]
    step = max(1, BLOCK_VALUES // (poses * min(len(reference), REFERENCE_ROWS) * reference_poses))
    parts = []
    for start in range(0, count, step):
        flat = torch.from_numpy(np.ascontiguousarray(queries[start : start + step])).to(device)
        best, rows, pose = (torch.zeros(0, 0, device=device) for _ in range(3))
        for block in blocks_of(reference, REFERENCE_ROWS * reference_poses * size):
            part = torch.from_numpy(np.ascontiguousarray(reference[block], dtype=queries.dtype)).to(device).reshape(-1, size)
            cosine = (flat.reshape(-1, size) @ part.T).view(len(flat), poses, -1, reference_poses)
            value, which = cosine[..., 0].max(1) if reference_poses == 1 else cosine.permute(0, 2, 1, 3).flatten(2).max(2)
            if left_out is not None:
                value[:, torch.as_tensor(np.asarray(left_out)[block], device=value.device)] = -2.0
            # A stable sort breaks ties by the row, so that duplicated training images name the same neighbour in each layer.
            value, order = value.sort(dim=1, descending=True, stable=True)
            value, order = value[:, :wanted], order[:, :wanted]
            which, order = which.gather(1, order), order + block.start
            if len(best):
                value, order, which = torch.cat([best, value], 1), torch.cat([rows, order], 1), torch.cat([pose, which], 1)
                value, chosen = value.sort(dim=1, descending=True, stable=True)
                value, chosen = value[:, :wanted], chosen[:, :wanted]
                order, which = order.gather(1, chosen), which.gather(1, chosen)
            best, rows, pose = value, order, which
        parts.append((best.cpu().numpy(), rows.cpu().numpy(), pose.cpu().numpy()))
    cosines, named, posed = (np.concatenate(column) for column in zip(*parts, strict=True))
    margin = cosines[:, 0] - cosines[:, 1] if cosines.shape[1] > 1 else np.zeros_like(cosines[:, 0])
    return Nearest(cosines[:, 0], named[:, 0], margin, posed[:, 0], named[:, :candidates])
