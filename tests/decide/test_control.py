"""Who is a stranger to the training set, and which of them spoil the calibration."""

from __future__ import annotations

import pytest
from doppelscan.decide import Rules, ScoredControl, ScoredImage, without_leaks
from doppelscan.images import ImageRecord
from doppelscan.search import EmbeddedSet
from doppelscan.verify import Pose


def embedded(patients: list[str], keys: list[str]) -> EmbeddedSet:
    records = [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", patient) for i, patient in enumerate(patients)]
    return EmbeddedSet(records, keys, store=None, outputs={})


def scored(row: int, agreement: float) -> ScoredImage:
    """An image whose registered pair agrees by ``agreement``, in its fine structure as well."""
    numbers = dict.fromkeys(
        ("score", "deepssim", "embedding", "similarity", "mi", "oni", "ssim", "share", "part", "part_share"), 0.0
    )
    return ScoredImage(
        row=row,
        match=row + 100,
        pose=Pose(),
        consensus=0,
        detail=agreement,
        agreement=agreement,
        part_match=0,
        part_mirrored=False,
        **numbers,
    )


@pytest.mark.parametrize(("patients_known", "leaks"), [(True, [1, 2]), (False, [2])])
def test_training_images_and_patients_are_no_control_but_file_names_are_no_patients(patients_known, leaks):
    training = embedded(["anna", "ben"], ["k1", "k2"])
    control = embedded(["carl", "anna", "dora", "emil"], ["k3", "k4", "k2", "k5"])
    kept, found = without_leaks(control, training, patients_known)
    assert found == leaks and sorted(kept + found) == [0, 1, 2, 3]


@pytest.fixture
def training() -> EmbeddedSet:
    return embedded([f"t{i}" for i in range(200)], [f"t{i}" for i in range(200)])


def control(high: dict[int, float]) -> ScoredControl:
    people = embedded([f"p{i}" for i in range(40)], [f"k{i}" for i in range(40)])
    return ScoredControl(people, tuple(scored(i, high.get(i, 0.4)) for i in range(40)), 1.0, notes=("first",))


def test_one_person_in_both_sets_leaves_the_control_and_is_listed(training):
    kept = control({7: 0.8, 9: 0.9}).without_near_duplicates(training, Rules())
    assert [s.row for s in kept.scored] == [i for i in range(40) if i not in (7, 9)]
    assert [(n.control, n.first.id, n.second.id) for n in kept.doubles] == [(True, "9.png", "109.png"), (True, "7.png", "107.png")]
    assert kept.notes[0] == "first" and kept.notes[1].startswith("2 control images agree")
    strangers = control({})
    assert strangers.without_near_duplicates(training, Rules()) == strangers


def test_a_control_that_is_full_of_near_duplicates_is_kept_so_that_the_conclusion_refuses(training):
    """3 of 40 are more than 5 %: leaving them out would make the control look clean."""
    full = control({0: 0.9, 1: 0.9, 2: 0.9})
    kept = full.without_near_duplicates(training, Rules())
    assert kept.scored == full.scored and kept.notes == full.notes and len(kept.doubles) == 3
