"""Whitening of rows of several embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.memorization import SlotWhitening, Whitening


def rows(count, seed=0, slots=3, size=5):
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=(1, slots, size)) * 3
    return (shared + generator.normal(size=(count, slots, size)) * np.linspace(0.2, 2, size)).reshape(count, -1).astype(np.float32)


def test_slots_are_whitened_about_their_own_mean_with_one_covariance():
    features, differences = rows(20), rows(30, 1) - rows(30, 2)
    found = SlotWhitening(3).fit(features, differences).transform(features)
    slotted = features.reshape(20, 3, 5)
    residuals = slotted - slotted.mean(0)
    wanted = Whitening().fit(residuals.reshape(-1, 5), differences.reshape(-1, 5)).transform(residuals)
    np.testing.assert_allclose(found.reshape(20, 3, 5), wanted / np.sqrt(3), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_one_slot_is_whitening_and_views_keep_their_shape():
    features = rows(12, slots=1, size=6)
    np.testing.assert_allclose(
        SlotWhitening(1).fit(features).transform(features), Whitening().fit(features).transform(features), atol=1e-4
    )
    views = rows(24).reshape(4, 6, 15)
    assert SlotWhitening(3).fit(rows(8)).transform(views).shape == (4, 6, 15)


def test_a_small_cohort_whitens_stably():
    """What a person adds must stay found when the covariance is of ten people alone."""
    generator = np.random.default_rng(3)
    people = generator.normal(size=(40, 9, 64)) * np.r_[np.full(8, 4.0), np.full(56, 0.3)]
    copies = people + 0.1 * generator.normal(size=people.shape)
    small, large = (SlotWhitening(9).fit(people[:count].reshape(count, -1)) for count in (10, 40))
    for whitening in (small, large):
        a, b = (whitening.transform(part[:10].reshape(10, -1)) for part in (people, copies))
        similarity = a @ b.T
        assert (similarity.argmax(1) == np.arange(10)).all() and np.diag(similarity).min() > 0.5


@pytest.mark.parametrize("shape", [(1, 15), (4, 14), (15,)])
def test_another_shape_is_refused(shape):
    with pytest.raises(InputError, match=r"3 slots"):
        SlotWhitening(3).fit(np.zeros(shape, np.float32))
