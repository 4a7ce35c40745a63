"""Which images are flagged, and of what kind each finding is: a copy, perhaps only the same patient, a blend, or a part; and people who are there twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.calibrate import Control, q_values
from doppelscan.decide.scoring import (
    CLOSE_PAIR,
    ScoredImage,
    StoredPair,
    registered_pairs,
    side_by_side,
    verified_score,
)
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore
from doppelscan.verify import AlignedPair, Registration, interpolation_loss, second_sources

__all__ = ["Finding", "Flags", "NearDuplicate", "explain", "flag_images", "near_duplicates"]

# Of the fine structure, what the match must explain for the image and not only its patient to be the source; a slice 1 mm away explains
# 0.92 to 0.965 (docs/benchmarks.md). Images of few pixels lose structure when they are moved, which is allowed for by half.
EXPLAINED, USUAL_LOSS = 0.966, 0.03
MIXED = 0.6
SET_IN, SET_IN_SHARE = 0.9, 0.03
PART_EXPLAINED, PART_AGREES, PART_DISAGREES = 0.9, 0.9, 0.5
BLOCK = 64
# Whole images and regions are two families of tests, whose false discovery rates add up: most of the rate goes to the first.
WHOLE_RATE = 0.8
# Rare is not enough: a flag also needs a pair that agrees. Unrelated people reach this now and then, copies nearly always.
LEAST_VERIFIED, LEAST_PART = 0.6, 0.8
# Few copies among many images have no q-value below the rate, however clear they are. Far beyond every control image, by this
# much in the verified score or by this factor in what a region leaves to perfect agreement, they are flagged all the same.
BEYOND_SCORE, BEYOND_PART, CLOSE_PART = 0.1, 8.0, 0.995
# A region of some dozen strangers may agree by accident; of fewer controls their highest says little.
BEYOND_CONTROL = 50
# A region of this share of the structure, and twice the largest of the control, is beyond it whatever the control's size.
BEYOND_SHARE, SHARED_PART = 0.3, 0.98
PAIRS_CHECKED, ROWS = 40, 256


@dataclass(frozen=True)
class Finding:
    """What a flagged image is.

    Attributes:
        kind: one of :data:`doppelscan.calibrate.KINDS`.
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


@dataclass(frozen=True)
class Flags:
    """Of M synthetic images.

    Attributes:
        p, q: float64 [M], of the whole image; q-values of both families together hold the rate.
        part_p, part_q: float64 [M], of its best region.
        whole: bool [M], flagged by the whole image.
        part: bool [M], flagged by a region only.
        control_as_close: number of control images that score as high as the lowest of the flagged.
    """

    p: np.ndarray
    q: np.ndarray
    part_p: np.ndarray
    part_q: np.ndarray
    whole: np.ndarray
    part: np.ndarray
    control_as_close: int


def flag_images(
    scored: Sequence[ScoredImage],
    control: Sequence[ScoredImage],
    null: Control,
    part_null: Control,
    fdr: float,
    correction: str = "bh",
) -> Flags:
    """Flag by q-value, or far beyond every control image; docs/interpretation.md has the rules in words.

    Args:
        scored: the synthetic images.
        control: the control images.
        null: the control's scores.
        part_null: the same of its best regions.
        fdr: false discovery rate of all flags.
        correction: see :func:`doppelscan.calibrate.q_values`.
    """
    values, parts, verified = (np.array([getattr(s, name) for s in scored]) for name in ("score", "part", "verified"))
    p, part_p = null.p_values(values), part_null.p_values(parts)
    q = np.minimum(1, q_values(p, correction) / WHOLE_RATE)
    part_q = np.minimum(1, q_values(part_p, correction) / (1 - WHOLE_RATE))
    beyond, part_beyond = np.zeros(len(values), bool), np.zeros(len(values), bool)
    if control:
        beyond = verified >= max(CLOSE_PAIR, max(s.verified for s in control) + BEYOND_SCORE)
        highest = max(s.part for s in control)
        shares = np.array([s.part_share for s in scored])
        large = shares >= max(BEYOND_SHARE, 2 * max(s.part_share for s in control))
        part_beyond = large & (parts >= max(SHARED_PART, highest))
        if len(control) >= BEYOND_CONTROL:
            part_beyond |= 1 - parts <= min(1 - CLOSE_PART, (1 - highest) / BEYOND_PART)
    whole = ((q <= fdr) & (verified >= LEAST_VERIFIED)) | beyond
    part = (((part_q <= fdr) & (parts >= LEAST_PART)) | part_beyond) & ~whole
    cut, part_cut = (value[hit].min() if hit.any() else np.inf for value, hit in ((values, whole), (parts, part)))
    as_close = sum(
        (s.score >= cut and s.verified >= LEAST_VERIFIED) or (s.part >= part_cut and s.part >= LEAST_PART) for s in control
    )
    return Flags(p, q, part_p, part_q, whole, part, int(as_close))


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
    for start in range(0, len(scored), BLOCK):
        block = list(scored[start : start + BLOCK])
        pairs, matches, losses = zip(*side_by_side(registration, pair_of, block), strict=True)
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
            elif _is_part(pairs[k]) and s.part_match == s.match:
                result.append(Finding("part", explained))
            else:
                enough = EXPLAINED - 0.5 * max(0.0, losses[k] - USUAL_LOSS)
                result.append(Finding("copy" if explained >= enough else "same patient?", explained))
    return result


def _is_part(pair: AlignedPair) -> bool:
    """Some of the image agrees as copies do and much of it not at all, as where a half was set into another person."""
    cells = pair.cells[pair.counted]
    return bool(pair.explained < PART_EXPLAINED and (cells > PART_AGREES).mean() >= 0.1 and (cells < PART_DISAGREES).mean() >= 0.25)


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
    for start in range(0, len(embedding), ROWS):
        block = slice(start, start + ROWS)
        similarity = embedding[block] @ embedding.T
        similarity[patients[block, None] == patients[None]] = -2
        rows[block], best[block] = similarity.argmax(1), similarity.max(1)
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
        pair = StoredPair(*map(float, pairs[0]))
        score = verified_score(pair.detail, pair.agreement)
        if score >= CLOSE_PAIR:
            found.append(NearDuplicate(False, row, other, score))
    verified.flush()
    return sorted(found, key=lambda n: -n.score)
