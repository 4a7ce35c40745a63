"""What the sizes of the sets alone forbid is told before the run, with what to do, and nothing is told that may not come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doppelscan.decide import Rules, foreseen
from doppelscan.decide.power import patients_to_plant
from doppelscan.images import ImageRecord

RULES = Rules()


def volumes(count: int, name: str, known: bool = False) -> list[ImageRecord]:
    names = [f"{name}{i:02d}.nii.gz" for i in range(count)]
    return [ImageRecord(n, (n,), n, n.split(".")[0], patient_known=known, whole=True) for n in names]


def test_twelve_holdout_volumes_of_unnamed_patients_are_told_to_be_too_few_before_the_run():
    """It was told after 13 minutes."""
    (control, bound) = foreseen(volumes(8, "t"), volumes(12, "h"), 300, True, RULES)
    assert "can hold 12 patients at most" in control and "0.077" in control and "at least 19 other patients" in control
    assert "plant volumes of 8 patients and needs 17" in bound and "give more training patients" in bound


def test_what_tops_the_control_up_counts_where_patients_are_named():
    assert not foreseen(volumes(20, "t", known=True), volumes(12, "h"), 300, True, RULES)
    assert not foreseen(volumes(20, "sub-"), volumes(12, "h"), 300, True, RULES), "a BIDS subject is named"
    assert foreseen(volumes(20, "t"), volumes(12, "h"), 300, True, RULES), "an unnamed training set tops nothing up"
    assert foreseen(volumes(20, "t", known=True), volumes(12, "h"), 12, True, RULES), "no more than asked for"


def test_slices_of_one_patient_are_one_patient():
    slices = [replace(one, patient=f"p{i % 6}", whole=False) for i, one in enumerate(volumes(60, "h", known=True))]
    told = foreseen(volumes(30, "t"), slices, 300, True, RULES)
    assert len(told) == 1 and "can hold 6 patients" in told[0]


@pytest.mark.parametrize("people", [24, 25, 30])
def test_a_control_from_training_itself_is_corrected_for_its_smaller_reference(people):
    """25 in folds of four fifths: 1.25 / 26 is 0.048, and 1.25 / 25 is not below 0.05 but at it."""
    assert not foreseen(volumes(people, "t", known=True), None, 300, True, RULES)
    assert foreseen(volumes(23, "t", known=True), None, 300, True, RULES)


def test_as_many_are_asked_for_before_as_after():
    """Of six training volumes 19 others were asked for before the run, 25 after it."""
    (told, *_) = foreseen(volumes(6, "t", known=True), None, 300, False, RULES)
    assert "at least 25 other patients" in told


def test_too_few_training_patients_and_no_self_test():
    (few, _) = foreseen(volumes(3, "t"), volumes(3, "h"), 300, True, RULES)
    assert "can hold 3 patients at most, as nobody named them, and at least 5 are needed" in few
    assert "holds 3 patients and" in foreseen(volumes(3, "t", known=True), volumes(3, "h"), 300, True, RULES)[0]
    assert not foreseen(volumes(8, "t", known=True), volumes(30, "h"), 300, False, RULES)


def test_so_many_are_planted_that_all_found_show_the_power():
    assert patients_to_plant(RULES) == 17, "0.025 ** (1 / 17) is 0.805"
    assert patients_to_plant(Rules(power=0.5)) == 6
