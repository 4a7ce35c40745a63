"""Volumes come whole, with where they lie, the same from every format; what cannot be one is refused in numbers and nothing is guessed."""

from __future__ import annotations

import sys
import tracemalloc
import warnings
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from doppelscan.images import (
    ImageError,
    InputError,
    SliceChoice,
    find_images,
    read_compared,
    read_pixels,
    read_volume,
    volume_table,
)
from doppelscan.images.geometry import geometry_of, unknown_geometry
from doppelscan.images.readers import image_format, read_header
from doppelscan.workflows.volume_embed import read_voxels
from made_files import dicom, save_png
from made_volumes import (
    made_affine,
    stored_as,
    write_enhanced,
    write_itk,
    write_nifti,
    write_nrrd,
    write_series,
)
from monai.data import NrrdReader
from monai.transforms import LoadImage, Orientation
from PIL import Image

AFFINE = made_affine()


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    """uint16 [13, 11, 10]: not symmetric in any axis."""
    return np.random.default_rng(0).integers(1, 4000, (13, 11, 10)).astype(np.uint16)


WRITERS = {
    "nifti": lambda folder, v, a: [write_nifti(folder / "a.nii", v.astype(np.int16), a)],
    "nifti qform": lambda folder, v, a: [write_nifti(folder / "a.nii.gz", v.astype(np.int16), a, qform=True)],
    "nifti 2": lambda folder, v, a: [write_nifti(folder / "a.nii", v.astype(np.int16), a, kind=nib.Nifti2Image)],
    "nrrd": lambda folder, v, a: [write_nrrd(folder / "a.nrrd", v, a)],
    "nrrd ras raw": lambda folder, v, a: [write_nrrd(folder / "a.nrrd", v, a, "right-anterior-superior", encoding="raw")],
    "nrrd bzip2": lambda folder, v, a: [write_nrrd(folder / "a.nrrd", v, a, encoding="bzip2")],
    "nrrd detached": lambda folder, v, a: [write_nrrd(folder / "a.nhdr", v, a)],
    "nrrd of itk": lambda folder, v, a: [write_itk(folder / "a.nrrd", v, a)],
    "mha": lambda folder, v, a: [write_itk(folder / "a.mha", v, a)],
    "mha compressed": lambda folder, v, a: [write_itk(folder / "a.mha", v, a, compressed=True)],
    "mhd": lambda folder, v, a: [write_itk(folder / "a.mhd", v, a)],
    "series": lambda folder, v, a: write_series(folder / "series", v, a),
    "enhanced": lambda folder, v, a: [write_enhanced(folder / "a.dcm", v, a)],
}


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR", "PIL", "ASL"])
@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_and_stored_orientation_gives_one_array_one_spacing_and_one_affine(tmp_path, volume, writer, codes):
    stored, affine = stored_as(volume, AFFINE, codes)
    paths = WRITERS[writer](tmp_path, stored, affine)
    read = read_volume(paths)
    np.testing.assert_array_equal(read.pixels, volume)
    np.testing.assert_allclose(read.geometry.affine, AFFINE, atol=1e-4)
    np.testing.assert_allclose(read.geometry.spacing, (1.1, 0.9, 2.3), atol=1e-5)
    assert read.geometry.shape == volume.shape and read.geometry.known and read.geometry.told == ()
    # Slices along the normal may come in the other order than they were written, which is no other orientation of the person.
    assert read.geometry.orientation == codes or writer in ("series", "enhanced")
    worst = np.degrees(np.arccos(np.diag(AFFINE[:3, :3]) / [1.1, 0.9, 2.3])).max()
    assert read.geometry.oblique == pytest.approx(worst, abs=0.01)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_slices_way_reads_the_same_array(tmp_path, volume, writer):
    stored, affine = stored_as(volume, AFFINE, "LPS")
    paths = WRITERS[writer](tmp_path, stored, affine)
    np.testing.assert_array_equal(read_pixels(paths), read_volume(paths).pixels)


@pytest.mark.parametrize("writer", ["nifti", "nifti qform", "nrrd", "nrrd of itk", "mha", "mhd", "series"])
def test_itk_puts_the_voxels_at_the_same_millimetres(tmp_path, volume, writer):
    paths = WRITERS[writer](tmp_path, *stored_as(volume, AFFINE, "PIL"))
    read = read_volume(paths)
    if len(paths) > 1:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(paths[0])
    for voxel in np.random.default_rng(2).integers(0, (13, 11, 10), (20, 3)).tolist():
        place = np.diag([-1, -1, 1]) @ (read.geometry.affine @ [*voxel, 1])[:3]
        assert image.GetPixel(image.TransformPhysicalPointToIndex(place.tolist())) == read.pixels[tuple(voxel)]


