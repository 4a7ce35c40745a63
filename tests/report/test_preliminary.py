"""A page that is not finished says so, flags nothing but the same pixels, and cannot be taken for a conclusion."""

from __future__ import annotations

import csv
import json
import re

import pytest
from doppelscan.images import DrawnSample
from doppelscan.locations import REPORT_FILES, is_finished
from doppelscan.report import SCORE_COLUMNS, write_report
from doppelscan.workflows.audit import GATE_STATUS
from made_preliminary import so_far, write_so_far
from made_records import made_decision, made_summary


@pytest.mark.parametrize("scored", [False, True])
def test_nothing_is_flagged_but_the_same_pixels_and_nothing_is_concluded(tmp_path, cohort, scored):
    rows = write_so_far(tmp_path, so_far(cohort, scored))
    assert tuple(rows[0]) == SCORE_COLUMNS and [row["flagged"] for row in rows] == ["true"] + [""] * 5
    assert rows[0]["finding"] == "copy" and rows[0]["reason"] == "identical pixels" and rows[0]["match"] == "training/4.png"
    ranks = [float(row["score" if scored else "deepssim"]) for row in rows[1:]]
    assert ranks == sorted(ranks, reverse=True), "the same pixels first, then the nearest"
    assert {row["reason"] for row in rows[1:]} == {"preliminary: not decided yet"}
    assert all(row[name] == "nan" for row in rows for name in ("p_value", "q_value", "part_p_value", "explained"))
    assert {row["score"] == "nan" for row in rows[1:]} == {not scored} and all(row["deepssim"] != "nan" for row in rows[1:])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["conclusion"] == "not finished" and summary["conclusion"] not in GATE_STATUS
    assert not summary.keys() & {"flagged", "findings", "residual_risk", "sample"} and summary["images"]["identical"] == 1
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "<h1>not finished</h1>" in page and "nothing is concluded yet" in page and "memorization found" not in page
    assert "about 20 min" in page and "about 2.5 h" in page and "15:10" in page and "1 of 6" in page
    assert page.count("data:image/webp") == 2 * 6 and page.index("identical pixels") < page.index("not decided yet")
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<bad>" not in page


@pytest.mark.parametrize("scored", [False, True])
def test_redaction_names_nobody_in_any_early_state_and_keeps_no_order_of_the_set(tmp_path, cohort, scored):
    output = tmp_path / "report"
    output.mkdir()
    rows = write_so_far(output, so_far(cohort, scored), redact=True, key=tmp_path / "key.csv")
    for file in output.iterdir():
        assert not re.search(r"patient\d|/\d+\.png|data:image|bad>|synthetic/", file.read_text()), file
    order = [(row["flagged"] != "true", -round(float(row["score" if scored else "deepssim"]), 6), row["image"]) for row in rows]
    assert order == sorted(order), "equals come in the order of their pseudonyms, which tells nothing"
    with open(tmp_path / "key.csv", newline="") as file:
        key = {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}
    assert {key[row["image"]] for row in rows} == {f"synthetic/{i}.png" for i in range(6)}


def test_a_long_list_is_cut_on_the_page_and_whole_in_the_table(tmp_path, cohort):
    rows = write_so_far(tmp_path, so_far(cohort, True, 700))
    page = (tmp_path / "report.html").read_text()
    assert len(rows) == 700 and page.count('class="pair"') == 200 and page.count("<figure>") == 2 * 40 and len(page) < 2e6


def test_what_an_earlier_audit_concluded_does_not_stay_beside_it(tmp_path, cohort):
    decision = made_decision(3, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision), redact=False)
    assert is_finished(tmp_path) and {path.name for path in tmp_path.iterdir()} == set(REPORT_FILES)
    write_so_far(tmp_path, so_far(cohort, False))
    assert not is_finished(tmp_path) and {path.name for path in tmp_path.iterdir()} == {"report.html", "summary.json", "scores.csv"}
    write_report(tmp_path, decision, made_summary(decision), redact=False)
    assert is_finished(tmp_path) and not is_finished(tmp_path / "nowhere")


def test_a_report_that_is_half_replaced_is_not_finished(tmp_path, cohort, monkeypatch):
    """Killed between two files: the page is the last one of a finished audit."""
    write_so_far(tmp_path, so_far(cohort, True))
    decision = made_decision(3, cohort=cohort)
    from doppelscan.report import write

    whole = write.write_atomic

    def killed_before_the_page(path, content):
        if path.name == "report.html":
            raise KeyboardInterrupt
        whole(path, content)

    monkeypatch.setattr(write, "write_atomic", killed_before_the_page)
    with pytest.raises(KeyboardInterrupt):
        write_report(tmp_path, decision, made_summary(decision), redact=False)
    assert json.loads((tmp_path / "summary.json").read_text())["conclusion"] == "memorization found" and not is_finished(tmp_path)


def test_a_sample_is_called_one_from_the_first_page_on(tmp_path, cohort):
    write_so_far(tmp_path, so_far(cohort, False), sample=DrawnSample(6, 600))
    assert json.loads((tmp_path / "summary.json").read_text())["sample"] == {"drawn": 6, "total": 600}
    page = (tmp_path / "report.html").read_text()
    assert "a sample of 6 of 600 synthetic images" in page and "6 of 600" in page
