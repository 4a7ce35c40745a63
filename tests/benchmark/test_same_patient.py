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
    training, holdout = slices(range(8), 0), slices(range(20, 36), 0)
    images = torch.cat([slices(range(8), 3), slices(range(40, 48), 3)])
    return SamePatientRanking().rank(training, images, holdout), SamePatientRanking().rank(training, images)


def test_another_slice_is_ranked_by_its_person_and_strangers_are_not_said(ranked):
    found, _ = ranked
    assert (found.match[:8] == np.arange(8)).all()
    assert found.copies[:8].sum() >= 6 and found.copies[8:].sum() <= 1
    assert found.score[:8].min() > np.median(found.score[8:])


def test_without_a_holdout_there_is_no_rule(ranked):
    _, alone = ranked
    assert alone.threshold is None and not alone.copies.any() and (alone.match[:8] == np.arange(8)).all()
