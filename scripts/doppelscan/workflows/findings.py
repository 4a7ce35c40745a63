"""What kind of finding a flagged image is: a copy, perhaps only the same patient, a blend of two, or a part; and people who are there twice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.search import CandidateSearch, EmbeddingStore
from doppelscan.verify import Registration, interpolation_loss, second_sources
from doppelscan.workflows.scoring import (
    AGREEMENT,
    CLOSE_PAIR,
    DETAIL,
    EmbeddedSet,
    ScoredImage,
    registered_pairs,
    verified_score,
)

__all__ = ["KINDS", "Finding", "NearDuplicate", "explain", "near_duplicates"]

KINDS = ("copy", "blend", "part", "same patient?")
# Of the fine structure, what the match must explain for the image and not only its patient to be the source; a slice 1 mm away explains
# 0.92 to 0.965 (docs/benchmarks.md). Images of few pixels lose structure when they are moved, which is allowed for by half.
EXPLAINED, USUAL_LOSS = 0.966, 0.03
MIXED = 0.6
SET_IN, SET_IN_SHARE = 0.9, 0.03
BLOCK = 64
PAIRS_CHECKED = 40


@dataclass(frozen=True)
class Finding:
    """What a flagged image is.

    Attributes:
        kind: one of :data:`KINDS`.
        explained: share of the fine structure that the match explains, NaN for a part.
        second_match: training row of the second source of a blend, or None.
        second_share: its share of the image.
    """

    kind: str
    explained: float = float("nan")
    second_match: int | None = None
    second_share: float = float("nan")


@dataclass(frozen=True)
class NearDuplicate:
    """Images of two patients that agree as copies of one another do; rows of the sets.

    Attributes:
        control: the first is of the control, else of training.
        row: of the first.
        training_row: of the second.
        score: verified score of the pair.
    """

    control: bool
    row: int
    training_row: int
    score: float


def explain(
    scored: Sequence[ScoredImage],
    queries: EmbeddedSet,
    training: EmbeddedSet,
    search: CandidateSearch,
    registration: Registration,
) -> list[Finding]:
    """The kind of each image of ``scored``, all flagged by their whole, against ``training``, which ``search`` was fitted on."""
    assert search.patches is not None
    descriptor = search.patches.descriptor

    def pair_of(s: ScoredImage):
        match = training.thumbnails([s.match])[0]
        query_shape, match_shape = queries.native_shapes([s.row])[0], training.native_shapes([s.match])[0]
        pair = registration.pair(queries.thumbnails([s.row])[0], match, s.pose, descriptor, query_shape, match_shape)
        return pair, match, interpolation_loss(match, match_shape)

    result: list[Finding] = []
    workers = torch.get_num_threads() if registration.device.type == "cpu" else 1
    for start in range(0, len(scored), BLOCK):
        block = list(scored[start : start + BLOCK])
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            pairs, matches, losses = zip(*pool.map(pair_of, block), strict=True)
        torch.set_num_threads(threads)
        found = second_sources(pairs, np.array([s.match for s in block]), torch.stack(matches), search.patches)
        for k, s in enumerate(block):
            explained = pairs[k].explained
            mixed, set_in = int(found.mixed_row[k]), int(found.set_in_row[k])
            patient = training.patients[s.match]
            if found.mixed[k] >= MIXED and training.patients[mixed] != patient:
                result.append(Finding("blend", explained, mixed, float(found.mixed_share[k])))
            elif (
                found.set_in[k] >= SET_IN
                and found.set_in_share[k] >= SET_IN_SHARE
                and explained < EXPLAINED
                and training.patients[set_in] != patient
            ):
                result.append(Finding("blend", explained, set_in, float(found.set_in_share[k])))
            else:
                enough = EXPLAINED - 0.5 * max(0.0, losses[k] - USUAL_LOSS)
                result.append(Finding("copy" if explained >= enough else "same patient?", explained))
    return result


def near_duplicates(
    training: EmbeddedSet, search: CandidateSearch, registration: Registration, verified: EmbeddingStore
) -> list[NearDuplicate]:
    """Training images of different patients that agree as copies do: one person under two names, or a scan that was exported twice.

    Each image's nearest of another patient by the whitened embedding; the nearest 40 pairs of patients are registered.
    """
    assert search.patches is not None
    patients = np.unique(training.patients, return_inverse=True)[1]
    embedding = search.embedding
    best, rows = np.empty(len(embedding), np.float32), np.empty(len(embedding), np.int64)
    for start in range(0, len(embedding), 1024):
        similarity = embedding[start : start + 1024] @ embedding.T
        similarity[patients[start : start + 1024, None] == patients[None]] = -2
        rows[start : start + 1024], best[start : start + 1024] = similarity.argmax(1), similarity.max(1)
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for row in np.argsort(-best, kind="stable"):
        other = int(rows[row])
        if best[row] > -2 and len(chosen) < PAIRS_CHECKED:
            first, second = sorted((int(patients[row]), int(patients[other])))
            chosen.setdefault((first, second), (int(row), other))
    found = []
    for row, other in chosen.values():
        descriptor, poses = search.patches.descriptor, np.array([[0, 4]])
        key, pairs = registered_pairs(training, row, training, [other], poses, registration, descriptor, verified)
        if key not in verified:
            verified.add(key, {"pairs": pairs})
        score = verified_score(float(pairs[0, DETAIL]), float(pairs[0, AGREEMENT]))
        if score >= CLOSE_PAIR:
            found.append(NearDuplicate(False, row, other, score))
    verified.flush()
    return sorted(found, key=lambda n: -n.score)
