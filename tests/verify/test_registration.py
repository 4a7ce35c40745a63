"""Registration names the pose that was planted, and tells a copy from a look-alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import quarter_turn_poses, verdict
from doppelscan.images import COPY_TRANSFORMS, SquareThumbnaild, generate_cohort, plant_copy
from doppelscan.search import PatchDescriptor, PatchSearch
from doppelscan.verify import STAGES, Pose, Registration, match_intensity
from doppelscan.verify.pose import _turned
from doppelscan.verify.registration import filled_border


def thumbnail(image) -> torch.Tensor:
    return torch.from_numpy(SquareThumbnaild("image", 128)({"image": image[None]})["thumbnail"])


@pytest.fixture(scope="module")
def registration():
    return Registration()


def register(registration, query, candidates, **settings):
    """Of one query."""
    return registration(query[None], candidates[None], **settings)[0]


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
    best = register(registration, thumbnail(copy), candidates)[0]
    assert best.candidate == 5 and best.detail > 0.6 and verdict(best.ssim) != "different"
    if name in EXPECTED:
        assert best.pose.words(96) == EXPECTED[name]


def test_pose_is_right_to_a_degree_and_a_hundredth(registration, candidates, cohort):
    shifted = register(registration, thumbnail(plant_copy(cohort[2], "shift 6 %", np.random.default_rng(0))), candidates)[0].pose
    assert abs(shifted.shift_x - 0.06) < 0.01 and abs(shifted.shift_y + 0.06) < 0.01
    cropped = register(registration, thumbnail(plant_copy(cohort[2], "crop 15 %", np.random.default_rng(0))), candidates)[0].pose
    assert abs(cropped.scale - 1 / 0.85) < 0.02
    turned = register(
        registration, thumbnail(plant_copy(cohort[2], "flip, rotation, noise", np.random.default_rng(0))), candidates
    )[0].pose
    assert turned.flip and turned.quarter_turns == 0 and abs(turned.rotation - 8) < 1


def test_a_look_alike_agrees_less_than_any_copy(registration, candidates, cohort):
    others = [register(registration, thumbnail(cohort[i]), candidates)[0] for i in range(40, 48)]
    copies = [
        register(registration, thumbnail(plant_copy(cohort[i], "rotation 5", np.random.default_rng(0))), candidates)[0]
        for i in range(8)
    ]
    assert max(o.detail for o in others) < min(c.detail for c in copies) - 0.2


def test_flat_and_single_candidates_do_not_fail(registration, cohort):
    flat = torch.zeros(1, 1, 128, 128, dtype=torch.uint8)
    result = register(registration, thumbnail(cohort[0]), flat)
    assert len(result) == 1 and np.isfinite([result[0].ssim, result[0].detail]).all()


def test_result_does_not_depend_on_the_other_candidates(registration, candidates, cohort):
    query = thumbnail(plant_copy(cohort[5], "rotation 10", np.random.default_rng(0)))
    alone, among = register(registration, query, candidates[5:6])[0], register(registration, query, candidates)[0]
    assert abs(alone.detail - among.detail) < 1e-4 and abs(alone.pose.rotation - among.pose.rotation) < 0.01


def test_result_does_not_depend_on_what_is_registered_at_once(candidates, cohort):
    """Queries of other shapes, candidates that are not there and repeated ones, in tensors of 1, 2 and 5 queries."""
    rng = np.random.default_rng(0)
    queries = torch.stack([thumbnail(plant_copy(cohort[i], "rotation 10", rng)) for i in (5, 0, 3, 7, 31)])
    among = candidates[np.array([[5, 1, 2, 5], [4, 0, 6, 1], [3, 3, 2, 1], [7, 1, 0, 0], [0, 1, 2, 3]])]
    given = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
    shapes = np.array([[96, 96], [96, 80], [96, 96], [64, 96], [96, 96]])
    descriptor = PatchSearch().fit(candidates).descriptor
    poses = np.tile([0, 4, 1], (5, 4, 1))
    one, two, five = (
        Registration(at_once=n)(queries, among, given=given, shapes=shapes, poses=poses, descriptor=descriptor) for n in (1, 2, 5)
    )
    assert [len(found) for found in one] == [3, 2, 3, 1, 0]
    assert [found[0].candidate for found in one[:4]] == [0, 1, 0, 0]  # of the same image twice the first
    for others in (two, five):
        for a, b in zip(one, others, strict=True):
            assert [pair.candidate for pair in a] == [pair.candidate for pair in b]
            for left, right in zip(a, b, strict=True):
                assert left.pose.number == right.pose.number
                for name in ("ssim", "detail", "overlap", "agreement", "share"):
                    assert getattr(left, name) == pytest.approx(getattr(right, name), abs=1e-4), name


def test_a_stranger_is_measured_without_refinement_at_full_size_and_ranks_as_with_it(candidates, cohort):
    whole = [Registration(promising=limit) for limit in (-1.0, 2.0)]
    queries = torch.stack([thumbnail(image) for image in cohort[30:38]])
    descriptor = PatchSearch().fit(candidates).descriptor
    told = [[register(one, query, candidates, descriptor=descriptor) for query in queries] for one in whole]
    assert all(len(found) == 3 for found in told[0]) and all(len(found) == 1 for found in told[1])
    refined, coarse = (np.array([found[0].verified for found in one]) for one in told)
    assert np.abs(refined - coarse).max() < 0.1 and coarse.max() < Registration().promising


def test_a_copy_is_refined_at_full_size(registration, candidates, cohort):
    query = thumbnail(plant_copy(cohort[5], "rotation 10", np.random.default_rng(0)))
    descriptor = PatchSearch().fit(candidates).descriptor
    found = register(registration, query, candidates, descriptor=descriptor)
    rough = register(Registration(promising=2.0), query, candidates, descriptor=descriptor)
    assert len(found) == 3 and found[0].candidate == 5 and abs(found[0].pose.rotation - 10) < 0.2
    assert found[0].verified >= rough[0].verified - 1e-3


def test_the_plain_image_is_among_the_starts_whatever_retrieval_found(registration, candidates):
    found = register(registration, candidates[2], candidates[2:3], poses=np.array([[[5]]]))[0]
    assert found.pose.words(96) == "identity" and found.ssim > 0.99


def test_a_turned_oblong_image_reaches_as_far_among_few_others_as_alone(registration, cohort):
    """Fewer candidates than are refined, the best of them last: each keeps the reach of its own pose."""
    wide = cohort[3][20:68]
    others = [cohort[i][20:68] if i % 2 else cohort[i][:, 20:68] for i in (10, 11)]
    images = torch.stack([thumbnail(image) for image in (*others, wide)])
    shapes = np.array([image.shape for image in (*others, wide)])
    query, query_shape = thumbnail(np.rot90(wide).copy()), np.array([[96, 48]])
    poses = np.array([[[0], [0], [1]]])
    among = register(registration, query, images, shapes=query_shape, candidate_shapes=shapes[None], poses=poses)[0]
    alone = register(registration, query, images[2:], shapes=query_shape, candidate_shapes=shapes[None, 2:], poses=poses[:, 2:])[0]
    assert among.candidate == 2 and among.pose.words(96) == alone.pose.words(96) == "turn 90"
    assert among.overlap == pytest.approx(alone.overlap, abs=1e-4) and among.ssim == pytest.approx(alone.ssim, abs=1e-4)


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


def test_an_inverted_training_image_is_shown_as_the_image_is():
    image = generate_cohort(1, 1, 128, seed=3)[0]
    descriptor = PatchDescriptor().fit(image)
    (pair,) = Registration().pairs(255 - image, image, [Pose(inverted=True)], descriptor)
    assert np.abs(pair.moved - (255 - image[0, 0].numpy()) / 255).max() < 1e-5 and pair.explained > 0.999


@pytest.mark.parametrize("number", range(8))
def test_the_inverse_of_a_pose_leads_back(number):
    pose = Pose(number >= 4, number % 4, -4.8, 1.1, 3 / 160, -2 / 160, inverted=True)
    back = pose.inverse
    image = torch.arange(49.0).view(1, 1, 7, 7)
    assert torch.equal(quarter_turn_poses(quarter_turn_poses(image)[number])[back.number], image)

    def sampled(one: Pose, points: np.ndarray) -> np.ndarray:
        """Where points of the image lie in the match."""
        matrix, turned = one.sampling_matrix(), _turned(one.number)
        return turned @ (matrix[:, :2] @ points + matrix[:, 2:])

    points = np.random.default_rng(0).uniform(-1, 1, (2, 20))
    assert np.allclose(sampled(back, sampled(pose, points)), points, atol=1e-9)
    assert back.inverted and np.isclose(back.scale, 1 / 1.1) and back.inverse.words(160) == pose.words(160)


def test_what_is_known_of_pairs_is_not_registered_again_and_gives_the_same_under_another_whitening(candidates, cohort, monkeypatch):
    rng = np.random.default_rng(0)
    queries = torch.stack([thumbnail(plant_copy(cohort[i], "rotation 10", rng)) for i in (5, 0, 31)])
    among = candidates[np.array([[5, 1, 2, 6], [4, 0, 6, 1], [3, 2, 1, 0]])]
    registration, known = Registration(near=3), np.full((3, 4, STAGES), np.nan, np.float32)
    half, whole = (PatchSearch().fit(some).descriptor for some in (candidates[:4], candidates))
    registration(queries, among, descriptor=half, known=known)
    # Three of four candidates went on, of the copies to the end.
    assert [np.isfinite(known[:, :, stage]).sum() for stage in (0, 8, 16)] == [12, 9, 9] and np.isfinite(known[:2, :, 23]).any(
        1
    ).all()
    expected = registration(queries, among, descriptor=whole)
    monkeypatch.setattr(registration, "coarse", None)
    monkeypatch.setattr(registration, "_aligned", None)
    assert registration(queries, among, descriptor=whole, known=known) == expected
    assert expected != registration(queries, among, descriptor=half, known=known), (
        "the whitening tells nothing: the test says nothing"
    )


def test_of_known_and_new_candidates_the_new_ones_alone_are_registered(candidates, cohort, monkeypatch):
    queries = torch.stack([thumbnail(plant_copy(cohort[i], "crop 15 %", np.random.default_rng(0))) for i in (5, 0)])
    registration, among = Registration(), candidates[np.array([[1, 5, 2, 3], [4, 0, 6, 1]])]
    expected = registration(queries, among)
    known = np.full((2, 4, STAGES), np.nan, np.float32)
    registration(queries, among, given=np.array([[1, 0, 1, 1], [1, 1, 1, 1]], bool), known=known)
    assert np.isnan(known[0, 1]).all()
    searched, whole = [], type(registration.coarse).__call__

    def counted(self, images, visible, little, *rest):
        searched.append((len(images), len(little)))
        return whole(self, images, visible, little, *rest)

    monkeypatch.setattr(type(registration.coarse), "__call__", counted)
    again = registration(queries, among, known=known)
    assert searched == [(1, 1)]
    for a, b in zip(expected, again, strict=True):
        assert [pair.candidate for pair in a] == [pair.candidate for pair in b]
        assert [pair.detail for pair in a] == pytest.approx([pair.detail for pair in b], abs=1e-5)
