"""How well an image agrees with anybody else's: the best training image of another person than the match's, where that was not registered yet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage

__all__ = ["with_rivals"]

BLOCK = 64
# Candidates of other people that are registered.
RIVALS = 3


def with_rivals(images: ScoredSet, near_duplicates: Sequence[NearDuplicate], rules: Rules) -> ScoredSet:
    """``images``, those that a pair may flag with the agreement of the best other person's image.

    Registration refines few candidates: all may be slices of one person, or only the one that a score has chosen. And the same person may have two
    names in the training set: then the other name is nobody else.

    Args:
        images: scored.
        near_duplicates: real images of two patients that agree as copies do.
        rules: thresholds.
    """
    patients = images.training.patients
    same: dict[str, set[str]] = defaultdict(set)
    for pair in near_duplicates:
        if not pair.control:
            same[pair.first.patient].add(pair.second.patient)
            same[pair.second.patient].add(pair.first.patient)

    def unknown(one: ScoredImage) -> bool:
        if one.verified < rules.least_verified:
            return False
        return math.isnan(one.runner_up) or patients[one.runner_up_match] in same[patients[one.match]]

    scored = list(images.scored)
    asked = [i for i, one in enumerate(scored) if unknown(one)]
    for start in range(0, len(asked), BLOCK):
        block = asked[start : start + BLOCK]
        people = [patients[scored[i].match] for i in block]
        found = images.reference.best_among(
            images.images, [scored[i].row for i in block], [{name, *same[name]} for name in people], RIVALS
        )
        for i, (score, row) in zip(block, found, strict=True):
            scored[i] = replace(scored[i], runner_up=score, runner_up_match=row)
    return replace(images, scored=tuple(scored))
