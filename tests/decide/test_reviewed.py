"""Reviewers' decisions are read as the page saves them, refused in one line, and counted beside the flags."""

from __future__ import annotations

import csv

import pytest
from doppelscan.decide import read_reviews
from doppelscan.errors import InputError
from doppelscan.reviewers import DECISION_COLUMNS

IMAGES = ["set/a.png", "set/b.png", "set/c.png", "other/c.png", "set/d.png"]
FINDINGS = {"set/a.png": "copy", "set/b.png": "copy", "set/c.png": "", "other/c.png": "", "set/d.png": "part"}


def table(folder, *rows, columns=DECISION_COLUMNS):
    with open(folder / "decisions.csv", "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "decisions.csv"


def test_decisions_are_counted_beside_the_flags_and_the_images_to_remove_follow(tmp_path):
    rows = [
        ("a.png", "Copy", "same gyri", "A", "2026-11-29"),
        ("set/b.png", "not a  copy", "", "A", ""),
        ("set/c.png", "copy", "", "A", ""),
        ("set/d.png", "copy", "", "A", ""),
        ("set/d.png", "not a copy", "", "B", ""),
    ]
    found = read_reviews(table(tmp_path, *rows), IMAGES)
    assert found.by_image == {"set/a.png": "copy", "set/b.png": "not a copy", "set/c.png": "copy", "set/d.png": "disputed"}
    count = found.count(FINDINGS)
    assert (count.copy, count.not_a_copy, count.unsure, count.disputed) == (2, 1, 0, 1)
    assert count.flagged == {"copy": 1, "not a copy": 1, "unsure": 0, "disputed": 1, "open": 0}
    assert count.not_flagged["copy"] == 1 and count.disagree == 2 and count.reviewers == 2
    removed = [image for image, finding in FINDINGS.items() if found.removes(image, bool(finding))]
    assert removed == ["set/a.png", "set/c.png", "set/d.png"], "what is disputed is not lifted"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("set/z.png", "copy", "", "", ""), "the image 'set/z.png', which is not in the synthetic set in line 2"),
        (("c.png", "copy", "", "", ""), "which several folders have in line 2"),
        (("set/a.png", "memorized", "", "", ""), "the decision 'memorized' in line 2"),
        (("set/a.png", "copy", "", "", "29.11.2026"), "the date '29.11.2026' in line 2"),
    ],
)
def test_a_wrong_row_is_told_in_one_line(tmp_path, row, words):
    with pytest.raises(InputError) as told:
        read_reviews(table(tmp_path, row), IMAGES)
    assert words in str(told.value) and str(told.value).startswith("The 'decisions' parameter") and "\n" not in str(told.value)


def test_a_missing_column_a_second_decision_and_a_picture_are_told(tmp_path):
    with pytest.raises(InputError, match="has no 'reviewer'; add it"):
        read_reviews(table(tmp_path, columns=("image", "decision", "comment", "date")), IMAGES)
    twice = ("set/a.png", "copy", "", "A", "")
    with pytest.raises(InputError, match=r"a second decision of A on 'set/a\.png' in line 3"):
        read_reviews(table(tmp_path, twice, twice), IMAGES)
    (tmp_path / "picture.csv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="save it as CSV in UTF-8"):
        read_reviews(tmp_path / "picture.csv", IMAGES)


def test_nothing_decided_removes_what_is_flagged():
    found = read_reviews(None, IMAGES)
    assert [image for image, finding in FINDINGS.items() if found.removes(image, bool(finding))] == [
        "set/a.png",
        "set/b.png",
        "set/d.png",
    ]
