"""Pools and links made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from doppelscan.images import ImageRecord
from doppelscan.overlap import Link, NearestImage, Pool, SearchedPool
from doppelscan.verify import Pose
from made_records import MadeStore


def record(name: str, patient: str | None = None, volume: str | None = None) -> ImageRecord:
    own = volume or name
    return ImageRecord(name, (own,), own, patient or own, patient_known=patient is not None)


def made_pool(patients: Sequence[str | None], sets: Sequence[int] | None = None, volumes: Sequence[str] | None = None) -> Pool:
    """One image a patient; None is a patient whom nobody named."""
    from doppelscan.search import EmbeddedSet

    records = [record(f"{i}.png", p, None if volumes is None else volumes[i]) for i, p in enumerate(patients)]
    store: Any = MadeStore()
    images = EmbeddedSet(records, [f"pool/{i}" for i in range(len(records))], store, {})
    of_set = tuple(sets or [0] * len(records))
    return Pool(images, images, ("a", "b") if sets else ("images",), of_set)


def person(first: int, second: int, fine: float = 0.88, score: float = 0.9) -> Link:
    return Link(first, second, "same person", score, Pose(), 0.9, fine)


def copy(first: int, second: int) -> Link:
    return Link(first, second, "same image", 1.0, Pose())


def changed(first: int, second: int) -> Link:
    return Link(first, second, "same image changed", 0.95, Pose(), 0.99, 0.97)


def searched(pool: Pool, links: Sequence[Link], few: bool = False) -> SearchedPool:
    count = len(pool)
    return SearchedPool(pool, tuple(links), (NearestImage(),) * count, np.full(count, -1), 0, few)
