"""p-values, flags and words that can be defended."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import Evidence, Verdict, conclude, conformal_p_values, q_values, residual_risk, wilson


def test_p_value_formula_and_its_smallest_value():
    control = np.array([0.1, 0.2, 0.3, 0.3])
    p = conformal_p_values(np.array([0.05, 0.2, 0.3, 0.9]), control)
    np.testing.assert_allclose(p, [5 / 5, 4 / 5, 3 / 5, 1 / 5])


def test_p_values_of_unrelated_images_are_not_too_small():
    rng = np.random.default_rng(0)
    small = [np.mean(conformal_p_values(rng.normal(size=200), rng.normal(size=50)) <= 0.1) for _ in range(200)]
    assert np.mean(small) <= 0.105


def test_smaller_reference_makes_p_larger_and_at_most_one():
    scores, control = np.array([0.0, 1.0]), np.array([0.5, 0.6, 0.7])
    np.testing.assert_allclose(conformal_p_values(scores, control, 1.25), [1.0, 1.25 / 4])


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


@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_observed_false_discovery_share_is_at_most_nominal(share):
    rng = np.random.default_rng(1)
    false_shares = []
    for _ in range(200):
        copies = round(share * 200)
        scores = np.concatenate([rng.normal(6, 0.5, copies), rng.normal(size=200 - copies)])
        flagged = q_values(conformal_p_values(scores, rng.normal(size=300))) <= 0.05
        false_shares.append(flagged[copies:].sum() / max(1, flagged.sum()))
    assert np.mean(false_shares) <= 0.06


def test_wilson_interval_of_the_textbook_and_its_ends():
    share = wilson(5, 50)
    assert abs(share.lower - 0.0435) < 5e-4 and abs(share.upper - 0.2136) < 5e-4
    assert wilson(0, 0).upper == 1 and wilson(0, 10).lower == 0 and abs(wilson(10, 10).upper - 1) < 1e-9


def test_residual_risk_takes_the_control_away():
    risk = residual_risk(wilson(30, 100), wilson(10, 100))
    assert abs(risk["value"] - 0.2 / 0.9) < 1e-9 and risk["lower"] < risk["value"] < risk["upper"]
    assert residual_risk(wilson(5, 5), wilson(5, 5))["value"] == 0  # everything is a copy, control included: no division by zero


def evidence(
    flagged=0, images=50, controls=100, duplicates=0, control_duplicates=0, patients=20, control_patients=20, p=0.5, fdr=0.05
):
    values = np.full(images, p)
    flags = np.zeros(images, bool)
    flags[:flagged] = True
    copies = np.zeros(images, bool)
    copies[:duplicates] = True
    close = np.zeros(controls, bool)
    close[:control_duplicates] = True
    return Evidence(values, flags, copies, close, patients, control_patients, fdr)


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        (evidence(flagged=3), Verdict.FOUND, "3 of 50"),
        (evidence(), Verdict.NOT_FOUND, "95 % upper bound"),
        (evidence(flagged=3, patients=1), Verdict.CANNOT, "1 patient and"),
        (evidence(flagged=3, control_patients=4), Verdict.CANNOT, "4 patients"),
        (evidence(controls=10), Verdict.CANNOT, "at least 19 holdout images"),
        (evidence(duplicates=2, p=1 / 101, images=500), Verdict.CANNOT, "would pass as duplicate"),
        (evidence(control_duplicates=20), Verdict.CANNOT, "too close"),
    ],
)
def test_conclusions_and_refusals(given, verdict, words):
    found = conclude(given)
    assert found.verdict is verdict and words in found.reason and "\n" not in found.reason
