"""Distances that are measured in other distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.rivals import CalibratedDistance, M3Memorization, PixelVectors


class Coordinates:
    """The first two pixels as a vector."""

    poses = 1

    def __call__(self, images):
        return images.flatten(1)[:, :2]


def points(*pairs):
    images = torch.zeros(len(pairs), 1, 8, 8)
    images.flatten(1)[:, :2] = torch.tensor(pairs, dtype=torch.float32)
    return images


def test_calibrated_distance_written_out():
    training = points((0, 0), (0.3, 0.4), (0, 1), (1, 1))
    found = CalibratedDistance(Coordinates(), neighbours=2, alpha=0.5).rank(training, points((0, 0.1)))
    second, third = np.hypot(0.3, 0.3), 0.9
    assert found.score[0] == pytest.approx(-0.1 / (0.5 * (second + third) / 2), rel=1e-6)
    assert found.match.tolist() == [0] and found.threshold is None


def test_a_plain_image_near_to_many_is_less_of_a_copy_than_one_near_to_one():
    training = points((0, 0), (0.01, 0), (0, 0.01), (0.9, 0.9))
    crowd, alone = CalibratedDistance(Coordinates()).rank(training, points((0.005, 0.005), (0.88, 0.9))).score
    assert alone > crowd, "though the plain image is nearer"


def test_two_training_images_are_enough_and_one_is_refused():
    assert CalibratedDistance(Coordinates()).rank(points((0, 0), (1, 1)), points((0, 0))).score[0] == 0
    with pytest.raises(InputError, match="must hold 2 images or more"):
        CalibratedDistance(Coordinates()).rank(points((0, 0)), points((0, 0)))


def test_training_images_that_are_all_the_same_give_finite_scores():
    training = points(*[(0.5, 0.5)] * 4)
    for rival in (CalibratedDistance(Coordinates()), M3Memorization(Coordinates())):
        same, other = rival.rank(training, points((0.5, 0.5), (0.1, 0))).score
        assert same == 0 > other > -np.inf


def test_m3_memorization_written_out():
    """m3-score 0.1.0: an image counts when its nearest is closer than the median of the training images' own nearest."""
    training = points((0, 0), (0, 0.2), (0, 0.5), (0.9, 0.9))
    own = 0.2  # of 0.2, 0.2, 0.3 and 0.98 the median as torch, and so m3-score, takes it: the lower of the middle two
    found = M3Memorization(Coordinates()).rank(training, points((0, 0.15), (0.5, 0)))
    assert found.score == pytest.approx([-0.05 / own, -0.5 / own], rel=1e-5)
    assert found.match.tolist() == [1, 0] and found.copies.tolist() == [True, False]


def test_pixel_vectors_are_the_small_image(squares):
    vectors = PixelVectors(48)(squares.training[:2])
    assert vectors.shape == (2, 48 * 48)
    torch.testing.assert_close(
        vectors.view(2, 1, 48, 48), torch.nn.functional.avg_pool2d(squares.training[:2], 2), atol=0.08, rtol=0
    )


def test_the_best_pose_counts_where_an_encoder_asks_for_8():
    class Eight(Coordinates):
        poses = 8

    training = points((0.8, 0.1), (0.1, 0.2))
    turned = training[:1].flip(-1)
    assert (
        M3Memorization(Eight()).rank(training, turned).score[0] == 0 > M3Memorization(Coordinates()).rank(training, turned).score[0]
    )
