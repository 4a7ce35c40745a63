"""Every format comes back as the same picture, in one orientation, or with a reason."""

from __future__ import annotations

import gzip
import warnings

import nibabel as nib
import numpy as np
import pydicom
import pytest
from doppelscan.images import ImageError, read_pixels
from doppelscan.images.readers import image_format, read_header
from doppelscan.images.transforms import take_slice
from made_files import dicom
from PIL import Image
from pydicom.dataset import Dataset


@pytest.fixture
def picture() -> np.ndarray:
    """float32 [24, 32]: not symmetric in any axis."""
    rows, columns = np.mgrid[:24, :32]
    return (rows * 5 + columns).astype(np.float32)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_8_and_16_bit_and_float_pixels_are_kept(tmp_path, picture, suffix):
    for dtype in (np.uint8, np.uint16):
        path = tmp_path / f"{dtype.__name__}.{suffix}"
        if suffix == "npy":
            np.save(path, picture.astype(dtype))
        else:
            Image.fromarray(picture.astype(dtype)).save(path)
        assert read_pixels([str(path)]).dtype == np.float32
        np.testing.assert_array_equal(read_pixels([str(path)]), picture)


def test_jpeg_is_read_within_its_loss(tmp_path, picture):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture.astype(np.uint8)).save(path, quality=95)
    assert np.abs(read_pixels([str(path)]) - picture).max() < 8


def test_rgb_becomes_luminance_and_alpha_is_dropped(tmp_path, picture):
    grey = picture.astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(np.stack([grey] * 3 + [np.full_like(grey, 7)], -1)).save(tmp_path / "rgba.png")
    np.testing.assert_allclose(read_pixels([str(tmp_path / "rgb.png")]), picture, atol=1e-3)
    np.testing.assert_allclose(read_pixels([str(tmp_path / "rgba.png")]), picture, atol=1e-3)


def test_nifti_of_any_stored_orientation_gives_the_same_slice(tmp_path):
    volume = np.arange(12 * 10 * 9, dtype=np.float32).reshape(12, 10, 9)
    image = nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0]))
    for codes in ("RAS", "LPS", "SAR", "PIL"):
        target = nib.orientations.axcodes2ornt(codes)
        nib.save(
            image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)),
            tmp_path / f"{codes}.nii.gz",
        )
        np.testing.assert_array_equal(read_pixels([str(tmp_path / f"{codes}.nii.gz")]), volume)


def test_axial_slice_shows_the_front_up():
    volume = np.zeros((8, 10, 6), np.float32)
    volume[:, -1, 2] = 1  # the last y of RAS+ is the front
    assert take_slice(volume, 2, 2)[0].sum() == 8


def test_4d_without_a_choice_is_refused_and_with_one_is_read(tmp_path):
    data = np.random.default_rng(0).random((10, 9, 8, 3)).astype(np.float32)
    path = str(tmp_path / "bold.nii.gz")
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(ImageError, match="--channel 0 to 2"):
        read_pixels([path])
    np.testing.assert_array_equal(read_pixels([path], 1), data[..., 1])
    with pytest.raises(ImageError, match="outside"):
        read_pixels([path], 5)


def test_2d_nifti_is_an_image(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((20, 30, 1), np.float32), np.eye(4)), tmp_path / "flat.nii")
    assert read_header(tmp_path / "flat.nii").shape == (20, 30)
    assert read_pixels([str(tmp_path / "flat.nii")]).shape == (30, 20)


def test_format_is_found_by_content_with_a_wrong_extension(tmp_path, picture):
    Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.dcm").write_bytes((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(read_pixels([str(tmp_path / "b.dcm")]), picture)
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), tmp_path / "c.nii")
    (tmp_path / "d.png").write_bytes((tmp_path / "c.nii").read_bytes())
    assert image_format(tmp_path / "d.png") == "nifti"
    assert read_pixels([str(tmp_path / "d.png")]).shape == (9, 9, 9)


def test_truncated_and_foreign_files_say_why(tmp_path, picture):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not an image at all")
    with gzip.open(tmp_path / "cut.nii.gz", "wb") as file:
        file.write(b"\0" * 100)
    with pytest.raises(ImageError, match="pixels cannot be read"):
        read_pixels([str(tmp_path / "cut.png")])
    with pytest.raises(ImageError, match="empty"):
        read_header(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="by its content"):
        read_header(tmp_path / "text.png")
    with pytest.raises(ImageError):
        read_header(tmp_path / "cut.nii.gz")


def test_shipped_mr_file_of_pydicom_is_read():
    path = pydicom.data.get_testdata_file("MR_small.dcm")
    header = read_header(path)
    pixels = read_pixels([path])
    assert header.patient and pixels.shape == header.shape and pixels.std() > 0


def test_dicom_series_is_ordered_by_position_not_by_name(tmp_path):
    volume = np.random.default_rng(0).integers(0, 1000, (5, 12, 10)).astype(np.uint16)  # slices, rows, columns
    order = [3, 0, 4, 1, 2]
    paths = [dicom(tmp_path / f"{n}.dcm", volume[i], number=n, position=(0, 0, 2.0 * i)) for n, i in enumerate(order)]
    read = read_pixels(paths)
    # LPS columns and rows run to R+ and A+ when flipped.
    np.testing.assert_array_equal(read, volume.transpose(2, 1, 0)[::-1, ::-1])
    # An axial slice is shown as it was stored but for the left-right convention of RAS+.
    np.testing.assert_array_equal(take_slice(read, 2, 3)[:, ::-1], volume[3])


def test_enhanced_multi_frame_is_a_volume_in_order_of_position(tmp_path):
    volume = np.random.default_rng(0).integers(0, 1000, (4, 12, 10)).astype(np.uint16)
    frames = []
    for place in (6.0, 0.0, 2.0, 4.0):
        position, orientation, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, orientation.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [orientation]
        frames.append(frame)
    path = dicom(tmp_path / "multi.dcm", volume, frames=frames)
    read = read_pixels([path])
    np.testing.assert_array_equal(read[..., 0], volume[1].T[::-1, ::-1])
    np.testing.assert_array_equal(read[..., 3], volume[0].T[::-1, ::-1])


def test_dicom_slices_of_different_size_are_refused(tmp_path):
    paths = [dicom(tmp_path / f"{i}.dcm", np.ones((10 + i, 10)), number=i) for i in range(2)]
    with pytest.raises(ImageError, match="differ in size"):
        read_pixels(paths)


def test_reading_is_silent(tmp_path, picture):
    np.save(tmp_path / "a.npy", picture)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_pixels([str(tmp_path / "a.npy")])
