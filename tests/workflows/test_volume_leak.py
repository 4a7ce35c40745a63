"""``doppelscan.leak`` and ``doppelscan.duplicates`` on volumes, in 3D: generated heads as NIfTI, NRRD and a DICOM series; once for all tests."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any

import doppelscan
import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images import generate_head, plant_volume
from doppelscan.workflows import leak as leak_module
from doppelscan.workflows.run import audit_workflow
from made_files import save_png
from made_volumes import write_nifti, write_nrrd, write_series
from PIL import Image

SIDE, SPACING = 32, (2.0, 2.0, 2.0)
PLAIN = np.diag([*SPACING, 1.0])
SMALL = {"spatial_size": 64, "device": "cpu"}


def small_cubes(**settings: Any) -> Any:
    return audit_workflow(**settings, **{"volume_embedder::size": 32})


def voxels(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Four people in one set and one other in the other, with two of the first turned and with other axes, in three formats; one file is damaged."""
    folder = tmp_path_factory.mktemp("volumes")
    rng = np.random.default_rng(0)
    heads = [generate_head(seed, SIDE) for seed in range(5)]
    for name in ("train", "test"):
        (folder / name).mkdir()
    for number in range(4):
        write_nifti(folder / "train" / f"{7919 * number % 10007:05d}.nii.gz", voxels(heads[number]), PLAIN)
    write_series(folder / "test" / "other", voxels(heads[4]).astype(np.uint16), PLAIN)
    turned = plant_volume(heads[1], SPACING, "rotation 10 x", rng)
    write_nifti(folder / "test" / "turned.nii.gz", voxels(turned.pixels), np.diag([*turned.spacing, 1.0]))
    posed = plant_volume(heads[3], SPACING, "axes 2 0 1", rng)
    write_nrrd(folder / "test" / "posed.nrrd", voxels(posed.pixels), np.diag([*posed.spacing, 1.0]))
    (folder / "test" / "broken.nii.gz").write_bytes(b"\x1f\x8b no volume")
    return folder


@pytest.fixture(scope="module")
def leaked(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leak_module, "audit_workflow", small_cubes)
        yield doppelscan.leak(a=place / "train", b=place / "test", output=place / "out", store=place / "store", gate=True, **SMALL)


def short(path: str) -> str:
    return Path(path).name.split(".")[0]


def test_volumes_of_one_set_are_found_in_the_other_turned_and_with_other_axes(leaked):
    assert leaked.conclusion == "leak found" and leaked.exit_status == 3
    rows = {short(row["image"]): row for row in leaked.groups}
    grouped = {name: row for name, row in rows.items() if row["set"] == "b" and row["group"]}
    assert set(grouped) == {"turned", "posed"}, "one row a volume, and no stranger is in a group"
    assert short(grouped["posed"]["match"]) == f"{7919 * 3 % 10007:05d}" and grouped["posed"]["relation"] == "same image"
    assert grouped["posed"]["pose"] == "axes 2 0 1"
    assert short(grouped["turned"]["match"]) == f"{7919 * 1 % 10007:05d}" and grouped["turned"]["pose"].startswith("rot x -10")
    back = rows[f"{7919 * 1 % 10007:05d}"]["pose"]
    assert back.startswith(("rot x 10", "rot x 9")), "what maps the other way is turned the other way"
    assert len(rows) == 4 + 3 and leaked.summary["of"] == "volume"


def test_a_damaged_volume_is_listed_and_all_words_speak_of_volumes(leaked):
    assert "  left out   1 volume (b 1); the reasons are in summary.json" in leaked.words
    assert re.search(r"of 3 volumes of b (is a volume|are volumes) of a", leaked.reason)
    page = (leaked.output / "report.html").read_text()
    assert "image" not in page.split("<main>")[1].split("How it was made")[0].replace("data:image", "")


def test_the_page_shows_three_planes_of_each_volume(leaked):
    page = (leaked.output / "report.html").read_text()
    found = re.findall(r"data:image/webp;base64,([^\"]+)", page)
    assert len(found) >= 4
    for one in found:
        width, height = Image.open(io.BytesIO(base64.b64decode(one))).size
        assert height == 3 * width


def test_duplicates_of_one_set_keep_one_and_a_split_that_keeps_people_apart(place, leaked):
    table = place / "all.csv"
    files = [*sorted((place / "train").glob("*.nii.gz")), *sorted(place.glob("test/*.n*")), *sorted(place.glob("test/other/*.dcm"))]
    table.write_text("path\n" + "\n".join(str(one) for one in files if "broken" not in one.name) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leak_module, "audit_workflow", small_cubes)
        result = doppelscan.duplicates(
            table, output=place / "one", store=place / "store", keep="one", split=place / "split.csv", folds=3, **SMALL
        )
    assert result.conclusion == "duplicates found"
    with open(place / "one" / "remove.csv", newline="") as file:
        gone = {short(row["path"]): short(row["kept"]) for row in csv.DictReader(file)}
    assert gone["posed"] == f"{7919 * 3 % 10007:05d}" and set(gone) <= {"posed", "turned"}
    with open(place / "split.csv", newline="") as file:
        part = {short(row["path"]): (row["person"], row["part"]) for row in csv.DictReader(file)}
    assert part["turned"] == part[f"{7919 * 1 % 10007:05d}"] and part["posed"] == part[f"{7919 * 3 % 10007:05d}"]
    assert len({person for person, _ in part.values()}) == 5


def test_volumes_beside_images_and_regions_of_volumes_are_refused_in_one_line(place, tmp_path):
    save_png(tmp_path / "images" / "a.png", np.random.default_rng(0).random((64, 64)))
    with pytest.raises(InputError, match=r"The 'b' parameter must name volumes.*Got 1 2D images.*--volumes as-slices"):
        doppelscan.leak(a=place / "train", b=tmp_path / "images", output=tmp_path / "out")
    with pytest.raises(InputError, match=r"The 'regions' parameter must come with images.*leave it out"):
        doppelscan.duplicates(place / "train", output=tmp_path / "out", regions=True)
    with pytest.raises(InputError, match=r"The 'index' parameter must be auto or exact for volumes.*Got ivf; leave it out"):
        doppelscan.duplicates(place / "train", output=tmp_path / "out", index="ivf")
