"""Volumes beside 2D images are cut along three planes, thick stacks along themselves; a slice says where it lies."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import SliceChoice, find_images, in_three_planes, of_stacks, plane_position


def volumes(folder, spacings, shape=(20, 24, 16)):
    rng = np.random.default_rng(0)
    for number, spacing in enumerate(spacings):
        folder.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(rng.random(shape, np.float32), np.diag([*spacing, 1.0])), folder / f"v{number}.nii.gz")
    return find_images(folder, volumes="whole")


def test_each_plane_is_cut_and_no_two_slices_share_a_name(tmp_path):
    cut = in_three_planes(volumes(tmp_path / "a", [(1, 1, 2)]), SliceChoice(start=0, stop=1, step=4))
    assert [(r.axis, r.slice) for r in cut.records] == [(a, i) for a, n in enumerate((20, 24, 16)) for i in range(0, n, 4)]
    assert len({r.id for r in cut.records}) == len(cut.records) and cut.records[0].id.endswith("v0.nii.gz#plane=sagittal,slice=0")
    assert not cut.whole_volumes and {r.volume for r in cut.records} == {str(tmp_path / "a" / "v0.nii.gz")}
    assert "15 slices along three planes" in cut.notes[-1]


def test_the_position_is_in_mm_from_the_middle(tmp_path):
    cut = in_three_planes(volumes(tmp_path / "a", [(1, 1, 2)]), SliceChoice(start=0, stop=1, step=1))
    places = [plane_position(record) for record in cut.records]
    assert places[0] == ("sagittal", -9.5) and places[19] == ("sagittal", 9.5)
    assert places[-1] == ("axial", 15.0) and places[-16] == ("axial", -15.0)


def test_without_a_step_there_are_at_most_so_many_of_each_plane_and_the_ends_are_left_out(tmp_path):
    cut = in_three_planes(volumes(tmp_path / "a", [(1, 1, 1)]), SliceChoice(), most=6)
    own = [r.slice for r in cut.records if r.axis == 1]
    assert len(own) <= 6 and own[0] == 2 and own[-1] <= 21


@pytest.mark.parametrize(("spacings", "stack"), [([(1, 1, 8)] * 3, True), ([(1, 1, 8), (1, 1, 1), (1, 1, 1)], False)])
def test_a_set_of_thick_stacks_is_scored_by_its_slices(tmp_path, spacings, stack):
    found = of_stacks(volumes(tmp_path / "a", spacings))
    assert found.whole_volumes is not stack
    if stack:
        assert len(found.records) == 3 * 16 and {r.axis for r in found.records} == {2}
        assert plane_position(found.records[0]) == ("axial", -60.0)
        assert [note for note in found.notes if "stacks of thick slices: each slice is scored as an image" in note]


def test_a_volume_among_stacks_is_cut_along_their_axis(tmp_path):
    found = of_stacks(volumes(tmp_path / "a", [(8, 1, 1), (8, 1, 1), (1, 1, 1)]))
    assert {r.axis for r in found.records} == {0} and len(found.records) == 60
