"""The same-patient score as a ranking: it names the person of another slice, and by its own rule hardly any stranger."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.benchmark.same_patient import SamePatientRanking
from doppelscan.images import generate_head
from doppelscan.rivals import Ranking


def slices(people: range, offset: int) -> torch.Tensor:
    """float32 [people, 1, 64, 64]: one slice of each of some generated heads."""
    heads = [generate_head(seed, 64)[:, :, 32 + offset] for seed in people]
    return torch.from_numpy(np.stack(heads))[:, None]


@pytest.fixture(scope="module")
def ranked() -> tuple[Ranking, Ranking]:
    training, holdout = slices(range(8), 0), torch.cat([slices(range(20, 60), offset) for offset in range(-2, 3)])
    images = torch.cat([slices(range(8), 3), slices(range(70, 90), 3)])
    return SamePatientRanking().rank(training, images, holdout), SamePatientRanking().rank(training, images)


def test_another_slice_is_ranked_by_its_person_and_strangers_are_not_said(ranked):
    found, _ = ranked
    assert (found.match[:8] == np.arange(8)).all()
    assert found.copies[:8].sum() >= 4 and found.copies[8:].sum() <= 3
    assert found.score[:8].min() > np.median(found.score[8:])


def test_a_holdout_of_less_than_200_gives_no_rule_of_one_in_a_hundred():
    known = slices(range(4), 0)
    found = SamePatientRanking().rank(known, slices(range(4), 2), slices(range(20, 30), 0))
    assert found.threshold is None and (found.match == np.arange(4)).all()


def test_without_a_holdout_there_is_no_rule(ranked):
    _, alone = ranked
    assert alone.threshold is None and not alone.copies.any() and (alone.match[:8] == np.arange(8)).all()
