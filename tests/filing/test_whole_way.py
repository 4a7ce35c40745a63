"""From an audit that is run to its dossier: what the audit keeps is what the dossier prints."""

from __future__ import annotations

import json
import re
import shlex

import doppelscan
from doppelscan.filing import check


def test_an_audit_is_filed_compared_with_itself_of_other_images_and_checked(warm, tmp_path):
    sets = {name: warm[name] for name in ("training", "holdout", "store")}
    (tmp_path / "few").mkdir()
    for path in sorted(warm["synthetic"].iterdir())[1:]:
        (tmp_path / "few" / path.name).write_bytes(path.read_bytes())
    first, second = tmp_path / "first", tmp_path / "second"
    doppelscan.audit(**sets, synthetic=warm["synthetic"], output=first)
    doppelscan.audit(**sets, synthetic=tmp_path / "few", output=second, redact=True)
    summary, redacted = (json.loads((folder / "summary.json").read_text()) for folder in (first, second))
    words = shlex.split(summary["command"])
    assert words[:2] == ["doppelscan", "audit"] and words[words.index("--synthetic") + 1] == str(warm["synthetic"])
    assert str(tmp_path) not in json.dumps(redacted) and "--redact True" in redacted["command"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", summary["finished"])
    sets_of = [one["sets"] for one in (summary, redacted)]
    assert sets_of[0]["training"] == sets_of[1]["training"] and sets_of[0]["control"] == sets_of[1]["control"]
    assert sets_of[0]["synthetic"]["sha256"] != sets_of[1]["synthetic"]["sha256"] and sets_of[1]["synthetic"]["images"] == 3
    filed = doppelscan.dossier(audit=first, output=tmp_path / "d.html", before=second)
    assert not [one for one in check(dossier=filed.path, audit=first) if one.passed is False]
    assert filed.record.before.shared_images == 3 and filed.record.before.verdict == "not comparable"
    found = doppelscan.compare(before=first, after=second, output=tmp_path / "change")
    assert (tmp_path / "change" / "compare.html").is_file() and "in both sets" in found.reason
