"""Pairs of real images, registered: how well one agrees with the other, and whether that makes them of one person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import StoredPair, StoredRegistration
from doppelscan.search import EmbeddedSet, PatchDescriptor
from doppelscan.verify import verified_score

__all__ = ["PersonPair", "registered_pairs"]


@dataclass(frozen=True)
class PersonPair:
    """Two real images that agree as copies do; rows of the training set, or behind its end of the holdout.

    Attributes:
        first, second: rows, the first is the smaller.
        score: verified score of the pair.
        confirmed: one explains the fine structure of the other as slices of one person do: they are of one person.
    """

    first: int
    second: int
    score: float
    confirmed: bool


def registered_pairs(
    block: Sequence[tuple[int, int]],
    training: EmbeddedSet,
    holdout: EmbeddedSet | None,
    registration: StoredRegistration,
    descriptor: PatchDescriptor,
    rules: Rules,
) -> list[PersonPair]:
    """The pairs of ``block`` registered, in its order; rows as of :class:`PersonPair`."""
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
        explained = dict(zip(close, (one.fine for one in aligned), strict=True))
        for i, (a, b) in enumerate(own):
            found[a, b] = PersonPair(a, b, scores[i], explained.get(i, 0.0) >= rules.same_person)
    return [found[pair] for pair in block]


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
