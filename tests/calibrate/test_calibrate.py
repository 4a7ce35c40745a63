"""p-values, flags and words that can be defended."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import (
    Control,
    TwoSampleResult,
    classifier_two_sample_test,
    clustered_share,
    difference,
    duplication_trend,
    q_values,
    residual_risk,
    wilson,
)


def test_p_value_formula_and_its_smallest_value():
    control = np.array([0.1, 0.2, 0.3, 0.35])
    p = Control(control).p_values(np.array([0.05, 0.15, 0.32, 0.9]))
    np.testing.assert_allclose(p, [(1 + np.sum(control >= s)) / 5 for s in (0.05, 0.15, 0.32, 0.9)])
    assert Control(control).smallest == pytest.approx(1 / 5)


def test_p_values_of_unrelated_images_are_not_too_small():
    rng = np.random.default_rng(0)
    small = [np.mean(Control(rng.normal(size=50)).p_values(rng.normal(size=200)) <= 0.1) for _ in range(200)]
    assert np.mean(small) <= 0.105


def test_ties_are_neither_all_counted_nor_all_forgotten():
    rng = np.random.default_rng(0)
    means, extremes = [], []
    for seed in range(300):
        p = Control(rng.integers(0, 4, 60).astype(float), seed=seed).p_values(rng.integers(0, 4, 40).astype(float))
        means.append(p.mean())
        extremes.append(np.mean(p <= 0.1))
    # Uniform on 1/61, ..., 1: counting every tie would give a mean of 0.63, none of them 0.38.
    assert abs(np.mean(means) - 31 / 61) < 0.02 and np.mean(extremes) <= 0.115
    scores = np.array([1.0, 1.0, 2.0, 1.0])
    p = Control(np.array([1.0] * 9 + [3.0])).p_values(scores)
    assert p[0] == p[1] == p[3] and (p == Control(np.array([1.0] * 9 + [3.0])).p_values(scores)).all()


def test_an_empty_control_makes_nothing_rare():
    empty = Control(np.zeros(0), [])
    assert (empty.p_values(np.array([0.1, 9.0])) == 1).all() and empty.smallest == 1


def test_smaller_reference_makes_p_larger_and_at_most_one():
    scores, control = np.array([0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(Control(control, reference_ratio=1.25).p_values(scores), [1.0, 1.25 / 4])


def slices(rng, patients: int, each: int, rho: float) -> tuple[np.ndarray, list[int]]:
    """Scores of ``each`` slices of patients, with intraclass correlation ``rho``."""
    people = np.repeat(np.sqrt(rho) * rng.normal(size=patients), each)
    return people + np.sqrt(1 - rho) * rng.normal(size=patients * each), [i // each for i in range(patients * each)]


def test_ten_slices_of_one_patient_are_not_ten_controls():
    rng = np.random.default_rng(0)
    control = Control(np.repeat(rng.normal(size=30), 10), np.repeat(np.arange(30), 10))
    assert control.patients == 30 and control.effective_size == pytest.approx(30) and control.smallest == pytest.approx(1 / 31)
    # Even where slices look independent: that one more patient is a look-alike is not excluded by many slices of few.
    assert Control(*slices(rng, 30, 10, 0.0)).smallest == pytest.approx(1 / 31)
    with pytest.raises(ValueError, match="patients"):
        Control(np.zeros(3), ["a"])
    with pytest.raises(ValueError, match="finite"):
        Control(np.array([0.1, np.nan]))


def test_each_patient_counts_by_the_share_of_its_images_and_unequal_numbers_by_the_wider_of_both_ways():
    scores, patients = np.array([0.1, 0.9, 0.2, 0.3, 0.6, 0.7]), ["a", "a", "b", "b", "c", "c"]
    np.testing.assert_allclose(Control(scores, patients).p_values(np.array([0.5, 0.95])), [(1 + 0.5 + 0 + 1) / 4, 1 / 4])
    # One of three patients has four of six images, all high: a third of the patients and two thirds of the images score above 0.5.
    unequal = Control(np.array([0.1, 0.2, 0.6, 0.7, 0.8, 0.9]), ["a", "b", *"cccc"])
    kish = 36 / (1 + 1 + 16)
    assert unequal.effective_size == pytest.approx(kish) and unequal.smallest == pytest.approx(1 / (1 + kish))
    np.testing.assert_allclose(unequal.p_values(np.array([0.5])), [max((1 + 1) / 4, (1 + kish * 4 / 6) / (1 + kish))])


@pytest.mark.parametrize("drawn_by_image", [False, True])
def test_look_alike_patients_of_many_slices_do_not_make_p_values_too_small(drawn_by_image):
    """3 % of the patients look alike, with 12 slices where others have 4; new images are of a random patient, or random images of all.

    By the first the guarantee is exact, by the second approximate: 0.0515 in 1,000 draws of 40 images, counting patients alone 0.093.
    """
    rng = np.random.default_rng(5)
    share = 0.03 * 12 / (0.03 * 12 + 0.97 * 4) if drawn_by_image else 0.03
    rates = []
    for _ in range(600):
        alike = int((rng.random(100) < 0.03).sum())
        scores = np.concatenate([slices(rng, 100 - alike, 4, 0.5)[0], np.repeat(rng.normal(6, 1, alike), 12)])
        patients = np.concatenate([np.repeat(np.arange(100 - alike), 4), np.repeat(np.arange(100 - alike, 100), 12)])
        new = np.where(rng.random(50) < share, rng.normal(6, 1, 50), rng.normal(size=50))
        rates.append(np.mean(Control(scores, patients).p_values(new) <= 0.05))
    assert np.mean(rates) <= 0.058


@pytest.mark.parametrize("rho", [0.3, 0.9])
def test_p_values_hold_for_new_patients_when_slices_depend_on_their_patient(rho):
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(400):
        control = Control(*slices(rng, 20, 8, rho))
        rates.append(np.mean(control.p_values(rng.normal(size=100)) <= 0.05))
    assert np.mean(rates) <= 0.055


def test_q_values_are_benjamini_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.8])
    m = len(p)
    order = np.argsort(p)
    expected = np.empty(m)
    running = 1.0
    for rank in range(m, 0, -1):
        running = min(running, p[order[rank - 1]] * m / rank)
        expected[order[rank - 1]] = running
    np.testing.assert_allclose(q_values(p), expected)
    assert len(q_values(np.zeros(0))) == 0
    harmonic = sum(1 / i for i in range(1, m + 1))
    np.testing.assert_allclose(q_values(p, "by"), np.minimum(1, expected * harmonic))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize(("patients", "each"), [(30, 1), (100, 1), (300, 1), (1000, 1), (50, 6)])
def test_observed_false_discovery_share_is_at_most_nominal(share, patients, each):
    """200 simulated audits; the bound is the rate plus two standard errors of the mean of shares."""
    rng = np.random.default_rng(1)
    false_shares = []
    for _ in range(200):
        copies = round(share * 200)
        scores = np.concatenate([rng.normal(6, 0.5, copies), rng.normal(size=200 - copies)])
        flagged = q_values(Control(*slices(rng, patients, each, 0.5)).p_values(scores)) <= 0.05
        false_shares.append(flagged[copies:].sum() / max(1, flagged.sum()))
    assert np.mean(false_shares) <= 0.05 + 2 * np.std(false_shares) / np.sqrt(200)
    if share == 0.3 and patients >= 100:
        assert flagged[:copies].all()


def test_wilson_interval_of_the_textbook_and_its_ends():
    share = wilson(5, 50)
    assert abs(share.lower - 0.0435) < 5e-4 and abs(share.upper - 0.2136) < 5e-4
    assert wilson(0, 0).upper == 1 and wilson(0, 10).lower == 0 and abs(wilson(10, 10).upper - 1) < 1e-9


def test_residual_risk_takes_the_control_away():
    risk = residual_risk(wilson(30, 100), wilson(10, 100))
    assert abs(risk["value"] - 0.2 / 0.9) < 1e-9 and risk["lower"] < risk["value"] < risk["upper"]
    assert residual_risk(wilson(5, 5), wilson(5, 5))["value"] == 0  # everything is a copy, control included: no division by zero


def test_a_control_of_another_scanner_is_told_and_one_of_the_same_is_not():
    rng = np.random.default_rng(3)
    people = np.repeat(rng.normal(size=(60, 20)), 4, 0) + 0.3 * rng.normal(size=(240, 20))
    names = [str(i // 4) for i in range(240)]
    same = classifier_two_sample_test(people[:120], names[:120], people[120:], names[120:])
    assert same.p_value > 0.001 and 0.2 < same.auc < 0.8
    moved = people[120:] + np.r_[2.5, np.zeros(19)]
    other = classifier_two_sample_test(people[:120], names[:120], moved, names[120:])
    assert other.p_value < 0.001 and other.auc > 0.9
    few = classifier_two_sample_test(people[:120], names[:120], moved[:12], names[120:132])
    assert few == TwoSampleResult(0.5, 1.0), "three patients tell nothing"
    assert classifier_two_sample_test(people[:120], names[:120], people[:120], names[:120]).auc < 0.9


def test_trend_over_duplication_and_none_without_it():
    rng = np.random.default_rng(4)
    repeats = rng.choice([1, 2, 5, 20], 400)
    trend = duplication_trend(repeats, rng.random(400) < repeats / 25)
    assert trend["tau"] > 0.3 and trend["p_value"] < 1e-6
    shares = [g["share"] for g in trend["groups"]]
    assert [g["repeats"] for g in trend["groups"]] == ["1", "2", "5", "20"] and shares == sorted(shares)
    assert duplication_trend(np.ones(9), np.arange(9) < 3) is None
    flat = duplication_trend(repeats, rng.random(400) < 0.2)
    assert flat["p_value"] > 0.01
    many = duplication_trend(np.arange(1, 101), np.arange(100) > 50)
    assert len(many["groups"]) <= 6 and sum(g["images"] for g in many["groups"]) == 100
    assert duplication_trend(np.array([1, 2]), np.zeros(2, bool))["p_value"] == 1.0


def test_slices_of_a_patient_do_not_make_an_interval_narrow():
    patients = np.repeat(np.arange(10), 4)
    whole = clustered_share(patients < 3, patients)  # all slices of three patients
    assert (whole.count, whole.total, whole.share) == (12, 40, 0.3)
    assert wilson(2.7, 9).lower == pytest.approx(whole.lower) and wilson(12, 40).upper < whole.upper
    spread = clustered_share(np.arange(40) % 4 == 0, patients)  # one slice of each: they differ less than by chance
    assert (spread.lower, spread.upper) == (wilson(10, 40).lower, wilson(10, 40).upper)
    assert clustered_share(np.arange(25) < 12, np.arange(25)) == wilson(12, 25), "an image a volume is no cluster"
    nothing = clustered_share(np.zeros(40, bool), patients)
    assert nothing.lower == 0 and nothing.upper == wilson(0, 10).upper and nothing.total == 40
    assert clustered_share([], []).upper == 1


def test_a_difference_of_shares_has_the_interval_of_newcombes_paper():
    found = difference(wilson(56, 70), wilson(48, 80))  # Newcombe 1998, table II, method 10
    assert (found.value, found.lower, found.upper) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert difference(wilson(0, 0), wilson(0, 0)).lower == -1
