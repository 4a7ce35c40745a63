"""The same voxels are a copy, whatever the grid and the axis pose; a turned or another volume is not the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doppelscan.images import AXIS_POSES, axis_pose, cut_cube, find_images, generate_head, plant_volume
from doppelscan.images.cubes import cut_stored_cube
from doppelscan.images.transforms import window
from doppelscan.verify import IdenticalVoxels, VolumePose, VolumeRegistration
from made_volumes import write_nifti

SIZE = 32


class Cubes:
    """What is read of a set of volumes."""

    def __init__(self, volumes, spacing=(2.0, 2.0, 2.0), records=(), size=SIZE) -> None:
        cut = [cut_cube(one, spacing, size) for one in volumes]
        stored = [torch.from_numpy(cut_stored_cube(one, one.shape, SIZE)[0])[None] for one in volumes]
        self.cubes, self.places = [as_bytes(cube) for cube, _ in cut], [frame for _, frame in cut]
        self.stored = [as_bytes(F.adaptive_avg_pool3d(one, 16)[0].numpy()) for one in stored]
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.cubes)

    def thumbnails(self, rows):
        return torch.from_numpy(np.stack([self.cubes[row] for row in rows]))[:, None]

    def stored_cubes(self, rows):
        return torch.from_numpy(np.stack([self.stored[row] for row in rows]))[:, None]

    def frames(self, rows):
        return [self.places[row] for row in rows]

    @property
    def contents(self):
        return [one.tobytes().hex() + repr(place) for one, place in zip(self.cubes, self.places, strict=True)]


def as_bytes(cube: np.ndarray) -> np.ndarray:
    return np.round(cube.clip(0, 1) * 255).astype(np.uint8)


def of_files(folder, volumes, spacing) -> Cubes:
    """The same of volumes that lie in ``folder``, each windowed as an audit does."""
    folder.mkdir()
    for number, one in enumerate(volumes):
        write_nifti(folder / f"{number}.nii.gz", one, np.diag([*spacing, 1.0]))
    records = find_images(folder, volumes="whole").records
    return Cubes([window(one) for one in volumes], spacing, records)


HEADS = [generate_head(seed, 40) for seed in range(5)]


@pytest.fixture(scope="module")
def same():
    return IdenticalVoxels(Cubes(HEADS[:4]))  # type: ignore[arg-type]


def agreement(image: Cubes, training: Cubes, found) -> float:
    """How well the training volume, laid by the pose that was found, agrees with the volume."""
    (frame,), (match,) = image.frames([0]), training.frames([found.row])
    cubes = image.thumbnails([0]), training.thumbnails([found.row])
    (pair,) = VolumeRegistration().pairs(*cubes, [frame], [match], [found.mapped])
    return float(np.nanmean(pair.agreement_map))


@pytest.mark.parametrize("number", [0, 1, 6, AXIS_POSES.index(((2, 0, 1), (False, True, False)))])
def test_a_volume_in_an_axis_pose_is_the_same_and_the_pose_is_told(same, number):
    posed = axis_pose(torch.from_numpy(HEADS[2]), number).contiguous().numpy()
    (found,) = same.find(Cubes([posed]))
    assert (found.row, found.pose) == (2, number) and found.correlation > 0.999
    assert found.mapped.words() == VolumePose(number).words()


def test_the_pose_of_the_same_voxels_in_another_field_of_view_has_its_shift(same):
    """The pose was identity: the page laid the pair side by side and showed that nothing agrees."""
    padded = Cubes([np.pad(HEADS[2], ((12, 0), (0, 0), (0, 6)))])
    (found,) = same.find(padded)
    assert found.row == 2 and np.allclose(found.mapped.shift, [12, 0, -6], atol=0.6) and abs(found.mapped.scale - 1) < 0.02
    assert agreement(padded, same.training, found) > 0.97


@pytest.mark.parametrize("number", [0, 18])
def test_the_same_voxels_under_headers_of_another_voxel_size_are_the_same_and_the_pose_says_how(tmp_path, number):
    """A generator writes no voxel size: cubes made of what the headers say hold other shapes."""
    training = of_files(tmp_path / "training", HEADS[:3], (2.0, 2.0, 3.6))
    copy = axis_pose(torch.from_numpy(HEADS[1] * 700 + 30), number).contiguous().numpy()
    images = of_files(tmp_path / "synthetic", [copy, HEADS[4]], (1.0, 1.0, 1.0))
    found, stranger = IdenticalVoxels(training).find(images)  # type: ignore[arg-type]
    assert stranger is None and found is not None and found.told == "another voxel size in the header"
    assert (found.row, found.pose, found.mapped.number) == (1, number, number) and found.correlation > 0.999
    axes = AXIS_POSES[number][0]
    assert np.allclose(found.mapped.stretch[:3], np.array([1 / 2, 1 / 2, 1 / 3.6])[list(axes)], rtol=0.01)
    assert agreement(images, training, found) > 0.9


def test_volumes_that_are_alike_when_they_are_small_are_compared_by_their_files(tmp_path):
    """What is kept of a volume as it is stored has 16 voxels a side, which another volume may share."""
    training = of_files(tmp_path / "training", HEADS[:2], (2.0, 2.0, 3.6))
    images = of_files(tmp_path / "synthetic", [HEADS[4]], (1.0, 1.0, 1.0))
    images.stored = training.stored[:1]
    assert IdenticalVoxels(training).find(images) == [None]  # type: ignore[arg-type]


def test_a_copy_that_was_read_smaller_has_the_voxels_of_its_file(tmp_path):
    """A file of more voxels along one axis than are read is squeezed when it is read."""
    long = np.repeat(HEADS[0], 4, 2)  # 160 of which 128 are read
    training = of_files(tmp_path / "training", [HEADS[1], long], (2.0, 2.0, 0.6))
    images = of_files(tmp_path / "synthetic", [np.pad(long, ((0, 0), (0, 0), (0, 16)))], (1.0, 1.0, 1.0))
    (found,) = IdenticalVoxels(training).find(images)  # type: ignore[arg-type]
    assert found is not None and found.row == 1


def test_another_grid_is_the_same_and_a_turn_or_a_stranger_is_not(same):
    finer = plant_volume(HEADS[1], (2, 2, 2), "2 mm", np.random.default_rng(0))
    turned = plant_volume(HEADS[1], (2, 2, 2), "rotation 10 x", np.random.default_rng(0))
    found = same.find(Cubes([finer.pixels, turned.pixels, HEADS[4]]))
    assert found[0] is not None and found[0].row == 1 and found[1] is None and found[2] is None


def test_equal_voxels_correlate_to_the_last_digit_that_is_told():
    """At full size a sum of single precision made 0.9997 of it: a copy as it is was said to be resized, blurred or noisy."""
    cubes = Cubes([generate_head(7, 64) ** 0.5 * 0.9 + 0.1], size=64)
    (found,) = IdenticalVoxels(cubes).find(cubes)  # type: ignore[arg-type]
    assert found is not None and found.correlation == 1.0


def test_of_two_equal_training_volumes_the_first_is_named():
    (found,) = IdenticalVoxels(Cubes([HEADS[0], HEADS[1], HEADS[1]])).find(Cubes([HEADS[1]]))  # type: ignore[arg-type]
    assert found is not None and found.row == 1


def test_of_volumes_of_one_set_each_repeat_names_the_first_before_it():
    posed = axis_pose(torch.from_numpy(HEADS[1]), 6).contiguous().numpy()
    cubes = Cubes([HEADS[0], HEADS[1], posed, HEADS[2], HEADS[1]])
    found = IdenticalVoxels(cubes).repeats()  # type: ignore[arg-type]
    assert [None if one is None else one.row for one in found] == [None, None, 1, None, 1]
    assert found[2] is not None and found[2].mapped.words() == VolumePose(6).words()


def test_of_one_set_a_repeat_whose_header_says_another_voxel_size_names_the_first(tmp_path):
    cubes, other = of_files(tmp_path / "a", HEADS[:2], (2.0, 2.0, 3.0)), of_files(tmp_path / "b", HEADS[1:2], (1.0, 1.0, 1.0))
    for name in ("cubes", "stored", "places", "records"):
        getattr(cubes, name).extend(getattr(other, name))
    found = IdenticalVoxels(cubes).repeats()  # type: ignore[arg-type]
    assert [None if one is None else one.row for one in found] == [None, None, 1]
