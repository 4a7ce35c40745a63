"""Pools and links made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from doppelscan.decide import LeftOut
from doppelscan.images import ImageRecord
from doppelscan.overlap import (
    Link,
    NearestImage,
    Overlap,
    OverlapRules,
    OverlapSummary,
    Pool,
    SearchedPool,
    compare_names,
    conclude_overlap,
    grouped,
)
from doppelscan.report import write_overlap
from doppelscan.verify import Pose
from made_records import MadeStore, made_set


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


def made_overlap_summary(overlap: Overlap) -> OverlapSummary:
    """What summary.json holds of groups made by hand, with one image left out, a split and a file that can go."""
    records = overlap.found.pool.images.records
    told = [
        {"kind": one.kind, "patient": records[one.row].patient, "image": records[one.row].id, "match_patient": records[one.other].patient,
         "match": records[one.other].id, "relation": one.link.relation, "score": one.link.score}
        for one in overlap.names.disagreements
    ]  # fmt: skip
    return OverlapSummary(
        command=overlap.command, of="image", conclusion=overlap.verdict, reason=overlap.reason, sets=overlap.sets, groups={}, largest_group=2, pairs={},
        doubted_pairs=sum(not one.joins for one in overlap.links), registered_pairs=1, highest_unlinked=0.5, strongest=None, names_in_both=1, names_borne_out=1,
        disagreements=told, notes=["A note."], split={"images": [30, 10], "people": [30, 10], "parts": ["train", "test"]}, removable=1,
        skipped=[LeftOut("b", "b/<bad>.png", "truncated")], settings={"seed": 0}, rules={"close_pair": 0.72, "certain": 0.8}, weights_sha256="0" * 64,
        versions={"doppelscan": "0", "monai": "1", "torch": "2"}, seconds={"embed": 1.0},
    )  # fmt: skip


def write_made_overlap(folder: Path, cohort: np.ndarray) -> None:
    """The report of two sets of 20, with a copy, a changed copy and one person in both of them, each under two names."""
    images = made_set("images", 40, cohort)
    pool = Pool(images, images, ("a", "b"), (0,) * 20 + (1,) * 20)
    links = [copy(0, 20), changed(1, 21), person(2, 22)]
    grouping = grouped(images.records, pool.of_set, links, OverlapRules())
    overlap = conclude_overlap("leak", searched(pool, links), grouping, compare_names(pool, grouping), (0, 1), OverlapRules())
    write_overlap(folder, overlap, made_overlap_summary(overlap), [])
