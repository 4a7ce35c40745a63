"""Every format comes back as the same picture, in one orientation, or with a reason."""

from __future__ import annotations

import gzip
import logging
import os
import threading
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
from pydicom.uid import RLELossless


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


@pytest.mark.parametrize("pydicom_2", [False, True], ids=["pydicom 3", "pydicom 2"])
def test_enhanced_multi_frame_is_a_volume_in_order_of_position(tmp_path, monkeypatch, pydicom_2):
    volume = np.random.default_rng(0).integers(0, 1000, (4, 12, 10)).astype(np.uint16)
    frames = []
    for place in (6.0, 0.0, 2.0, 4.0):
        position, orientation, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, orientation.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [orientation]
        frames.append(frame)
    path = dicom(tmp_path / "multi.dcm", volume, frames=frames)
    if pydicom_2:  # MONAI Label's
        monkeypatch.delattr("pydicom.pixels.iter_pixels")
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


def test_excess_bytes_of_a_dicom_file_are_no_further_frames(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 900, (24, 16)).astype(np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels)
    data = pydicom.dcmread(path)
    data.Rows = 12
    data.save_as(path)
    assert read_header(path).shape == (12, 16)
    np.testing.assert_array_equal(read_pixels([path]), pixels[:12])


def damage_gzip(path, place=-12):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.fixture
def noise():
    return np.random.default_rng(0).random((16, 14, 12)).astype(np.float32)


def test_a_damaged_nifti_gz_is_an_image_error_at_its_header_and_at_its_end(tmp_path, noise):
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "a.nii.gz")
    (tmp_path / "head.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    damage_gzip(tmp_path / "head.nii.gz", 40)
    for name in ("head.nii.gz", "head.bin"):  # the second is no NIfTI as far as it tells
        with pytest.raises(ImageError):
            read_header((tmp_path / "head.nii.gz").rename(tmp_path / name))
    damage_gzip(tmp_path / "a.nii.gz", -8)  # the checksum: the voxels are not what was written
    assert read_header(tmp_path / "a.nii.gz").shape == noise.shape
    with pytest.raises(ImageError, match="CRC"):
        read_pixels([str(tmp_path / "a.nii.gz")])


def test_nifti_is_read_by_content_whether_gzip_or_not(tmp_path, noise):
    image = nib.Nifti1Image(noise, np.eye(4)).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(image)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(image))
    for name in ("plain.nii.gz", "packed.nii"):
        np.testing.assert_array_equal(read_pixels([str(tmp_path / name)]), noise)


def test_a_channel_of_a_5d_file_with_one_component_is_the_right_one(tmp_path):
    data = np.random.default_rng(0).random((10, 9, 8, 3, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_pixels([str(tmp_path / "a.nii")], 2), data[..., 2, 0])


@pytest.mark.parametrize("packed", [False, True])
def test_a_header_that_claims_more_than_the_file_holds_is_refused_before_anything_is_allocated(tmp_path, noise, packed):
    image = bytearray(nib.Nifti1Image(noise, np.eye(4)).to_bytes())
    image[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(bytes(image)) if packed else image)
    with pytest.raises(ImageError, match="truncated: 140"):
        read_header(path)


def test_an_affine_that_says_nothing_is_refused(tmp_path, noise):
    image = nib.Nifti1Image(noise, np.eye(4))
    image.header["srow_x"] = np.nan
    image.header["qform_code"], image.header["sform_code"] = 0, 1
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + b"\0" * 4 + noise.tobytes(order="F"))
    with pytest.raises(ImageError, match=r"affine.*does not say how the volume lies"):
        read_header(tmp_path / "a.nii")


def test_values_whose_differences_are_no_float32_are_inf(tmp_path, picture):
    picture[3, 4] = 3e38
    np.save(tmp_path / "a.npy", picture)
    read = read_pixels([str(tmp_path / "a.npy")])
    assert np.isposinf(read[3, 4]) and np.isinf(read).sum() == 1


@pytest.mark.parametrize("shape", [(30,), (), (0, 20), (12, 0, 9), (2, 2, 2, 2, 2)])
def test_shapes_that_are_no_image_are_refused_by_their_header(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.ones(shape))
    with pytest.raises(ImageError):
        read_header(tmp_path / "a.npy")


@pytest.mark.parametrize("array", [np.ones((9, 9), complex), np.full((9, 9), "a"), np.zeros((9, 9), [("r", "u1"), ("g", "u1")])])
def test_pixels_that_are_no_numbers_are_refused_by_their_header(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ImageError, match="numbers are read"):
        read_header(tmp_path / "a.npy")


def test_two_slices_of_an_array_are_a_volume_for_header_and_pixels_alike(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((12, 10, 2)))
    assert read_header(tmp_path / "a.npy").shape == read_pixels([str(tmp_path / "a.npy")]).shape == (12, 10, 2)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", tmp_path, tmp_path / "nowhere.png", "with\0null.png"):
        with pytest.raises(ImageError):
            image_format(path)
        with pytest.raises(ImageError):
            read_header(path)
        with pytest.raises(ImageError):
            read_pixels([str(path)])


