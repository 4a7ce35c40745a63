"""``doppelscan.leak`` and ``doppelscan.duplicates`` on generated images: what is found, what is written, what is refused."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any

import doppelscan
import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images import generate_cohort
from doppelscan.report import closing_lines
from doppelscan.workflows import overlap_run
from made_files import save_png
from PIL import Image


def write_sets(place: Path, cohort: np.ndarray) -> None:
    """Training and test of one patient an image; three of the test set are training images: mirrored, as JPEG, with noise. One file is damaged."""
    for i in range(24):
        save_png(place / "train" / f"{7919 * i % 10007:05d}.png", cohort[i])
    for i in range(30, 42):
        save_png(place / "test" / f"{7919 * i % 10007:05d}.png", cohort[i])
    save_png(place / "test" / "mirrored.png", cohort[3][:, ::-1])
    Image.fromarray(np.round(cohort[5] * 255).astype(np.uint8)).save(place / "test" / "again.jpg", quality=60)
    save_png(place / "test" / "noisy.png", cohort[7] + 0.02 * np.random.default_rng(0).standard_normal(cohort[7].shape))
    (place / "test" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")


@pytest.fixture(scope="module")
def leaked(tmp_path_factory, cohort, store) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("leak")
    write_sets(place, cohort)
    result = doppelscan.leak(a=place / "train", b=place / "test", output=place / "out", store=store, gate=True)
    return {
        "place": place,
        "store": store,
        "result": result,
        "rows": {os.path.basename(row["image"]): row for row in result.groups},
    }


def test_images_of_one_set_are_found_in_the_other_in_whatever_pose(leaked):
    result, rows = leaked["result"], leaked["rows"]
    assert result.conclusion == "leak found" and result.exit_status == 3
    grouped = {name: row for name, row in rows.items() if row["set"] == "b" and row["group"]}
    assert set(grouped) == {"mirrored.png", "again.jpg", "noisy.png"}
    assert grouped["mirrored.png"]["relation"] == "same image" and grouped["mirrored.png"]["pose"] == "flip-x"
    assert {row["relation"] for row in grouped.values()} <= {"same image", "same image changed"}
    source = leaked["place"] / "train" / f"{7919 * 3 % 10007:05d}.png"
    assert grouped["mirrored.png"]["match"] == str(source) and rows[source.name]["match"].endswith("mirrored.png")


def test_the_headline_names_the_surest_pair_and_its_pose(leaked):
    result = leaked["result"]
    assert (
        result.words[0]
        == f"leak found: 3 of 15 images of b are images of a; the surest pair: mirrored.png is {7919 * 3 % 10007:05d}.png, mirrored left to right."
    )
    assert result.summary["strongest"]["pose"] == "flip-x" and result.summary["seconds"]["start"] > 0
    page = (leaked["place"] / "out" / "report.html").read_text()
    assert "mirrored.png is" in page and "flip-x" not in page


def test_strangers_are_in_no_group_and_their_nearest_is_told(leaked):
    alone = [row for row in leaked["rows"].values() if not row["group"]]
    assert len(alone) == 21 + 12 and all(row["match_set"] != row["set"] for row in alone)
    assert leaked["result"].summary["highest_unlinked"] < leaked["result"].summary["rules"]["close_pair"]


def test_an_unreadable_image_is_listed_with_its_reason_and_stops_nothing(leaked):
    (left_out,) = leaked["result"].summary["skipped"]
    assert left_out.set == "b" if hasattr(left_out, "set") else left_out["set"] == "b"
    assert "  left out   1 image (b 1); the reasons are in summary.json" in leaked["result"].words


def test_every_file_says_the_same(leaked):
    out, result = leaked["place"] / "out", leaked["result"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["conclusion"] == result.conclusion and summary["sets"][1]["copies"] == 3
    settings = summary["settings"]
    assert (
        settings["a"] == str(leaked["place"] / "train") and settings["rotations"] == [0, -12, 12] and settings["volumes"] == "whole"
    )
    assert settings["gate"] and settings["slice_range"] == [0.25, 0.75] and settings["folds"] is None
    assert summary["versions"]["doppelscan"] == doppelscan.__version__ and len(summary["weights_sha256"]) == 64
    with open(out / "pairs.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == sum(summary["pairs"].values()) == 3 and {one["joined"] for one in pairs} == {"true"}
    page = (out / "report.html").read_text()
    assert "leak found" in page and page.count("data:image/webp") == 6 + 12 and "https://" not in page and "broken<span" in page


def test_a_redacted_report_names_nobody_and_shows_nobody(leaked):
    place = leaked["place"]
    out, key = place / "redacted", place / "key.csv"
    doppelscan.leak(
        a=place / "train",
        b=place / "test",
        output=out,
        store=leaked["store"],
        redact=True,
        key=key,
        patient_pattern=r"(noisy|again)",
    )
    assert json.loads((out / "summary.json").read_text())["settings"]["patient_pattern"] == "(not told)"
    for name in ("groups.csv", "pairs.csv", "summary.json", "report.html"):
        text = (out / name).read_text()
        assert not re.search(r"mirrored(\.png|<span)", text) and str(place) not in text and "data:image" not in text, name
    assert "mirrored.png" in key.read_text()
    with open(out / "groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(row["image"] for row in rows)
    numbers = [row["group"] for row in rows if row["group"]]
    assert list(dict.fromkeys(numbers)) == ["1", "2", "3"], "numbered in the order of the pseudonyms, not of the files"


def test_duplicates_of_one_set_with_a_split_and_what_can_go(leaked, cohort):
    """Among them an image whose left half is another one's."""
    place = leaked["place"]
    table = place / "all.csv"
    half = np.where(np.arange(96) < 48, cohort[31], cohort[45])
    files = [*sorted((place / "train").iterdir()), *sorted((place / "test").iterdir()), save_png(place / "half.png", half)]
    table.write_text("path\n" + "\n".join(map(str, files)) + "\n")
    result = doppelscan.duplicates(
        table,
        output=place / "one",
        store=leaked["store"],
        split=place / "split.csv",
        parts=(0.6, 0.2, 0.2),
        keep="one",
        regions=True,
    )
    parts = {os.path.basename(row["image"]): row for row in result.groups if row["relation"] == "part"}
    source = f"{7919 * 31 % 10007:05d}.png"
    assert set(parts) == {"half.png", source} and os.path.basename(parts["half.png"]["match"]) == source
    assert result.conclusion == "duplicates found" and result.exit_status == 0, "without --gate the status is that it ran"
    told = closing_lines(result, (), leaked["store"])
    assert f"  {place / 'split.csv'}  the split, people apart" in told, "it lies in no folder of the run"
    with open(place / "split.csv", newline="") as file:
        rows = {os.path.basename(row["path"]): row for row in csv.DictReader(file)}
    assert len(rows) == 40 and {row["part"] for row in rows.values()} == {"train", "validation", "test"}
    source = f"{7919 * 3 % 10007:05d}.png"
    assert rows["mirrored.png"]["person"] == rows[source]["person"] and rows["mirrored.png"]["part"] == rows[source]["part"]
    with open(place / "one" / "remove.csv", newline="") as file:
        gone = [os.path.basename(row["path"]) for row in csv.DictReader(file)]
    assert sorted(gone) == ["again.jpg", "mirrored.png", "noisy.png"] and all(path.exists() for path in files)


