"""A second training volume is found in what the match leaves of a blend; a copy leaves nothing to look into."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from doppelscan.images import cut_cube, generate_head
from doppelscan.verify import VolumePose, VolumeRegistration, second_volume

HEADS = [generate_head(seed, 48) for seed in range(6)]
SPACING = (2.0, 2.0, 2.0)


def cubed(volume):
    cube, frame = cut_cube(volume, SPACING, 64)
    return torch.from_numpy(np.round(cube.clip(0, 1) * 255).astype(np.uint8))[None], frame


class Training:
    """What is read of a set of volumes."""

    made: ClassVar = [cubed(head) for head in HEADS]

    def thumbnails(self, rows):
        return torch.stack([self.made[row][0] for row in rows])

    def frames(self, rows):
        return [self.made[row][1] for row in rows]


@pytest.fixture(scope="module")
def registration():
    return VolumeRegistration()


def second(registration, volume, match):
    cube, frame = cubed(volume)
    training = Training()
    (pair,) = registration.pairs(cube[None], training.thumbnails([match]), [frame], training.frames([match]), [VolumePose()])
    excluded = np.arange(len(HEADS)) == match
    return second_volume(cube, frame, pair, 0, training, excluded, registration)  # type: ignore[arg-type]


def test_the_smaller_part_of_a_blend_is_named_with_its_share(registration):
    found = second(registration, 0.75 * HEADS[1] + 0.25 * HEADS[4], 1)
    assert found is not None and found.row == 4 and found.agreement > 0.8 and found.share == pytest.approx(0.25, abs=0.12)


def test_a_copy_leaves_nothing_and_a_set_of_one_patient_has_nobody_else(registration):
    assert second(registration, HEADS[2], 2) is None
    cube, frame = cubed(HEADS[0] * 0.75 + 0.25 * HEADS[3])
    (pair,) = registration.pairs(cube[None], Training().thumbnails([0]), [frame], Training().frames([0]), [VolumePose()])
    assert second_volume(cube, frame, pair, 0, Training(), np.ones(6, bool), registration) is None  # type: ignore[arg-type]
