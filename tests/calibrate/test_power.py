"""What an audit would have found, and the share that it cannot exclude."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import clopper_pearson, memorized_share, memorized_upper_bound
from scipy.stats import binomtest


def yes(count: int, total: int) -> np.ndarray:
    return np.arange(total) < count


def test_clopper_pearson_of_the_textbook_and_its_ends():
    share = clopper_pearson(yes(9, 12))
    assert (share.count, share.total, share.share) == (9, 12, 0.75)
    assert abs(share.lower - 0.4281) < 1e-4 and abs(share.upper - 0.9451) < 1e-4
    exact = binomtest(9, 12).proportion_ci(method="exact")
    assert share.lower == pytest.approx(exact.low) and share.upper == pytest.approx(exact.high)
    assert abs(clopper_pearson(yes(30, 30)).lower - 0.025 ** (1 / 30)) < 1e-9 and clopper_pearson(yes(30, 30)).upper == 1
    assert (clopper_pearson([]).lower, clopper_pearson([]).upper) == (0.0, 1.0)
    with pytest.raises(ValueError, match="confidence"):
        clopper_pearson(yes(1, 2), confidence=95)


def test_ten_copies_of_one_patient_are_one_copy():
    many, one = clopper_pearson([True] * 30, [i // 10 for i in range(30)]), clopper_pearson([True] * 3)
    assert (many.lower, many.upper) == (one.lower, one.upper) and many.total == 30
    part = clopper_pearson([True, False, True, True], ["a", "a", "b", "b"])
    assert part.share == 0.75 and part.lower == clopper_pearson(yes(1, 2)).lower and part.upper == clopper_pearson(yes(2, 2)).upper
    with pytest.raises(ValueError, match="found_patients"):
        clopper_pearson([True], ["a", "b"])


@pytest.mark.parametrize(("found", "planted", "bound"), [(20, 20, 0.117), (9, 12, 0.227), (12, 20, 0.270), (0, 12, 1.0)])
def test_none_flagged_of_36_excludes_no_more_than_the_self_test_found(found, planted, bound):
    assert abs(memorized_upper_bound(yes(0, 36), yes(found, planted)) - bound) < 1e-3


def test_the_audit_that_missed_a_third_can_no_longer_say_that_none_is_there():
    """12 copies smoothed beyond recognition among 36, none flagged: 'up to 9.6 % could still be', it said."""
    assert memorized_upper_bound(yes(0, 36), yes(2, 20)) == 1.0


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.33])
@pytest.mark.parametrize("power", [0.5, 0.9, 1.0])
def test_bound_and_interval_cover_the_true_share(share, power):
    rng = np.random.default_rng(int(100 * share) + int(10 * power))
    bounds, covered = [], []
    for audit in range(150):
        m, base = (36, 300)[audit % 2], (0.0, 0.02)[audit // 2 % 2]
        flagged, found, control = rng.random(m) < share * power + (1 - share) * base, rng.random(30) < power, rng.random(100) < base
        bounds.append(memorized_upper_bound(flagged, found) >= share)
        estimate = memorized_share(flagged, control, found, seed=audit)
        covered.append(estimate.lower <= share <= estimate.upper)
    assert np.mean(bounds) >= 0.95 and np.mean(covered) >= 0.95


def test_coverage_holds_when_images_of_one_patient_share_their_fate():
    rng = np.random.default_rng(0)
    patients = (np.arange(200) // 10).tolist()
    bounds, naive = [], []
    for _ in range(300):
        flagged, found = np.repeat(rng.random(20) < 0.1, 10), np.repeat(rng.random(20) < 0.5, 10)
        bounds.append(memorized_upper_bound(flagged, found, flagged_patients=patients, found_patients=patients) >= 0.2)
        naive.append(memorized_upper_bound(flagged, found) >= 0.2)
    assert np.mean(bounds) >= 0.95 > np.mean(naive)


def test_rogan_gladen_takes_the_control_away_and_adds_what_is_missed():
    estimate = memorized_share(yes(20, 100), yes(5, 100), yes(16, 20))
    assert estimate.value == pytest.approx((0.2 - 0.05) / (0.8 - 0.05)) and estimate.lower < estimate.value < estimate.upper
    assert memorized_share(yes(1, 100), yes(5, 100), yes(20, 20)).value == 0
    blind = memorized_share(yes(3, 100), yes(10, 100), yes(1, 20))
    assert np.isnan(blind.value) and blind.upper == 1 and blind.lower == 0, "a test that finds copies no more often than strangers"
    assert estimate == memorized_share(yes(20, 100), yes(5, 100), yes(16, 20))
    none = memorized_share(yes(0, 36), yes(0, 60), yes(20, 20))
    assert none.value == 0 and 0.09 < none.upper < 0.15, "not an interval of no width"
