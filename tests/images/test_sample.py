"""The sample cohort takes the place of an earlier one and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images import sample


@pytest.fixture(autouse=True)
def quick_patients(monkeypatch):
    """Patients of noise: where files are written does not hang on what they show."""
    monkeypatch.setattr(sample, "template_maps", dict)
    monkeypatch.setattr(sample, "template_patient", lambda maps, rng: rng.random((3, 32, 32)).astype(np.float32))


def write(folder: Path, **counts: int) -> str:
    return sample.write_sample(folder, **{"training": 3, "holdout": 2, "novel": 1, "copies": 2, **counts})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["training/train000_slice0.png", "truth.csv", "notes.txt", ".hidden"])
def test_a_folder_that_holds_other_files_is_refused_and_stays_as_it_is(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("somebody's")
    before = contents(tmp_path)
    with pytest.raises(
        InputError, match=r"'output' parameter must be a new or empty folder, or an earlier sample.*pass another folder"
    ):
        write(tmp_path)
    assert contents(tmp_path) == before


def test_a_second_sample_takes_the_place_of_the_first_whatever_its_size(tmp_path):
    write(tmp_path / "again", training=6, novel=4, seed=1)
    write(tmp_path / "again")
    write(tmp_path / "new")
    assert contents(tmp_path / "again") == contents(tmp_path / "new")  # volumes too: no time of day in them


def test_files_that_a_user_added_to_a_sample_are_left_alone(tmp_path):
    write(tmp_path, training=6)
    for name in ("training/mine.png", "notes.txt", "more/mine.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    write(tmp_path)
    found = contents(tmp_path)
    assert [found[name] for name in ("training/mine.png", "notes.txt", "more/mine.png")] == [b"mine"] * 3
    assert "training/train005_slice0.png" not in found


def test_a_users_file_where_a_larger_sample_would_write_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "training" / "train004_slice0.png").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"whose training/train004_slice0\.png is none of the sample's"):
        write(tmp_path, training=6)
    assert contents(tmp_path) == before


def test_a_list_of_names_leads_nowhere_else(tmp_path):
    (tmp_path / "outside.png").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "train000_slice0.png").write_text("mine")
    folder = tmp_path / "sample"
    write(folder)
    with open(folder / ".doppelscan-sample", "a") as file:
        file.write("../outside.png\n")
    write(folder)
    assert (tmp_path / "outside.png").read_text() == "mine"
    for path in (folder / "training").iterdir():
        path.unlink()
    (folder / "training").rmdir()
    (folder / "training").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="none of the sample's"):
        write(folder)
    assert (tmp_path / "elsewhere" / "train000_slice0.png").read_text() == "mine"


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    for place in ("file", "file/in it"):
        with pytest.raises(InputError, match="'output' parameter must be"):
            write(tmp_path / place)


def test_truth_names_the_source_of_every_copy(tmp_path):
    assert "9 training, 5 synthetic (2 of them copies) and 6 holdout images" in write(tmp_path)
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    assert lines[0] == "image,source,transform" and len(lines) == 6
    copies = [line.split(",")[:2] for line in lines[1:] if "novel" not in line]
    assert len(copies) == 2 and all((tmp_path / image).is_file() and (tmp_path / source).is_file() for image, source in copies)
