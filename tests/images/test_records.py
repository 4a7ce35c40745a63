"""Folders, tables and data lists become records; what cannot be read is listed with its reason."""

from __future__ import annotations

import builtins
import json
import os

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import InputError, SliceChoice, content_hash, find_images, read_pixels, table_values
from made_files import dicom, save_png


@pytest.fixture
def picture():
    return np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)


def test_folder_is_searched_recursively_and_in_order(tmp_path, picture):
    for name in ("b/2.png", "a/1.png", "a/deep/3.png"):
        save_png(tmp_path / name, picture)
    (tmp_path / "notes.txt").write_text("not an image")
    found = find_images(tmp_path)
    assert [r.id.removeprefix(str(tmp_path) + "/") for r in found.records] == ["a/1.png", "a/deep/3.png", "b/2.png"]
    assert found.ignored == 1 and found.patient_source == "volume"


def test_names_with_spaces_and_other_scripts(tmp_path, picture):
    save_png(tmp_path / "Schädel MRT 脳 01.png", picture)
    assert find_images(tmp_path).records[0].id.endswith("Schädel MRT 脳 01.png")


def test_patient_from_column_beats_pattern(tmp_path, picture):
    save_png(tmp_path / "sub-01_a.png", picture)
    (tmp_path / "list.csv").write_text("path,patient\nsub-01_a.png,Ann\n")
    found = find_images(tmp_path / "list.csv", patient_pattern=r"(sub-\d+)")
    assert found.records[0].patient == "Ann" and found.patient_source == "column"


def test_patient_from_pattern_and_a_name_that_does_not_match(tmp_path, picture):
    save_png(tmp_path / "sub-01_a.png", picture)
    save_png(tmp_path / "other.png", picture)
    found = find_images(tmp_path, patient_pattern=r"(sub-\d+)")
    assert {os.path.basename(r.id): r.patient for r in found.records} == {
        "sub-01_a.png": "sub-01",
        "other.png": str(tmp_path / "other.png"),
    }
    assert found.unmatched == 1 and not found.skipped and found.patient_source == "pattern and volume"


def test_a_pattern_that_matches_no_real_image_is_refused_but_generated_images_need_no_patient(tmp_path, picture):
    save_png(tmp_path / "sample-01.png", picture)
    with pytest.raises(InputError, match=r"'patient_pattern'.*matches none of 1, the first 'sample-01.png'"):
        find_images(tmp_path, name="training", patient_pattern=r"(sub-\d+)")
    found = find_images(tmp_path, name="synthetic", patient_pattern=r"(sub-\d+)")
    assert [r.patient for r in found.records] == [str(tmp_path / "sample-01.png")]


@pytest.mark.parametrize("pattern", ["(unclosed", "no-group"])
def test_broken_pattern_is_one_line(tmp_path, picture, pattern):
    save_png(tmp_path / "a.png", picture)
    with pytest.raises(InputError, match="patient_pattern") as error:
        find_images(tmp_path, patient_pattern=pattern)
    assert "\n" not in str(error.value)


def test_monai_data_list(tmp_path, picture):
    save_png(tmp_path / "a.png", picture)
    save_png(tmp_path / "b.png", picture)
    (tmp_path / "list.json").write_text(
        json.dumps({"training": [{"image": "a.png", "patient": 7}, {"image": "b.png", "subject": "x"}]})
    )
    assert [r.patient for r in find_images(tmp_path / "list.json").records] == ["7", "x"]


def test_volume_gives_the_middle_half(tmp_path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 22, 40)).astype(np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    found = find_images(tmp_path)
    slices = [r.slice for r in found.records]
    assert slices[0] == 10 and slices[-1] < 30 and len(slices) <= 16
    assert {r.volume for r in found.records} == {str(tmp_path / "v.nii.gz")}
    every = find_images(tmp_path, slices=SliceChoice("coronal", 0, 1, 1))
    assert [r.slice for r in every.records] == list(range(22)) and every.records[0].axis == 1


def test_axis_follows_the_anatomy_of_a_reoriented_file(tmp_path):
    image = nib.Nifti1Image(np.zeros((20, 22, 40), np.float32), np.eye(4))
    turned = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt("SAR"))
    nib.save(image.as_reoriented(turned), tmp_path / "v.nii")
    assert len(find_images(tmp_path, slices=SliceChoice("axial", 0, 1, 1)).records) == 40


