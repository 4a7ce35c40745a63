"""The page and the tables, of results made by hand."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doppelscan.calibrate import Share, wilson
from doppelscan.decide import KINDS
from doppelscan.files import to_csv
from doppelscan.report import SCORE_COLUMNS
from doppelscan.study import ConditionResult, Remedy, SampleNumbers, StudyCondition, StudyResult, StudySets, StudySizes
from doppelscan.study.measures import Mean
from doppelscan.study.page import study_page
from doppelscan.study.stages import TrainedGenerator
from doppelscan.study.tables import remedy_results, write_tables
from made_files import save_png


@pytest.fixture
def made(tmp_path, cohort) -> StudyResult:
    """Two conditions, one of them filtered, with audits of two samples each; a third is not run yet."""
    for i in range(4):
        save_png(tmp_path / f"{i}.png", cohort[i])
    rows = []
    for number, finding in enumerate(("copy", "")):
        row = dict.fromkeys(SCORE_COLUMNS, "")
        row |= {"image": str(tmp_path / f"{number}.png"), "match": str(tmp_path / f"{number + 2}.png"), "finding": finding}
        row |= {"score": 0.5, "mi": 1.0 + number, "deepssim": 0.4, "p_value": 0.01, "flagged": bool(finding), "unlike": False}
        rows.append(row)
    for name in ("scores", "control"):
        (tmp_path / f"{name}.csv").write_text(to_csv(SCORE_COLUMNS, rows))
    (tmp_path / "samples").mkdir()
    np.save(tmp_path / "samples" / "sample00000.npy", cohort[0])

    def numbers(copies: int, step: int) -> SampleNumbers:
        groups = [{"repeats": "1", "images": 2, "leaked": copies, "share": copies / 2, "lower": 0.0, "upper": 1.0}]
        kinds = {kind: wilson(copies * (kind == "copy"), 20) for kind in KINDS}
        share = wilson(copies, 20)
        return SampleNumbers(
            str(tmp_path), step, "memorization found", 20, 0, share, share, share, share, kinds, wilson(0, 20), Mean.of([1, 2]),
            Mean.of([0.4, 0.5]), Share(20, 20, 0.87, 0.37, 1.0), 0.0002, {"groups": groups},
        )  # fmt: skip

    trained = TrainedGenerator("generator.pt", 80, 2, 1.0, "")
    conditions = (
        ConditionResult(StudyCondition(name="none"), trained, numbers(0, 80), (numbers(0, 40), numbers(0, 80)), None, {}),
        ConditionResult(
            StudyCondition(name="high", duplication="high", filtered=True), trained, numbers(2, 80), (numbers(0, 40), numbers(2, 80)),
            replace(numbers(0, 80), samples=18), {},
        ),
    )  # fmt: skip
    sets = StudySets(tmp_path, tmp_path, tmp_path, *[dict.fromkeys(("some", "all", "holdout"), 4)] * 2, ("position",), 0)
    remedies = [
        Remedy(name="once", before="high", after="none"),
        Remedy(name="filter", before="high", after="filtered"),
        Remedy(name="stop", before="high", after="early"),
    ]
    return StudyResult(sets, StudySizes(), conditions, remedy_results(remedies, conditions), {"early": "not run yet"})


def test_the_page_is_one_offline_file_that_says_what_is_not_done(made):
    page = study_page(made)
    loaded = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)
    assert not [one for one in loaded if not one.startswith("#")] and "<script" not in page
    assert "2 of 20" in page and "Not run yet: early." in page and "No condition for this is done." in page
    assert page.count("<svg") == 5 and page.count("data:image/webp") > 6
    assert page == study_page(made)


def test_a_study_of_which_nothing_is_done_has_a_page(made):
    page = study_page(replace(made, conditions=(), remedies=(), left_out={"none": "not run yet"}))
    assert "0 conditions are done" in page and "No remedy is done." in page


def test_a_study_of_which_one_condition_is_done_says_so(made):
    page = study_page(replace(made, conditions=made.conditions[:1], remedies=()))
    assert "1 condition is done, 1 is not" in page


def test_a_filter_is_no_independent_comparison(made):
    once, filtered = made.remedies  # the third has no second condition yet
    assert (
        once.changes["copies"].value == pytest.approx(-0.1) and once.changes["copies"].lower < -0.1 < once.changes["copies"].upper
    )
    assert filtered.changes is None and filtered.kept == 0.9


def test_every_number_of_the_tables_has_its_interval(made, tmp_path):
    write_tables(made, tmp_path)
    with open(tmp_path / "numbers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["stage"] for row in rows} == {"training", "finished", "filtered"}
    assert all(float(row["lower"]) <= float(row["value"]) <= float(row["upper"]) for row in rows)
    (found,) = [row for row in rows if (row["condition"], row["stage"], row["measure"]) == ("high", "finished", "copies")]
    assert (found["count"], found["total"], found["step"]) == ("2", "20", "80")
    kept = json.loads((tmp_path / "study.json").read_text())
    assert kept["conditions"][1]["condition"]["name"] == "high" and kept["left_out"] == {"early": "not run yet"}
    assert len(Path(tmp_path / "samples.csv").read_text().splitlines()) == 1 + 2 * 3
