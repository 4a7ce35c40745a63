"""Areas under the ROC curve: the library's values, intervals that keep their promise, differences of scores of the same images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from doppelscan.calibrate import area_difference, area_under_curve
from doppelscan.errors import InputError
from sklearn.metrics import roc_auc_score


def test_the_area_is_that_of_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.4
    assert area_under_curve(scores, truth).share == pytest.approx(roc_auc_score(truth, scores))


def test_limits_solve_newcombes_equation():
    """|theta - area| = z sqrt(theta (1 - theta) (1 + N* ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m n)), N* = (m + n) / 2 - 1."""
    scores, truth = np.array([1.0, 2, 3, 4, 5, 6, 7, 8]), np.array([0, 0, 1, 0, 1, 0, 1, 1], bool)
    found = area_under_curve(scores, truth)
    for limit in (found.lower, found.upper):
        inner = 1 + 3 * ((1 - limit) / (2 - limit) + limit / (1 + limit))
        assert abs(limit - found.share) == pytest.approx(1.959964 * math.sqrt(limit * (1 - limit) * inner / 16), abs=1e-6)
    assert 0 < found.lower < found.share < found.upper < 1


def test_scores_that_separate_all_are_not_certain():
    scores, truth = np.arange(40.0), np.arange(40) >= 20
    perfect = area_under_curve(scores, truth)
    assert perfect.share == perfect.upper == 1 and 0.8 < perfect.lower < 0.95
    worst = area_under_curve(-scores, truth)
    assert worst.share == worst.lower == 0 and worst.upper == pytest.approx(1 - perfect.lower)


def test_images_of_one_patient_count_once():
    scores, truth = np.arange(40.0), np.arange(40) >= 20
    assert area_under_curve(scores, truth, [f"p{i // 5}" for i in range(40)]).lower < area_under_curve(scores, truth).lower


def test_the_interval_covers_the_truth():
    """Normal scores a distance of 1.19 apart: the area is 0.8."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(300):
        scores = np.concatenate([rng.normal(1.19, 1, 25), rng.normal(0, 1, 25)])
        found = area_under_curve(scores, np.arange(50) < 25)
        held += found.lower <= 0.8 <= found.upper
    assert 0.92 <= held / 300 <= 0.99


def test_one_kind_of_images_alone_says_nothing():
    found = area_under_curve([0.1, 0.2], [True, True])
    assert math.isnan(found.share) and (found.lower, found.upper) == (0, 1)
    with pytest.raises(InputError, match="1 of them NaN"):
        area_under_curve([0.1, np.nan], [True, False])


def test_a_difference_is_paired_by_image_and_drawn_by_patient():
    rng = np.random.default_rng(0)
    truth, patients = np.arange(120) < 60, np.arange(120) // 3
    common = rng.normal(size=120)
    good, bad = common + 3 * truth, common + 0.5 * truth
    found = area_difference(good, bad, truth, patients.tolist())
    assert found.value == pytest.approx(roc_auc_score(truth, good) - roc_auc_score(truth, bad))
    assert 0 < found.lower < found.value < found.upper
    same = area_difference(good, good, truth, patients.tolist())
    assert (same.value, same.lower, same.upper) == (0, 0, 0)
    one_patient_each = area_difference(good, bad, truth, np.arange(120).tolist())
    assert one_patient_each.upper - one_patient_each.lower != found.upper - found.lower
