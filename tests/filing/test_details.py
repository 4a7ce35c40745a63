"""What a person fills in: a template that reads back, mistakes that are told with the field."""

from __future__ import annotations

import json

import pytest
from doppelscan.errors import InputError
from doppelscan.filing import Details, read_details, write_template
from doppelscan.filing.details import ASKED

MISTAKES = {
    '{"purpos": "x"}': "no detail 'purpos' of a dossier.*did you mean purpose",
    '{"purpose": 3}': "'purpose' of .* must be text. Got 3",
    '{"expires": "soon"}': "'expires' of .* must be a date such as 2027-06-30. Got 'soon'",
    '{"generator_sha256": "abc"}': "must be 64 hexadecimal digits. Got 'abc'",
    '["purpose"]': "holds no mapping; start from --template FILE",
    '{"purpose": ': "must be a readable .json file",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_in_one_line(tmp_path, text):
    path = tmp_path / "details.json"
    path.write_text(text)
    with pytest.raises(InputError, match=MISTAKES[text]) as error:
        read_details(path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["details.json", "details.yaml"])
def test_a_template_reads_back_and_what_is_not_filled_in_is_missing(tmp_path, name):
    path = write_template(tmp_path / name)
    assert read_details(path) == Details() and len(Details().missing) == len(ASKED) - 1
    path.write_text(
        path.read_text().replace('purpose: ""', 'purpose: "für Schüler"').replace('"purpose": ""', '"purpose": "für Schüler"'),
        encoding="utf-8",
    )
    assert read_details(path).purpose == "für Schüler" and "Purpose" not in read_details(path).missing
    with pytest.raises(InputError, match="must be a new file"):
        write_template(path)


def test_dates_and_lists_of_yaml_are_text(tmp_path):
    path = tmp_path / "details.yml"
    path.write_text("expires: 2027-06-30\nsign_off: [Steward, Board]\npurpose: >\n  one\n  two\n")
    details = read_details(path)
    assert details.expires == "2027-06-30" and details.signers == ("Steward", "Board") and details.purpose == "one two"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "details.json"
    path.write_bytes(json.dumps({"purpose": "Köln"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(InputError, match="in UTF-8"):
        read_details(path)


def test_a_redacted_dossier_takes_no_detail_that_names_a_patient():
    details = Details(purpose="all but sub-0042, who objected")
    with pytest.raises(InputError, match="'sub-0042' in 'purpose'"):
        details.require_unnamed({"sub-0042", "7"})
    Details(purpose="all 7 of them").require_unnamed({"sub-0042", "7"})
