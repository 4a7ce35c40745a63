"""What the same-patient score says of a finding: p-values by strangers' pairs, and how often it tells a training patient."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from doppelscan.decide.same_patient import SamePatientControl
from made_records import made_decision, made_summary


def test_a_p_value_counts_strangers_pairs_and_the_pair_itself():
    known = SamePatientControl(np.array([-1.0, 0.0, 0.5, 2.0]), np.array([3.0, 0.0]), 0.2)
    assert [known.p_value(score) for score in (3.0, 2.0, 0.1, -5.0)] == [1 / 5, 2 / 5, 3 / 5, 1.0]
    assert math.isnan(known.p_value(math.nan))
    recall = known.recall
    assert recall is not None and (recall.count, recall.total) == (1, 2)
    assert known.area.share == pytest.approx((4 + 1.5) / 8)


def test_where_nobody_has_two_images_nothing_is_said_of_recall():
    assert SamePatientControl(np.zeros(5)).recall is None


def test_so_few_strangers_that_no_pair_can_be_told_say_nothing_of_recall():
    """Of 98 strangers no p-value is 0.01 or less: 0 % of the patients would be told, which is of the control and not of the patients."""
    few, enough = (SamePatientControl(np.zeros(count), np.ones(20), 0.01) for count in (98, 99))
    assert few.recall is None and enough.recall is not None and enough.recall.share == 1
    summary = made_summary(replace(made_decision(0), same_patient=few))
    assert summary.same_patient is not None and summary.same_patient["recall"] is None
    assert not any(one.startswith("By another image") for one in summary.notes)


def test_without_strangers_there_is_no_p_value():
    assert math.isnan(SamePatientControl().p_value(1.0))


def test_a_summary_says_how_often_a_patient_is_told_by_another_image():
    strangers, own = np.linspace(-3, 1, 199), np.array([2.0] * 6 + [0.0] * 6)
    summary = made_summary(replace(made_decision(0), same_patient=SamePatientControl(strangers, own)))
    assert summary.same_patient is not None
    assert summary.same_patient["patients"] == 12 and summary.same_patient["strangers"] == 199
    assert summary.same_patient["recall"]["share"] == 0.5 and summary.same_patient["recall"]["lower"] < 0.5
    (note,) = [one for one in summary.notes if one.startswith("By another image of theirs")]
    assert "50 % (21 to 79 %) of 12 training patients" in note and "is not flagged" in note
    assert "same_patient" in summary.as_dict()


def test_of_a_few_patients_no_note_is_made():
    known = SamePatientControl(np.zeros(5), np.ones(9))
    notes = made_summary(replace(made_decision(0), same_patient=known)).notes
    assert not any(one.startswith("By another image") for one in notes)
    assert "same_patient" not in made_summary(made_decision(0)).as_dict()
