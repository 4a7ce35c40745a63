"""Pairs of real images, registered: how well one agrees with the other, and whether that makes them of one person."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import StoredPair, StoredRegistration
from doppelscan.search import EmbeddedSet, PatchDescriptor
from doppelscan.verify import AlignedPair, Pose, verified_score

__all__ = ["PersonPair", "registered_pairs"]

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
        fine: share of the fine structure alone; NaN likewise.
    """

    first: int
    second: int
    score: float
    confirmed: bool
    pose: Pose = UNMOVED
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
    poses: np.ndarray | None = None,
) -> list[PersonPair]:
    """Pairs of real images registered.

    Args:
        block: pairs of rows, as of :class:`PersonPair`.
        training: the training set.
        holdout: real images of other patients, or None.
        registration: of pairs, which are kept.
        descriptor: of local structure.
        rules: what makes two images of one person.
        poses: int [P, n], the flip-and-turn poses in which the second of each pair is laid on the first; None is as it is and mirrored.

    Returns:
        in the order of ``block``.
    """
    posed = np.tile([0, 4], (len(block), 1)) if poses is None else poses
    pose_of = dict(zip(block, posed, strict=True))
    count = len(training)
    found: dict[tuple[int, int], PersonPair] = {}
    for first, second, own in _by_sets(block, training, holdout):
        rows = [a if first is training else a - count for a, _ in own]
        others = [b if second is training else b - count for _, b in own]
        tried = np.stack([pose_of[pair] for pair in own])[:, None]
        best = registration.best(first, rows, second, np.array(others)[:, None], tried, descriptor)
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
