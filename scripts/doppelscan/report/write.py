"""Write the files of an audit, whole or redacted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from doppelscan.decide import AuditSummary, Decision, ScoredImage
from doppelscan.errors import ReportError
from doppelscan.report.page import render_page
from doppelscan.report.redaction import Pseudonyms
from doppelscan.report.tables import (
    EXPOSING,
    SCORE_COLUMNS,
    Row,
    exposure_rows,
    patient_rows,
    score_rows,
    to_csv,
    volume_rows,
    write_atomic,
)
from doppelscan.verify import AlignedPair

__all__ = ["write_report"]

VOLUME_COLUMNS = ("volume", "patient", "images", "flagged_images", "match_patient", "match", "score", "p_value", "verdict")
EXPOSURE_COLUMNS = (
    "patient", "flagged_images", *EXPOSING, "training_images", "highest_score", "smallest_p_value",
)  # fmt: skip


def write_report(
    output: Path,
    decision: Decision,
    summary: AuditSummary,
    redact: bool,
    pair: Callable[[ScoredImage], AlignedPair] | None = None,
    key: Path | None = None,
) -> list[Row]:
    """Write scores.csv, control.csv, volumes.csv, patients.csv, exposure.csv, summary.json and report.html to ``output``.

    With ``redact`` every path and patient is replaced by a pseudonym that is new in each report, rows come in the order of these, which tells
    nothing, and the page has no pictures. ``pair`` gives
    the :class:`~doppelscan.verify.AlignedPair` of a scored image, for its pictures; None leaves out what needs one. ``key`` is a file, outside of
    ``output``, that says which pseudonym stands for what.

    Returns:
        the rows of scores.csv as they were written.

    Raises:
        ReportError: a file cannot be written, as when the disk is full; what was written before is whole.
    """
    rows, control = score_rows(decision.images), score_rows(decision.control)
    volumes, patients, exposure = volume_rows(decision), patient_rows(decision), exposure_rows(decision)
    page = rows
    if redact:
        names = Pseudonyms()
        rows, control, volumes, patients, exposure = (
            [names.row(row) for row in part] for part in (rows, control, volumes, patients, exposure)
        )
        summary = names.summary(summary)
        page = list(rows)
        for part in (rows, control, volumes, patients, exposure):
            part.sort(key=lambda row: str(next(iter(row.values()))))
        exposure.sort(key=lambda row: (-float(row["flagged_images"]), -float(row["highest_score"])))
        if key is not None:
            names.write_key(key)
    files = {
        "scores.csv": to_csv(SCORE_COLUMNS, rows),
        "control.csv": to_csv(SCORE_COLUMNS, control),
        "volumes.csv": to_csv(VOLUME_COLUMNS, volumes),
        "patients.csv": to_csv(VOLUME_COLUMNS[1:], patients),
        "exposure.csv": to_csv(EXPOSURE_COLUMNS, exposure),
        "summary.json": json.dumps(summary.as_dict(), indent=2, default=float),
        "report.html": render_page(decision, summary, page, exposure, redact, pair),
    }
    for name, content in files.items():
        try:
            write_atomic(output / name, content)
        except OSError as error:
            raise ReportError(
                f"{name} cannot be written to {str(output)!r}: {error.strerror}; free space or pass another --output."
            ) from error
    return rows
