"""Dar et al.: correlation, the cut of the validation set, and what is counted above it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.rivals import DarRival, FittedDarRival, Ranking, fit_contrastive, memorized_training_images, n_copies, n_mem


class Thumbnails:
    poses = 1

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 6).flatten(1)


def correlation(a, b):
    return np.corrcoef(Thumbnails()(a).numpy(), Thumbnails()(b).numpy())[: len(a), len(a) :]


def test_score_and_threshold_written_out(squares):
    found = DarRival(Thumbnails()).rank(squares.training, squares.images, squares.holdout)
    expected = correlation(squares.images, squares.training)
    np.testing.assert_allclose(found.score, expected.max(1), atol=1e-5)
    to_validation = correlation(squares.training, squares.holdout).max(1)
    assert found.threshold == pytest.approx(np.percentile(to_validation, 95), abs=1e-5)


def test_without_a_holdout_there_is_no_threshold_and_nothing_to_count(squares):
    found = DarRival(Thumbnails()).rank(squares.training, squares.images)
    assert found.threshold is None
    for count in (n_copies, n_mem, memorized_training_images):
        with pytest.raises(InputError, match="rank with a holdout set"):
            count(found)


def test_another_holdout_gives_another_threshold(squares):
    rival = DarRival(Thumbnails())
    cuts = [rival.rank(squares.training, squares.images, part).threshold for part in (squares.holdout, squares.training[:3])]
    assert cuts[0] < cuts[1] == pytest.approx(1, abs=1e-5)


def test_copies_and_memorized_images_are_counted():
    """Five samples above the cut show three training images: N_copies 5, N_mem 3."""
    ranking = Ranking(np.array([0.9, 0.95, 0.3, 0.99, 0.91, 0.92]), np.array([4, 4, 1, 0, 9, 4]), 0.8)
    assert (n_copies(ranking), n_mem(ranking)) == (5, 3)
    assert memorized_training_images(ranking).tolist() == [0, 4, 9]
    none = Ranking(np.array([0.1]), np.array([0]), 0.8)
    assert (n_copies(none), n_mem(none)) == (0, 0)


def test_the_shipped_encoder_finds_copies_that_are_flipped_turned_and_darkened(squares):
    changed = torch.stack([squares.training[5].flip(-1), torch.rot90(squares.training[9], 1, (-2, -1)), squares.training[1] ** 1.4])
    found = DarRival().rank(squares.training, torch.cat([changed, squares.images[3:]]), squares.holdout)
    assert found.match[:3].tolist() == [5, 9, 1] and found.score[:3].min() > found.score[3:].max()
    assert found.copies[:3].all()


def test_a_fit_on_the_training_set_is_the_same_twice_and_another_by_another_seed(squares):
    networks = [fit_contrastive(squares.training, steps=3, seed=4, spatial_size=48) for _ in range(2)]
    other = fit_contrastive(squares.training, steps=3, seed=5, spatial_size=48)
    first, again, different = ([p.detach() for p in n.parameters()] for n in (*networks, other))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, different, strict=True))
    assert not networks[0].training


def test_a_fit_leaves_the_callers_random_numbers_alone(squares):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fit_contrastive(squares.training, steps=1, spatial_size=48)
    assert torch.equal(torch.rand(3), expected)


def test_one_image_cannot_be_told_from_others(squares):
    with pytest.raises(InputError, match="2 images or more"):
        fit_contrastive(squares.training[:1], steps=1)


def test_a_fitted_rival_trains_once_a_training_set(squares, monkeypatch):
    trained = []

    def fit(training, *rest, **more):
        trained.append(len(training))
        return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten())

    monkeypatch.setattr("doppelscan.rivals.dar.fit_contrastive", fit)
    rival = FittedDarRival()
    for training in (squares.training, squares.training, squares.holdout):
        found = rival.rank(training, training[[2, 4]], squares.images)
        assert found.match.tolist() == [2, 4] and found.threshold is not None
    assert trained == [len(squares.training), len(squares.holdout)]


@pytest.mark.slow
def test_a_fitted_encoder_finds_moved_copies_that_a_random_one_misses(cohort):
    training, strangers = (torch.from_numpy(part)[:, None] for part in (cohort[:24], cohort[24:40]))
    moved = torch.roll(training[:12], (5, -4), (-2, -1)).flip(-1) ** 1.3
    images = torch.cat([moved, strangers])
    fitted = FittedDarRival(steps=250).rank(training, images)
    random = FittedDarRival(steps=1).rank(training, images)
    right = [(found.match[:12] == np.arange(12)).mean() for found in (fitted, random)]
    assert right[0] > 0.75 > 0.25 > right[1]