@pytest.mark.parametrize("writer", ["nifti", "nrrd"])
def test_monais_readers_give_the_same_array_and_affine(tmp_path, volume, writer):
    paths = WRITERS[writer](tmp_path, *stored_as(volume, AFFINE, "SAR"))
    read = read_volume(paths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = LoadImage(reader=NrrdReader() if writer == "nrrd" else None, image_only=True)(paths[0])
        oriented = Orientation(axcodes="RAS")(loaded[None])
    np.testing.assert_array_equal(np.asarray(oriented)[0], read.pixels)
    np.testing.assert_allclose(np.asarray(oriented.affine), read.geometry.affine, atol=1e-4)


@pytest.mark.parametrize("unit, factor", [("mm", 1), ("meter", 1000), ("micron", 1e-3), ("unknown", 1)])
def test_units_of_nifti_are_converted_and_silence_is_millimetres(tmp_path, volume, unit, factor):
    affine = made_affine((1.0, 2.0, 1.5), (0, 0, 0))
    affine[:3] /= factor
    read = read_volume([write_nifti(tmp_path / "a.nii", volume.astype(np.float32), affine, unit=unit)])
    np.testing.assert_allclose(read.geometry.spacing, (1.0, 2.0, 1.5), rtol=1e-5)
    assert read.geometry.affine[0, 3] == pytest.approx(-31.5)


def test_the_sform_goes_before_the_qform_and_without_both_the_orientation_is_not_known(tmp_path, volume):
    image = nib.Nifti1Image(volume.astype(np.float32), None)
    image.set_qform(np.diag([3.0, 3, 3, 1]), 1)
    image.set_sform(np.diag([2.0, 2, 2, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume([str(tmp_path / "a.nii")]).geometry.spacing == (2, 2, 2)
    image.set_sform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    assert read_volume([str(tmp_path / "a.nii")]).geometry.spacing == (3, 3, 3)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    read = read_volume([str(tmp_path / "a.nii")])
    assert read.geometry.known and read.geometry.spacing == (3, 3, 3)
    assert read.geometry.orientation is None and np.isnan(read.geometry.oblique)
    np.testing.assert_array_equal(read.pixels, read_pixels([str(tmp_path / "a.nii")]))


def test_arrays_and_pages_have_no_geometry_and_none_is_made_up(tmp_path, volume):
    np.save(tmp_path / "c.npy", volume)
    np.save(tmp_path / "f.npy", np.asfortranarray(volume))
    pages = [Image.fromarray(volume[..., i]) for i in range(10)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    for name in ("c.npy", "f.npy", "a.tif"):
        read = read_volume([str(tmp_path / name)])
        np.testing.assert_array_equal(read.pixels, volume)
        assert not read.geometry.known and np.isnan(read.geometry.spacing).all() and np.isnan(read.geometry.affine[:3]).all()
        assert read.geometry.kind == "unknown geometry" and read.geometry.orientation is None


def test_a_series_without_positions_has_no_geometry_and_keeps_its_order(tmp_path, volume):
    paths = [dicom(tmp_path / f"{i}.dcm", volume[..., i].T, number=10 - i) for i in range(10)]
    read = read_volume(paths)
    assert not read.geometry.known
    np.testing.assert_array_equal(read.pixels, read_pixels(paths))


def test_a_nrrd_or_mha_that_states_no_voxel_size_has_no_geometry(tmp_path, volume):
    raw = volume.tobytes(order="F")
    (tmp_path / "a.mha").write_bytes(b"NDims = 3\nDimSize = 13 11 10\nElementType = MET_USHORT\nElementDataFile = LOCAL\n" + raw)
    (tmp_path / "a.nrrd").write_bytes(
        b"NRRD0004\ntype: ushort\ndimension: 3\nsizes: 13 11 10\nencoding: raw\nendian: little\n\n" + raw
    )
    for name in ("a.mha", "a.nrrd"):
        read = read_volume([str(tmp_path / name)])
        np.testing.assert_array_equal(read.pixels, volume)
        assert not read.geometry.known and image_format(tmp_path / name) == ("nrrd" if name == "a.nrrd" else "metaimage")


@pytest.mark.parametrize(
    "spacing, axis",
    [
        ((1, 1, 1), None),
        ((0.7, 0.7, 2.5), None),
        ((1, 1, 3), 2),
        ((8, 1.4, 1.4), 0),
        ((0.1, 0.5, 0.1), 1),
        ((4, 4, 4), None),
        ((2, 2, 3), None),
    ],
)
def test_a_stack_of_thick_slices_is_known_by_its_spacing_alone(spacing, axis):
    geometry = geometry_of(made_affine(spacing), (64, 64, 64))
    assert geometry.stack_axis == axis and geometry.kind == ("volume" if axis is None else "stack")


# Reduction


def test_reduced_voxels_are_the_means_of_what_they_cover_and_lie_where_that_lies(tmp_path, volume):
    large = np.random.default_rng(1).random((24, 20, 36)).astype(np.float32)
    whole = read_volume([write_nifti(tmp_path / "a.nii", large, AFFINE)])
    read = read_volume([str(tmp_path / "a.nii")], largest=12)
    expected = large.reshape(12, 2, 20, 36)[:, :, :].mean(1).reshape(12, 20, 12, 3).mean(3)
    # 20 -> 12: every output voxel covers 5/3 of the others.
    edges = np.linspace(0, 20, 13)
    shares = np.array([[max(min(b, i + 1) - max(a, i), 0) for i in range(20)] for a, b in pairwise(edges)])
    expected = np.einsum("ay,xyz->xaz", shares * 12 / 20, expected)
    np.testing.assert_allclose(read.pixels, expected, atol=1e-5)
    # The box of the volume stays where it is: both corners, in mm.
    corners = [[-0.5] * 3, [-0.5] * 3], [[n - 0.5 for n in v.geometry.shape] for v in (whole, read)]
    for one, two in corners:
        np.testing.assert_allclose(whole.geometry.affine @ [*one, 1], read.geometry.affine @ [*two, 1], atol=1e-4)
    np.testing.assert_allclose(read.geometry.extent, whole.geometry.extent, rtol=1e-6)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_is_reduced_alike(tmp_path, volume, writer):
    paths = WRITERS[writer](tmp_path, *stored_as(volume, AFFINE, "PIL"))
    reference = read_volume([write_nifti(tmp_path / "r.nii", volume.astype(np.float32), AFFINE)], largest=8)
    read = read_volume(paths, largest=8)
    np.testing.assert_allclose(read.pixels, reference.pixels, rtol=1e-5)
    np.testing.assert_allclose(read.geometry.affine, reference.geometry.affine, atol=1e-4)


@pytest.mark.parametrize("largest", [0, 7, 2.5, "64"])
def test_a_grid_of_too_few_voxels_is_a_mistake(tmp_path, volume, largest):
    with pytest.raises(InputError, match="'largest'"):
        read_volume([write_nifti(tmp_path / "a.nii", volume.astype(np.float32), AFFINE)], largest=largest)


@pytest.mark.parametrize("form", ["series", "enhanced", "nii.gz", "mha", "nrrd"])
def test_reading_a_large_ct_needs_the_memory_of_what_is_made_of_it(tmp_path, form):
    ct = np.random.default_rng(0).integers(0, 50, (160, 160, 200), dtype=np.uint16)  # 10 MB as stored, 20 as float32
    if form == "series":
        paths = write_series(tmp_path / "ct", ct, AFFINE)
    else:
        path = tmp_path / f"a.{form}"
        write = {"nii.gz": write_nifti, "mha": write_itk, "nrrd": write_nrrd, "enhanced": write_enhanced}[form]
        options = {"compression_level": 1} if form == "nrrd" else {}
        paths = [write(path, ct.astype(np.int16) if form == "nii.gz" else ct, AFFINE, **options)]
    read_volume(paths, largest=8)  # what libraries keep for good
    made = 64**3 * 4
    tracemalloc.start()
    read = read_volume(paths, largest=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.pixels.nbytes == made and peak < 3 * made + 2_000_000, f"{peak / made:.1f} volumes"


# Bad input


def reason(paths, **options) -> str:
    with pytest.raises(ImageError) as error:
        read_volume(paths, **options)
    text = str(error.value)
    assert text.isprintable() and len(text) <= 250
    return text


@pytest.mark.parametrize("pixdim", [0.0, -1.0, np.nan, np.inf])
def test_a_voxel_size_that_is_none_is_refused_and_not_mended(tmp_path, volume, pixdim):
    image = nib.Nifti1Image(volume.astype(np.float32), None)
    image.set_qform(np.eye(4), 1)
    data = bytearray(image.to_bytes())
    data[80:84] = np.float32(pixdim).tobytes()  # pixdim[1]
    (tmp_path / "a.nii").write_bytes(data)
    expected = f"voxel size that is {'not above 0' if np.isfinite(pixdim) else 'no number'}: {pixdim:g} x 1 x 1 mm"
    assert expected in reason([str(tmp_path / "a.nii")])
    with pytest.raises(InputError, match=expected):
        find_images(tmp_path, volumes="whole")


@pytest.mark.parametrize("spacing", ["0 1 1", "-1 1 1", "nan 1 1", "1e9 1 1"])
def test_a_voxel_size_of_metaimage_that_is_none_is_refused(tmp_path, volume, spacing):
    path = Path(write_itk(tmp_path / "a.mha", volume, made_affine((1, 1, 1), (0, 0, 0))))
    path.write_bytes(path.read_bytes().replace(b"ElementSpacing = 1 1 1", f"ElementSpacing = {spacing}".encode()))
    assert "voxel size" in reason([str(path)])


def test_a_sform_without_length_along_an_axis_is_refused_with_the_sizes(tmp_path, volume):
    image = nib.Nifti1Image(volume.astype(np.float32), np.eye(4))
    image.header["srow_x"], image.header["sform_code"] = [0, 0, 0, 0], 1
    (tmp_path / "a.nii").write_bytes(image.header.binaryblock + b"\0" * 4 + volume.astype(np.float32).tobytes(order="F"))
    assert "not above 0: 0 x 1 x 1" in reason([str(tmp_path / "a.nii")])


def sheared(degrees: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 2] = np.tan(np.radians(degrees))
    return affine


def test_a_sheared_affine_is_refused_with_its_angle_and_rounding_is_made_orthogonal_about_the_centre(tmp_path, volume):
    pixels = volume.astype(np.float32)
    assert "right angle by 12.0 degrees" in reason([write_nifti(tmp_path / "a.nii", pixels, sheared(12))])
    read = read_volume([write_nifti(tmp_path / "a.nii", pixels, sheared(0.5))])
    axes = read.geometry.affine[:3, :3]
    np.testing.assert_allclose(axes.T @ axes, np.diag(np.square(read.geometry.spacing)), atol=1e-6)
    centre = [6, 5, 4.5, 1]
    np.testing.assert_allclose(read.geometry.affine @ centre, sheared(0.5) @ centre, atol=1e-5)
    assert read.geometry.told == ("sheared by 0.50 degrees, made orthogonal",)


@pytest.mark.parametrize("shape", [(1, 40, 40), (40, 1, 40)])
def test_one_slice_is_no_volume(tmp_path, shape):
    path = write_nifti(tmp_path / "a.nii", np.random.default_rng(0).random(shape).astype(np.float32), np.eye(4))
    assert "one slice only" in reason([path])
    with pytest.raises(InputError, match="one slice only"):
        find_images(tmp_path, volumes="whole")


def test_constant_volumes_and_nan_are_refused_as_images_are(tmp_path, volume):
    pixels = volume.astype(np.float32)
    assert "constant volume (every voxel is 7)" in reason([write_nifti(tmp_path / "a.nii", np.full_like(pixels, 7), AFFINE)])
    pixels[3, 4, 5], pixels[0, 0, 0] = np.nan, 3e38
    assert "2 of 1430 voxels are NaN or Inf" in reason([write_nifti(tmp_path / "a.nii", pixels, AFFINE)])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.npy", "first.nrrd", "last.nrrd", "a.mha", "series"])
def test_a_series_of_volumes_needs_a_choice_and_gives_the_chosen_one(tmp_path, volume, name):
    times = np.stack([volume, volume[::-1], volume // 2], -1).astype(np.uint16)
    path = tmp_path / name
    directions = [*(AFFINE @ np.eye(4)).T[:3, :3]]
    none = np.full(3, np.nan)
    if name == "a.nii.gz":
        write_nifti(path, times.astype(np.int16), AFFINE)
    elif name == "a.npy":
        np.save(path, times)
    elif name == "first.nrrd":
        write_nrrd(
            path,
            times.transpose(3, 0, 1, 2),
            AFFINE,
            "right-anterior-superior",
            **{"space directions": np.array([none, *directions]), "kinds": ["vector", *["domain"] * 3]},
        )
    elif name == "last.nrrd":
        write_nrrd(
            path,
            times,
            AFFINE,
            "right-anterior-superior",
            **{"space directions": np.array([*directions, none]), "kinds": [*["domain"] * 3, "list"]},
        )
    elif name == "a.mha":
        write_itk(path, times, AFFINE, vector=True)
    paths = [str(path)]
    if name == "series":  # volume after volume, at the same positions
        paths = [p for t in range(3) for p in write_series(tmp_path / "s" / str(t), times[..., t], AFFINE)]
        for number, file in enumerate(paths):
            data = pydicom.dcmread(file)
            data.InstanceNumber += 10 * (number // 10)
            data.save_as(tmp_path / "s" / f"{number}.dcm")
        paths = [str(tmp_path / "s" / f"{n}.dcm") for n in range(30)]
        for folder in range(3):
            for file in (tmp_path / "s" / str(folder)).iterdir():
                file.unlink()
        path = tmp_path / "s"
    assert "--channel 0 to 2" in reason(paths)
    assert "outside 0 to 2" in reason(paths, channel=3)
    for channel in range(3):
        np.testing.assert_array_equal(read_volume(paths, channel).pixels, times[..., channel])
    with pytest.raises(InputError, match="--channel 0 to 2"):
        find_images(path, volumes="whole")
    found = find_images(path, volumes="whole", slices=SliceChoice(channel=1))
    assert len(found.records) == 1 and found.records[0].channel == 1
    np.testing.assert_array_equal(read_volume(found.records[0]).pixels, times[..., 1])


def test_gantry_tilt_is_found_by_positions_that_leave_the_normal(tmp_path, volume):
    affine = made_affine((1, 1, 2), (0, 0, 0))
    tilted = write_series(tmp_path / "a", volume, affine, shift=(0, 2 * np.tan(np.radians(15)), 0))
    assert "gantry tilt" in (text := reason(tilted)) and "15.0 degrees" in text
    slight = write_series(tmp_path / "b", volume, affine, shift=(0, 2 * np.tan(np.radians(0.4)), 0))
    assert read_volume(slight).geometry.spacing == pytest.approx((1, 1, 2), abs=1e-4)


def test_the_spacing_of_a_series_is_by_position_and_not_by_thickness(tmp_path, volume):
    paths = write_series(tmp_path / "a", volume, AFFINE)
    assert pydicom.dcmread(paths[0]).SliceThickness == 99
    assert read_volume(paths).geometry.spacing[2] == pytest.approx(2.3, abs=1e-5)


def test_a_missing_slice_is_filled_from_its_neighbours_and_told_and_a_wide_gap_is_refused(tmp_path, volume):
    paths = write_series(tmp_path / "a", volume, AFFINE)
    numbers = [int(pydicom.dcmread(p).InstanceNumber) - 1 for p in paths]
    read = read_volume([p for p, n in zip(paths, numbers, strict=True) if n != 4])
    expected = volume.astype(np.float32)
    expected[..., 4] = (expected[..., 3] + expected[..., 5]) / 2
    np.testing.assert_allclose(read.pixels, expected, rtol=1e-4)
    np.testing.assert_allclose(read.geometry.affine, AFFINE, atol=1e-4)
    assert "1 of 10 slices are missing: the widest gap is 4.6 mm at a step of 2.3 mm" in read.geometry.told[0]
    assert "4 of 10 slices are missing" in reason([p for p, n in zip(paths, numbers, strict=True) if not 3 <= n < 7])


def test_uneven_slices_are_interpolated_at_even_steps_or_refused(tmp_path):
    ramp = np.tile(np.arange(10) * 100, (12, 11, 1)).astype(np.uint16)
    places = np.arange(10) + np.array([0, 0.1, -0.1, 0, 0.2, 0, -0.1, 0.1, 0, 0])
    for index, place in enumerate(places):
        ramp[..., index] = round(place * 1000)
    read = read_volume(write_series(tmp_path / "a", ramp, made_affine((1, 1, 2), (0, 0, 0)), places=places))
    np.testing.assert_allclose(read.pixels[5, 5], np.linspace(0, 9000, read.pixels.shape[2]), atol=1.5)
    assert "uneven gaps between the slices" in read.geometry.told[0]
    places = np.array([0, 1, 2, 3, 4.4, 9.7, 10.2, 11, 12, 13])
    assert "uneven gaps" in reason(write_series(tmp_path / "b", ramp, made_affine((1, 1, 2), (0, 0, 0)), places=places))


def test_positions_that_some_slices_share_are_neither_a_volume_nor_a_time_series(tmp_path, volume):
    paths = write_series(tmp_path / "a", volume, AFFINE)
    again = write_series(tmp_path / "b", volume[..., :4], AFFINE)
    assert "4 of 10 positions hold more than one slice" in reason([*paths, *again])
    assert "40 slices at one position" in reason(
        [dicom(tmp_path / f"{i}.dcm", volume[..., i % 10].T, number=i, position=(0, 0, 0)) for i in range(40)]
    )


def test_files_of_several_series_are_counted_and_read_apart(tmp_path, volume):
    one, two = (write_series(tmp_path / "a", volume, AFFINE, series=uid) for uid in ("1.2.3", "1.2.4"))
    assert "files of 2 series" in reason([*one, *two])
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == 2 and any("up to 2 DICOM series" in note for note in found.notes)
    assert all(str(tmp_path) not in note for note in found.notes)


def test_slices_that_are_tilted_against_each_other_are_no_volume(tmp_path, volume):
    paths = []
    for index in range(10):
        angle = np.radians(0.3 * index)
        paths.append(
            dicom(
                tmp_path / f"{index}.dcm",
                volume[..., index].T,
                number=index,
                position=(0, 0, 2 * index),
                orientation=(1, 0, 0, 0, np.cos(angle), np.sin(angle)),
            )
        )
    assert "tilted against each other by up to 2.7 degrees" in reason(paths)


def test_missing_or_impossible_pixel_spacing(tmp_path, volume):
    paths = [dicom(tmp_path / f"{i}.dcm", volume[..., i].T, number=i, position=(0, 0, 2 * i)) for i in range(10)]
    assert read_volume(paths).geometry.told == ("no PixelSpacing",) and not read_volume(paths).geometry.known
    for path in paths:
        data = pydicom.dcmread(path)
        data.PixelSpacing = [0, 1]
        data.save_as(path)
    assert "not above 0" in reason(paths)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "raw.nrrd", "a.mha", "packed.mha", "a.mhd", "a.npy", "a.dcm"])
def test_truncated_files_are_refused_with_a_reason(tmp_path, volume, name):
    path = tmp_path / name
    if name.endswith((".nii", ".gz")):
        write_nifti(path, volume.astype(np.float32), AFFINE)
    elif name.endswith("nrrd"):
        write_nrrd(path, volume, AFFINE, encoding="raw" if name == "raw.nrrd" else "gzip")
    elif name.endswith((".mha", ".mhd")):
        write_itk(path, volume, AFFINE, compressed=name == "packed.mha")
    elif name == "a.npy":
        np.save(path, volume)
    else:
        write_enhanced(path, volume, AFFINE)
    voxels = path.with_suffix(".raw") if name == "a.mhd" else path
    voxels.write_bytes(voxels.read_bytes()[:-700])
    text = reason([str(path)])
    assert not any(word in text for word in (str(tmp_path), path.stem + path.suffix))
    with pytest.raises(ImageError):
        read_pixels([str(path)])


def test_a_header_that_claims_more_than_the_file_holds_allocates_nothing(tmp_path, volume):
    path = Path(write_itk(tmp_path / "a.mha", volume, AFFINE))
    path.write_bytes(path.read_bytes().replace(b"DimSize = 13 11 10", b"DimSize = 99999 99999 99999"))
    with pytest.raises(ImageError, match="truncated: "):
        read_header(path)


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd", "LIST", "a%03d.raw 1 9 1", "nowhere.raw"])
def test_a_header_reads_no_file_but_one_at_its_side(tmp_path, volume, name):
    (tmp_path / "secret.raw").write_bytes(volume.tobytes(order="F"))
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.mhd").write_text(f"NDims = 3\nDimSize = 13 11 10\nElementType = MET_USHORT\nElementDataFile = {name}\n")
    (folder / "a.nhdr").write_text(
        f"NRRD0004\ntype: ushort\ndimension: 3\nsizes: 13 11 10\nencoding: raw\nendian: little\ndata file: {name}\n\n"
    )
    for file in ("a.mhd", "a.nhdr"):
        text = reason([str(folder / file)])
        assert "secret" not in text and "passwd" not in text and "nowhere" not in text


def test_reasons_name_neither_the_path_nor_what_a_header_says(tmp_path, volume):
    folder = tmp_path / "Jane_Doe"
    folder.mkdir()
    nrrd, mha = Path(write_nrrd(folder / "Jane.nrrd", volume, AFFINE)), Path(write_itk(folder / "Jane.mha", volume, AFFINE))
    data = nrrd.read_bytes()
    for broken in (
        data.replace(b"dimension: 3", b"dimension: Jane"),
        data.replace(b"sizes: 13", b"sizes: Jane"),
        data.replace(b"type: ", b"type: Jane"),
    ):
        nrrd.write_bytes(broken)
        assert "Jane" not in reason([str(nrrd)])
    data = mha.read_bytes()
    for broken in (
        data.replace(b"NDims = 3", b"NDims = Jane"),
        data.replace(b"MET_USHORT", b"Jane"),
        data.replace(b"DimSize = 13", b"DimSize = Jane"),
    ):
        mha.write_bytes(broken)
        assert "Jane" not in reason([str(mha)])


def test_nrrd_without_pynrrd_names_the_extra_and_the_rest_goes_on(tmp_path, volume, monkeypatch):
    write_nrrd(tmp_path / "a.nrrd", volume, AFFINE)
    write_itk(tmp_path / "a.mha", volume, AFFINE)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    found = find_images(tmp_path, volumes="whole")
    assert [r.format for r in found.records] == ["metaimage"]
    assert [s.reason for s in found.skipped] == ['NRRD files need pynrrd: pip install ".[volumes]"']


def test_each_frame_of_an_enhanced_object_has_its_own_slope(tmp_path, volume):
    slopes = np.linspace(0.5, 2, 10)
    path = write_enhanced(tmp_path / "a.dcm", volume, AFFINE, slopes.round(4).tolist())
    np.testing.assert_allclose(read_volume([path]).pixels, volume * slopes.round(4), rtol=1e-5)
    np.testing.assert_allclose(read_pixels([path]), volume * slopes.round(4), rtol=1e-5)


def test_a_damaged_slice_at_reading_says_so_and_names_no_file(tmp_path, volume):
    paths = write_series(tmp_path / "Jane_Doe", volume, AFFINE)
    Path(paths[3]).write_bytes(Path(paths[3]).read_bytes()[:-50])
    text = reason(paths)
    assert "1 of 10 slices are damaged: truncated" in text and "Jane" not in text


def test_2d_files_are_no_volumes(tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", picture)
    nib.save(nib.Nifti1Image(picture, np.eye(4)), tmp_path / "a.nii")
    dicom(tmp_path / "a.dcm", picture)
    sitk.WriteImage(sitk.GetImageFromArray(picture), str(tmp_path / "a.mha"))
    for path in tmp_path.iterdir():
        assert "one slice only" in reason([str(path)])
    np.testing.assert_array_equal(read_pixels([str(tmp_path / "a.mha")]), picture)
    assert read_header(tmp_path / "a.mha").shape == (20, 30)


# Sets


def test_a_set_of_volumes_has_one_record_a_volume_with_the_geometry_that_reading_gives(tmp_path, volume):
    for number, writer in enumerate(WRITERS):
        (tmp_path / str(number)).mkdir()
        WRITERS[writer](tmp_path / str(number), *stored_as(volume, AFFINE, "LPS"))
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == len(WRITERS) and not found.skipped and found.whole_volumes
    for record in found.records:
        read = read_volume(record)
        assert record.whole and record.slice is None and record.axis is None
        assert record.geometry == read.geometry
        np.testing.assert_allclose(record.geometry.affine, read.geometry.affine, atol=1e-9)
    rows = volume_table(found.records)
    assert {row["format"] for row in rows} == {"nifti", "nrrd", "metaimage", "dicom"}
    assert {row["shape"] for row in rows} == {"13 11 10"} and {row["spacing"] for row in rows} == {"1.1 0.9 2.3"}
    assert {row["kind"] for row in rows} == {"volume"} and {row["patient"] for row in rows if row["format"] == "dicom"} == {"PAT1"}
    assert find_images(tmp_path).records[0].slice is not None and not find_images(tmp_path).whole_volumes


def test_bad_volumes_are_listed_each_with_its_reason_and_the_rest_goes_on(tmp_path, volume):
    pixels = volume.astype(np.float32)
    write_nifti(tmp_path / "good.nii", pixels, AFFINE)
    write_nifti(tmp_path / "other.nii.gz", pixels, made_affine((1, 1, 4)))
    write_nifti(tmp_path / "sheared.nii", pixels, sheared(20))
    write_nifti(tmp_path / "slice.nii", pixels[:1], AFFINE)
    write_nifti(tmp_path / "times.nii", np.stack([pixels] * 3, -1), AFFINE)
    write_nifti(tmp_path / "cut.nii", pixels, AFFINE)
    (tmp_path / "cut.nii").write_bytes((tmp_path / "cut.nii").read_bytes()[:-100])
    write_series(tmp_path / "tilted", volume, made_affine((1, 1, 2), (0, 0, 0)), shift=(0, 1, 0))
    np.save(tmp_path / "array.npy", volume)
    found = find_images(tmp_path, volumes="whole")
    reasons = {Path(s.path.split("#")[0]).name: s.reason for s in found.skipped}
    assert [Path(r.id).name for r in found.records] == ["array.npy", "good.nii", "other.nii.gz"]
    for name, word in {
        "sheared.nii": "sheared affine", "slice.nii": "one slice only", "times.nii": "--channel", "cut.nii": "truncated", "tilted": "gantry tilt",
    }.items():  # fmt: skip
        assert word in reasons.pop(name)
    assert not reasons
    assert any("of different spacing: 1 x 0.9 x 2.3 to 1.1 x 1 x 4 mm" in note for note in found.notes)
    assert any("1 of 3 training volumes is a stack of thick slices" in note for note in found.notes)
    assert any("1 of 3 training volumes does not say" in note for note in found.notes)


def test_volumes_and_images_in_one_set_are_a_mistake_that_names_the_way_out(tmp_path, volume):
    write_nifti(tmp_path / "a.nii", volume.astype(np.float32), AFFINE)
    for name in ("b.png", "c.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"1 volumes and 2 2D images.*'b.png'.*--volumes as-slices"):
        find_images(tmp_path, volumes="whole")
    assert len(find_images(tmp_path).records) > 2
    (tmp_path / "a.nii").unlink()
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == 2 and not found.whole_volumes and volume_table(found.records) == []


def test_a_file_of_one_slice_beside_volumes_does_not_stop_the_set_but_many_do(tmp_path, volume):
    for name in ("a.nii", "b.nii"):
        write_nifti(tmp_path / name, volume.astype(np.float32), AFFINE)
    write_nifti(tmp_path / "flat.nii", volume[:, :, :1].astype(np.float32), AFFINE)
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == 2 and [s.reason for s in found.skipped] == ["one slice only, beside volumes"]
    write_nifti(tmp_path / "flat2.nii", volume[:, :, 1:2].astype(np.float32), AFFINE)
    with pytest.raises(InputError, match="2 volumes and 2 2D images"):
        find_images(tmp_path, volumes="whole")


def test_a_localizer_beside_a_series_is_listed_and_makes_no_mixed_set(tmp_path, volume):
    write_series(tmp_path / "a", volume, AFFINE)
    dicom(tmp_path / "a" / "z.dcm", volume[..., 0].T, "1.2.3", 99, (0, 0, 0), (0, 1, 0, 0, 0, -1))
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == 1 and [s.reason for s in found.skipped] == ["one slice only, which lies on no other of its series"]


def test_a_damaged_file_of_a_series_is_a_gap_that_is_filled_and_told(tmp_path, volume):
    paths = write_series(tmp_path / "a", volume, AFFINE)
    hurt = next(p for p in paths if int(pydicom.dcmread(p).InstanceNumber) == 5)
    Path(hurt).write_bytes(Path(hurt).read_bytes()[:-50])
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == 1 and "its slice is a gap" in found.skipped[0].reason
    assert read_volume(found.records[0]).pixels.shape == volume.shape
    assert any("1 of 10 slices are missing" in note for note in found.notes)


def test_a_sample_of_a_set_draws_whole_volumes(tmp_path, volume):
    for number in range(8):
        write_nifti(tmp_path / f"{number}.nii", volume.astype(np.float32), AFFINE)
    found = find_images(tmp_path, volumes="whole", limit=3)
    assert len(found.records) == 3 and (found.sample.drawn, found.sample.total) == (3, 8)


def test_a_choice_that_is_none_is_a_mistake(tmp_path, volume):
    write_nifti(tmp_path / "a.nii", volume.astype(np.float32), AFFINE)
    with pytest.raises(InputError, match="'volumes'"):
        find_images(tmp_path, volumes="slices")


def test_a_small_array_is_refused_in_its_own_numbers():
    with pytest.raises(ImageError, match="5 x 6 x 20 voxels; at least 8"):
        unknown_geometry((5, 6, 20))


@pytest.mark.parametrize(("volumes", "pictures"), [(3, 1), (3, 2), (18, 2)])
def test_a_few_pictures_beside_volumes_are_left_out_and_the_rest_goes_on(tmp_path, volume, volumes, pictures):
    """One preview beside the volumes of a set stopped the whole audit."""
    for number in range(volumes):
        write_nifti(tmp_path / f"v{number}.nii", volume.astype(np.float32), AFFINE)
    for number in range(pictures):
        save_png(tmp_path / f"p{number}.png", np.random.default_rng(number).random((16, 16)))
    found = find_images(tmp_path, volumes="whole")
    assert len(found.records) == volumes and found.whole_volumes
    assert [one.reason for one in found.skipped] == ["a 2D image, beside volumes"] * pictures


@pytest.mark.parametrize(("volumes", "pictures"), [(1, 9), (2, 3)])
def test_no_volume_is_left_out_beside_pictures(tmp_path, volume, volumes, pictures):
    """Each may hold more than all of them, and would not have been looked at."""
    for number in range(volumes):
        write_nifti(tmp_path / f"v{number}.nii", volume.astype(np.float32), AFFINE)
    for number in range(pictures):
        save_png(tmp_path / f"p{number}.png", np.random.default_rng(number).random((16, 16)))
    with pytest.raises(InputError, match=f"Got {volumes} volumes and {pictures} 2D images"):
        find_images(tmp_path, volumes="whole")


def test_as_many_pictures_as_volumes_are_two_sets(tmp_path, volume):
    for number in range(3):
        write_nifti(tmp_path / f"v{number}.nii", volume.astype(np.float32), AFFINE)
        save_png(tmp_path / f"p{number}.png", np.random.default_rng(number).random((16, 16)))
    with pytest.raises(InputError, match="Got 3 volumes and 3 2D images"):
        find_images(tmp_path, volumes="whole")


def test_a_volume_of_fewer_than_eight_slices_is_refused_by_whatever_compares_it(tmp_path, volume):
    """The audit scored a volume of three slices; training, which reads by a transform, refused it."""
    path = write_nifti(tmp_path / "thin.nii", volume[:, :, :3].astype(np.float32), AFFINE)
    (record,) = find_images(path, volumes="whole").records
    with pytest.raises(ImageError, match="x 3 voxels; at least 8 along an axis are needed"):
        read_compared(record)
    with pytest.raises(ImageError, match="at least 8 along an axis"):
        read_voxels(record)
    assert read_volume(record).pixels.shape[2] == 3, "reading is no comparing"
