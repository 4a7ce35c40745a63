"""A second training volume is found in what the match leaves of a blend; a copy leaves nothing to look into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import AXIS_POSES, axis_pose, generate_head
from doppelscan.verify import VolumePose, VolumeRegistration, coarse_structures, second_volume
from made_volumes import MadeTraining, cubed

HEADS = [generate_head(seed, 48) for seed in range(6)]


class Training(MadeTraining):
    def __init__(self):
        super().__init__(HEADS)


@pytest.fixture(scope="module")
def registration():
    return VolumeRegistration()


@pytest.fixture(scope="module")
def structures():
    return coarse_structures(Training())  # type: ignore[arg-type]


def second(registration, structures, volume, match, number=0, training=None):
    cube, frame = cubed(volume)
    training = training or Training()
    pose = VolumePose(number)
    (pair,) = registration.pairs(cube[None], training.thumbnails([match]), [frame], training.frames([match]), [pose], False)
    excluded = np.arange(len(HEADS)) == match

    def register(rest, rows):
        cubes, frames = training.thumbnails(rows)[None], [training.frames(rows)]
        return registration(rest, cubes, [frame], frames, poses=np.full((1, len(rows), 1), number))[0]

    return second_volume(cube, frame, pair, number, training, structures, excluded, registration, register)


def test_the_smaller_part_of_a_blend_is_named_with_its_share(registration, structures):
    found = second(registration, structures, 0.75 * HEADS[1] + 0.25 * HEADS[4], 1)
    assert found is not None and found.row == 4 and found.agreement > 0.8 and found.share == pytest.approx(0.25, abs=0.12)


def test_a_copy_leaves_nothing_and_a_set_of_one_patient_has_nobody_else(registration, structures):
    assert second(registration, structures, HEADS[2], 2) is None
    cube, frame = cubed(HEADS[0] * 0.75 + 0.25 * HEADS[3])
    (pair,) = registration.pairs(cube[None], Training().thumbnails([0]), [frame], Training().frames([0]), [VolumePose()], False)
    nobody = second_volume(cube, frame, pair, 0, Training(), structures, np.ones(6, bool), registration, lambda rest, rows: [])  # type: ignore[arg-type]
    assert nobody is None


def test_a_blend_of_other_axes_is_searched_in_its_own_pose(registration, structures):
    number = AXIS_POSES.index(((2, 0, 1), (True, False, False)))
    blend = axis_pose(torch.from_numpy(0.7 * HEADS[1] + 0.3 * HEADS[4]), number).numpy()
    found = second(registration, structures, blend, 1, number)
    assert found is not None and found.row == 4


def test_cubes_of_the_training_set_are_read_once_for_all_volumes(registration, structures):
    read = []

    class Counted(Training):
        def thumbnails(self, rows):
            read.extend(rows)
            return super().thumbnails(rows)

    training = Counted()
    for match in (1, 2):
        second(registration, structures, 0.75 * HEADS[match] + 0.25 * HEADS[4], match, training=training)
    # The match for its pair, six at most that are registered, and the one of these that is shown.
    assert len(read) <= 2 * (1 + 6 + 1)
    assert structures.shape == (len(HEADS), 4096) and structures.dtype == np.float16
