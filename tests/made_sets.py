"""Prepared sets made of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from doppelscan.benchmark.sets import PreparedImages
from doppelscan.images import ImageRecord


def made_set(
    squares: np.ndarray, patients: Sequence[str], slices: Sequence[str] | None = None, folder: str = "set"
) -> PreparedImages:
    """Images float32 [N, S, S] of ``patients``; ``slices`` is a column of their table."""
    records = tuple(
        ImageRecord(f"{folder}/{i}.png", (f"{folder}/{i}.png",), f"{folder}/{i}.png", p) for i, p in enumerate(patients)
    )
    values: tuple[Mapping[str, str], ...] = tuple({} if slices is None else {"slice": one} for one in slices or patients)
    size = squares.shape[-1]
    return PreparedImages(np.asarray(squares, np.float32), np.full((len(squares), 2), size), records, values)
