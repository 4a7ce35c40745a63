"""How well an image agrees with anybody else's: the best training image of another person than the match's, where that was not registered yet."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage, StoredPair
from doppelscan.verify import verified_score

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
        for i, (score, row) in zip(block, _rivals(images, [scored[i] for i in block], same), strict=True):
            scored[i] = replace(scored[i], runner_up=score, runner_up_match=row)
    return replace(images, scored=tuple(scored))


def _rivals(images: ScoredSet, block: Sequence[ScoredImage], same: dict[str, set[str]]) -> list[tuple[float, int]]:
    """Verified score and training row of each one's best candidate of another person; NaN and -1 without one."""
    training, search = images.training, images.reference.search
    rows = [one.row for one in block]
    proposals = search.propose(images.images.features(rows), images.images.thumbnails(rows))
    places = []
    for one, proposed in zip(block, proposals.rows, strict=True):
        own = {training.patients[one.match], *same[training.patients[one.match]]}
        places.append([k for k, row in enumerate(proposed) if row >= 0 and training.patients[row] not in own][:RIVALS])
    result = [(math.nan, -1)] * len(block)
    some = [i for i, found in enumerate(places) if found]
    if not some:
        return result
    # The last is repeated, so that each has as many.
    place = np.array([(places[i] + [places[i][-1]] * RIVALS)[:RIVALS] for i in some])
    candidates = np.take_along_axis(proposals.rows[some], place, 1)
    poses = None if proposals.poses is None else np.take_along_axis(proposals.poses[some], place[..., None], 1)
    assert search.patches is not None
    found = images.reference.registration.best(
        images.images, [rows[i] for i in some], training, candidates, poses, search.patches.descriptor
    )
    for i, row, pairs in zip(some, candidates, found, strict=True):
        kept = [StoredPair(*map(float, values)) for values in pairs if values[0] >= 0]
        result[i] = max((verified_score(pair.detail, pair.agreement), int(row[int(pair.candidate)])) for pair in kept)
    return result
