"""``doppelscan.dossier`` and ``doppelscan.compare``: every input is read and refused before what takes seconds is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doppelscan.arguments import AnyPath, Existing, Flag, Folder, checked
from doppelscan.digests import file_sha256
from doppelscan.errors import InputError, MissingPackageError, ReportError
from doppelscan.filing.audits import read_audit, whole_sha256
from doppelscan.filing.decisions import counted_review, read_decisions
from doppelscan.filing.details import read_details
from doppelscan.filing.sampling import read_manifest
from doppelscan.filing.seal import Checked, compared, content_sha256, hmac_of, plain, read_seal, read_secret, seal_text
from doppelscan.pseudonyms import Pseudonyms
from doppelscan.version import __version__
from doppelscan.wording import counted

if TYPE_CHECKING:
    from doppelscan.filing.comparison import Comparison
    from doppelscan.filing.record import Dossier

__all__ = ["FiledDossier", "check", "compare", "dossier"]

KINDS = (".pdf", ".html", ".json")
COMPARED = ("compare.json", "compare.csv", "compare.html")


@dataclass(frozen=True)
class FiledDossier:
    """A dossier that was written.

    Attributes:
        record: what it says.
        path: of the file.
    """

    record: Dossier
    path: Path

    @property
    def words(self) -> tuple[str, ...]:
        """What a terminal is told, a line each."""
        one = self.record
        missing = f" Not given: {', '.join(one.not_given)}." if one.not_given else ""
        named = "redacted" if one.redacted else "names patients and files: keep it as you keep their data"
        shown = (
            counted(len(one.patients), "training patient")
            if one.named
            else counted(one.training_images_shown, f"training {one.of}")
        )
        return (
            f"{one.conclusion}: {shown} shown, {counted(len(one.images), one.of)} flagged{'' if one.named else '; how many patients that are is not known'}; {named}.{missing}",
            f"Dossier: {os.path.abspath(self.path)} (sha256 of its content {one.seal['content_sha256']})",
        )


def dossier(
    *,
    audit: str | os.PathLike,
    output: str | os.PathLike,
    details: str | os.PathLike | None = None,
    decisions: str | os.PathLike | None = None,
    before: str | os.PathLike | None = None,
    manifest: str | os.PathLike | None = None,
    redact: bool = True,
    key: str | os.PathLike | None = None,
    secret: str | os.PathLike | None = None,
) -> FiledDossier:
    """Write what a board, a journal or a regulator files of an audit.

    Args:
        audit: output folder of a finished audit.
        output: file to write, .pdf, .html or .json; one that is there is replaced.
        details: .json or .yaml of what an audit cannot know, see :func:`~doppelscan.filing.write_template`.
        decisions: .csv of reviewers' decisions, see :func:`~doppelscan.filing.read_decisions`; by default what the audit counted of those that it was given.
        before: output folder of an earlier audit, which it is compared with.
        manifest: of the sampler that made the synthetic images; by default the one that the audit was given, where it is still there.
        redact: pseudonyms in place of paths and patients, no comments of reviewers.
        key: private file that says which pseudonym stands for what.
        secret: file of a secret of at least 16 bytes, whose HMAC seals the dossier.

    Returns:
        the record and the path of the file.

    Raises:
        InputError: an input that cannot be used; one line.
        MissingPackageError: PDF without reportlab.
        ReportError: the file cannot be written.
    """
    given = {
        "audit": checked("audit", Existing, audit),
        "output": checked("output", AnyPath, output),
        "details": checked("details", Existing | None, details),
        "decisions": checked("decisions", Existing | None, decisions),
        "before": checked("before", Existing | None, before),
        "manifest": checked("manifest", Existing | None, manifest),
        "key": checked("key", AnyPath | None, key),
    }
    redact = checked("redact", Flag, redact)
    place = _output(given["output"], given["audit"])
    finished = read_audit(given["audit"])
    if finished.redacted and not redact:
        raise InputError(
            f"The 'redact' parameter must be true for a redacted audit, whose names are not known. Got False for {str(audit)!r}; leave it out, or "
            "pass the audit that names them."
        )
    if given["key"] is not None and (not redact or finished.redacted):
        raise InputError(
            f"The 'key' parameter must come with a dossier that hides names. Got {str(key)!r} for one that {'has none' if finished.redacted else 'tells them'}; "
            "leave it out."
        )
    said, sealed = read_details(given["details"]), read_secret(secret)
    if redact:
        said.require_unnamed(finished.names)
    review = read_decisions(given["decisions"], finished) or counted_review(finished)
    if redact and review is not None:
        review.require_unnamed(finished.names)
    earlier = None if given["before"] is None else read_audit(given["before"], "before")
    if place.suffix.lower() == ".pdf":
        _require_reportlab()
    from doppelscan.filing.comparison import compare_audits
    from doppelscan.filing.record import make_dossier

    names = Pseudonyms()
    generator = read_manifest(given["manifest"], finished)
    inputs = {
        **{name: None if given[name] is None else file_sha256(given[name]) for name in ("details", "decisions")},
        "manifest": None if generator is None else generator.manifest_sha256,
        "before": None if earlier is None else whole_sha256(earlier.files),
    }
    record = make_dossier(
        finished, said, redact=redact, generator=generator, review=review, before=None if earlier is None else compare_audits(earlier, finished),
        inputs=inputs, secret=sealed, names=names,
    )  # fmt: skip
    _write(place, dossier_bytes(record, place.suffix.lower()))
    if given["key"] is not None:
        names.write_key(Path(given["key"]))
    return FiledDossier(record, place)


def dossier_bytes(record: Dossier, kind: str) -> bytes:
    """The file of a dossier.

    Args:
        record: what is printed.
        kind: .pdf, .html or .json.
    """
    from doppelscan.filing.document import dossier_document
    from doppelscan.filing.page import render

    content = record.as_dict()
    if kind == ".json":
        return (json.dumps(content, indent=1) + "\n").encode()
    if kind == ".html":
        return render(dossier_document(record), content).encode()
    from doppelscan.filing.pdf import render_pdf

    return render_pdf(dossier_document(record), seal_text(content))


def _output(output: str, audit: str) -> Path:
    place = Path(output)
    if place.suffix.lower() not in KINDS:
        raise InputError(f"The 'output' parameter must be a .pdf, .html or .json file. Got {output!r} instead; pass dossier.pdf.")
    if place.resolve().parent == Path(audit).resolve():
        raise InputError(
            f"The 'output' parameter must lie outside of the audit's folder, whose files it is checked against. Got {output!r}; pass another."
        )
    checked("output", Folder, place.absolute().parent)
    if place.is_dir():
        raise InputError(f"The 'output' parameter must be a file. Got {output!r}, which is a folder; pass another.")
    return place


def _require_reportlab() -> None:
    try:
        import reportlab  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            'A PDF needs reportlab: pip install ".[dossier]", or write .html, which prints to PDF.'
        ) from error


def _write(path: Path, content: bytes) -> None:
    from doppelscan.files import write_atomic

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise ReportError(f"{str(path)!r} cannot be written: {error.strerror}; free space or pass another --output.") from error


def check(*, dossier: str | os.PathLike, audit: str | os.PathLike, secret: str | os.PathLike | None = None) -> list[Checked]:
    """Tell whether a dossier is as it was written, and was made of the files of this audit.

    The page is rendered anew of the record that it holds, so that a changed word is seen; a PDF holds no record: of it the hashes of the inputs are compared, and
    its own text is not.

    Args:
        dossier: .json, .html or .pdf.
        audit: the folder of the audit.
        secret: file of the secret that sealed it; without it an HMAC is not checked.

    Raises:
        InputError: it is no dossier, or a parameter is wrong.
    """
    place, folder = Path(checked("check", Existing, dossier)), checked("audit", Existing, audit)
    sealed = read_secret(secret)
    files, seal, record = read_seal(place)
    found = compared(files, folder)
    if record is None:
        found.append(Checked("the text of the PDF", None, "a PDF holds no record; keep the .json or .html beside it"))
    else:
        same = content_sha256(record) == seal.get("content_sha256")
        found.append(Checked("the dossier's content", same, f"sha256 {str(seal.get('content_sha256'))[:12]}..."))
        if place.suffix.lower() == ".html":
            found.append(_same_page(place, record))
        further = {name: record["inputs"].get(name) for name in ("details", "decisions", "manifest", "before")}
        found += [
            Checked(name, None, f"sha256 {str(sha256)[:12]}..., not of the audit") for name, sha256 in further.items() if sha256
        ]
    kept = seal.get("hmac_sha256")
    if sealed is not None:
        right = bool(kept) and hmac_of(str(seal.get("content_sha256")), sealed) == kept
        found.append(
            Checked(
                "the HMAC",
                right,
                "made with this secret"
                if right
                else "none was made"
                if not kept
                else "made with another secret, or of another content",
            )
        )
    elif kept:
        found.append(Checked("the HMAC", None, "pass --secret FILE"))
    return found


def _same_page(place: Path, record: Mapping[str, Any]) -> Checked:
    """Whether the page is what this version writes of the record that it holds."""
    name = "the page's text"
    if record.get("made_by") != f"doppelscan {__version__}":
        return Checked(name, None, f"written by {record.get('made_by')}, this is doppelscan {__version__}")
    from doppelscan.filing.record import Dossier

    try:
        from pydantic import TypeAdapter

        again = dossier_bytes(TypeAdapter(Dossier).validate_python(record), ".html")
    except ValueError:
        return Checked(name, False, "its record is no dossier")
    return Checked(name, again == place.read_bytes(), "as it is written of the record in it")


def compare(*, before: str | os.PathLike, after: str | os.PathLike, output: str | os.PathLike, redact: bool = False) -> Comparison:
    """Compare two audits, before and after a mitigation or of two checkpoints, and write compare.json, compare.csv and compare.html.

    Args:
        before: output folder of the earlier audit.
        after: of the later one.
        output: folder for the three files; made when missing.
        redact: pseudonyms in place of the patients.

    Returns:
        what changed, see :class:`~doppelscan.filing.Comparison`.

    Raises:
        InputError: an audit that cannot be used, or one folder twice.
        ReportError: a file cannot be written.
    """
    folders = [checked(name, Existing, folder) for name, folder in (("before", before), ("after", after))]
    place, redact = Path(checked("output", Folder, output)), checked("redact", Flag, redact)
    if os.path.realpath(folders[0]) == os.path.realpath(folders[1]):
        raise InputError(f"The 'before' and 'after' parameters must be different audits. Got {str(before)!r} twice.")
    if any(place.resolve() == Path(folder).resolve() for folder in folders):
        raise InputError(f"The 'output' parameter must be another folder than the audits. Got {str(output)!r}; pass a new one.")
    audits = [read_audit(folder, name) for folder, name in zip(folders, ("before", "after"), strict=True)]
    from doppelscan.files import to_csv
    from doppelscan.filing.comparison import compare_audits
    from doppelscan.filing.document import comparison_document
    from doppelscan.filing.page import render
    from doppelscan.filing.record import hidden_patients

    found = compare_audits(*audits)
    if redact:
        found = hidden_patients(found)
    content = {"schema": "urn:doppelscan:compare:1", "made_by": f"doppelscan {__version__}", **plain(asdict(found))}
    columns = ("patient", "status", "before", "after", "before_score", "after_score", "chance")
    title = "Before and after" if redact else "Before: {}, after: {}".format(*_told_apart(*folders))
    files = {
        "compare.json": json.dumps(content, indent=1) + "\n",
        "compare.csv": to_csv(columns, [{name: _cell(value) for name, value in asdict(one).items()} for one in found.patients]),
        "compare.html": render(comparison_document(found, title)),
    }
    for name in COMPARED:
        _write(place / name, files[name].encode())
    return found


def _told_apart(first: str, second: str) -> tuple[str, str]:
    """So many last parts of two paths that they differ: two audits are often called report, each in a folder of its own."""
    one, other = (Path(os.path.realpath(path)).parts for path in (first, second))
    for count in range(1, min(len(one), len(other)) + 1):
        if one[-count] != other[-count]:
            return os.path.join(*one[-count:]), os.path.join(*other[-count:])
    return os.path.join(*one), os.path.join(*other)


def _cell(value: Any) -> Any:
    return "" if value is None else value
