"""Folders, tables and data lists become records; what cannot be read is listed with its reason."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import InputError, SliceChoice, content_hash, find_images
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