@pytest.mark.parametrize("cause", ["missing", "truncated", "quoting"])
def test_reasons_name_neither_the_path_nor_what_a_header_says(tmp_path, picture, cause):
    folder = tmp_path / "Jane_Doe's files"
    folder.mkdir()
    path = folder / "Jane.dcm"
    if cause == "truncated":
        Image.fromarray(picture.astype(np.uint8)).save(folder / "a.png")
        path.write_bytes((folder / "a.png").read_bytes()[:40])
    elif cause == "quoting":
        dicom(path, picture)
        path.write_bytes(path.read_bytes().replace(b"\x28\x00\x10\x00US\x02\x00\x18\x00", b"\x28\x00\x10\x00IS\x04\x00Jane"))
    with pytest.raises(ImageError) as error:
        read_header(path)
        read_pixels([str(path)])
    text = str(error.value)
    assert text.isprintable() and not any(word in text for word in ("Jane", "Doe", "files", str(tmp_path)))


def misaligned(path, noise):
    """A NIfTI file that nibabel reads and has much to say of."""
    image = bytearray(nib.Nifti1Image(noise, np.eye(4)).to_bytes())
    image[76:80] = np.float32(7).tobytes()  # pixdim[0] is 1 or -1
    image[108:112] = np.float32(354).tobytes()  # vox_offset is a multiple of 16
    path.write_bytes(image[:352] + b"\0\0" + image[352:])
    return str(path)


def test_nibabels_remarks_reach_no_terminal_and_the_callers_loggers_stay(tmp_path, noise, capfd, caplog):
    path = misaligned(tmp_path / "a.nii", noise)
    names = ("nibabel.global", "nibabel", "pydicom", "PIL", "")
    loggers = [logging.getLogger(name) for name in names]
    before = [(lo.level, lo.propagate, lo.handlers[:], lo.filters[:]) for lo in loggers]
    filters = list(warnings.filters)
    assert read_header(path).shape == noise.shape
    np.testing.assert_array_equal(read_pixels([path]), noise)
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert before == [(lo.level, lo.propagate, lo.handlers[:], lo.filters[:]) for lo in loggers]
    assert list(warnings.filters) == filters


def test_readers_in_threads_leave_warnings_and_loggers_as_they_were(tmp_path, noise):
    paths = [misaligned(tmp_path / "a.nii", noise), pydicom.data.get_testdata_file("MR_small.dcm")]
    filters, logger = list(warnings.filters), logging.getLogger("pydicom")
    before = logger.propagate, logger.handlers[:]

    def read() -> None:
        for turn in range(30):
            read_pixels([paths[turn % 2]])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == filters and before == (logger.propagate, logger.handlers[:])


def test_libtiff_prints_nothing_and_what_others_print_is_kept(tmp_path, picture, capfd):
    Image.fromarray(picture.astype(np.uint16)).save(tmp_path / "a.tif", compression="tiff_lzw")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[20:60] = b"\xff" * 40
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError):
        read_pixels([str(tmp_path / "a.tif")])
    os.write(2, b"mine")
    assert capfd.readouterr().err == "mine"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_dicom_file_is_known_by_its_header(tmp_path, picture, compressed):
    path = dicom(tmp_path / "a.dcm", picture)
    if compressed:
        data = pydicom.dcmread(path)
        data.compress(RLELossless)
        data.save_as(path)
    assert read_header(path).damage is None
    whole = (tmp_path / "a.dcm").read_bytes()
    for length in (len(whole) - 40, len(whole) - len(whole) // 5):
        (tmp_path / "a.dcm").write_bytes(whole[:length])
        header = read_header(path)
        assert "truncated" in header.damage and header.shape == (24, 32)
        with pytest.raises(ImageError):
            read_pixels([path])


def test_pixel_data_shorter_than_rows_and_columns_is_known_by_the_header():
    assert "8130 of 8192 bytes" in read_header(pydicom.data.get_testdata_file("MR_truncated.dcm")).damage


def test_a_file_of_a_series_whose_pixels_cannot_be_read_is_nan_in_its_place(tmp_path):
    volume = np.random.default_rng(0).integers(0, 1000, (5, 12, 10)).astype(np.uint16)
    paths = [dicom(tmp_path / f"{i}.dcm", volume[i], number=i, position=(0, 0, 2.0 * i)) for i in range(5)]
    whole = read_pixels(paths)
    (tmp_path / "3.dcm").write_bytes((tmp_path / "3.dcm").read_bytes()[:-40])
    read = read_pixels(paths)
    assert np.isnan(read[..., 3]).all()
    np.testing.assert_array_equal(np.delete(read, 3, 2), np.delete(whole, 3, 2))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ImageError):
        read_pixels(paths)


def test_the_modality_of_a_dicom_file_is_in_its_header(tmp_path, picture):
    assert read_header(pydicom.data.get_testdata_file("MR_small.dcm")).modality == "MR"
    assert read_header(pydicom.data.get_testdata_file("CT_small.dcm")).modality == "CT"
    assert read_header(dicom(tmp_path / "a.dcm", picture)).modality is None


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0, -1, 0, -1, 0, 0)])
def test_the_header_of_a_multi_frame_file_has_the_shape_of_its_pixels(tmp_path, orientation):
    frames = []
    normal = np.cross(orientation[:3], orientation[3:])
    for place in range(4):
        position, plane, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, plane.ImageOrientationPatient = (normal * place).tolist(), list(orientation)
        frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [plane]
        frames.append(frame)
    path = dicom(tmp_path / "multi.dcm", np.ones((4, 12, 10), np.uint16), frames=frames)
    assert read_header(path).shape == read_pixels([path]).shape
