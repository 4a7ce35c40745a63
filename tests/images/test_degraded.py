"""Copies as generators make them: the sharpness and noise of their set, and few components."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images.degraded import PrincipalReconstruction, SpectrumMatch, radial_power
from scipy import ndimage


def blurred(images, sigma):
    return np.stack([ndimage.gaussian_filter(image, sigma, mode="wrap") for image in images])


def test_power_of_a_wave_lies_at_its_frequency():
    x = np.arange(64) / 64
    power = radial_power(np.cos(2 * np.pi * 5 * x)[None, None].repeat(64, 1) + 0.3)
    assert power.argmax() == 5 and power[5] > 100 * np.delete(power, 5).max()


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_a_copy_gets_the_blur_of_the_set(cohort, sigma):
    """The set is of other people than the copies."""
    match = SpectrumMatch(cohort[:30], blurred(cohort[30:], sigma))
    made = match(cohort[:10], np.random.default_rng(0))
    expected = blurred(cohort[:10], sigma)
    assert np.abs(made - expected).mean() < 0.25 * np.abs(cohort[:10] - expected).mean() and match.sigma < 0.01


def test_a_copy_gets_the_noise_of_the_set(cohort):
    rng = np.random.default_rng(1)
    gray = 0.3 + 0.4 * cohort
    match = SpectrumMatch(gray[:30], gray[30:] + 0.1 * rng.standard_normal(cohort[30:].shape))
    made = match(gray[:10], rng)
    assert match.sigma == pytest.approx(0.1, rel=0.1)
    assert (made - gray[:10]).std() == pytest.approx(0.1, rel=0.15)


def test_a_set_like_training_changes_nothing_much(cohort):
    made = SpectrumMatch(cohort[:30], cohort[30:])(cohort[:10], np.random.default_rng(0))
    assert np.abs(made - cohort[:10]).mean() < 0.02


def test_fewer_components_keep_less_and_all_of_them_keep_the_training_set(cohort):
    through = PrincipalReconstruction(cohort[:30], 40)
    assert through.components == 29
    lost = [np.abs(through(cohort[:30], rank) - cohort[:30]).mean() for rank in (3, 10, 29)]
    assert lost[0] > lost[1] > 5 * lost[2] and lost[2] < 1e-3


def test_ranks_that_are_not_there_are_one_line(cohort):
    with pytest.raises(InputError, match="between 1 and 29"):
        PrincipalReconstruction(cohort[:30], 40)(cohort[:2], 30)
    with pytest.raises(InputError, match="at least 2 images"):
        PrincipalReconstruction(cohort[:1], 4)
