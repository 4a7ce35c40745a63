"""A pose found on small squares and cubes holds at the resolution of the files: the pair laid large is the pair laid small, with more in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import cut_cube, generate_cohort, generate_head, plant_volume, whole_squares
from doppelscan.verify import Pose, SeenVolume, VolumePose, VolumeRegistration, laid_planes, laid_square
from scipy.ndimage import zoom

SPACING = (2.0, 2.0, 2.0)


def square(pixels: np.ndarray, size: int) -> np.ndarray:
    made = whole_squares(torch.from_numpy(pixels.astype(np.float32))[None, None], size)[0, 0].numpy()
    return np.round(made.clip(0, 1) * 255).astype(np.uint8)


@pytest.mark.parametrize(
    "pose",
    [Pose(), Pose(True, 1, 7.0, 1.1, 0.04, -0.03), Pose(quarter_turns=3, rotation=-12.0, scale=0.9, inverted=True)],
)
def test_a_match_laid_large_is_the_match_laid_small(pose):
    images, _ = generate_cohort(1, 1, 256, seed=3)
    pixels = images[0, 0].numpy()[:, 20:220] / 255  # not square
    small, large = laid_square(square(pixels, 64), pose), laid_square(square(pixels, 256), pose)
    shrunk = square(large / 255, 64)
    inside = (slice(4, -4),) * 2
    assert np.corrcoef(shrunk[inside].ravel(), small[inside].ravel())[0, 1] > 0.98
    assert large.shape == (256, 256) and large.dtype == np.uint8


def test_what_lies_outside_of_the_match_is_black():
    assert laid_square(np.full((64, 64), 255, np.uint8), Pose(shift_x=0.25))[:, :14].max() == 0


def test_planes_of_a_pair_of_volumes_are_those_of_its_cubes_at_the_resolution_of_the_files():
    """The source lies on twice as fine a grid, turned and with other axes."""
    head = generate_head(4, 32)
    made = plant_volume(head, SPACING, "rotation 10 x", np.random.default_rng(0))
    fine = np.clip(zoom(head, 2, order=1), 0, 1).transpose(2, 0, 1)
    volumes = [(made.pixels, tuple(made.spacing)), (np.ascontiguousarray(fine, np.float32), (1.0, 1.0, 1.0))]
    cut = [cut_cube(*one, 32) for one in volumes]
    cubes = [torch.from_numpy(cube)[None, None].float() for cube, _ in cut]
    frames = [frame for _, frame in cut]
    register = VolumeRegistration()
    ((best,),) = register(cubes[0], cubes[1][None], frames[:1], [frames[1:]])
    (pair,) = register.pairs(*cubes, frames[:1], frames[1:], [best.pose])
    image, match = (SeenVolume(pixels, spacing, frame) for (pixels, spacing), frame in zip(volumes, frames, strict=True))
    full = laid_planes(image, match, best.pose, 64)
    assert best.score > 0.9 and match.side > image.side and full.image.shape == full.moved.shape == full.match.shape == (192, 64)
    middle = pair.moved[16]
    sagittal = full.moved[:64].reshape(32, 2, 32, 2).mean((1, 3))
    assert np.corrcoef(sagittal.ravel(), middle[:, ::-1].T.ravel())[0, 1] > 0.95, "the sagittal plane of the cube, up is up"
    assert np.corrcoef(full.image.ravel(), full.moved.ravel())[0, 1] > 0.9, "the match lies on the image"


def test_the_inverse_of_a_pose_of_volumes_undoes_it():
    pose = VolumePose(13, (4.0, -7.0, 2.0), (1.05, 0.98, 1.0, 0.01, 0.0, -0.02), (3.0, -2.0, 1.0))
    assert np.allclose(pose.inverse.matrix() @ pose.matrix(), np.eye(4), atol=1e-9)


def test_no_number_of_a_pose_is_minus_zero():
    assert VolumePose(0, (-0.02, 3.0, -0.04), shift=(-0.01, 2.0, 0.04)).words() == "rot x 0.0 y 3.0 z 0.0 shift 0.0,2.0,0.0 mm"
