"""Copies as generators make them: the sharpness and noise of their set, and few components."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images.degraded import PrincipalReconstruction, SpectrumMatch, SquareImages, radial_power
from scipy import ndimage


def blurred(images, sigma):
    return np.stack([ndimage.gaussian_filter(image, sigma, mode="wrap") for image in images])


def matched(training, target, strangers=None, people=None):
    return SpectrumMatch(
        SquareImages(training, None, people), SquareImages(target), None if strangers is None else SquareImages(strangers)
    )


def anatomy(count, rng):
    """Brains' spectrum: power that falls with frequency and, as between people, varies by a third from image to image at each of them."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64, 1 / 64), np.fft.fftfreq(64, 1 / 64)))
    fall, ring = 1 / (1 + frequency) ** 1.8, np.minimum(np.round(frequency), 32).astype(int)
    images = []
    for _ in range(count):
        varied = np.exp(0.35 * rng.standard_normal(33)[ring] / 2)
        made = np.fft.ifft2(np.fft.fft2(rng.standard_normal((64, 64))) * fall * varied).real
        images.append(np.clip(0.5 + 0.15 * made / made.std(), 0, 1))
    return np.stack(images)


def test_power_of_a_wave_lies_at_its_frequency():
    x = np.arange(64) / 64
    power = radial_power(np.cos(2 * np.pi * 5 * x)[None, None].repeat(64, 1) + 0.3)
    assert power.argmax() == 5 and power[4:7].sum() > 1000 * np.delete(power, [4, 5, 6]).max(), "a window spreads it by one"


def test_noise_has_its_power_whatever_part_is_padding():
    noise = 0.1 * np.random.default_rng(0).standard_normal((200, 64, 64))
    noise[:, :12] = noise[:, 52:] = 0
    power = radial_power(noise, np.tile([40, 64], (200, 1)))
    assert power[3:].mean() == pytest.approx(0.01 * 64**2, rel=0.05)


@pytest.mark.parametrize("shape", [(96, 96), (60, 90)])
def test_the_border_of_what_is_seen_is_no_sharpness(shape):
    """Images that are cut off, as X-rays are, end in a jump, blurred or not."""
    rng, top = np.random.default_rng(0), (96 - shape[0]) // 2
    made = np.stack([ndimage.gaussian_filter(rng.standard_normal((140, 140)), 2)[20:116, 20:116] for _ in range(20)])
    images = np.clip(0.5 + 1.5 * made, 0, 1)
    soft, left = np.stack([ndimage.gaussian_filter(one, 4) for one in images]), (96 - shape[1]) // 2
    for one in (images, soft):
        inside = np.zeros((96, 96), bool)
        inside[top : top + shape[0], left : left + shape[1]] = True
        one[:, ~inside] = 0
    shapes = np.tile(shape, (20, 1))
    match = SpectrumMatch(SquareImages(images, shapes), SquareImages(soft, shapes))
    assert match.gain[12:20].max() < 0.1, "a Gaussian of 4 pixels leaves 0.05 of 12 cycles in 96 pixels"


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_a_copy_gets_the_blur_of_the_set(cohort, sigma):
    """The set is of other people than the copies."""
    match = matched(cohort[:30], blurred(cohort[30:], sigma))
    made = match(cohort[:10], np.random.default_rng(0))
    expected = blurred(cohort[:10], sigma)
    assert np.abs(made - expected).mean() < 0.25 * np.abs(cohort[:10] - expected).mean() and match.sigma < 0.01


def test_a_copy_gets_the_noise_of_the_set(cohort):
    rng = np.random.default_rng(1)
    gray = 0.3 + 0.4 * cohort
    match = matched(gray[:30], gray[30:] + 0.1 * rng.standard_normal(cohort[30:].shape))
    made = match(gray[:10], rng)
    assert match.sigma == pytest.approx(0.1, rel=0.1)
    assert (made - gray[:10]).std() == pytest.approx(0.1, rel=0.15)


def test_noise_that_black_takes_away_is_made_up_for(cohort):
    rng, dark = np.random.default_rng(1), 0.3 * cohort

    def noisy(images):
        return np.clip(images + 0.2 * rng.standard_normal(images.shape), 0, 1)

    made, expected = (matched(dark[:30], noisy(dark[30:]))(dark[:10], rng), noisy(dark[:10]))
    assert (made - dark[:10]).std() == pytest.approx((expected - dark[:10]).std(), rel=0.15)
    assert radial_power(made)[20:].mean() == pytest.approx(radial_power(expected)[20:].mean(), rel=0.1)


def test_anatomy_of_other_people_is_no_noise_of_the_set():
    """A clean set of other people differs from training by chance, most where anatomy has its power; 0.08 was planted as noise of a clean set."""
    rng = np.random.default_rng(3)
    training, holdout = anatomy(30, rng), anatomy(25, rng)
    for _ in range(3):
        clean = matched(training, anatomy(25, rng), holdout)
        assert clean.sigma < 0.005 and clean.gain.min() > 0.9
    itself = matched(training, holdout, holdout)
    assert itself.sigma == 0 and (itself.gain == 1).all()
    noisy = matched(training, anatomy(25, rng) + 0.05 * rng.standard_normal((25, 64, 64)), holdout)
    assert noisy.sigma == pytest.approx(0.05, rel=0.15)
    soft = matched(training, blurred(anatomy(25, rng), 1.5), holdout)
    assert soft.gain[10] < 0.6 and soft.gain[20] < 0.25 and soft.sigma < 0.005


def test_what_a_holdout_of_another_scanner_shows_is_not_what_the_generator_added():
    rng = np.random.default_rng(4)
    training, holdout = anatomy(30, rng), anatomy(30, rng) + 0.03 * rng.standard_normal((30, 64, 64))
    as_holdout = anatomy(30, rng) + 0.03 * rng.standard_normal((30, 64, 64))
    assert matched(training, as_holdout).sigma > 0.025 and matched(training, as_holdout, holdout).sigma < 0.01
    more = anatomy(30, rng) + 0.1 * rng.standard_normal((30, 64, 64))
    assert matched(training, more, holdout).sigma > 0.09


def test_slices_of_few_people_are_no_more_certain_for_being_many():
    """Ten slices of each of four people: their mean says of noise what four say."""
    rng = np.random.default_rng(5)
    few, many = anatomy(4, rng), anatomy(4, rng) + 0.004 * rng.standard_normal((4, 64, 64))
    training, target = np.repeat(few, 10, axis=0), np.repeat(many, 10, axis=0)
    whom = np.repeat(np.arange(4), 10)
    sigma = [SpectrumMatch(SquareImages(training, None, w), SquareImages(target, None, w)).sigma for w in (None, whom)]
    assert sigma[0] > 2 * sigma[1]


def test_one_person_alone_says_nothing_of_how_people_differ_and_is_matched_as_it_is(cohort):
    match = matched(cohort[:6], blurred(cohort[:6], 2.0), people=["one"] * 6)
    assert match.gain[16] < 0.3 and match.sigma < 0.01


def test_a_set_like_training_changes_nothing_much(cohort):
    made = matched(cohort[:30], cohort[30:])(cohort[:10], np.random.default_rng(0))
    assert np.abs(made - cohort[:10]).mean() < 0.025


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