def test_two_dicom_series_in_one_folder_are_two_volumes(tmp_path):
    for series in ("1.2.3", "1.2.4"):
        for i in range(9):
            dicom(
                tmp_path / f"{series}-{i}.dcm", np.full((16, 16), i * 10) + np.arange(16), series, i, (0, 0, 1.0 * i), patient="P9"
            )
    found = find_images(tmp_path, slices=SliceChoice(2, 0, 1, 1))
    assert len({r.volume for r in found.records}) == 2 and len(found.records) == 18
    assert found.patient_source == "DICOM" and {r.patient for r in found.records} == {"P9"}


def test_missing_empty_and_unreadable_sources(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_images(tmp_path / "nowhere", name="synthetic")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds none"):
        find_images(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("x")
    with pytest.raises(InputError, match="at least one readable image"):
        find_images(tmp_path / "bad")


def test_4d_is_listed_and_the_rest_goes_on(tmp_path, picture):
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8, 4), np.float32), np.eye(4)), tmp_path / "bold.nii.gz")
    save_png(tmp_path / "a.png", picture)
    found = find_images(tmp_path)
    assert len(found.records) == 1 and "--channel" in found.skipped[0].reason


@pytest.mark.parametrize("choice", [{"axis": "oblique"}, {"axis": 5}, {"start": 0.8, "stop": 0.2}, {"step": 0}])
def test_slice_choices_are_checked(choice):
    with pytest.raises(InputError):
        SliceChoice(**choice)


def test_content_hash_tells_slices_and_contents_apart(tmp_path, picture):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 20)).astype(np.float32), np.eye(4)), tmp_path / "v.nii")
    records = find_images(tmp_path).records
    assert len({content_hash(r) for r in records}) == len(records)


def test_how_often_a_record_was_shown_is_read_from_tables(tmp_path, cohort):
    for i in range(3):
        save_png(tmp_path / f"{i}.png", cohort[i])
    (tmp_path / "t.csv").write_text("path,patient,repeats\n0.png,a,5\n1.png,b,\n2.png,c,1\n")
    assert [r.repeats for r in find_images(tmp_path / "t.csv").records] == [5, 1, 1]
    (tmp_path / "t.json").write_text('[{"image": "0.png", "repeats": 3}, {"image": "1.png"}]')
    assert [r.repeats for r in find_images(tmp_path / "t.json").records] == [3, 1]
    (tmp_path / "bad.csv").write_text("path,repeats\n0.png,often\n")
    with pytest.raises(InputError, match=r"'repeats'.*integers >= 1.*often"):
        find_images(tmp_path / "bad.csv")


def test_a_volume_is_hashed_once_and_not_for_each_of_its_slices(tmp_path, picture, monkeypatch):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 20)).astype(np.float32), np.eye(4)), tmp_path / "v.nii")
    save_png(tmp_path / "a.png", picture)
    records = find_images(tmp_path).records
    plain = [content_hash(record) for record in records]
    opened, volumes = [], {}
    original = builtins.open
    monkeypatch.setattr(builtins, "open", lambda file, *a, **k: opened.append(file) or original(file, *a, **k))
    assert [content_hash(record, volumes) for record in records] == plain
    assert sorted(map(os.path.basename, opened)) == ["a.png", "v.nii"]