def test_too_few_images_conclude_nothing_but_the_same_pixels_are_found(leaked, tmp_path, cohort):
    for i in range(4):
        save_png(tmp_path / "few" / f"{i}.png", cohort[i])
    store = leaked["store"]
    result = doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", store=store, gate=True)
    assert result.conclusion == "cannot conclude" and result.exit_status == 4 and "too few" in result.reason
    save_png(tmp_path / "few" / "turned.png", np.rot90(cohort[2]))
    found = doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", store=store)
    assert found.conclusion == "duplicates found"
    assert [os.path.basename(row["image"]) for row in found.groups if row["group"]] == ["2.png", "turned.png"]


def test_a_list_of_an_earlier_run_is_gone_where_this_one_writes_none(leaked, tmp_path, cohort):
    """It named files that this run may not call the same."""
    for i in (0, 1, 2, 2):
        save_png(tmp_path / "few" / f"{len(list(tmp_path.glob('few/*')))}.png", cohort[i])
    store = leaked["store"]
    first = doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", store=store, keep="one")
    assert "  removable  1 file holds nothing new" in first.words and any("remove.csv" in one for one in first.words)
    again = doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", store=store)
    assert not (tmp_path / "out" / "remove.csv").exists() and not any("remove.csv" in one for one in again.words)


def test_a_split_that_is_an_image_of_the_sets_is_refused_and_the_image_stays(tmp_path, cohort):
    image = save_png(tmp_path / "few" / "0.png", cohort[0])
    before = image.read_bytes()
    with pytest.raises(
        InputError, match=r"'split' parameter must be a new file.*is a file of another kind; pass another --split\.$"
    ):
        doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", split=image)
    assert image.read_bytes() == before and not (tmp_path / "out").exists()


