"""Training against other patients: both sides alike, and who wins is counted by who is the match."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from doppelscan.decide import ScoredSet, owed_to_training
from doppelscan.decide import reference as reference_module
from doppelscan.search import EmbeddedSet
from made_records import MadeStore, made_reference, made_score, made_set

SEEN: dict[str, Any] = {}


class Fitted:
    """Stands for the search: remembers what it was fitted on."""

    def __init__(self, *settings: Any) -> None: ...

    def fit(self, features, patients, posed, posed_rows, **settings):
        SEEN["patients"] = list(patients)
        return self


@pytest.fixture(autouse=True)
def no_search(monkeypatch):
    monkeypatch.setattr(reference_module, "CandidateSearch", Fitted)


def people(name: str, count: int, each: int) -> EmbeddedSet:
    store: Any = MadeStore()
    store.refresh = lambda: None
    return replace(made_set(name, count * each, patients=[f"{name}{i // each}" for i in range(count * each)]), store=store)


def asked(training: EmbeddedSet, holdout: EmbeddedSet | None, wins: float, images: int = 60):
    """Of every ten images so many tenths are nearest to a training patient, each to another one."""

    class Reference(type(made_reference(training))):
        def scored(self, some: EmbeddedSet, label: str) -> ScoredSet:
            rows = {side: [i for i, p in enumerate(SEEN["patients"]) if p.startswith(side)] for side in ("training", "holdout")}
            side = ["training" if (i % 10) < 10 * wins else "holdout" for i in range(len(some))]
            scored = tuple(made_score(i, 0.4 + i / 1000, match=rows[s][i % len(rows[s])]) for i, s in enumerate(side))
            return ScoredSet(some, scored, self)

    plain = made_reference(training)
    search: Any = SimpleNamespace(candidates=20, seed=0, device="cpu")
    reference = Reference(training, training, search, {}, plain.registration, "combined")
    return owed_to_training(made_set("synthetic", images), reference, holdout)


def test_a_set_that_training_wins_is_owed_to_it_and_a_fair_one_is_not():
    memorizing = asked(people("training", 20, 3), people("holdout", 20, 3), 1.0)
    fair = asked(people("training", 20, 3), people("holdout", 20, 3), 0.5)
    assert memorizing.wins.all() and memorizing.p_value < 0.001 and memorizing.owed == 1.0
    assert fair.wins.sum() == 30 and fair.p_value > 0.2 and fair.owed == pytest.approx(0.0)


def test_both_sides_have_equally_many_images_of_a_patient_and_are_other_people():
    training, holdout = people("training", 20, 5), people("holdout", 12, 2)
    found = asked(
        training, replace(holdout, records=[replace(r, patient=f"training{i // 2}") for i, r in enumerate(holdout.records)]), 0.5
    )
    sides = [[p for p in SEEN["patients"] if p.startswith(side)] for side in ("training ", "holdout ")]
    assert [len(one) for one in sides] == [40, 24] and [len(set(one)) for one in sides] == [20, 12], "two images of each"
    assert found.expected == 20 / 32


@pytest.mark.parametrize(("training", "holdout"), [(20, 9), (9, 20)])
def test_few_people_on_either_side_tell_nothing(training, holdout):
    assert asked(people("training", training, 2), people("holdout", holdout, 2), 1.0) is None


def test_without_a_holdout_nobody_knows_who_could_have_been_in_training():
    assert asked(people("training", 20, 2), None, 1.0) is None