def series(folder, planes=10, series="1.2.3", orientation=(1, 0, 0, 0, 1, 0), first=0, side=(12, 14)):
    """Files of a series whose slice i has pixels around 100 i."""
    folder.mkdir(exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    rng = np.random.default_rng(0)
    return [
        dicom(folder / f"{first + i:02d}.dcm", 100 * i + rng.integers(0, 50, side), series, i, normal * 2.0 * i, orientation)
        for i in range(planes)
    ]


def cut(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 30)


@pytest.mark.parametrize("damaged", [[4], [0, 9], [0, 4, 5]])
def test_a_truncated_file_of_a_series_is_listed_and_the_others_go_on(tmp_path, damaged):
    paths = series(tmp_path / "s")
    whole = read_pixels(paths)
    for index in damaged:
        cut(paths[index])
    found = find_images(tmp_path, slices=SliceChoice(2, 0, 1, 1))
    assert [s.path for s in found.skipped] == [paths[i] for i in damaged]
    assert all("truncated" in s.reason and f"goes on with the other {10 - len(damaged)}" in s.reason for s in found.skipped)
    assert len(found.records) == 10 - len(damaged)
    np.testing.assert_array_equal(read_pixels(found.records[0].paths), np.delete(whole, damaged, 2))


def test_slices_across_the_gap_of_a_truncated_file_are_refused_and_past_an_end_they_are_not(tmp_path):
    paths = series(tmp_path / "s")
    cut(paths[0])
    found = find_images(tmp_path, slices=SliceChoice("coronal", 0, 1, 1))
    assert len(found.records) == 12 and len(found.skipped) == 1
    cut(paths[4])
    with pytest.raises(InputError, match="readable"):
        find_images(tmp_path, slices=SliceChoice("coronal", 0, 1, 1))
    save_png(tmp_path / "a.png", np.linspace(0, 1, 400).reshape(20, 20))
    found = find_images(tmp_path, slices=SliceChoice("coronal", 0, 1, 1))
    assert len(found.records) == 1 and [s.reason for s in found.skipped if "gap" in s.reason]
    assert not any(str(tmp_path) in s.reason for s in found.skipped)


def test_one_whole_file_of_a_series_is_an_image(tmp_path):
    paths = series(tmp_path / "s", 3)
    cut(paths[0])
    cut(paths[2])
    found = find_images(tmp_path)
    assert [(r.id, r.slice) for r in found.records] == [(paths[1], None)]


def test_a_file_of_another_size_or_plane_costs_the_series_nothing(tmp_path):
    paths = series(tmp_path / "s")
    series(tmp_path / "s", 1, side=(20, 20), first=20)
    series(tmp_path / "s", 3, orientation=(0, 1, 0, 0, 0, -1), first=30)
    found = find_images(tmp_path, slices=SliceChoice(2, 0, 1, 1))
    volumes = {r.volume: r.paths for r in found.records}
    assert sorted(map(len, volumes.values())) == [1, 3, 10] and not found.skipped
    assert tuple(paths) in volumes.values() and len({r.id for r in found.records}) == len(found.records)


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_series_is_listed_by_its_headers_alone_and_in_the_shape_of_its_pixels(tmp_path, orientation, axis, monkeypatch):
    paths = series(tmp_path / "s", 6, orientation=orientation)
    shape = read_pixels(paths).shape
    monkeypatch.setattr("doppelscan.images.readers._dicom_pixels", lambda data: pytest.fail("pixels were decoded"))
    found = find_images(tmp_path, slices=SliceChoice(axis, 0, 1, 1))
    assert len(found.records) == shape[axis]


def test_modality_and_patient_of_a_series_are_what_most_of_its_files_say(tmp_path):
    import pydicom

    for index, path in enumerate(series(tmp_path / "s", 4)):
        data = pydicom.dcmread(path)
        data.Modality, data.PatientID = ("MR", "PAT1") if index else ("M", "QAT1")
        data.save_as(path)
    found = find_images(tmp_path)
    assert {(r.modality, r.patient, r.patient_known) for r in found.records} == {("MR", "PAT1", True)}


def test_a_mixed_table_says_how_many_have_no_patient(tmp_path, picture):
    for name in ("a.png", "b.png", "c.png", "sub-7.png"):
        save_png(tmp_path / name, picture)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 20)).astype(np.float32), np.eye(4)), tmp_path / "v.nii")
    (tmp_path / "t.csv").write_text("path,patient\na.png,Ann\nb.png,\nc.png, \nv.nii,\nsub-7.png,\n")
    found = find_images(tmp_path / "t.csv")
    slices = sum(r.slice is not None for r in found.records)
    assert found.unknown_patients == 3 + slices and found.patient_source == "column and volume"
    assert [r.patient for r in found.records if r.patient_known] == ["Ann"]
    found = find_images(tmp_path / "t.csv", patient_pattern=r"(sub-\d+)")
    assert found.unknown_patients == 2 + slices and found.unmatched == 3
    (tmp_path / "t.json").write_text(json.dumps([{"image": "a.png", "patient": "Ann"}, {"image": "b.png", "patient": ""}]))
    assert find_images(tmp_path / "t.json").unknown_patients == 1


