"""Pairs of real images, registered: how well one agrees with the other, and whether that makes them of one person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import StoredPair, StoredRegistration
from doppelscan.search import EmbeddedSet, PatchDescriptor
from doppelscan.verify import AlignedPair, Pose, VolumePose, verified_score

__all__ = ["PersonPair", "registered_candidates", "registered_pairs"]

UNMOVED = Pose()


@dataclass(frozen=True)
class PersonPair:
    """Two real images that were registered; rows of the training set, or behind its end of the holdout.

    Attributes:
        first, second: rows.
        score: verified score of the pair.
        confirmed: they agree as copies do, and the second explains the fine structure of the first as slices of one person do: they are of one
            person.
        pose: what maps the second on the first.
        explained: share of the structure of the first that the second explains, at its own sharpness and noise; NaN of a pair that does not agree as
            copies do.
        coarse: it could only be judged in the coarsest band of detail.
        fine: share of the fine structure alone; NaN likewise. Of volumes the agreement of all of it.
    """

    first: int
    second: int
    score: float
    confirmed: bool
    pose: Pose | VolumePose = UNMOVED
    explained: float = math.nan
    coarse: bool = False
    fine: float = math.nan


def registered_pairs(
    block: Sequence[tuple[int, int]],
    training: EmbeddedSet,
    holdout: EmbeddedSet | None,
    registration: StoredRegistration,
    descriptor: PatchDescriptor,
    rules: Rules,
) -> list[PersonPair]:
    """The pairs of ``block`` registered as they are and mirrored, in its order; rows as of :class:`PersonPair`."""
    count = len(training)
    found: dict[tuple[int, int], PersonPair] = {}
    for first, second, own in _by_sets(block, training, holdout):
        rows = [a if first is training else a - count for a, _ in own]
        others = [b if second is training else b - count for _, b in own]
        poses = np.tile([0, 4], (len(own), 1, 1))
        best = registration.best(first, rows, second, np.array(others)[:, None], poses, descriptor)
        pairs = [StoredPair(*map(float, one[0])) for one in best]
        scores = [verified_score(pair.detail, pair.agreement) for pair in pairs]
        close = [i for i, score in enumerate(scores) if score >= rules.close_pair]
        aligned = registration.aligned(
            first, [rows[i] for i in close], second, [others[i] for i in close], [pairs[i].pose for i in close], descriptor
        )
        in_full = dict(zip(close, aligned, strict=True))
        for i, (a, b) in enumerate(own):
            found[a, b] = _person_pair(a, b, scores[i], pairs[i].pose, in_full.get(i), rules)
    return [found[pair] for pair in block]


def registered_candidates(
    images: EmbeddedSet,
    rows: Sequence[int],
    candidates: np.ndarray,
    poses: np.ndarray,
    registration: StoredRegistration,
    descriptor: PatchDescriptor,
    rules: Rules,
) -> list[PersonPair]:
    """The best pairs of some images of a set and their candidates in it.

    Args:
        images: the set.
        rows: M rows of it.
        candidates: int [M, K], rows of it; -1 fills up at the end.
        poses: int [M, K, n], the flip-and-turn poses in which a candidate is laid on its image.
        registration: of pairs, which are kept.
        descriptor: of local structure.
        rules: what makes two images of one person.

    Returns:
        of each row the pairs that were measured, as many as registration refines, the row first.
    """
    best = registration.best(images, rows, images, candidates, poses, descriptor)
    found = [
        (row, int(own[int(pair.candidate)]), pair)
        for row, own, values in zip(rows, candidates, best, strict=True)
        for pair in (StoredPair(*map(float, one)) for one in values if one[0] >= 0)
    ]
    scores = [verified_score(pair.detail, pair.agreement) for _, _, pair in found]
    close = [i for i, score in enumerate(scores) if score >= rules.close_pair]
    aligned = registration.aligned(
        images, [found[i][0] for i in close], images, [found[i][1] for i in close], [found[i][2].pose for i in close], descriptor
    )
    in_full = dict(zip(close, aligned, strict=True))
    return [_person_pair(a, b, scores[i], pair.pose, in_full.get(i), rules) for i, (a, b, pair) in enumerate(found)]


def _person_pair(first: int, second: int, score: float, pose: Pose, pair: AlignedPair | None, rules: Rules) -> PersonPair:
    if pair is None:
        return PersonPair(first, second, score, False, pose)
    confirmed = pair.fine >= rules.same_person
    return PersonPair(first, second, score, confirmed, pose, pair.explained, pair.coarse, pair.fine)


def _by_sets(
    block: Sequence[tuple[int, int]], training: EmbeddedSet, holdout: EmbeddedSet | None
) -> Iterator[tuple[EmbeddedSet, EmbeddedSet, list[tuple[int, int]]]]:
    """Pairs of rows by the sets that they are of."""
    count = len(training)
    for first in (training, holdout):
        for second in (training, holdout):
            own = [(a, b) for a, b in block if (a >= count) == (first is holdout) and (b >= count) == (second is holdout)]
            if own and first is not None and second is not None:
                yield first, second, own
