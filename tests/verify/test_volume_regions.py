"""Regions of volumes: a slab that was set into a stranger names its source, and nobody else does."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from doppelscan.images import generate_head, plant_volume
from doppelscan.verify import VolumeRegions
from made_volumes import SPACING, MadeTraining, cubed

PEOPLE = 10


class Training(MadeTraining):
    heads: ClassVar = [generate_head(seed, 64) for seed in range(PEOPLE)]

    def __init__(self, people=range(PEOPLE)):
        super().__init__([self.heads[one] for one in people])


@pytest.fixture(scope="module")
def regions():
    return VolumeRegions.fitted(Training())  # type: ignore[arg-type]


def best(regions, volume):
    cube, frame = cubed(volume)
    return regions.best(cube[None], [frame])[0]


@pytest.mark.parametrize(("change", "seed"), [("third kept", 0), ("third kept", 1), ("quarter kept", 2)])
def test_the_source_of_a_slab_in_a_stranger_is_named_and_the_stranger_alone_is_lower(regions, change, seed):
    source, stranger = 3 + seed, generate_head(50 + seed, 64)
    planted = plant_volume(Training.heads[source], SPACING, change, np.random.default_rng(seed), (stranger, SPACING))
    found, other = best(regions, planted.pixels), best(regions, stranger)
    assert found.row == source and found.agreement > other.agreement + 0.05
    assert 0 < found.share < 0.7


def test_a_training_volume_agrees_with_itself_all_over(regions):
    found = best(regions, Training.heads[5])
    assert found.row == 5 and found.agreement == pytest.approx(1, abs=2e-3) and found.share > 0.95
    # Rounding to half precision makes cosines of more than 1.
    assert max(best(regions, one).agreement for one in Training.heads) <= 1


def test_of_some_volumes_the_others_are_not_named():
    rest = VolumeRegions.fitted(Training([0, 1, 2, 7]))  # type: ignore[arg-type]
    found, again = best(rest, Training.heads[7]), best(rest, Training.heads[5])
    assert found.row == 3 and found.agreement == pytest.approx(1, abs=2e-3) and again.agreement < 0.9


def test_where_no_cell_is_to_be_compared_nobody_is_named(regions):
    """The first training volume was, at -1."""
    _, frame = cubed(Training.heads[0])
    (found,) = regions.best(torch.zeros(1, 1, 64, 64, 64, dtype=torch.uint8), [frame])
    assert (found.agreement, found.row, found.share) == (-1.0, -1, 0.0)
