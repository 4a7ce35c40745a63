"""The sets of a study: nobody is on both sides, and what was split stays as it was."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from doppelscan.errors import InputError
from doppelscan.images import LoadSliced, SquareThumbnaild, Windowd
from doppelscan.study import StudySource
from doppelscan.study.sets import split_patients
from made_files import save_png
from monai.transforms import Compose


def preprocessing(size: int = 32) -> Compose:
    return Compose([LoadSliced("image"), Windowd("image"), SquareThumbnaild("image", spatial_size=size)])


@pytest.fixture
def table(tmp_path, cohort) -> Path:
    """Two images each of 15 people, with their sex."""
    rows = ["image,subject,sex"]
    for i in range(30):
        save_png(tmp_path / "images" / f"{i:02d}.png", cohort[i])
        rows.append(f"images/{i:02d}.png,p{i // 2:02d},{'FM'[i // 2 % 2]}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    return tmp_path / "set.csv"


def patients(path: Path) -> set[str]:
    with open(path, newline="") as file:
        return {row["patient"] for row in csv.DictReader(file)}


def test_no_patient_is_on_both_sides_and_some_are_part_of_all(table, tmp_path):
    sets = StudySource(table, preprocessing()).prepare(tmp_path / "sets", 32, 0)
    some, every, holdout = patients(sets.some), patients(sets.all), patients(sets.holdout)
    assert some < every and not every & holdout and len(every | holdout) == 15
    assert sets.patients == {"some": 5, "all": 10, "holdout": 5} and sets.images == {"some": 10, "all": 20, "holdout": 10}
    assert set(sets.columns) == {"position", "sex"}
    with open(sets.some, newline="") as file:
        row = next(csv.DictReader(file))
    assert row["sex"] in "FM" and row["position"] == "0.5000" and (sets.some.parent / row["path"]).is_file()


def test_a_split_is_read_again_and_another_one_is_refused_in_one_line(table, tmp_path):
    source = StudySource(table, preprocessing())
    first = source.prepare(tmp_path / "sets", 32, 0)
    before = {one: one.stat().st_mtime_ns for one in (tmp_path / "sets").rglob("*.[pcj]*")}
    assert source.prepare(tmp_path / "sets", 32, 0) == first
    with pytest.raises(InputError, match="has seed 0, not 1; pass another --output_dir") as error:
        source.prepare(tmp_path / "sets", 32, 1)
    assert "\n" not in str(error.value)
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "sets").rglob("*.[pcj]*")} == before


def test_a_split_that_was_killed_is_made_anew(table, tmp_path):
    source = StudySource(table, preprocessing())
    first = source.prepare(tmp_path / "sets", 32, 0)
    (tmp_path / "sets" / "sets.json").unlink()
    assert source.prepare(tmp_path / "sets", 32, 1).patients == first.patients


def test_a_holdout_of_training_patients_is_refused(table, tmp_path, cohort):
    save_png(tmp_path / "others" / "a.png", cohort[40])
    save_png(tmp_path / "others" / "b.png", cohort[41])
    (tmp_path / "others.csv").write_text("path,patient\nothers/a.png,p00\nothers/b.png,q\n")
    with pytest.raises(InputError, match="other patients than training"):
        StudySource(table, preprocessing(), tmp_path / "others.csv").prepare(tmp_path / "sets", 32, 0)
    (tmp_path / "others.csv").write_text("path,patient\nothers/a.png,q\nothers/b.png,r\n")
    sets = StudySource(table, preprocessing(), tmp_path / "others.csv").prepare(tmp_path / "sets", 32, 0)
    assert patients(sets.holdout) == {"q", "r"} and sets.patients["all"] == 15


def test_few_patients_and_bad_shares_are_one_line():
    with pytest.raises(InputError, match="Got 9, of whom 3 would be for holdout"):
        split_patients([f"p{i}" for i in range(9)], 1 / 3, 0.5, 0)
    with pytest.raises(InputError, match="of whom 3 would be for training"):
        split_patients([f"p{i}" for i in range(12)], 1 / 3, 0.4, 0)
    with pytest.raises(InputError, match="pass --dataset_dir DIR"):
        StudySource(None, preprocessing())
    with pytest.raises(InputError, match="'holdout_share' parameter must be a number between 0 and 1"):
        StudySource(".", preprocessing(), holdout_share=1.5)
