"""Registration names the pose that was planted, and tells a copy from a look-alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import verdict
from doppelscan.images import COPY_TRANSFORMS, SquareThumbnaild, plant_copy
from doppelscan.verify import Pose, Registration, match_intensity
from doppelscan.verify.registration import filled_border


def thumbnail(image) -> torch.Tensor:
    return torch.from_numpy(SquareThumbnaild("image", 128)({"image": image[None]})["thumbnail"])


@pytest.fixture(scope="module")
def registration():
    return Registration()


@pytest.fixture(scope="module")
def candidates(cohort):
    return torch.stack([thumbnail(i) for i in cohort[:8]])


EXPECTED = {
    "exact": "identity",
    "flip-x": "flip-x",
    "flip-y": "flip-y",
    "quarter turn": "turn 90",
    "rotation 10": "rot 10.0",
    "rotation 15": "rot -15.0",
}


@pytest.mark.parametrize("name", list(COPY_TRANSFORMS))
def test_every_planted_copy_is_found_with_its_source(registration, candidates, cohort, name):
    copy = plant_copy(cohort[5], name, np.random.default_rng(0), cohort[30])
    best = registration(thumbnail(copy), candidates)[0]
    assert best.candidate == 5 and best.detail > 0.6 and verdict(best.ssim) != "different"
    if name in EXPECTED:
        assert best.pose.words(96) == EXPECTED[name]


def test_pose_is_right_to_a_degree_and_a_hundredth(registration, candidates, cohort):
    shifted = registration(thumbnail(plant_copy(cohort[2], "shift 6 %", np.random.default_rng(0))), candidates)[0].pose
    assert abs(shifted.shift_x - 0.06) < 0.01 and abs(shifted.shift_y + 0.06) < 0.01
    cropped = registration(thumbnail(plant_copy(cohort[2], "crop 15 %", np.random.default_rng(0))), candidates)[0].pose
    assert abs(cropped.scale - 1 / 0.85) < 0.02
    turned = registration(thumbnail(plant_copy(cohort[2], "flip, rotation, noise", np.random.default_rng(0))), candidates)[0].pose
    assert turned.flip and turned.quarter_turns == 0 and abs(turned.rotation - 8) < 1


def test_a_look_alike_agrees_less_than_any_copy(registration, candidates, cohort):
    others = [registration(thumbnail(cohort[i]), candidates)[0] for i in range(40, 48)]
    copies = [
        registration(thumbnail(plant_copy(cohort[i], "rotation 5", np.random.default_rng(0))), candidates)[0] for i in range(8)
    ]
    assert max(o.detail for o in others) < min(c.detail for c in copies) - 0.2


def test_flat_and_single_candidates_do_not_fail(registration, cohort):
    flat = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    result = registration(thumbnail(cohort[0]), flat)
    assert len(result) == 1 and np.isfinite([result[0].ssim, result[0].detail]).all()


def test_result_does_not_depend_on_the_other_candidates(registration, candidates, cohort):
    query = thumbnail(plant_copy(cohort[5], "rotation 10", np.random.default_rng(0)))
    alone, among = registration(query, candidates[5:6])[0], registration(query, candidates)[0]
    assert abs(alone.detail - among.detail) < 1e-4 and abs(alone.pose.rotation - among.pose.rotation) < 0.01


@pytest.mark.parametrize("number", range(8))
def test_pose_matrix_and_words_go_both_ways(number):
    pose = Pose(number >= 4, number % 4, -4.8, 1.1, 3 / 160, -2 / 160)
    again = Pose.from_sampling_matrix(number, pose.sampling_matrix())
    assert again.number == number
    np.testing.assert_allclose(
        [again.rotation, again.scale, again.shift_x, again.shift_y],
        [pose.rotation, pose.scale, pose.shift_x, pose.shift_y],
        atol=1e-9,
    )


def test_pose_in_words():
    assert Pose().words(256) == "identity"
    assert Pose(True, 0, -4.8, 1.0, 3 / 256, -2 / 256).words(256) == "flip-x rot -4.8 shift 3,-2"
    assert Pose(True, 2).words(256) == "flip-y" and Pose(False, 3).words(256) == "turn 270"


@pytest.mark.parametrize(("ssim", "name"), [(0.6, "different"), (0.61, "similar"), (0.85, "similar"), (0.86, "duplicate")])
def test_classes_at_their_limits(ssim, name):
    assert verdict(ssim) == name


def test_filled_corners_are_seen_and_the_background_of_a_brain_is_not(cohort):
    full = torch.full((1, 1, 64, 64), 0.5)
    shifted = full.clone()
    shifted[..., :8] = 0
    assert filled_border(full).sum() == 0 and 0.1 < float(filled_border(shifted).mean()) < 0.2
    island = torch.zeros(1, 1, 64, 64)
    island[..., 20:44, 20:44] = 1
    assert filled_border(island).sum() == 0


def test_intensity_curve_rises_and_undoes_a_gamma(cohort):
    image = torch.from_numpy(cohort[0])[None, None]
    mapped = match_intensity(image**1.8, image, torch.ones_like(image))
    assert float((mapped - image).abs().mean()) < 0.02
    values = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    assert (match_intensity(values, 1 - values, torch.ones_like(values)).flatten().diff() >= -1e-6).all()
