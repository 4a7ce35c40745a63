"""Write the files of an audit, whole or redacted, finished or not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from doppelscan.decide import AuditSummary, Decision, Preliminary, PreliminarySummary, ReviewedImages, ScoredImage
from doppelscan.errors import ReportError
from doppelscan.files import to_csv, write_atomic
from doppelscan.locations import REPORT_FILES, VOLUMES_READ
from doppelscan.report.gallery import FOLDER
from doppelscan.report.page import render_page
from doppelscan.report.preliminary import by_likeness, preliminary_rows, render_preliminary
from doppelscan.report.redaction import ReportPseudonyms
from doppelscan.report.tables import (
    EXPOSING,
    REMOVE_COLUMNS,
    SCORE_COLUMNS,
    Row,
    exposure_rows,
    patient_rows,
    remove_rows,
    risk,
    score_columns,
    score_rows,
    volume_rows,
)
from doppelscan.verify import FullSizePair

__all__ = ["write_files", "write_preliminary", "write_report"]

VOLUME_COLUMNS = ("volume", "patient", "images", "flagged_images", "match_patient", "match", "score", "p_value", "verdict")
READ_COLUMNS = (
    "set", "volume", "patient", "format", "kind", "shape", "spacing", "orientation", "oblique", "channel", "stack_axis", "told", "left_out",
)  # fmt: skip
EXPOSURE_COLUMNS = (
    "patient", "flagged_images", *EXPOSING, "training_images", "highest_score", "smallest_p_value",
)  # fmt: skip
PATIENTS = "patients.csv"


def write_report(
    output: Path,
    decision: Decision,
    summary: AuditSummary,
    redact: bool,
    pair: Callable[[ScoredImage], Any] | None = None,
    key: Path | None = None,
    read: Sequence[Row] = (),
    reviews: ReviewedImages | None = None,
    full: Callable[[ScoredImage], FullSizePair | None] | None = None,
) -> list[Row]:
    """Write scores.csv, control.csv, volumes.csv, patients.csv, exposure.csv, remove.csv, summary.json and report.html to ``output``.

    Rows of scores.csv come in the order of risk. With ``redact`` every path and patient is replaced by a pseudonym that is new in each report, rows of
    the other tables, and equals, come in the order of these, which tells nothing, and the page has no pictures. ``pair`` gives
    the :class:`~doppelscan.verify.AlignedPair` of a scored image, or the ``AlignedVolume`` of a volume, for its pictures; None leaves out what needs one. ``key`` is a file, outside of
    ``output``, that says which pseudonym stands for what. ``read`` are rows of volumes_read.csv, which is written where there are any; patients.csv is where
    the synthetic set names patients. ``reviews``
    are what reviewers decided, by the images' own names; comments and who they are stay out of a redacted report. ``full`` gives a pair at the resolution of
    its files, for the page.

    Returns:
        the rows of scores.csv as they were written.

    Raises:
        ReportError: a file cannot be written, as when the disk is full; what was written before is whole.
    """
    rows, control = score_rows(decision.images), score_rows(decision.control)
    volumes, patients, exposure = volume_rows(decision), patient_rows(decision), exposure_rows(decision)
    page, reviews = rows, reviews or ReviewedImages()
    names = ReportPseudonyms()
    if redact:
        reviews = names.reviews(reviews)
        rows, control, volumes, patients, exposure, read = (
            [names.row(row) for row in part] for part in (rows, control, volumes, patients, exposure, read)
        )
        read.sort(key=lambda row: str(row["volume"]))
        summary = names.summary(summary)
        page = list(rows)
        for part in (control, volumes, patients, exposure):
            part.sort(key=lambda row: str(next(iter(row.values()))))
        exposure.sort(key=lambda row: (-float(row["flagged_images"]), -float(row["highest_score"])))
        if key is not None:
            names.write_key(key)
    rows = sorted(rows, key=risk)
    scores = to_csv(score_columns(rows), rows)
    drawn = render_page(
        decision,
        summary,
        page,
        exposure,
        pair,
        full=full,
        pseudonym=names.of if redact else None,
        reviews=reviews,
        audit=hashlib.sha256(scores.encode()).hexdigest()[:16],
    )
    files = {
        "scores.csv": scores,
        "control.csv": to_csv(score_columns(rows), control),
        "volumes.csv": to_csv((*VOLUME_COLUMNS, "pose") if any("pose" in row for row in volumes) else VOLUME_COLUMNS, volumes),
        **({PATIENTS: to_csv(VOLUME_COLUMNS[1:], patients)} if patients else {}),
        "exposure.csv": to_csv(EXPOSURE_COLUMNS, exposure),
        **({VOLUMES_READ: to_csv(READ_COLUMNS, read)} if read else {}),
        "remove.csv": to_csv(REMOVE_COLUMNS, remove_rows(rows, reviews)),
        "summary.json": json.dumps(summary.as_dict(), indent=2, default=float),
        "report.html": drawn.text,
    }
    _write_pictures(output / FOLDER, drawn.files)
    write_files(output, files)
    for name in {PATIENTS, VOLUMES_READ} - files.keys():  # of an earlier audit
        (output / name).unlink(missing_ok=True)
    return rows


def write_preliminary(
    output: Path,
    found: Preliminary,
    summary: PreliminarySummary,
    redact: bool,
    key: Path | None = None,
    drawn: dict[int, dict[str, str]] | None = None,
) -> list[Row]:
    """Write report.html, summary.json and scores.csv of an audit that is not finished; what else an earlier audit left in ``output`` is removed.

    All three say that nothing is concluded. The page comes first, as :func:`write_report` writes its own last: whoever finds a page that is not
    preliminary finds a finished audit. ``redact`` and ``key`` as there. ``drawn`` keeps the pictures of ``found``, which are not drawn again where it holds them.

    Returns:
        the rows of scores.csv as they were written.

    Raises:
        ReportError: a file cannot be written.
    """
    page = preliminary_rows(found)
    if redact:
        names = ReportPseudonyms()
        page = [names.row(row) for row in page]
        summary = replace(summary, skipped=names.left_out(summary.skipped))
        if key is not None:
            names.write_key(key)
    rows = [page[i] for i in by_likeness(found, page)]
    files = {
        "report.html": render_preliminary(found, summary, page, redact, drawn),
        "summary.json": json.dumps(summary.as_dict(), indent=2, default=float),
        "scores.csv": to_csv(SCORE_COLUMNS, rows),
    }
    write_files(output, files)
    for name in {*REPORT_FILES, VOLUMES_READ} - files.keys():
        (output / name).unlink(missing_ok=True)
    _write_pictures(output / FOLDER, {})
    return rows


def _write_pictures(folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Make ``folder`` hold ``pictures`` and no others; without any there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        if pictures:
            folder.mkdir()
        for name, content in pictures.items():  # of thousands none is worth its own fsync: the page is written after them
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ReportError(
            f"{FOLDER} cannot be written to {str(folder.parent)!r}: {error.strerror}; free space or pass another --output."
        ) from error


def write_files(output: Path, files: Mapping[str, str]) -> None:
    """Write ``files``, name -> content, one after the other.

    Raises:
        ReportError: one cannot be written; what was written before is whole.
    """
    for name, content in files.items():
        try:
            write_atomic(output / name, content)
        except OSError as error:
            raise ReportError(
                f"{name} cannot be written to {str(output)!r}: {error.strerror}; free space or pass another --output."
            ) from error
