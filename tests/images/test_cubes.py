"""Cubes around the anatomy, their way back to millimetres, and the 48 axis poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.errors import ImageError, InputError
from doppelscan.images.cubes import (
    AXIS_POSES,
    axis_pose,
    axis_pose_matrix,
    blur_volumes,
    cut_cube,
    cut_cubes,
    foreground_cube,
    inverse_axis_pose,
    resample_blocks,
)
from doppelscan.images.generated_volumes import generate_head, generate_volumes
from scipy import ndimage


def test_all_axis_poses_differ_and_the_first_is_the_volume_itself():
    volume = torch.arange(27).view(3, 3, 3)
    posed = {tuple(axis_pose(volume, number).flatten().tolist()) for number in range(48)}
    assert len(AXIS_POSES) == len(posed) == 48
    assert torch.equal(axis_pose(volume, 0), volume)


@pytest.mark.parametrize("number", [0, 1, 6, 13, 29, 47])
def test_matrix_of_an_axis_pose_says_where_a_voxel_goes(number):
    volume = torch.zeros(1, 5, 7, 9)
    volume[0, 1, 5, 6] = 1
    places = (np.array([1, 5, 6]) + 0.5) / [5, 7, 9] * 2 - 1
    posed = axis_pose(volume, number)
    found = (np.array(np.unravel_index(int(posed.argmax()), posed.shape))[1:] + 0.5) / posed.shape[1:] * 2 - 1
    np.testing.assert_allclose(found, axis_pose_matrix(number) @ places, atol=1e-12)


@pytest.mark.parametrize("number", range(48))
def test_inverse_undoes_every_axis_pose(number):
    volume = torch.rand(2, 3, 4)
    assert torch.equal(axis_pose(axis_pose(volume, number), inverse_axis_pose(number)), volume)


def test_resampled_block_is_the_triangle_filter_written_out():
    volume = torch.rand(1, 1, 9, 8, 7, dtype=torch.float64)
    block, size = [1.3, 0.5, 0.0, 8.3, 7.5, 7.0], (3, 7, 2)
    weights = []
    for axis in range(3):
        step = (block[axis + 3] - block[axis]) / size[axis]
        centres = block[axis] + (np.arange(size[axis]) + 0.5) * step
        one = np.clip(1 - np.abs(np.arange(volume.shape[2 + axis]) + 0.5 - centres[:, None]) / max(1.0, step), 0, None)
        weights.append(one / one.sum(1, keepdims=True))
    expected = np.einsum("ai,bj,ck,ijk->abc", *weights, volume[0, 0].numpy())
    np.testing.assert_allclose(resample_blocks(volume, torch.tensor([block]), size)[0, 0].numpy(), expected, atol=1e-6)


def test_blur_is_scipys_gaussian():
    volume = np.random.default_rng(0).random((12, 10, 9))
    expected = ndimage.gaussian_filter(volume, 1.2, mode="nearest", radius=int(3 * 1.2 + 0.5))
    np.testing.assert_allclose(blur_volumes(torch.from_numpy(volume)[None, None], 1.2)[0, 0].numpy(), expected, atol=1e-12)


def test_frame_leads_from_the_cube_to_the_voxel_and_back():
    volume = np.zeros((40, 50, 30), np.float32)
    volume[8:32, 10:40, 6:24] = 0.5
    volume[20, 31, 11] = 40.0
    cube, frame = cut_cube(volume, (1.5, 1.0, 2.5), 96)
    place = (np.array(np.unravel_index(cube.argmax(), cube.shape)) + 0.5) / 96 * 2 - 1
    np.testing.assert_allclose(frame.to_voxels(place), [20, 31, 11], atol=0.75)
    np.testing.assert_allclose(frame.from_voxels(frame.to_voxels(place)), place, atol=1e-12)
    np.testing.assert_allclose(frame.to_mm(frame.from_mm(np.array([3.0, -4.0, 5.0]))), [3, -4, 5], atol=1e-12)


def test_centre_follows_a_shift_of_part_of_a_voxel_and_the_side_a_zoom():
    head = generate_head(3, 56)
    base = foreground_cube(torch.from_numpy(head)[None, None], (2.0, 2.0, 2.0))[0]
    for shift in (0.3, 0.6, 1.7):
        moved = ndimage.shift(head, (shift, 0, -shift), order=1)
        found = foreground_cube(torch.from_numpy(moved)[None, None], (2.0, 2.0, 2.0))[0]
        np.testing.assert_allclose((found - base)[:3], [2 * shift, 0, -2 * shift], atol=0.25)
        assert abs(float(found[3] / base[3]) - 1) < 0.01
    zoomed = ndimage.zoom(head, 0.8, order=1)
    assert float(foreground_cube(torch.from_numpy(zoomed)[None, None], (2.0,) * 3)[0, 3] / base[3]) == pytest.approx(0.8, abs=0.015)


def test_rotation_moves_neither_centre_nor_side():
    head = generate_head(5, 56)
    base = foreground_cube(torch.from_numpy(head)[None, None])[0]
    centre = tuple(base[:3].numpy())
    turned = ndimage.rotate(head, 20, axes=(0, 1), reshape=False, order=1)
    found = foreground_cube(torch.from_numpy(turned)[None, None])[0]
    assert abs(float(found[3] / base[3]) - 1) < 0.02
    assert float((found[:3] - base[:3]).norm()) < 0.5 + 0.4 * float(np.hypot(*centre[:2]))


def test_anisotropic_voxels_give_the_same_cube():
    head = generate_head(2, 60)
    thick = head.reshape(60, 60, 20, 3).mean(3)
    one, frame = cut_cube(head, (1.0, 1.0, 1.0), 20)
    other, thick_frame = cut_cube(thick, (1.0, 1.0, 3.0), 20)
    assert thick_frame.side == pytest.approx(frame.side, rel=0.02)
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98


def test_volume_without_background_is_seen_whole():
    tissue = (0.5 + 0.5 * np.random.default_rng(0).random((35, 51, 30))).astype(np.float32)
    tissue = ndimage.gaussian_filter(tissue, 2)
    _, frame = cut_cube(tissue, (1.0, 1.0, 1.0), 32)
    assert frame.centre == (0, 0, 0)
    assert frame.side == 51


def test_a_black_frame_round_a_crop_without_background_is_no_part_of_it():
    """A copy that was shrunk lies in one: its cube was that of nobody, and its source was not found."""
    tissue = (0.5 + 0.5 * np.random.default_rng(0).random((35, 51, 30))).astype(np.float32)
    tissue = ndimage.gaussian_filter(tissue, 2)
    framed = np.pad(tissue, ((4, 2), (3, 7), (0, 5)))
    cube, frame = cut_cube(framed, (1.0, 1.0, 1.0), 32)
    assert frame.centre == (1, -2, -2.5) and frame.side == 51
    assert np.corrcoef(cube.ravel(), cut_cube(tissue, (1.0, 1.0, 1.0), 32)[0].ravel())[0, 1] > 0.999
    small = ndimage.affine_transform(tissue, np.eye(3) / 0.85, np.array([17, 25, 14.5]) * (1 - 1 / 0.85), order=1)
    assert cut_cube(small, (1.0, 1.0, 1.0), 32)[1].side == pytest.approx(0.85 * 51, abs=1.5)


def test_the_background_of_a_head_is_no_frame():
    head = generate_head(4, 48)
    padded = np.pad(head, 6)
    one, other = (foreground_cube(torch.from_numpy(np.ascontiguousarray(volume))[None, None])[0] for volume in (head, padded))
    np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0.02, atol=0.3)


def test_constant_volume_is_seen_whole():
    _, frame = cut_cube(np.full((20, 30, 10), 7.0, np.float32), (1.0, 1.0, 2.0), 16)
    assert (frame.centre, frame.side) == ((0, 0, 0), 30)


def test_batch_gives_what_each_volume_alone_gives():
    volumes = torch.stack([torch.from_numpy(generate_head(seed, 40)) for seed in (1, 2)])[:, None]
    together = cut_cubes(volumes, 24, (1.0, 2.0, 1.5))
    alone = [cut_cube(volume[0].numpy(), (1.0, 2.0, 1.5), 24)[0] for volume in volumes]
    np.testing.assert_allclose(together[:, 0].numpy(), np.stack(alone), atol=1e-5)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, np.nan, 1.0), (1.0, 1.0)])
def test_spacing_that_is_no_length_is_refused(spacing):
    with pytest.raises(InputError, match="'spacing' parameter must be three positive numbers"):
        cut_cube(np.ones((8, 8, 8), np.float32), spacing)


def test_nan_voxels_are_counted():
    volume = np.ones((8, 8, 8), np.float32)
    volume[:2, 0, 0] = np.nan
    with pytest.raises(ImageError, match="2 of 512 voxels"):
        cut_cube(volume, (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="three axes"):
        cut_cube(volume[0], (1.0, 1.0, 1.0))


def test_a_generated_person_is_its_seed_and_people_differ():
    one, again, other = generate_head(4, 32), generate_head(4, 32), generate_head(5, 32)
    np.testing.assert_array_equal(one, again)
    assert one.dtype == np.float32
    assert 0 <= one.min() <= one.max() <= 1
    inside = (one > 0.1) | (other > 0.1)
    assert 0.2 < np.corrcoef(one[inside], other[inside])[0, 1] < 0.97


@pytest.mark.parametrize("seed", range(4))
def test_generated_cohort_has_contrast_and_its_people_differ(seed):
    volumes, people = generate_volumes(3, 24, seed)
    assert volumes.shape == (3, 1, 24, 24, 24)
    assert volumes.dtype == torch.uint8
    assert people.tolist() == [0, 1, 2]
    assert torch.equal(volumes, generate_volumes(3, 24, seed)[0])
    assert all(float(volume.float().std()) > 10 for volume in volumes)
    assert not torch.equal(volumes[0], volumes[1])
