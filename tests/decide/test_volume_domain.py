"""Which volumes are unlike the training set, by hand-made cubes and features: parts, other anatomy and noise are no strangers that are not near."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.decide import VolumeRules, other_proportions, unlike_volumes
from doppelscan.decide.volume_domain import anatomy_extents
from doppelscan.images import cut_cube, generate_head

HEADS = [generate_head(seed, 32) for seed in range(6)]


class Volumes:
    """A set of volumes with an early layer, in two poses."""

    def __init__(self, volumes, spacing=(2.0, 2.0, 2.0), layer=None, people=None) -> None:
        cut = [cut_cube(one, spacing, 32) for one in volumes]
        self.cubes, self.places = [np.round(cube.clip(0, 1) * 255).astype(np.uint8) for cube, _ in cut], [frame for _, frame in cut]
        self.layer = np.zeros((len(cut), 2, 4), np.float32) if layer is None else layer
        self.patients = [f"p{i}" for i in range(len(cut))] if people is None else people
        self.outputs = {"layer2": slice(0, 4)}

    def __len__(self) -> int:
        return len(self.cubes)

    def thumbnails(self, rows):
        return torch.from_numpy(np.stack([self.cubes[row] for row in rows]))[:, None]

    def frames(self, rows):
        return [self.places[row] for row in rows]

    def single_pose(self, names):
        return {"layer2": self.layer[:, 0]}

    def features(self, rows, names):
        return {"layer2": self.layer[list(rows)]}

    def blocks(self, size):
        return (range(start, min(start + size, len(self))) for start in range(0, len(self), size))


def middle(head):
    return head[8:24, 8:24, 8:24]


def test_much_less_or_much_more_anatomy_than_any_training_volume_is_unlike():
    training = Volumes(HEADS[:5])
    images = Volumes([HEADS[5], middle(HEADS[5]), HEADS[5][6:15, 6:15, 6:15], np.pad(HEADS[5], 8)])
    apart, notes = unlike_volumes(images, training, VolumeRules())
    assert apart.tolist() == [False, True, True, False] and "by the size of the anatomy alone" in notes[0]
    assert unlike_volumes(Volumes([HEADS[5]], (5.0, 5.0, 5.0)), training, VolumeRules())[0].tolist() == [True]


def test_the_extent_is_that_of_the_anatomy_whatever_the_contrast_and_the_field_of_view():
    plain, padded, gamma = anatomy_extents(Volumes([HEADS[0], np.pad(HEADS[0], 8), HEADS[0] ** 1.4]))
    assert padded == pytest.approx(plain, rel=0.1) and gamma == pytest.approx(plain, rel=0.15)


def test_a_header_that_nobody_set_tells_no_size_unless_training_has_it():
    """A generator that writes an identity affine would have every sample called too small, and no set of it audited."""
    small = (1.0, 1.0, 1.0)
    images = Volumes([HEADS[5]], small)
    assert not unlike_volumes(images, Volumes(HEADS[:5]), VolumeRules())[0].any()
    assert unlike_volumes(Volumes([middle(HEADS[5])], small), Volumes(HEADS[:5], small), VolumeRules())[0].all()


def test_what_is_far_from_all_people_in_an_early_layer_is_unlike_in_whatever_pose_it_lies():
    rng = np.random.default_rng(0)
    layer = rng.standard_normal((30, 2, 4)).astype(np.float32)
    training = Volumes([HEADS[i % 5] for i in range(30)], layer=layer)
    near, turned, far = layer[3] + 0.1, np.stack([layer[3, 0] + 40, layer[3, 0]]), layer[3] + 40
    images = Volumes([HEADS[5]] * 3, layer=np.stack([near, turned, far]))
    apart, notes = unlike_volumes(images, training, VolumeRules())
    assert apart.tolist() == [False, False, True] and not notes
    strangers = Volumes([HEADS[5]] * 20, layer=layer[:20] + 30)
    assert not unlike_volumes(strangers, training, VolumeRules(), strangers)[0].any(), "a holdout of this kind says what is usual"


def test_voxels_of_other_proportions_than_trainings_are_told_with_what_that_means():
    training = Volumes(HEADS[:2], (1.5, 1.5, 2.8))
    (note,) = other_proportions(Volumes(HEADS[:3], (1.0, 1.0, 1.0)), training)
    assert note.startswith(
        "3 of 3 synthetic volumes have voxels of other proportions (1 x 1 x 1 mm) than any training volume (1.5 x 1.5 x 2.8 mm)"
    )
    assert "Give the right voxel sizes" in note
    assert not other_proportions(Volumes(HEADS[:3], (5.6, 3.0, 3.0)), training), (
        "an axis that lies elsewhere, and another scale, lose nothing"
    )
