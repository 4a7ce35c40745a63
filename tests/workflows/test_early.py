"""When a preliminary page is written: of a long audit, seldom, and never of a short one; and what a gate makes of a sample."""

from __future__ import annotations

import csv
import inspect
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from doppelscan.decide import Conclusion, Rules, Verdict, of_sample
from doppelscan.images import DrawnSample
from doppelscan.locations import REPORT_FILES
from doppelscan.workflows import early as module
from doppelscan.workflows.audit import Audit
from doppelscan.workflows.early import EarlyReport, expected_work
from made_files import save_png
from made_records import made_decision


@pytest.fixture
def report(monkeypatch, tmp_path):
    """An early report of a run that a test says the times of; ``written`` are the pages, ``made`` how often one was computed."""
    run = SimpleNamespace(elapsed=0.0, remaining=0.0, current="")
    report = EarlyReport(tmp_path, True, tmp_path / "key", run, lambda found: f"summary of {found}")
    report.pages, report.now = [], 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: report.now)
    monkeypatch.setattr(module, "write_preliminary", lambda *arguments: report.pages.append(arguments[1:5]))
    return report


def test_a_short_audit_writes_and_computes_nothing(report):
    def fail():
        raise AssertionError("computed")

    report.know(fail)
    for report.run.elapsed, report.run.remaining in ((1, 18), (60, 9), (600, 0)):
        report.write_if_due()
    assert report.pages == []


def test_a_long_audit_writes_what_is_known_and_not_more_often_than_every_30_seconds(report, tmp_path):
    report.run.elapsed, report.run.remaining = 5.0, 600.0
    report.write_if_due()
    assert report.pages == [], "nothing is known before the sets are embedded"
    report.know(lambda: "nearest")
    report.write_if_due()
    report.know(lambda: "ranked")
    report.now += 29
    report.write_if_due()
    assert report.pages == [("nearest", "summary of nearest", True, tmp_path / "key")]
    report.now += 1
    report.write_if_due()
    assert [page[0] for page in report.pages] == ["nearest", "ranked"]


def test_what_is_known_is_computed_once_for_all_pages_that_tell_it(report):
    made = []
    report.run.remaining = 600.0
    report.know(lambda: made.append(1) or "nearest")
    for _ in range(3):
        report.write_if_due()
        report.now += 40
    assert len(report.pages) == 3 and made == [1]


def test_within_a_long_stage_the_page_is_written_anew_and_nothing_is_computed_for_it(report):
    """A page of a stage of an hour showed the end that was expected when it began."""
    made = []
    report.run.remaining, report.run.current = 600.0, "score synthetic"
    report.know(lambda: made.append(1) or "nearest")
    report.write_if_due()
    assert report.pages == made == [], "what was not told yet waits for the end of the stage"
    report.run.current = ""
    report.write_if_due()
    report.run.current = "score control"
    for now in (60, 119, 120, 200, 240):
        report.now = 100.0 + now
        report.write_if_due()
    assert len(report.pages) == 3 and made == [1]


def test_every_stage_of_an_audit_is_expected_and_a_larger_one_takes_longer():
    stages = re.findall(r'clock\.stage\("([^"]+)"\)', inspect.getsource(Audit))
    small, large = (expected_work(n, n, 300, 300, 3, 400) for n in (100, 10_000))
    assert list(small) == stages

    def seconds(plan):
        return sum(work.units * work.seconds for works in plan.values() for work in works.values())

    assert seconds(small) < seconds(large) < 200 * seconds(small)
    assert "verify" not in expected_work(10, 10, 0, 300, 3, 0)["competition"]


