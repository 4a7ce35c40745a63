"""What is asked: the truth of each query, and nobody on two sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from doppelscan.benchmark import planted_experiment, sample_experiment
from doppelscan.errors import InputError
from made_sets import made_set


@pytest.fixture(scope="module")
def small(cohort) -> np.ndarray:
    return cohort.reshape(60, 48, 2, 48, 2).mean((2, 4))


@pytest.fixture(scope="module")
def sets(small):
    """12 training patients: of two a pair of neighbouring slices, of two slices that lie apart, of two another image; 12 others."""
    extra = np.clip(np.roll(small[:6], 2, axis=1) * 0.9, 0, 1)
    patients = [f"t{i:02d}" for i in range(12)] + [f"t{i:02d}" for i in range(6)]
    slices = ["10"] * 4 + [""] * 8 + ["11", "11", "30", "30", "", ""]
    training = made_set(np.concatenate([small[:12], extra]), patients, slices)
    return training, made_set(small[20:32], [f"h{i:02d}" for i in range(12)], folder="holdout")


@pytest.fixture(scope="module")
def planted(sets):
    return planted_experiment(*sets, count=3, transforms=["exact", "flip-x", "blend 75/25"], seed=1)


def test_nobody_is_on_two_sides(planted, sets):
    strangers = {one.patient for one in planted.queries if one.truth == "novel" and one.family != "averages"}
    control, training = set(planted.control.patients), set(planted.training.patients)
    assert not strangers & control and not strangers & training and not control & training
    assert strangers | control == set(sets[1].patients) and len(control) == 6


def test_a_copy_is_of_the_image_that_it_says(planted):
    exact = [one for one in planted.queries if one.case == "exact" and one.truth == "copy"]
    turned = [one for one in planted.queries if one.case == "flip-x" and one.truth == "copy"]
    blends = [one for one in planted.queries if one.case == "blend 75/25" and one.source >= 0]
    assert len(exact) == len(turned) == len(blends) == 3
    for one in exact:
        assert np.array_equal(one.pixels, planted.training.squares[one.source])
        assert one.patient == planted.training.patients[one.source]
    for one in turned:
        assert np.array_equal(one.pixels, planted.training.squares[one.source][:, ::-1])
    assert {one.truth for one in blends} == {"blend"}
    assert planted.copied.sum() == len([one for one in planted.queries if one.source >= 0])


def test_novel_images_go_through_what_copies_go_through(planted):
    for case in ("exact", "flip-x", "blend 75/25", "6 components"):
        counts = Counter(one.source >= 0 for one in planted.queries if one.case == case)
        assert counts[True] == counts[False] == 3, case


def test_another_image_of_a_training_patient_is_taken_out_of_training_and_named_by_its_place(planted, sets):
    same = {one.family: one for one in planted.queries if one.truth == "same patient"}
    kinds = Counter(one.family for one in planted.queries if one.truth == "same patient")
    assert kinds == {"neighbouring slice": 2, "another slice": 2, "another image": 2}
    assert len(planted.training.records) == len(sets[0].records) - 6
    assert set(planted.training.patients) == set(sets[0].patients), "nobody is left out as a whole"
    kept = {one.id for one in planted.training.records}
    for one in same.values():
        assert not any(np.array_equal(one.pixels, square) for square in planted.training.squares)
        assert one.source == -1 and one.patient in planted.training.patients
    assert len(kept) == len(planted.training.records)


def test_averages_are_of_several_people_and_copy_nobody(planted):
    averages = [one for one in planted.queries if one.family == "averages"]
    assert {one.case for one in averages} == {"of 3", "of 5"} and {one.truth for one in averages} == {"novel"}
    for one in averages:
        assert all(np.abs(one.pixels - square).mean() > 0.01 for square in planted.training.squares)


def test_the_same_seed_asks_the_same_and_the_order_says_nothing(planted, sets):
    again = planted_experiment(*sets, count=3, transforms=["exact", "flip-x", "blend 75/25"], seed=1)
    assert all(
        np.array_equal(a.pixels, b.pixels) and a.truth == b.truth for a, b in zip(planted.queries, again.queries, strict=True)
    )
    truths = [one.truth for one in planted.queries]
    assert truths != sorted(truths)


def test_samples_that_show_somebody_count_by_whom_they_show(sets, small):
    samples = made_set(small[:4], [f"s{i}" for i in range(4)])
    found = sample_experiment(*sets, samples, ["copy", "same patient", "novel", "unsure"], [0, 1, 2, 3])
    assert [one.source for one in found.queries] == [0, 1, -1, -1]
    assert [one.patient for one in found.queries] == ["t00", "t01", "sample 2", "sample 3"]
    assert found.control.patients == sets[1].patients and found.copied.tolist() == [True, False, False, False]


def test_a_sample_whose_source_nobody_knows_counts_as_somebody_of_its_own(sets, small):
    samples = made_set(small[:2], ["s0", "s1"])
    found = sample_experiment(*sets, samples, ["copy", "same patient"], [-1, -1])
    assert [(one.truth, one.source, one.patient) for one in found.queries] == [
        ("copy", -1, "sample 0"),
        ("same patient", -1, "sample 1"),
    ]


@pytest.mark.parametrize("column", ["volume", "Session", "VISIT", "source", "plane"])
def test_the_next_number_of_another_visit_is_no_neighbour(small, column):
    squares, who = small[[0, 1, *range(2, 8)]], ["t0", "t0", *(f"t{i}" for i in range(2, 8))]
    holdout = made_set(small[20:32], [f"h{i:02d}" for i in range(12)], folder="holdout")
    kinds, number = [], "slice" if column.islower() else "Slice"
    for visits in (["a", "b"], ["a", "a"]):
        training = made_set(squares, who)
        told = [{number: str(12 + i), column: visit} for i, visit in enumerate(visits)] + [{}] * 6
        training = replace(training, values=tuple(told))
        found = planted_experiment(training, holdout, count=1, transforms=["exact"])
        kinds += [one.family for one in found.queries if one.truth == "same patient"]
    assert kinds == ["another image", "neighbouring slice"]


def test_the_same_number_is_another_image_and_no_neighbour(small):
    holdout = made_set(small[20:32], [f"h{i:02d}" for i in range(12)], folder="holdout")
    training = made_set(small[:8], ["t0", "t0", *(f"t{i}" for i in range(2, 8))], ["12", "12"] + [""] * 6)
    found = planted_experiment(training, holdout, count=1, transforms=["exact"])
    assert [one.family for one in found.queries if one.truth == "same patient"] == ["another image"]


def test_too_few_patients_and_unknown_transforms_are_refused(sets, small):
    training, holdout = sets
    with pytest.raises(InputError, match="'holdout' parameter must name images of at least 6 patients, half of them for a control"):
        planted_experiment(training, holdout.at(range(4)), 2)
    with pytest.raises(InputError, match="'training' parameter must name images of at least 3 patients"):
        planted_experiment(training.at([0, 1]), holdout, 2)
    with pytest.raises(InputError, match=r"'transforms' parameter must name exact; .*Got 'mirror'"):
        planted_experiment(training, holdout, 2, ["mirror"])
