"""Reviewers' decisions are counted beside the statistics; an image that nobody audited is refused with its line."""

from __future__ import annotations

import json

import jsonschema
import pytest
from doppelscan.errors import InputError
from doppelscan.filing import dossier, read_audit, read_decisions
from doppelscan.locations import PACKAGE
from made_audits import made_audit

HEAD = "image,decision,comment,reviewer,date\n"
MISTAKES = {
    HEAD + "synthetic/99.png,memorized,,ab,\n": "the image 'synthetic/99.png', which is not there in line 2",
    HEAD + "synthetic/0.png,,,ab,\n": "no decision on 'synthetic/0.png' in line 2",
    HEAD + "synthetic/0.png,memorized,,ab,29.11.2026\n": "the date '29.11.2026' in line 2",
    HEAD + "synthetic/0.png,memorized,,ab,\n0.png,unclear,,ab,\n": "a second decision of ab on '0.png' in line 3",
    "image,decision\nsynthetic/0.png,memorized\n": "has no 'comment'",
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return read_audit(made_audit(tmp_path_factory.mktemp("made") / "audit"))


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_line(audit, tmp_path, text):
    path = tmp_path / "decisions.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=MISTAKES[text]) as error:
        read_decisions(path, audit)
    assert len(str(error.value).splitlines()) == 1


def test_decisions_are_counted_by_what_the_audit_says_of_the_same_image(audit, tmp_path):
    path = tmp_path / "decisions.csv"
    rows = [
        "synthetic/0.png,Memorized,schön,ab,2026-11-29",
        "0.png,not memorized,,cd,",
        "synthetic/1.png,memorized,,ab,",
        "synthetic/7.png,not  memorized,,ab,",
    ]
    path.write_text("\ufeff" + HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    review = read_decisions(path, audit)
    counts = {one.decision: (one.flagged, one.not_flagged) for one in review.counts}
    assert counts == {"memorized": (2, 0), "not memorized": (1, 1)}
    assert (review.images, review.flagged, review.flagged_seen, review.disputed) == (3, 3, 2, 1)
    assert review.decisions[0].finding == "copy" and review.decisions[3].finding == "" and review.decisions[0].comment == "schön"


def test_no_table_is_no_review(audit):
    assert read_decisions(None, audit) is None


def test_a_decision_that_names_a_patient_is_not_for_a_redacted_dossier(audit, tmp_path):
    path = tmp_path / "decisions.csv"
    path.write_text(HEAD + "synthetic/0.png,copy of training-patient0,,ab,\n")
    with pytest.raises(InputError, match="Got 'training-patient0'; write it into the comment"):
        dossier(audit=audit.folder, output=tmp_path / "d.json", decisions=path)
    dossier(audit=audit.folder, output=tmp_path / "d.json", decisions=path, redact=False)


def test_an_audit_that_was_given_decisions_is_not_filed_as_if_nobody_had_looked(tmp_path):
    """Its summary counts them, whether or not the table is given again."""

    def reviewed(content):
        flagged = {"copy": 1, "not a copy": 1, "unsure": 0, "disputed": 0, "open": 1}
        content["decisions"] = {
            "copy": 2, "not_a_copy": 1, "unsure": 0, "disputed": 1, "flagged": flagged, "disagree": 2, "reviewers": 2,
            "not_flagged": {"copy": 1, "not a copy": 0, "unsure": 0, "disputed": 1},
        }  # fmt: skip

    folder = made_audit(tmp_path / "audit", change=reviewed)
    for kind in ("html", "json"):
        filed = dossier(audit=folder, output=tmp_path / f"d.{kind}")
        review = filed.record.review
        assert review is not None and (review.images, review.flagged_seen, review.flagged, review.disputed) == (4, 2, 3, 1)
        assert {one.decision: (one.flagged, one.not_flagged) for one in review.counts} == {
            "copy": (1, 1),
            "disputed": (0, 1),
            "not a copy": (1, 0),
        }
    text = (tmp_path / "d.html").read_text()
    assert "no person is known to have looked" not in text and "Counted by the audit, by image" in text
    jsonschema.validate(
        json.loads((tmp_path / "d.json").read_text()),
        json.loads((PACKAGE / "filing" / "schemas" / "dossier.schema.json").read_text()),
    )
    given = tmp_path / "decisions.csv"
    given.write_text(HEAD + "synthetic/0.png,copy,,ab,\n")
    assert dossier(audit=folder, output=tmp_path / "d.json", decisions=given).record.review.images == 1, (
        "the table goes before the counts"
    )
