"""A whole volume as a reviewer sees it: its source in whatever pose, and a map that lies on the file's own voxels."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES, CubeFrame, axis_pose, generate_head
from doppelscan.workflows import VolumeReview
from doppelscan.workflows.volume_review import on_volume
from made_files import save_png
from made_volumes import made_affine, stored_as, write_nifti

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    for i in range(4):
        write_nifti(folder / f"p{i}.nii.gz", generate_head(i, 32), AFFINE)
    return folder


def test_a_posed_copy_has_its_source_its_pose_and_a_map_in_the_files_own_geometry(training, tmp_path):
    posed = axis_pose(torch.from_numpy(generate_head(2, 32)), 19).numpy()[:, :, :30]
    write_nifti(tmp_path / "copy.nii.gz", *stored_as(posed, AFFINE, "PIL"))
    review = VolumeReview(training, tmp_path / "out", candidates=2)
    found = review.image(tmp_path / "copy.nii.gz")
    assert Path(found.values["match"]).name == "p2.nii.gz" and found.values["score"] > 0.9
    axes, flips = AXIS_POSES[19]
    assert found.values["pose"].startswith(
        " ".join(["axes", *map(str, axes), *(f"flip-{n}" for n, f in zip("xyz", flips, strict=True) if f)])
    )
    assert "mi" not in found.values  # of four people there is no null
    stored = nib.load(tmp_path / "copy.nii.gz")
    assert found.agreement.shape == stored.shape and np.allclose(found.affine, stored.affine)
    bright = np.asarray(stored.dataobj) > 0.3
    assert found.agreement[bright].mean() > 0.6 > 0.2 > found.agreement[~bright].mean()


def test_what_is_no_volume_or_has_no_volumes_to_compare_with_is_left_to_slices(training, tmp_path):
    picture = save_png(tmp_path / "pictures" / "a.png", generate_head(1, 32)[16])
    review = VolumeReview(training, tmp_path / "out")
    assert review.of_volumes and review.takes(training / "p0.nii.gz") and not review.takes(picture)
    assert not VolumeReview(picture.parent, tmp_path / "out").takes(training / "p0.nii.gz")
    assert not review.takes(tmp_path / "missing.nii.gz")
    with pytest.raises(InputError, match="'image'"):
        review.image(tmp_path / "missing.nii.gz")


@pytest.mark.parametrize("codes", ["RAS", "LSP"])
def test_a_map_lies_where_its_cube_was_cut_at_any_resolution(tmp_path, codes):
    """A frame of a volume that was read at half its size."""
    volume = np.zeros((20, 24, 28), np.float32)
    volume[12:16, 4:8, 20:24] = 1
    path = write_nifti(tmp_path / "v.nii.gz", *stored_as(volume, made_affine((1, 1, 1), (0, 0, 0)), codes))
    frame = CubeFrame((4.0, -6.0, 8.0), 8.0, 8, (10, 12, 14), (2.0, 2.0, 2.0))
    cube = np.zeros((8, 8, 8), np.float32)
    cube[2:6, 2:6, 2:6] = 1
    made, affine = on_volume(cube, frame, path, np.eye(4))
    stored = nib.load(path)
    assert made.shape == stored.shape and np.allclose(affine, stored.affine)
    assert np.array_equal(made > 0.5, np.asarray(stored.dataobj) > 0.5)
