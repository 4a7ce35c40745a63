"""What the same-patient score says of a finding: p-values by strangers' pairs, and how often it tells a training patient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from doppelscan.decide.same_patient import SamePatientControl


def test_a_p_value_counts_strangers_pairs_and_the_pair_itself():
    known = SamePatientControl(np.array([-1.0, 0.0, 0.5, 2.0]), np.array([3.0, 0.0]), 0.2)
    assert [known.p_value(score) for score in (3.0, 2.0, 0.1, -5.0)] == [1 / 5, 2 / 5, 3 / 5, 1.0]
    assert math.isnan(known.p_value(math.nan))
    recall = known.recall
    assert recall is not None and (recall.count, recall.total) == (1, 2)
    assert known.area.share == pytest.approx((4 + 1.5) / 8)


def test_where_nobody_has_two_images_nothing_is_said_of_recall():
    assert SamePatientControl(np.zeros(5)).recall is None


def test_without_strangers_there_is_no_p_value():
    assert math.isnan(SamePatientControl().p_value(1.0))
