"""The preprocessing of volumes that are compared whole."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.errors import ImageError
from doppelscan.images import ForegroundCubed, LoadVolumed, Windowd, cut_cube, generate_head
from doppelscan.images.transforms import window
from made_files import save_png
from made_volumes import made_affine, stored_as, write_nifti
from monai.transforms import Compose

HEAD = generate_head(3, 40)
AFFINE = np.diag([1.5, 1.5, 3.0, 1.0])


@pytest.fixture
def prepare():
    return Compose([LoadVolumed("image"), Windowd("image"), ForegroundCubed("image", 32)])


def test_the_cube_is_that_of_the_windowed_volume_in_its_millimetres(tmp_path, prepare):
    """A cube cut in voxels, not in mm, would squeeze this head by half."""
    path = write_nifti(tmp_path / "head.nii.gz", HEAD, AFFINE)
    item = prepare({"image": path})
    cube, frame = cut_cube(window(HEAD), (1.5, 1.5, 3.0), 32)
    assert item["image"].shape == item["thumbnail"].shape == (1, 32, 32, 32) and item["thumbnail"].dtype == np.uint8
    np.testing.assert_allclose(item["image"][0], cube.clip(0, 1), atol=1 / 500)
    np.testing.assert_allclose(item["image"], item["thumbnail"] / 255, atol=1e-6)
    assert item["cube_frame"] == frame and item["native_shape"].tolist() == [40, 40, 40]


@pytest.mark.parametrize("codes", ["LPS", "SRA"])
def test_however_a_volume_is_stored_its_cube_is_the_same(tmp_path, prepare, codes):
    affine = made_affine((1.1, 1.1, 1.1), (0, 0, 0))
    paths = [write_nifti(tmp_path / f"{name}.nii.gz", *stored_as(HEAD, affine, name)) for name in ("RAS", codes)]
    first, second = (prepare({"image": [path]}) for path in paths)
    np.testing.assert_allclose(first["image"], second["image"], atol=1 / 250)


def test_a_thin_stack_and_a_picture_are_refused_with_their_reason(tmp_path):
    thin = write_nifti(tmp_path / "thin.nii.gz", HEAD[:, :, 18:23], AFFINE)
    with pytest.raises(ImageError, match="40 x 40 x 5 voxels; at least 8"):
        LoadVolumed("image")({"image": thin})
    with pytest.raises(ImageError, match="a 2D image is no volume"):
        LoadVolumed("image")({"image": save_png(tmp_path / "slice.png", HEAD[20])})


def test_a_large_volume_is_reduced_on_the_way(tmp_path):
    item = LoadVolumed("image", largest=16)({"image": write_nifti(tmp_path / "head.nii.gz", HEAD, AFFINE)})
    assert item["image"].shape == (1, 16, 16, 16) and item["volume_geometry"].spacing == pytest.approx((3.75, 3.75, 7.5))


def test_a_file_that_says_no_voxel_size_is_taken_for_cubes(tmp_path, prepare):
    np.save(tmp_path / "head.npy", HEAD)
    item = prepare({"image": str(tmp_path / "head.npy")})
    assert item["cube_frame"].spacing == (1.0, 1.0, 1.0) and float(item["image"].max()) == 1.0
