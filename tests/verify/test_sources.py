"""Copy, neighbour, blend: what the match explains and what else is in the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import SquareThumbnaild, generate_cohort, plant_copy
from doppelscan.search import PatchSearch
from doppelscan.verify import Pose, Registration, explained_share, interpolation_losses, second_sources
from doppelscan.verify.agreement import mild_bending
from scipy import ndimage


def thumbnail(image) -> torch.Tensor:
    return torch.from_numpy(SquareThumbnaild("image", 128)({"image": image[None]})["thumbnail"])


@pytest.fixture(scope="module")
def training():
    images = generate_cohort(30, 1, 160, seed=5)[0][:, 0].numpy().astype(np.float32) / 255
    return images, torch.stack([thumbnail(i) for i in images])


@pytest.fixture(scope="module")
def search(training):
    return PatchSearch().fit(training[1][:24])


def aligned(query, training, match, search, pose=None):
    found = Pose() if pose is None else pose
    return Registration().pairs(thumbnail(query)[None], training[1][match][None], [found], search.descriptor)[0]


@pytest.mark.parametrize("name", ["exact", "noise", "gamma 1.5", "bias field", "elastic", "JPEG", "blur"])
def test_a_copy_is_explained_whatever_was_done_to_it(training, search, name):
    copy = plant_copy(training[0][3], name, np.random.default_rng(0))
    assert aligned(copy, training, 3, search).explained > 0.95


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("sigma", [0.0, 1.0, 2.0, 3.0])
def test_a_blurred_and_noisy_copy_is_explained_and_a_mean_of_patients_is_not(training, search, sigma, noise):
    """What was blurred has less of the finest detail, and noise that only the image has is not its structure."""
    rng = np.random.default_rng(0)

    def rendered(image):
        return np.clip(ndimage.gaussian_filter(image, sigma) + noise * rng.standard_normal(image.shape), 0, 1).astype(np.float32)

    copy, mean = rendered(training[0][3]), rendered((training[0][3] + training[0][7] + training[0][12]) / 3)
    assert aligned(copy, training, 3, search).explained > 0.96
    assert aligned(mean, training, 3, search).explained < 0.95


def test_detail_of_its_own_at_every_scale_is_not_explained_away_as_noise(training, search):
    """The next slice: as sharp as the match, and other in the places where there is structure."""
    image = training[0][3]
    other = sum(
        ndimage.gaussian_filter(np.random.default_rng(k).standard_normal(image.shape), s) * s for k, s in enumerate((1, 2, 4))
    )
    near = np.clip(image + (image > 0.05) * 0.03 * other / other.std(), 0, 1).astype(np.float32)
    assert aligned(near, training, 3, search).explained < 0.955


@pytest.mark.parametrize("sigma", [1.6, 2.0])
def test_a_copy_whose_finest_detail_a_network_drew_anew_is_explained_and_what_differs_at_every_scale_is_not(
    training, search, sigma
):
    """As sharp as its source, with detail of its own where an autoencoder keeps none."""
    image = training[0][3]
    smooth = ndimage.gaussian_filter(image, sigma)
    redrawn = np.clip(smooth + 0.9 * np.roll(image - smooth, (7, -5), (0, 1)) * (image > 0.05), 0, 1).astype(np.float32)
    pair = aligned(redrawn, training, 3, search)
    assert pair.explained > 0.96 and not pair.coarse and pair.fine < 0.95
    other = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(image.shape), 4)
    beside = np.clip(redrawn + (image > 0.05) * 0.05 * other / other.std(), 0, 1).astype(np.float32)
    assert aligned(beside, training, 3, search).explained < 0.955


def test_another_patient_is_not_explained(training, search):
    shares = [aligned(training[0][i], training, 3, search).explained for i in range(24, 30)]
    assert max(shares) < 0.9


def test_agreement_map_lies_in_the_frame_of_the_image(training, search):
    """Left half from training 3, the rest from a stranger, all turned by 90 degrees: agreement lies where the half went."""
    image = training[0][25].copy()
    image[:, :80] = training[0][3][:, :80]
    pair = aligned(np.rot90(image).copy(), training, 3, search, Pose(False, 1))
    bottom, top = pair.agreement_map[70:], pair.agreement_map[:58]  # left goes to the bottom under a counter-clockwise turn
    assert np.nanmean(bottom) > 0.75 and np.nanmean(top) < 0.5 and np.nanmean(bottom) > np.nanmean(top) + 0.4


def test_both_sources_of_a_blend_are_found_and_a_copy_has_one(training, search):
    images, thumbs = training
    queries = [0.65 * images[i] + 0.35 * images[i + 10] for i in range(6)] + [images[i] for i in range(6)]
    pairs = [aligned(q, training, i % 6, search) for i, q in enumerate(queries)]
    matches = np.array([i % 6 for i in range(12)])
    found = second_sources(pairs, matches, thumbs[matches], search)
    assert (found.mixed_row[:6] == np.arange(10, 16)).all() and found.mixed[:6].min() > 0.6 > found.mixed[6:].max()
    np.testing.assert_allclose(found.mixed_share[:6], 0.35, atol=0.08)


def test_of_a_mean_of_three_a_third_source_is_left_and_of_a_blend_none(training, search):
    images, thumbs = training
    rows = np.arange(6)
    means = [(images[i] + images[i + 6] + images[i + 12]) / 3 for i in rows]
    blends = [0.6 * images[i] + 0.4 * images[i + 10] for i in rows]
    found = second_sources(
        [aligned(q, training, i % 6, search) for i, q in enumerate(means + blends)],
        np.tile(rows, 2),
        thumbs[np.tile(rows, 2)],
        search,
    )
    assert found.third[:6].min() > 0.55 > found.third[6:].max() and found.both[:6].max() < 0.95 < found.both[6:].min()


def test_a_half_that_was_set_in_is_found_beside_the_match(training, search):
    images, thumbs = training
    queries = []
    for i in range(6):
        image = images[i].copy()
        image[:, 100:] = images[i + 10][:, 100:]
        queries.append(image)
    pairs = [aligned(q, training, i, search) for i, q in enumerate(queries)]
    found = second_sources(pairs, np.arange(6), thumbs[:6], search)
    assert (
        (found.set_in_row == np.arange(10, 16)).mean() > 0.8
        and np.median(found.set_in) > 0.95
        and (found.set_in_share > 0.03).all()
    )


def test_bending_is_mild_and_brings_an_elastic_copy_back(training):
    image = torch.from_numpy(training[0][3])[None, None]
    bent = torch.from_numpy(plant_copy(training[0][3], "elastic", np.random.default_rng(0)))[None, None]
    everywhere = torch.ones_like(image)
    before, after = float((bent - image).abs().mean()), float((mild_bending(image, bent, everywhere) - image).abs().mean())
    assert after < 0.6 * before
    assert float(explained_share(image, bent, everywhere)) > 0.95


def test_small_images_lose_more_to_interpolation(training):
    large, small = interpolation_losses(training[1][[3, 3]], np.array([[160, 120], [30, 35]]))
    assert small > large and large < 0.1
