"""Only a finished, whole audit of a version that kept its hashes is read; anything else is one line."""

from __future__ import annotations

import json

import pytest
from doppelscan.digests import file_sha256
from doppelscan.errors import InputError
from doppelscan.filing import read_audit
from doppelscan.filing.audits import whole_sha256
from doppelscan.locations import NOT_FINISHED, REPORT_FILES
from made_audits import made_audit


def changed(name: str):
    """Takes a key out of summary.json."""
    return lambda content: content.pop(name)


DAMAGE = {
    "no summary": lambda folder: (folder / "summary.json").unlink(),
    "half a summary": lambda folder: (folder / "summary.json").write_text((folder / "summary.json").read_text()[:900]),
    "a list": lambda folder: (folder / "summary.json").write_text("[1]"),
    "no page": lambda folder: (folder / "report.html").unlink(),
    "no table": lambda folder: (folder / "scores.csv").unlink(),
    "half a table": lambda folder: (folder / "scores.csv").write_bytes((folder / "scores.csv").read_bytes()[:-200]),
    "a table less one image": lambda folder: (folder / "scores.csv").write_text(
        "".join((folder / "scores.csv").read_text().splitlines(keepends=True)[:-1])
    ),
    "a flag that was taken away": lambda folder: (folder / "scores.csv").write_text(
        (folder / "scores.csv").read_text().replace(",true,", ",false,", 1)
    ),
    "a column less": lambda folder: (folder / "exposure.csv").write_text(
        (folder / "exposure.csv").read_text().replace("patient,", "person,", 1)
    ),
    "binary": lambda folder: (folder / "control.csv").write_bytes(b"\xff\xfe\x00\x01" * 50),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_audit_is_refused_in_one_line(tmp_path, damage):
    folder = made_audit(tmp_path / "audit")
    DAMAGE[damage](folder)
    with pytest.raises(
        InputError, match=r"'audit' parameter must be the output folder of a finished audit\. Got .*audit', w"
    ) as error:
        read_audit(folder)
    assert len(str(error.value).splitlines()) == 1 and str(error.value).endswith(".")


@pytest.mark.parametrize("key", ["sets", "command", "rules", "self_test"])
def test_an_audit_of_an_older_version_is_refused_with_its_version(tmp_path, key):
    folder = made_audit(tmp_path / "audit", change=changed(key))
    with pytest.raises(InputError, match=f"of doppelscan 0, lacks '{key}'; run the audit again by doppelscan"):
        read_audit(folder)


def test_an_audit_that_has_not_ended_is_refused(tmp_path):
    folder = made_audit(tmp_path / "audit")
    (folder / "summary.json").write_text(json.dumps({"conclusion": NOT_FINISHED, "known": "x"}))
    with pytest.raises(InputError, match="whose audit has not ended; wait"):
        read_audit(folder)


def test_every_file_of_the_report_is_hashed_and_one_more_byte_is_seen(tmp_path):
    folder = made_audit(tmp_path / "audit")
    audit = read_audit(folder)
    assert set(audit.files) == set(REPORT_FILES) and not audit.redacted and len(audit.flagged) == 3
    with open(folder / "control.csv", "a") as file:
        file.write("\n")
    again = {**audit.files, "control.csv": file_sha256(folder / "control.csv")}
    assert whole_sha256(again) != whole_sha256(audit.files)


@pytest.mark.parametrize("command", ["leak", "duplicates"])
def test_what_a_search_wrote_is_no_audit_and_that_is_said(tmp_path, cohort, command):
    """It was told to be of another version, and to be run again."""
    from made_links import write_made_overlap

    write_made_overlap(tmp_path, cohort)
    content = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**content, "command": command}))
    with pytest.raises(
        InputError, match=f"which is that of doppelscan {command}, a search in real images; pass the output of doppelscan audit"
    ) as error:
        read_audit(tmp_path)
    assert len(str(error.value).splitlines()) == 1
