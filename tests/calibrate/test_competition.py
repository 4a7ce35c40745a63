"""Training against decoys: valid for any generator that owes training nothing, however its images depend on each other."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import Competition, compete


def matched(images: np.ndarray, training: np.ndarray, decoys: np.ndarray, seed: int = 0, permutations: int = 9_999) -> Competition:
    """Points in space; a score is minus the distance."""
    near = [-np.linalg.norm(images[:, None] - one, axis=-1) for one in (training, decoys)]
    best = [one.argmax(1).tolist() for one in near]
    return compete(near[0].max(1), near[1].max(1), *best, len(training), len(decoys), permutations=permutations, seed=seed)


def test_formulas_by_hand():
    found = compete(
        np.array([0.9, 0.8, 0.7, 0.2, 0.6]),
        np.array([0.1, 0.1, 0.75, 0.5, 0.1]),
        ["a", "b", "c", "a", "a"],
        ["x", "x", "y", "x", "x"],
        4,
        4,
    )
    assert (
        found.wins.tolist() == [True, True, False, False, True]
        and found.expected == 0.5
        and found.owed == pytest.approx((3 - 2) / 5)
    )
    # Training wins at 0.9, 0.8, 0.6; decoys at 0.75, 0.5.
    np.testing.assert_allclose(found.q_values, [1 / 2, 1 / 2, 1, 1, 2 / 3])
    # By patient: a 0.9, b 0.8; y 0.75, x 0.5; factor 4 / 5. At 0.6 both training patients stand and one decoy patient.
    np.testing.assert_allclose(found.patient_q_values, [4 / 5 / 2, 4 / 5 / 2, 1, 1, 4 / 5 * 2 / 2])
    assert found.binomial_p_value == pytest.approx((10 + 5 + 1) / 32)
    unequal = compete(np.array([0.9, 0.8]), np.array([0.1, 0.1]), ["a", "b"], ["x", "x"], 30, 10)
    assert unequal.expected == 0.75 and unequal.owed == pytest.approx(1.0) and unequal.q_values[0] == 1.0


def test_training_and_decoys_that_change_places_change_the_sign():
    rng = np.random.default_rng(0)
    a, b, left, right = rng.random(50), rng.random(50), rng.integers(0, 9, 50).tolist(), rng.integers(0, 9, 50).tolist()
    one, other = compete(a, b, left, right, 9, 9), compete(b, a, right, left, 9, 9)
    assert one.owed == pytest.approx(-other.owed) and (one.wins != other.wins).all()


def test_ties_go_to_either_side_by_the_seed():
    same = np.full(500, 0.5)
    names = list(range(500))
    found = compete(same, same, names, names, 500, 500, seed=1)
    assert 200 < found.wins.sum() < 300 and (found.wins == compete(same, same, names, names, 500, 500, seed=1).wins).all()
    assert found.p_value > 0.01 and (found.q_values > 0.5).all()


@pytest.mark.parametrize(("modes", "own", "other"), [(None, 40, 32), (3, 40, 40), (1, 60, 20)])
def test_a_generator_that_owes_nothing_is_not_accused_by_patients_and_is_by_images(modes, own, other):
    rng = np.random.default_rng(1)
    by_patient, binomial, named = [], [], []
    for audit in range(60):
        images = rng.normal(size=(300, 6))
        if modes is not None:
            images = rng.normal(size=(modes, 6))[rng.integers(0, modes, 300)] + 0.2 * images
        found = matched(images, rng.normal(size=(own, 6)), rng.normal(size=(other, 6)), audit, 199)
        by_patient.append(found.p_value <= 0.1)
        binomial.append(found.binomial_p_value <= 0.1)
        named.append((found.patient_q_values <= 0.1).any())
    assert np.mean(by_patient) <= 0.2 and np.mean(named) <= 0.15, "0.1, and what 60 draws can add"
    if modes is not None:
        assert np.mean(binomial) > 0.25, "hubs and modes: images are not independent"


def test_copies_are_told_and_who_was_copied():
    rng = np.random.default_rng(2)
    training, decoys = rng.normal(size=(60, 8)), rng.normal(size=(50, 8))
    copied = rng.integers(0, 30, 80)
    images = np.concatenate([training[copied] + 0.1 * rng.normal(size=(80, 8)), rng.normal(size=(120, 8))])
    found = matched(images, training, decoys)
    assert found.p_value <= 0.001 and found.owed_lower > 0.1 and found.owed_lower < 0.4 < found.owed_upper
    assert np.mean(found.patient_q_values[:80] <= 0.05) > 0.9 and np.mean(found.q_values[:80] <= 0.05) > 0.9
    assert np.mean(found.patient_q_values[80:] <= 0.05) < 0.1


def test_few_copied_patients_are_seen_by_the_top_and_not_by_the_wins():
    rng = np.random.default_rng(3)
    wins, top = [], []
    for audit in range(15):
        training, decoys = rng.normal(size=(100, 8)), rng.normal(size=(100, 8))
        images = np.concatenate([training[rng.integers(0, 10, 30)] + 0.1 * rng.normal(size=(30, 8)), rng.normal(size=(300, 8))])
        found = matched(images, training, decoys, audit, 499)
        wins.append(found.wins_p_value <= 0.05)
        top.append(found.top_p_value <= 0.05)
    assert np.mean(top) > 0.5 > np.mean(wins)


def test_means_of_training_images_are_owed_to_training():
    rng = np.random.default_rng(4)
    training, decoys = rng.normal(size=(60, 8)), rng.normal(size=(60, 8))
    images = rng.normal(size=(200, 8))
    nearest = np.argsort(np.linalg.norm(images[:, None] - training, axis=-1), axis=1)[:, :3]
    assert matched(training[nearest].mean(1), training, decoys).p_value <= 0.001


def test_what_cannot_be_a_competition_is_refused():
    with pytest.raises(ValueError, match="one entry"):
        compete(np.zeros(2), np.zeros(3), ["a", "b"], ["a", "b"], 2, 2)
    with pytest.raises(ValueError, match="NaN"):
        compete(np.array([np.nan]), np.zeros(1), ["a"], ["a"], 2, 2)
    with pytest.raises(ValueError, match="decoy_patients"):
        compete(np.zeros(2), np.zeros(2), ["a", "b"], ["a", "b"], 2, 1)
