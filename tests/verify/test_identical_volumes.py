"""The same voxels are a copy, whatever the grid and the axis pose; a turned or another volume is not the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import AXIS_POSES, axis_pose, cut_cube, generate_head, plant_volume
from doppelscan.verify import IdenticalVoxels, VolumePose


class Cubes:
    """What is read of a set of volumes."""

    def __init__(self, volumes, spacing=(2.0, 2.0, 2.0)) -> None:
        self.cubes = [np.round(cut_cube(one, spacing, 32)[0].clip(0, 1) * 255).astype(np.uint8) for one in volumes]

    def __len__(self) -> int:
        return len(self.cubes)

    def thumbnails(self, rows):
        return torch.from_numpy(np.stack([self.cubes[row] for row in rows]))[:, None]


HEADS = [generate_head(seed, 40) for seed in range(5)]


@pytest.fixture(scope="module")
def same():
    return IdenticalVoxels(Cubes(HEADS[:4]))  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 1, 6, AXIS_POSES.index(((2, 0, 1), (False, True, False)))])
def test_a_volume_in_an_axis_pose_is_the_same_and_the_pose_is_told(same, number):
    posed = axis_pose(torch.from_numpy(HEADS[2]), number).contiguous().numpy()
    (found,) = same.find(Cubes([posed]))
    assert (found.row, found.pose, found.mapped) == (2, number, VolumePose(number)) and found.correlation > 0.999


def test_another_grid_is_the_same_and_a_turn_or_a_stranger_is_not(same):
    finer = plant_volume(HEADS[1], (2, 2, 2), "2 mm", np.random.default_rng(0))
    turned = plant_volume(HEADS[1], (2, 2, 2), "rotation 10 x", np.random.default_rng(0))
    found = same.find(Cubes([finer.pixels, turned.pixels, HEADS[4]]))
    assert found[0] is not None and found[0].row == 1 and found[1] is None and found[2] is None


def test_of_two_equal_training_volumes_the_first_is_named():
    (found,) = IdenticalVoxels(Cubes([HEADS[0], HEADS[1], HEADS[1]])).find(Cubes([HEADS[1]]))  # type: ignore[arg-type]
    assert found is not None and found.row == 1


def test_of_volumes_of_one_set_each_repeat_names_the_first_before_it():
    posed = axis_pose(torch.from_numpy(HEADS[1]), 6).contiguous().numpy()
    cubes = Cubes([HEADS[0], HEADS[1], posed, HEADS[2], HEADS[1]])
    cubes.contents = [one.tobytes().hex() for one in cubes.cubes]  # type: ignore[attr-defined]
    found = IdenticalVoxels(cubes).repeats()  # type: ignore[arg-type]
    assert [None if one is None else one.row for one in found] == [None, None, 1, None, 1]
    assert found[2] is not None and found[2].mapped == VolumePose(6)