def test_a_split_that_cannot_be_is_refused_before_anything_is_embedded(tmp_path, cohort, monkeypatch):
    """More parts than people was told when all was done, and another table in its place was overwritten."""
    for i in range(3):
        save_png(tmp_path / "few" / f"{i}.png", cohort[i])
    monkeypatch.setattr(overlap_run, "stored_set", lambda *given: pytest.fail("something was embedded"))
    with pytest.raises(
        InputError,
        match=r"'folds' parameter must ask for no more parts than there are people. Got 5 for 3 people; pass fewer --folds",
    ):
        doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", split=tmp_path / "split.csv")
    mine = tmp_path / "mine.csv"
    mine.write_text("path,label\n0.png,1\n")
    with pytest.raises(
        InputError,
        match=r"'split' parameter must be a new file, or an earlier split.*is a file of another kind; pass another --split",
    ):
        doppelscan.duplicates(tmp_path / "few", output=tmp_path / "out", split=mine, folds=2)
    assert mine.read_text() == "path,label\n0.png,1\n"


@pytest.mark.parametrize("files", [("scores.csv",), ("summary.json",)])
def test_a_folder_that_holds_a_finished_audit_is_refused_and_the_reverse(tmp_path, files):
    for name in ("out", "a", "b"):
        (tmp_path / name).mkdir()
    for name in files:
        (tmp_path / "out" / name).write_text('{"conclusion": "no memorization found", "command": "doppelscan audit"}')
    sets = {name: tmp_path / name for name in ("a", "b")}
    with pytest.raises(
        InputError, match=r"'output' parameter must be a new folder.*holds the report of an audit; pass another --output\.$"
    ):
        doppelscan.leak(**sets, output=tmp_path / "out")
    with pytest.raises(InputError, match="holds the report of an audit"):
        doppelscan.duplicates(tmp_path / "a", output=tmp_path / "out")
    for name in files:
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / ("groups.csv" if "scores.csv" in files else "summary.json")).write_text(
        '{"conclusion": "x", "command": "leak"}'
    )
    with pytest.raises(InputError, match="holds the report of leak or duplicates"):
        doppelscan.audit(training=tmp_path / "a", synthetic=tmp_path / "b", output=tmp_path / "out")


def test_one_image_alone(leaked, tmp_path, cohort):
    save_png(tmp_path / "one" / "a.png", cohort[0])
    result = doppelscan.duplicates(tmp_path / "one", output=tmp_path / "out", store=leaked["store"])
    assert result.conclusion == "cannot conclude" and result.groups[0]["match"] == ""


def test_the_same_set_twice_and_a_set_without_images_are_refused_in_one_line(leaked, tmp_path):
    place = leaked["place"]
    with pytest.raises(InputError, match=r"different sets. Got the same 24 files twice; for one set: doppelscan duplicates"):
        doppelscan.leak(a=place / "train", b=place / "train", output=tmp_path / "out")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="'b' parameter must name at least one readable image"):
        doppelscan.leak(a=place / "train", b=tmp_path / "bad", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("settings", "words"), [
    ({"folds": 5}, "'folds' parameter must come with a table to write. Got no --split"),
    ({"parts": (0.5, 0.2), "split": "s.csv"}, "which add up to 0.7"),
    ({"folds": 3, "parts": (0.5, 0.5), "split": "s.csv"}, "must come without --parts"),
    ({"folds": 1, "split": "s.csv"}, "'folds' parameter must be an integer >= 2"),
    ({"split": "images.csv"}, "which is the table of 'images'; pass another --split"),
    ({"split": "out/pairs.csv"}, "which is a file of the report; pass another --split"),
    ({"split": "k.csv", "key": "k.csv", "redact": True}, "which is the --key; pass another --split"),
    ({"split": "nowhere/s.csv"}, "'split' parameter must be a file in a folder that exists"),
    ({"split": "out/s.csv", "redact": True}, "'split' parameter must lie outside"),
    ({"keep": "all"}, "'keep' parameter must be one. Got 'all'"),
    ({"keep": "one", "redact": True}, "'keep' parameter must come without --redact"),
    ({"key": "k.csv"}, "'key' parameter must come with --redact"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_before_anything_is_read(tmp_path, monkeypatch, settings, words):
    (tmp_path / "images").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "images.csv").write_text("path\nimages/a.png\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        doppelscan.duplicates("images.csv" if settings.get("split") == "images.csv" else "images", output="out", **settings)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_pattern_may_name_the_people_of_one_set_alone_and_is_refused_where_it_names_nobody(tmp_path):
    heads = generate_cohort(8, 1, 96, 5)[0][:, 0].numpy() / 255
    for number in range(4):
        save_png(tmp_path / "a" / f"sub-{number}.png", heads[number])
        save_png(tmp_path / "b" / f"picture{number}.png", heads[4 + number])
    with pytest.raises(
        InputError, match=r"images of one set at least. Got '\(case\\\\d\+\)', which matches none of 8, the first 'sub-0.png'"
    ):
        doppelscan.leak(a=tmp_path / "a", b=tmp_path / "b", output=tmp_path / "none", patient_pattern=r"(case\d+)")
    result = doppelscan.leak(a=tmp_path / "a", b=tmp_path / "b", output=tmp_path / "out", patient_pattern=r"(sub-\d+)")
    assert result.output == tmp_path / "out"
