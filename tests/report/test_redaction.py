"""A redacted report names nobody, and its key is for its owner alone."""

from __future__ import annotations

import csv
import re
from itertools import pairwise

import pytest
from doppelscan.decide import LeftOut
from doppelscan.errors import ReportError
from doppelscan.report import write_report
from made_records import made_decision, made_summary

REASONS = [
    LeftOut("synthetic", "/data/anna/scan1.png", "cannot identify image file '/data/anna/scan1.png'"),
    LeftOut("training", "berta/x.nii.gz", "Empty file: berta/x.nii.gz or x.nii.gz in berta"),
    LeftOut("holdout", "D:\\carl\\y.dcm", "no file D:\\carl\\y.dcm"),
    LeftOut("holdout", "z", "8 x 4 pixels; at least 8 a side are needed"),
]


def test_reasons_of_unreadable_images_carry_no_path(tmp_path, cohort):
    decision = made_decision(3, cohort=cohort)
    write_report(tmp_path, decision, made_summary(decision, skipped=REASONS), redact=True)
    for file in tmp_path.iterdir():
        assert not re.search(r"anna|berta|carl|scan1|x\.nii|y\.dcm|patient\d|/\d+\.png", file.read_text()), file.name
    assert "8 x 4 pixels; at least 8 a side are needed" in (tmp_path / "summary.json").read_text()


def test_the_key_names_every_pseudonym_and_only_its_owner_may_read_it(tmp_path, cohort):
    decision, key = made_decision(3, cohort=cohort), tmp_path / "private" / "key.csv"
    (tmp_path / "out").mkdir()
    rows = write_report(tmp_path / "out", decision, made_summary(decision, skipped=REASONS), redact=True, key=key)
    with open(key, newline="") as file:
        names = {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}
    match = {names[row["image"]]: names[row["match_patient"]] for row in rows}
    assert match == {f"synthetic/{i}.png": f"training-patient{i}" for i in range(8)}
    assert "/data/anna/scan1.png" in names.values()
    assert key.stat().st_mode & 0o777 == 0o600
    text = "".join(file.read_text() for file in (tmp_path / "out").iterdir())
    assert all(name not in text for name in names.values() if len(name) > 1)


@pytest.mark.parametrize("table", ["scores.csv", "control.csv", "volumes.csv", "patients.csv", "exposure.csv"])
def test_no_table_keeps_the_order_of_the_names(tmp_path, cohort, table):
    """Row k would be the k-th file, and whoever has a list of the files needs no key."""
    decision = made_decision(40, 60, cohort=cohort)
    for part in ("out", "key"):
        (tmp_path / part).mkdir()
    write_report(tmp_path / "out", decision, made_summary(decision), redact=True, key=tmp_path / "key" / "key.csv")
    with open(tmp_path / "key" / "key.csv", newline="") as file:
        names = {row["pseudonym"]: row["name"] for row in csv.DictReader(file)}
    with open(tmp_path / "out" / table, newline="") as file:
        order = [names[next(iter(row.values()))] for row in csv.DictReader(file)]
    places = [int(re.sub(r"\D", "", name)) for name in order]
    agreeing = sum(first < second for first, second in pairwise(places))
    assert 0.25 < agreeing / (len(places) - 1) < 0.75, "as in a drawn order"


def test_a_key_that_cannot_be_written_is_told_before_the_report_names_pseudonyms(tmp_path, cohort):
    decision = made_decision(1, cohort=cohort)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="another --key"):
        write_report(tmp_path, decision, made_summary(decision), redact=True, key=tmp_path / "file" / "key.csv")
    assert not (tmp_path / "scores.csv").exists()
