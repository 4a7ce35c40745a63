"""Planes lie as the page says they do, and a mosaic gives every voxel back."""

from __future__ import annotations

import numpy as np
from doppelscan.report.volume_pictures import TILES, middle_planes, mosaic, planes_at


def test_right_is_right_front_is_up_and_top_is_up():
    volume = np.zeros((16, 16, 16), np.uint8)
    volume[12, 3, 14] = 255  # to the right, behind, on top
    sagittal, coronal, axial = np.split(planes_at(volume, (12, 3, 14)), 3)
    assert np.argwhere(sagittal).tolist() == [[1, 3]], "rows from the top, columns towards the front"
    assert np.argwhere(coronal).tolist() == [[1, 12]], "rows from the top, columns to the right"
    assert np.argwhere(axial).tolist() == [[12, 12]], "rows from the front, columns to the right"


def test_the_middle_planes_are_those_that_a_slider_in_the_middle_shows():
    volume = np.random.default_rng(0).integers(0, 255, (16, 16, 16), np.uint8)
    assert np.array_equal(middle_planes(volume), planes_at(volume, (8, 8, 8)))


def test_every_voxel_lies_in_the_mosaic_where_the_script_looks_for_it():
    side = 16
    volume = np.random.default_rng(0).integers(0, 255, (side,) * 3, np.uint8)
    made = mosaic(volume)
    x, y, z = np.meshgrid(*[np.arange(side)] * 3, indexing="ij")
    # As report/templates/slices.js reads it.
    assert np.array_equal(made[z // TILES * side + y, z % TILES * side + x], volume)
