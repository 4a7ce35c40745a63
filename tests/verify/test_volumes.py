"""Registration of volumes: poses are found and named, copies stand apart from strangers, against formulas and SimpleITK."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from doppelscan.deepssim import ssim
from doppelscan.errors import InputError
from doppelscan.images.cubes import CubeFrame, axis_pose_matrix, blur_volumes, cut_cube
from doppelscan.images.generated_volumes import generate_head
from doppelscan.images.planted_volumes import plant_volume
from doppelscan.verify import volumes
from doppelscan.verify.volume_alignment import (
    band_pass_volumes,
    bend_volumes,
    bent_grid,
    better_half,
    cell_agreement,
    cube_grid,
    sample_volumes,
    tissue_masks,
)
from doppelscan.verify.volume_coarse import spread_rotations
from doppelscan.verify.volume_pose import VolumePose
from doppelscan.verify.volumes import VolumeRegistration
from scipy.spatial.transform import Rotation
from skimage.metrics import structural_similarity

SPACING = (2.0, 2.0, 2.0)
PEOPLE = 4


@pytest.fixture(scope="module")
def training():
    heads = [generate_head(seed, 80) for seed in range(PEOPLE)]
    made = [cut_cube(head, SPACING) for head in heads]
    return heads, torch.from_numpy(np.stack([cube for cube, _ in made]))[:, None], [frame for _, frame in made]


@pytest.fixture(scope="module")
def registration():
    return VolumeRegistration()


def _query(planted) -> tuple[torch.Tensor, CubeFrame]:
    cube, frame = cut_cube(planted.pixels, planted.spacing)
    return torch.from_numpy(cube)[None, None], frame


def _found(registration, training, name, source=1, partner=None, poses=(0, 1, 2, 4), seed=0):
    heads, cubes, frames = training
    planted = plant_volume(heads[source], SPACING, name, np.random.default_rng(seed), partner)
    cube, frame = _query(planted)
    tried = None if poses is None else np.tile(np.array(poses), (1, PEOPLE, 1))
    return registration(cube, cubes[None], [frame], [frames], poses=tried)[0], planted


def test_exact_copy_is_the_identity_and_agrees_wholly(registration, training):
    found, _ = _found(registration, training, "exact")
    best = found[0]
    assert (best.candidate, best.pose.words()) == (1, "identity")
    for value in (best.score, best.detail, best.ssim, best.share, best.agreement):
        assert value == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", ["rotation 5 x", "rotation 10 y", "rotation 20 z", "shift 10 % y", "zoom", "crop 15 %", "2 mm"])
def test_pose_is_found_to_a_degree_and_a_voxel(registration, training, name):
    found, planted = _found(registration, training, name)
    best = found[0]
    assert best.candidate == 1
    assert best.pose.rotation_error(planted.matrix) < 1
    inside = np.array([[20.0, -25, 15, 1], [-15, 30, -10, 1], [0, 0, 0, 1]]).T
    np.testing.assert_allclose((best.pose.matrix() @ inside)[:3], (planted.matrix @ inside)[:3], atol=2.0)
    assert best.score > 0.9


def test_permuted_axes_are_found_among_all_48(registration, training):
    found, planted = _found(registration, training, "axes 2 0 1", poses=None)
    assert found[0].candidate == 1
    assert found[0].pose.words() == "axes 2 0 1"
    assert found[0].pose.rotation_error(planted.matrix) < 1


def test_flipped_turned_and_noisy_copy_is_named(registration, training):
    found, planted = _found(registration, training, "flip, rotation, noise")
    assert found[0].candidate == 1
    assert found[0].pose.words().startswith("flip-x rot ")
    assert found[0].pose.rotation_error(planted.matrix) < 1


@pytest.mark.parametrize("name", ["half replaced", "half emptied", "blend 75/25", "elastic", "bias field", "gamma 1.5"])
def test_strangers_stay_below_copies_through_the_same_transform(registration, training, name):
    partner = (generate_head(50, 80), SPACING)
    copy, planted = _found(registration, training, name, partner=partner)
    _, cubes, frames = training
    stranger = plant_volume(generate_head(60, 80), SPACING, name, np.random.default_rng(0), partner)
    cube, frame = _query(stranger)
    poses = np.tile(np.array([0, 1, 2, 4]), (1, PEOPLE, 1))
    other = registration(cube, cubes[None], [frame], [frames], poses=poses)[0]
    assert copy[0].candidate == 1
    assert copy[0].pose.rotation_error(planted.matrix) < 2
    assert copy[0].score > other[0].score + 0.15


@pytest.mark.parametrize("name", ["elastic x1.5", "elastic x2"])
def test_where_it_is_asked_for_what_was_bent_is_bent_back_before_it_is_measured(registration, training, name):
    stiff, _ = _found(registration, training, name)
    bending = copy.copy(registration)
    bending.bends = True
    bent, _ = _found(bending, training, name)
    assert bent[0].candidate == stiff[0].candidate == 1
    assert bent[0].score > 0.9 and bent[0].score > stiff[0].score + 0.05 and bent[0].share > stiff[0].share
    assert bending.settings() != registration.settings(), "kept pairs of the one are none of the other"


def test_bending_finds_a_smooth_displacement_and_goes_no_further_than_it_may():
    generator = torch.Generator().manual_seed(0)
    moving = blur_volumes(torch.randn(1, 1, 32, 32, 32, generator=generator), 1.0)
    moving, every, unmoved = moving / moving.std(), torch.ones(1, 1, 32, 32, 32), torch.eye(3, 4)[None]
    axis = (torch.arange(32) + 0.5) / 16 - 1
    wave = 0.03 * torch.cos(1.5 * axis)
    field = torch.stack([wave.view(1, -1, 1).expand(32, 32, 32), wave.view(1, 1, -1).expand(32, 32, 32), torch.zeros(32, 32, 32)])
    fixed = sample_volumes(moving, bent_grid(unmoved, field[None]))
    found = bend_volumes(fixed, moving, unmoved, every, every)
    inner = (slice(None), *[slice(6, 26)] * 3)
    assert float((found[0][inner] - field[inner]).abs().mean()) < 0.006 and float(found.abs().max()) <= 0.05 + 1e-6
    assert float(bend_volumes(moving, moving, unmoved, every, every).abs().max()) < 1e-4


def test_map_shows_the_half_that_is_anothers(registration, training):
    _, cubes, frames = training
    partner = (generate_head(50, 80), SPACING)
    found, planted = _found(registration, training, "half replaced", partner=partner)
    cube, frame = _query(planted)
    told = registration.pairs(cube, cubes[1:2], [frame], [frames[1]], [found[0].pose])[0]
    axis, upper = "xyz".index(planted.words[-1]), planted.words[-2] == "+"
    plane = int(np.clip(round((frame.from_mm(np.zeros(3))[axis] + 1) * 32), 12, 52))
    halves = np.split(np.moveaxis(told.agreement_map, axis, 0), [plane])
    lost, kept = (halves[1], halves[0]) if upper else (halves[0], halves[1])
    assert np.nanmean(kept) > np.nanmean(lost) + 0.3
    assert told.moved.shape == told.inside.shape == (64, 64, 64)


def test_pairs_together_give_what_each_gives_alone(training):
    heads, cubes, frames = training
    planted = [plant_volume(heads[i], SPACING, "rotation 5 y", np.random.default_rng(0)) for i in (0, 2)]
    queries = [_query(one) for one in planted]
    poses = np.zeros((2, PEOPLE, 1), np.int64)
    both = torch.cat([cube for cube, _ in queries])
    told = []
    for at_once in (1, 2):
        registration = VolumeRegistration(at_once=at_once)
        told.append(
            registration(both, cubes[None].expand(2, -1, -1, -1, -1, -1), [f for _, f in queries], [frames] * 2, poses=poses)
        )
    for alone, together in zip(*told, strict=True):
        assert [one.candidate for one in alone] == [one.candidate for one in together]
        np.testing.assert_allclose([one.score for one in alone], [one.score for one in together], atol=1e-4)


def test_what_is_known_of_a_pair_is_not_registered_again(registration, training, monkeypatch):
    heads, cubes, frames = training
    cube, frame = _query(plant_volume(heads[2], SPACING, "rotation 10 x", np.random.default_rng(0)))
    poses = np.zeros((1, PEOPLE, 1), np.int64)
    known = np.full((1, PEOPLE, registration.columns), np.nan, np.float32)
    registration(cube, cubes[:3][None], [frame], [frames[:3]], poses=poses[:, :3], known=known[:, :3])
    assert np.isfinite(known[0, :3, 0]).all() and np.isnan(known[0, 3]).all()
    expected = registration(cube, cubes[None], [frame], [frames], poses=poses)
    asked = []
    aligned = volumes.align_volumes

    def counted(fixed, moving, *others):
        asked.append((fixed.shape[-1], len(moving)))
        return aligned(fixed, moving, *others)

    monkeypatch.setattr(volumes, "align_volumes", counted)
    found = registration(cube, cubes[None], [frame], [frames], poses=poses, known=known)
    assert found == expected and asked[0] == (16, 1) and all(count == 1 for _, count in asked), "the new one alone"
    asked.clear()
    assert registration(cube, cubes[None], [frame], [frames], poses=poses, known=known) == expected and not asked


def test_order_of_the_candidates_does_not_matter(registration, training):
    heads, cubes, frames = training
    cube, frame = _query(plant_volume(heads[2], SPACING, "rotation 10 x", np.random.default_rng(0)))
    poses = np.zeros((1, PEOPLE, 1), np.int64)
    order = [3, 2, 0, 1]
    one = registration(cube, cubes[None], [frame], [frames], poses=poses)[0]
    other = registration(cube, cubes[order][None], [frame], [[frames[i] for i in order]], poses=poses)[0]
    assert [order[found.candidate] for found in other] == [found.candidate for found in one]
    np.testing.assert_allclose([found.score for found in other], [found.score for found in one], atol=1e-4)


def test_only_given_candidates_are_registered(registration, training):
    heads, cubes, frames = training
    cube, frame = _query(plant_volume(heads[1], SPACING, "exact", np.random.default_rng(0)))
    given = np.array([[True, False, True, False]])
    poses = np.zeros((1, PEOPLE, 1), np.int64)
    found = registration(cube, cubes[None], [frame], [frames], given=given, poses=poses)[0]
    assert {one.candidate for one in found} <= {0, 2}
    assert registration(cube, cubes[None], [frame], [frames], given=~given & given, poses=poses) == [[]]


def test_cubes_of_another_shape_are_refused(registration, training):
    _, cubes, frames = training
    with pytest.raises(InputError, match=r"S a multiple of 32.*cut them by cut_cube"):
        registration(cubes[:1, :, :48, :48, :48], cubes[None], frames[:1], [frames])


def test_pose_agrees_with_simpleitk(registration, training):
    heads, cubes, frames = training
    planted = plant_volume(heads[1], SPACING, "rotation 10 y", np.random.default_rng(0))

    def image(volume: np.ndarray, spacing: tuple[float, float, float]) -> sitk.Image:
        made = sitk.GetImageFromArray(255 * np.ascontiguousarray(volume.transpose(2, 1, 0)))
        made.SetSpacing(spacing)
        made.SetOrigin([-(side - 1) / 2 * step for side, step in zip(volume.shape, spacing, strict=True)])
        return made

    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(4.0, 1e-5, 300, relaxationFactor=0.7)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([2, 1])
    method.SetInitialTransform(sitk.Euler3DTransform(), inPlace=False)
    oracle = method.Execute(image(planted.pixels, planted.spacing), image(heads[1], SPACING))

    cube, frame = _query(planted)
    poses = np.zeros((1, PEOPLE, 1), np.int64)
    ours = np.linalg.inv(registration(cube, cubes[None], [frame], [frames], poses=poses)[0][0].pose.matrix())
    for place in ([25.0, -20.0, 15.0], [-20.0, 30.0, -10.0], [0.0, 0.0, 30.0]):
        np.testing.assert_allclose((ours @ [*place, 1.0])[:3], oracle.TransformPoint(place), atol=1.0)


def test_ssim_of_volumes_is_scikit_images():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 20, 18, 16))
    second = 0.6 * first + 0.4 * second
    reach = max(first.max(), second.max()) - min(first.min(), second.min())
    expected = structural_similarity(first, second, win_size=7, data_range=reach)
    found = ssim(torch.from_numpy(first)[None, None], torch.from_numpy(second)[None, None], 7)
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_cell_agreement_is_the_correlation_within_four_voxels():
    first, second, inside = torch.rand(3, 2, 512).unbind(0)
    cells, structure = cell_agreement(first, second, inside)
    a, b, w = (one.view(2, 8, 8, 8)[1, 4:8, :4, 4:8] for one in (first, second, inside))
    # The 0.001 keeps cells without structure at 0.
    expected = (a * b * w).mean() / (((a * a * w).mean() * (b * b * w).mean()).sqrt() + 1e-3)
    assert float(cells.view(2, 2, 2, 2)[1, 1, 0, 1]) == pytest.approx(float(expected), rel=1e-5)
    assert float(structure.view(2, 2, 2, 2)[1, 1, 0, 1]) == pytest.approx(float((b * b * w).mean()), rel=1e-5)


def test_better_half_takes_the_best_cells_up_to_half_of_the_structure():
    cells, weights = torch.tensor([[0.9, 0.1, 0.5, 0.7]]), torch.tensor([[1.0, 4.0, 2.0, 1.0]])
    # 1 of 0.9, 1 of 0.7 and 2 of 0.5: half of 8.
    assert float(better_half(cells, weights)) == pytest.approx((0.9 + 0.7 + 2 * 0.5) / 4)


def test_band_pass_does_not_see_where_the_tissue_ends():
    volume = torch.zeros(1, 1, 32, 32, 32)
    volume[:, :, 8:24, 8:24, 8:24] = 0.8
    tissue = (volume > 0).float()
    assert float(band_pass_volumes(volume, 1.5, tissue).abs().max()) < 1e-3
    assert float(band_pass_volumes(volume, 1.5, torch.ones_like(volume)).abs().max()) > 0.5


def test_tissue_is_the_head_with_its_ventricles_and_not_the_background():
    ball = sum(one**2 for one in np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")) ** 0.5
    volume = np.where((ball < 0.8) & (ball > 0.25), 0.8, 0.0) + 0.02 * np.random.default_rng(0).random((32, 32, 32))
    whole = torch.ones(1, 1, 32, 32, 32)
    tissue = tissue_masks(torch.from_numpy(volume).float()[None, None], whole)[0, 0].numpy()
    assert tissue[ball < 0.7].min() == 1
    assert tissue[ball > 0.95].max() == 0


def test_tissue_without_background_is_all_but_what_was_filled_up():
    volume = 0.5 + 0.3 * np.random.default_rng(0).random((32, 32, 32)).astype(np.float32)
    volume[:5] = 0
    tissue = tissue_masks(torch.from_numpy(volume)[None, None], torch.ones(1, 1, 32, 32, 32))[0, 0]
    assert float(tissue[6:].mean()) == 1
    assert float(tissue[:3].mean()) == 0


@pytest.mark.parametrize("seed", range(8))
def test_pose_is_the_matrix_and_the_matrix_the_pose(seed):
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3] = rng.standard_normal((3, 4))
    pose = VolumePose.from_matrix(matrix)
    np.testing.assert_allclose(pose.matrix(), matrix, atol=1e-9)
    again = VolumePose.from_matrix(pose.matrix())
    assert again.number == pose.number
    np.testing.assert_allclose(again.rotation, pose.rotation, atol=1e-7)


def test_pose_says_axis_pose_scale_rotation_and_shift_apart():
    turned = Rotation.from_rotvec([9.8, -0.3, 1.2], degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = 1.05 * turned @ axis_pose_matrix(1)
    matrix[:3, 3] = 3.0, -2.1, 0.0
    assert VolumePose.from_matrix(matrix).words() == "flip-x rot x 9.8 y -0.3 z 1.2 scale 1.05 shift 3.0,-2.1,0.0 mm"
    permuted = np.eye(4)
    permuted[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert VolumePose.from_matrix(permuted).words() == "axes 2 0 1"
    assert VolumePose().words() == "identity"
    stretched = VolumePose(1, (0.0, 12.0, 0.0), (1.0, 1.0, 1.87, 0.0, 0.0, 0.0), (3.0, 0.0, 0.0))
    assert stretched.words() == "flip-x stretch 1.00,1.00,1.87 rot x 0.0 y 12.0 z 0.0 shift 3.0,0.0,0.0 mm"
    assert VolumePose(0, stretch=(1.04, 1.05, 1.06, 0.0, 0.0, 0.0)).words() == "scale 1.05"
    with pytest.raises(InputError, match="invertible"):
        VolumePose.from_matrix(np.zeros((4, 4)))


def test_sampling_matrix_moves_a_place_as_the_pose_says():
    frame = CubeFrame((3.0, -2.0, 1.0), 150.0, 64, (90, 100, 80), (1.5, 1.5, 1.5))
    match = CubeFrame((-1.0, 4.0, 0.0), 170.0, 64, (60, 110, 90), (2.0, 1.5, 1.5))
    matrix = np.eye(4)
    matrix[:3, :3] = 0.95 * Rotation.from_rotvec([5, -8, 12], degrees=True).as_matrix() @ axis_pose_matrix(21)
    matrix[:3, 3] = 4.0, 2.0, -7.0
    pose = VolumePose.from_matrix(matrix)
    sampling = pose.sampling_matrix(frame, match)
    place = np.array([10.0, -20.0, 15.0])  # mm in the match
    moved = matrix[:3, :3] @ place + matrix[:3, 3]
    posed = axis_pose_matrix(pose.number) @ match.from_mm(place)
    np.testing.assert_allclose(sampling @ [*frame.from_mm(moved), 1.0], posed, atol=1e-9)
    again = VolumePose.from_sampling_matrix(pose.number, sampling, frame, match)
    np.testing.assert_allclose(again.matrix(), matrix, atol=1e-9)


def test_grid_samples_each_voxel_at_its_own_place():
    volume = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(sample_volumes(volume, cube_grid(torch.eye(3, 4)[None], 8)), volume)
    shifted = torch.eye(3, 4)[None].clone()
    shifted[0, 0, 3] = 2 * 2.0 / 8  # two voxels along x
    torch.testing.assert_close(sample_volumes(volume, cube_grid(shifted, 8))[:, :, :6], volume[:, :, 2:], atol=1e-5, rtol=0)


def test_rotations_are_spread_without_holes():
    rotations = np.array(spread_rotations(28.0, 16.0))
    assert rotations[0].tolist() == [0, 0, 0]
    assert len(np.unique(rotations, axis=0)) == len(rotations)
    rng = np.random.default_rng(0)
    asked = rng.standard_normal((500, 3))
    asked *= 25 * rng.random((500, 1)) ** (1 / 3) / np.linalg.norm(asked, axis=1, keepdims=True)
    turned, tried = Rotation.from_rotvec(asked, degrees=True), Rotation.from_rotvec(rotations, degrees=True)
    nearest = [min((one * other.inv()).magnitude() for other in tried) for one in turned]
    assert np.degrees(max(nearest)) < 12.5


def test_what_a_shift_fills_with_black_is_no_structure_that_the_match_lacks(registration):
    """Crops without background: 0.78 of this one was explained, so that its kind was a part."""
    crops = [generate_head(seed, 96)[30:66, 24:70, 30:66] for seed in (3, 4)]
    made = [cut_cube(crop, (1.0, 1.0, 1.0)) for crop in crops]
    cubes, frames = torch.from_numpy(np.stack([cube for cube, _ in made]))[:, None], [frame for _, frame in made]
    planted = plant_volume(crops[0], (1.0, 1.0, 1.0), "shift 10 % x", np.random.default_rng(0))
    cube, frame = _query(planted)
    best, other = registration(cube, cubes[None], [frame], [frames], poses=np.zeros((1, 2, 1), np.int64))[0]
    assert best.candidate == 0 and best.share > 0.95 and other.share < 0.6
    (pair,) = registration.pairs(cube, cubes[:1], [frame], frames[:1], [best.pose])
    assert np.nanmean(pair.agreement_map > 0.7) > 0.6
