"""The PDF is complete: read back, it has every patient, every image and every word; no script of the world stops it."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys

import pytest
from doppelscan.errors import MissingPackageError
from doppelscan.filing import check, dossier
from made_audits import made_audit

pytest.importorskip("reportlab", reason="the extra dossier is not installed")
pypdf = pytest.importorskip("pypdf")

NAMES = {
    "training-patient0": "Müller-Größe", "training-patient2": "Ελένη", "training-patient3": "Юрий", "training-patient7": "山田太郎", "training-patient8": "김철수",
    "training-patient9": "مريم", "training-patient10": "emoji🙂", "training-patient12": "a&b<c>", "training-patient13": "x" * 300, "training-patient14": "नमस्ते",
}  # fmt: skip


def pages(path) -> list[str]:
    return [page.extract_text() for page in pypdf.PdfReader(path).pages]


def squeezed(text: str) -> str:
    """Without the white space that lines and cells bring."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A dossier of 200 flagged images, 40 patients, unredacted, with long comments, as PDF."""
    folder = tmp_path_factory.mktemp("pdf")
    audit = made_audit(folder / "audit", 200, 230)
    for table in ("scores.csv", "exposure.csv"):
        path = audit / table
        text = path.read_text()
        for old, new in NAMES.items():
            text = re.sub(rf"\b{old}\b", new, text)
        path.write_text(text, encoding="utf-8")
    decisions = folder / "decisions.csv"
    rows = [f'synthetic/{i}.png,memorized,"{"long comment " * (1000 if i == 3 else 2)}",ä{i % 3},2026-11-29' for i in range(60)]
    decisions.write_text("image,decision,comment,reviewer,date\n" + "\n".join(rows), encoding="utf-8")
    details = folder / "details.json"
    details.write_text(
        json.dumps({"title": "Köpfe 頭部 🙂", "purpose": "für die Lehre & \u0007mehr <b>"}, ensure_ascii=False), encoding="utf-8"
    )
    filed = dossier(audit=audit, output=folder / "d.pdf", details=details, decisions=decisions, redact=False)
    return audit, filed, pages(filed.path)


def test_every_patient_image_and_comment_is_in_it(large):
    audit, filed, read = large
    text = squeezed("".join(read))
    for one in filed.record.images:
        assert squeezed(one.image) in text
    with open(audit / "exposure.csv", newline="", encoding="utf-8") as file:
        patients = [row["patient"] for row in csv.DictReader(file)]
    assert len(patients) >= 40
    for name in patients:
        if name.isascii() and len(name) < 300 and "emoji" not in name:
            assert squeezed(name) in text, name
    assert text.count("x" * 20) >= 15 and text.count("longcomment") >= 1000 + 2 * 59


def test_other_scripts_are_printed_or_replaced_and_nothing_is_markup(large):
    text = squeezed("".join(large[2]))
    for name in ("Müller-Größe", "Ελένη", "Юрий", "a&b<c>", "Köpfe", "fürdieLehre&mehr<b>"):
        assert name in text, name
    assert "emoji\ufffd" in text


def test_pages_are_numbered_and_tables_go_on_with_their_head(large):
    read = large[2]
    assert len(read) > 8
    for number, page in enumerate(read, 1):
        assert f"page {number} of {len(read)}" in page and "NOT redacted" in page
    assert sum("why it is flagged" in page for page in read) > 3


def test_it_knows_the_files_that_it_was_made_of(tmp_path):
    audit = made_audit(tmp_path / "audit")
    path = dossier(audit=audit, output=tmp_path / "d.pdf").path
    found = check(dossier=path, audit=audit)
    assert not [one for one in found if one.passed is False] and any(one.passed is None and "PDF" in one.name for one in found)
    assert not re.search(r"training-patient|synthetic/", "".join(pages(path)))
    with open(audit / "scores.csv", "a") as file:
        file.write("\n")
    assert [one.name for one in check(dossier=path, audit=audit) if one.passed is False] == ["scores.csv", "the whole audit"]


def test_without_reportlab_the_extra_is_named(tmp_path, monkeypatch):
    audit = made_audit(tmp_path / "audit")
    monkeypatch.setitem(sys.modules, "reportlab", None)
    with pytest.raises(MissingPackageError, match=r'pip install "\.\[dossier\]", or write .html'):
        dossier(audit=audit, output=tmp_path / "d.pdf")


def test_the_command_makes_checks_and_refuses_without_pytorch(tmp_path):
    """In one process, since each takes a second or more to begin."""
    audit = made_audit(tmp_path / "audit")
    lines = [
        ["dossier", str(audit), "--output", "d.pdf"], ["dossier", "--check", "d.pdf", str(audit)], ["dossier", "--template", "t.yaml"],
        ["dossier", str(audit), "--output", "d.html", "--details", "t.yaml"], ["dossier", "--check", "d.html", str(audit)],
        ["dossier", str(tmp_path), "--output", "d.pdf"], ["dossier", str(audit)], ["compare", str(audit), str(audit), "--output", "c"],
    ]  # fmt: skip
    script = """
import json, sys
from doppelscan.cli import main
for line in json.loads(sys.stdin.read()):
    sys.argv = ["doppelscan", *line]
    try:
        main(); print("status 0")
    except SystemExit as end:
        print("status", end.code)
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(lines), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert re.findall(r"status (\d)", done.stdout) == ["0", "0", "0", "0", "0", "2", "2", "2"], done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("False") and len(done.stderr.strip().splitlines()) == 3, done.stderr
    assert "same         scores.csv" in done.stdout