@pytest.mark.parametrize(("verdict", "status"), [(Verdict.FOUND, 3), (Verdict.CANNOT, 4), (Verdict.NOT_FOUND, 4)])
def test_a_sample_releases_nothing(verdict, status):
    decision = replace(made_decision(0, 20), conclusion=Conclusion(verdict, "because"))
    gate = SimpleNamespace(gate=True)
    assert Audit._status(gate, of_sample(decision, DrawnSample(20, 200), Rules())) == status
    assert Audit._status(SimpleNamespace(gate=False), of_sample(decision, DrawnSample(20, 200), Rules())) == 0
    assert Audit._status(gate, decision) == {Verdict.FOUND: 3, Verdict.CANNOT: 4, Verdict.NOT_FOUND: 0}[verdict]


@pytest.fixture(scope="module")
def audits(tmp_path_factory, cohort, store):
    """One cohort audited as it is, and with a page at every stage: name -> folder; and what lay there between the stages."""
    import doppelscan

    place = tmp_path_factory.mktemp("early")
    for name, rows in (("training", range(10)), ("synthetic", range(8, 13)), ("holdout", range(20, 40))):
        for i in rows:
            save_png(place / name / f"p{i:02d}.png", cohort[i])
    sets = {name: place / name for name in ("training", "synthetic", "holdout")}
    doppelscan.audit(**sets, output=place / "plain", store=store)
    seen = []
    write = module.write_preliminary

    def watched(output, *rest):
        write(output, *rest)
        seen.append({path.name: path.read_text() for path in output.iterdir() if path.is_file()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SHORT", -1.0)
        patch.setattr(module, "SELDOM", 0.0)
        patch.setattr(module, "write_preliminary", watched)
        doppelscan.audit(**sets, output=place / "early", store=store)
        doppelscan.audit(**sets, output=place / "redacted", store=store, redact=True)
    sampled = doppelscan.audit(**sets, output=place / "sampled", store=store, limit=3, gate=True)
    return place, seen, sampled


def test_early_pages_change_no_byte_of_the_final_files(audits):
    place, _, _ = audits
    assert not any("nothing is concluded" in path.read_text() for path in (place / "early").iterdir() if path.is_file())
    for name in set(REPORT_FILES) - {"patients.csv"}:  # nobody is named
        plain, early = ((place / folder / name).read_text() for folder in ("plain", "early"))
        if name in ("summary.json", "report.html"):  # how long it took, when it ended and where it wrote is not the same twice
            varying = r'"seconds": \{[^}]*\}|Seconds: [^<]*|"(?:command|finished)": "[^"]*"'
            plain, early = (re.sub(varying, "", text) for text in (plain, early))
        assert plain == early, name


def test_pages_of_a_run_grow_and_a_redacted_run_names_nobody_in_any(audits):
    _, seen, _ = audits
    plain, redacted = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(plain) == len(redacted) >= 6
    known = [json.loads(one["summary.json"])["known"] for one in plain]
    assert "encoder alone" in known[0] and "ranked by its score" in known[-1]
    to_come = [json.loads(one["summary.json"])["to_come"] for one in plain]
    assert "score synthetic" in to_come[0] and list(to_come[-1]) == ["report"]
    for one in plain:
        rows = list(csv.DictReader(one["scores.csv"].splitlines()))
        same = {Path(row["image"]).name: Path(row["match"]).name for row in rows if row["flagged"] == "true"}
        assert same == {"p08.png": "p08.png", "p09.png": "p09.png"}
    for one in redacted:
        assert one.keys() == {"scores.csv", "summary.json", "report.html"}
        assert not any(re.search(r"p\d\d\.png|data:image|training/|synthetic/", text) for text in one.values())


def test_an_audit_of_a_sample_says_so_and_releases_nothing(audits):
    place, _, sampled = audits
    claim = sampled.summary["sample"]
    assert (claim["drawn"], claim["total"], len(sampled.scores)) == (3, 5, 3) and sampled.exit_status in (3, 4)
    assert "a sample of 3 of 5 synthetic images" in sampled.conclusion.reason
    page = (place / "sampled" / "report.html").read_text()
    assert "a random sample of the synthetic images" in page
