"""The margin to the next person is measured where registration has not looked at anybody else."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from doppelscan.decide import NearDuplicate, Rules, ScoredSet
from doppelscan.decide.rivals import with_rivals
from doppelscan.decide.scoring import StoredPair
from made_records import made_reference, made_score, made_set

PEOPLE = ["a", "a", "a", "b", "c", "c"]


def scored(monkeypatch, told: dict[int, float], proposed=(0, 1, 2, 3, 4, 5), **one) -> ScoredSet:
    """One image whose match is training image 0; ``told`` is what a registration of the others gives."""
    training = made_set("training", len(PEOPLE), patients=PEOPLE)

    class Registered:
        def best(self, queries, rows, training, candidates, poses, descriptor):
            pairs = np.full((len(rows), 3, len(StoredPair._fields)), -1, np.float32)
            for k, row in enumerate(candidates[0]):
                value = told[int(row)]
                pairs[0, k] = StoredPair(k, 0, 0, 0, 1, 0, 0, value, value, value, value)
            return pairs

    search = SimpleNamespace(
        propose=lambda features, thumbnails: SimpleNamespace(rows=np.array([proposed]), poses=None),
        patches=SimpleNamespace(descriptor=None),
    )
    reference = replace(made_reference(training), search=search, registration=Registered())
    made = made_set("synthetic", 1)
    for name in ("features", "thumbnails"):
        monkeypatch.setattr(type(made), name, lambda self, rows: None)
    return ScoredSet(made, (made_score(0, 0.9, **{"match": 0, "runner_up": float("nan"), **one}),), reference)


def test_where_all_that_was_registered_is_of_one_person_the_next_person_is(monkeypatch):
    (one,) = with_rivals(scored(monkeypatch, {3: 0.5, 4: 0.8, 5: 0.4}), [], Rules()).scored
    assert one.runner_up == pytest.approx(0.8) and one.runner_up_match == 4 and one.margin == pytest.approx(0.1)


def test_one_person_under_another_name_is_nobody_else(monkeypatch):
    images = scored(monkeypatch, {3: 0.5, 4: 0.8, 5: 0.4}, runner_up=0.88, runner_up_match=4)
    records = images.training.records
    (one,) = with_rivals(images, [NearDuplicate(False, records[0], records[5], 0.8)], Rules()).scored
    assert one.runner_up == pytest.approx(0.5) and one.runner_up_match == 3
    (as_it_was,) = with_rivals(images, [NearDuplicate(True, records[0], records[5], 0.8)], Rules()).scored
    assert as_it_was.runner_up == 0.88, "a pair with a control image says nothing of the training set"


def test_what_no_pair_can_flag_is_not_looked_at_and_without_anybody_else_the_margin_has_no_end(monkeypatch):
    (low,) = with_rivals(scored(monkeypatch, {}, detail=0.5, agreement=0.5), [], Rules()).scored
    assert np.isnan(low.runner_up)
    (alone,) = with_rivals(scored(monkeypatch, {}, proposed=(0, 1, 2, -1)), [], Rules()).scored
    assert np.isnan(alone.runner_up) and alone.margin == np.inf
