"""What is told of a result without its page: rows by risk, the first of them, pandas, a notebook's face; names are escaped and short."""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace

import pytest
from doppelscan.errors import InputError, MissingPackageError
from doppelscan.report import SCORE_COLUMNS, write_report
from doppelscan.report.tables import risk
from doppelscan.workflows import AuditResult, OverlapResult
from made_records import made_decision, made_pair, made_summary


def made(tmp_path, flagged: int = 4, redact: bool = False) -> AuditResult:
    """An audit whose flagged images come last in their set."""
    decision = made_decision(flagged, 9)
    decision = replace(decision, images=decision.images[::-1])
    summary = made_summary(decision)
    rows = write_report(tmp_path, decision, summary, redact=redact, pair=made_pair)
    return AuditResult(decision.conclusion, summary.as_dict(), rows, tmp_path, 0)


@pytest.mark.parametrize("redact", [False, True])
def test_rows_come_by_risk_in_the_file_the_result_and_the_list_to_remove(tmp_path, redact):
    result = made(tmp_path, redact=redact)
    with open(tmp_path / "scores.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["image"] for row in written] == [row["image"] for row in result.scores]
    kinds = [row["finding"] for row in written]
    assert kinds[3] == "part" and all(kinds[:4]) and not any(kinds[4:]), "flagged first, regions last of them"
    with open(tmp_path / "remove.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [row["image"] for row in written[:4]]


def test_what_is_of_another_domain_or_has_no_score_comes_last():
    row = {"flagged": False, "finding": "", "reason": "", "unlike": False, "score": 0.5, "image": "b"}
    rows = [
        row | {"unlike": True, "score": 0.9, "image": "unlike"},
        row | {"score": math.nan, "image": "none"},
        row | {"image": "c"},
        row,
        row | {"score": 0.6, "image": "near"},
        row | {"flagged": True, "finding": "part", "reason": "region, false discovery rate: q 0.02 <= 0.05", "image": "part"},
        row | {"flagged": True, "finding": "part", "reason": "false discovery rate: q 0.02 <= 0.05", "image": "half"},
        row | {"flagged": True, "finding": "copy", "score": 0.4, "image": "copy"},
    ]
    assert [one["image"] for one in sorted(rows, key=risk)] == ["half", "copy", "part", "near", "b", "c", "none", "unlike"]


def test_the_page_and_the_table_have_one_order(tmp_path):
    made(tmp_path)
    page = (tmp_path / "report.html").read_text()
    with open(tmp_path / "scores.csv", newline="") as file:
        names = [row["image"] for row in csv.DictReader(file)]
    places = [page.index(f'"{name}"', page.index('"names"')) for name in names]
    assert places == sorted(places)


def test_every_file_that_was_written_is_told_and_volumes_are_called_volumes(tmp_path):
    """The list of what was written left out four tables."""
    result = made(tmp_path)
    (tmp_path / "volumes_read.csv").touch()
    one_each = [line for line in result.words if "volumes.csv" in line]
    assert one_each == [], "of images that are in no volume it is no news"
    (tmp_path / "volumes.csv").write_text("volume,images\nv1,5\nv2,4\n")
    told = [line.split()[0] for line in result.words if line.startswith("  ") and line.split()[0].endswith((".csv", ".json"))]
    assert set(told) == {one.name for one in tmp_path.iterdir() if one.suffix in (".csv", ".json")}
    assert any(line.startswith("  images ") for line in result.words) and any(
        "every synthetic image" in line for line in result.words
    )
    volumes = replace(result, summary={**result.summary, "of": "volume"}).words
    assert any(line.startswith("  volumes    9 synthetic, ") for line in volumes) and not any(
        "image" in line.split("(")[0] for line in volumes[4:6]
    )
    assert any("every synthetic volume" in line for line in volumes)


def test_top_gives_the_first_rows_and_all_where_there_are_fewer(tmp_path):
    result = made(tmp_path)
    assert result.top(2) == result.scores[:2] and len(result.top(1000)) == 9 and len(result.top()) == 9
    for wrong in (0, -1, "many", None):
        with pytest.raises(InputError, match="'count' parameter must be an integer >= 1"):
            result.top(wrong)


def test_pandas_gets_the_table_as_it_was_written(tmp_path):
    pandas = pytest.importorskip("pandas")
    result = made(tmp_path)
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and set(frame.columns) == set(SCORE_COLUMNS)
    assert frame["image"].tolist() == [row["image"] for row in result.scores] and frame["flagged"].sum() == 4


def test_without_pandas_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"^to_pandas needs pandas: pip install pandas\.$"):
        made(tmp_path).to_pandas()


def test_a_notebook_shows_conclusion_numbers_and_first_rows_and_no_markup_of_a_name(tmp_path):
    result = made(tmp_path)
    result.scores[0] |= {"image": "folder/<script>alert(1)</script>.png", "match": "/data/anna/p03.png"}
    shown = result._repr_html_()
    assert "<b>memorization found</b>" in shown and "4 of 9 (44.4 %" in shown and "9 of 9 rows" in shown
    assert "<script>" not in shown and "&lt;script&gt;" in shown and "style.css" not in shown
    assert 'title="/data/anna/p03.png">p03.png<' in shown, "short, with the path on demand"
    assert 'title="training/1.png"' in shown.partition("region, false")[0].rpartition("<tr>")[2], "of a region, its own source"
    half = made(tmp_path)
    for row in half.scores:
        row["reason"] = str(row["reason"]).replace("region, ", "")
    (told,) = [row for row in half._repr_html_().split("<tr>") if ">part<" in row]
    assert 'title="training/2.png"' in told, "of a half that the whole volume tells, the match"
    assert "nan" not in shown.lower() and str(tmp_path / "report.html") in shown


def test_on_a_terminal_a_result_is_a_line(tmp_path):
    assert repr(made(tmp_path)) == f"AuditResult(memorization found: because; 9 rows, output '{tmp_path}')"


def test_a_redacted_result_shows_no_name(tmp_path):
    shown = made(tmp_path, redact=True)._repr_html_()
    assert "patient1" not in shown and "synthetic/" not in shown and "training/" not in shown


OVERLAP = {
    "command": "leak", "of": "image", "sets": [{"name": "a", "images": 3, "copies": 1, "people": 1}, {"name": "b", "images": 2, "copies": 1, "people": 1}],
    "groups": {"same image": 1, "same person": 1}, "split": {"parts": ["train", "test"], "images": [3, 2]}, "removable": None,
    "doubted_pairs": 0,
    "skipped": [], "seconds": {"embed": 61.0, "verify": 1.0}, "notes": ["A note."],
}  # fmt: skip


def overlap(tmp_path) -> OverlapResult:
    row = {"image": "a/1.png", "set": "a", "patient": "", "group": "", "relation": "", "match": "", "match_set": "", "match_patient": "", "score": 0.1,
           "explained": math.nan, "pose": ""}  # fmt: skip
    rows = [
        row,
        row | {"image": "a/2.png", "group": "2", "score": 0.8},
        row | {"image": "a/3.png", "group": "10"},
        row | {"image": "b/1.png", "group": "2", "score": 0.9},
    ]
    return OverlapResult("leak found", "1 image is in both", OVERLAP, rows, tmp_path, 0)


def test_a_search_has_the_same_faces(tmp_path):
    pytest.importorskip("pandas")
    result = overlap(tmp_path)
    assert [row["image"] for row in result.top()] == ["b/1.png", "a/2.png", "a/3.png"], (
        "by group as a number, then the highest score"
    )
    assert len(result.to_pandas()) == 4
    shown = result._repr_html_()
    assert "<b>leak found</b>" in shown and "3 of 4 rows" in shown and "train: 3 images, test: 2 images" in shown
    lines = result.words
    assert lines[:2] == ("leak found: 1 image is in both.", "A note.") and "  took       1 min 2 s in this run" in lines
    assert "  set b      2 images, 1 of them in the other set, too, 1 in a group that was found" in lines


def test_what_was_doubted_and_what_can_go_is_told_in_good_english(tmp_path):
    result = replace(overlap(tmp_path), summary={**OVERLAP, "doubted_pairs": 1, "removable": 1})
    assert "  doubted    1 pair not joined though alike, see pairs.csv" in result.words
    assert "  removable  1 file holds nothing new" in result.words
    result = replace(overlap(tmp_path), summary={**OVERLAP, "removable": 2})
    assert "  removable  2 files hold nothing new" in result.words


def test_files_that_another_command_left_are_not_told_as_written_by_this_one(tmp_path):
    for name in ("groups.csv", "pairs.csv", "summary.json", "report.html", "scores.csv", "exposure.csv"):
        (tmp_path / name).touch()
    told = "\n".join(overlap(tmp_path).words)
    assert "groups.csv" in told and "scores.csv" not in told and "exposure.csv" not in told
    told = "\n".join(made(tmp_path).words)
    assert "scores.csv" in told and "groups.csv" not in told


def test_nothing_found_is_a_table_without_rows(tmp_path):
    result = replace(overlap(tmp_path), groups=[], summary={**OVERLAP, "groups": {}})
    assert result.top() == [] and result.facts["groups"] == "none" and "<tbody>" not in result._repr_html_()