def test_one_file_is_a_set_of_one_and_one_text_is_an_error_in_one_line(tmp_path, picture):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 20)).astype(np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    assert {r.volume for r in find_images(tmp_path / "v.nii.gz").records} == {str(tmp_path / "v.nii.gz")}
    save_png(tmp_path / "a.png", picture)
    assert len(find_images(tmp_path / "a.png").records) == 1
    (tmp_path / "list.txt").write_text("a.png\n")
    with pytest.raises(
        InputError, match=r"must be a folder, an image, a \.csv or a \.json\. Got .*list\.txt.*: not a PNG"
    ) as error:
        find_images(tmp_path / "list.txt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", b"path\n\xff\xfe.png\n"),
        ("a.json", b"\xff\xfe"),
        ("a.json", b"[" * 100000),
        ("a.json", b"7"),
        ("a.json", b"[7]"),
        ("a.json", b'[{"image": 7}]'),
        ("a.json", b'{"training": 3}'),
    ],
)
def test_broken_tables_are_one_line(tmp_path, name, text):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError) as error:
        find_images(tmp_path / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_one_damaged_nifti_gz_does_not_stop_the_listing(tmp_path, picture):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 20)).astype(np.float32), np.eye(4)), tmp_path / "v.nii.gz")
    data = bytearray((tmp_path / "v.nii.gz").read_bytes())
    data[30:60] = bytes(30)
    for name in ("v.nii.gz", "v.bin"):  # the second is looked at to see whether it is an image
        (tmp_path / name).write_bytes(data)
    save_png(tmp_path / "a.png", picture)
    found = find_images(tmp_path)
    assert [os.path.basename(s.path) for s in found.skipped] == ["v.nii.gz"] and len(found.records) == 1 and found.ignored == 1


def test_a_row_of_a_table_that_names_no_file_is_listed(tmp_path, picture):
    save_png(tmp_path / "a.png", picture)
    (tmp_path / "t.csv").write_text("path\na.png\nnowhere.png\n")
    found = find_images(tmp_path / "t.csv")
    assert [s.reason for s in found.skipped] == ["cannot be opened: No such file or directory"]


def test_a_folder_that_links_to_itself_is_searched_once(tmp_path, picture):
    save_png(tmp_path / "a" / "1.png", picture)
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert len(find_images(tmp_path).records) == 1


def test_what_a_table_says_of_its_files_is_found_by_their_paths(tmp_path, cohort):
    save_png(tmp_path / "a.png", cohort[0])
    (tmp_path / "set.csv").write_text("Path, age ,note\na.png, 30 ,\nb.png\n")
    found = table_values(tmp_path / "set.csv")
    assert found[str(tmp_path / "a.png")] == {"Path": "a.png", "age": "30", "note": ""}
    assert found[str(tmp_path / "b.png")]["age"] == ""
    assert find_images(tmp_path / "set.csv").records[0].paths[0] in found
    (tmp_path / "set.json").write_text('{"training": [{"image": ["a.png", "b.png"], "age": 30, "note": null}, "c.png"]}')
    found = table_values(tmp_path / "set.json")
    assert found[str(tmp_path / "b.png")]["age"] == "30" and "note" not in found[str(tmp_path / "b.png")]
    assert found[str(tmp_path / "c.png")] == {} == table_values(tmp_path)
