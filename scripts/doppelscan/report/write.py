"""Write the files of an audit, whole or redacted."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doppelscan.decide import KINDS
from doppelscan.errors import ReportError
from doppelscan.report.page import render_page
from doppelscan.report.tables import SCORE_COLUMNS, AuditTables, pseudonym, to_csv, write_atomic

__all__ = ["write_report"]

IDENTIFYING = ("image", "patient", "match", "match_patient", "volume", "second_match", "part_match")
VOLUME_COLUMNS = ("volume", "patient", "images", "flagged_images", "match_patient", "match", "score", "p_value", "verdict")
EXPOSURE_COLUMNS = (
    "patient", "flagged_images", *KINDS, "training_images", "highest_score", "smallest_p_value",
)  # fmt: skip


def write_report(
    output: Path, tables: AuditTables, summary: dict[str, Any], redact: bool, pair: Callable | None = None
) -> list[dict[str, Any]]:
    """Write scores.csv, control.csv, volumes.csv, patients.csv, exposure.csv, summary.json and report.html to ``output``.

    With ``redact`` every path and patient is replaced by a pseudonym that is new in each report, and the page has no pictures. ``pair`` gives
    the :class:`~doppelscan.verify.AlignedPair` of a scored image, for its pictures; None leaves out what needs one.

    Returns:
        the rows of scores.csv as they were written.

    Raises:
        ReportError: a file cannot be written, as when the disk is full; what was written before is whole.
    """
    rows, control = tables.score_rows(), tables.control_rows()
    volumes, patients, exposure = tables.volume_rows(rows), tables.patient_rows(rows), tables.exposure_rows(rows)
    if redact:
        salt = secrets.token_bytes(16)
        rows, control, volumes, patients, exposure, twice = (
            [_redacted(row, salt) for row in part]
            for part in (rows, control, volumes, patients, exposure, summary["near_duplicates"])
        )
        left_out = [{**item, "path": pseudonym(item["path"], salt)} for item in summary["skipped"]]
        summary = {**summary, "skipped": left_out, "near_duplicates": twice}
    files = {
        "scores.csv": to_csv(SCORE_COLUMNS, rows),
        "control.csv": to_csv(SCORE_COLUMNS, control),
        "volumes.csv": to_csv(VOLUME_COLUMNS, volumes),
        "patients.csv": to_csv(VOLUME_COLUMNS[1:], patients),
        "exposure.csv": to_csv(EXPOSURE_COLUMNS, exposure),
        "summary.json": json.dumps(summary, indent=2, default=float),
        "report.html": render_page(tables, summary, rows, exposure, redact, pair),
    }
    for name, content in files.items():
        try:
            write_atomic(output / name, content)
        except OSError as error:
            raise ReportError(
                f"{name} cannot be written to {str(output)!r}: {error.strerror}; free space or pass another --output."
            ) from error
    return rows


def _redacted(row: dict[str, Any], salt: bytes) -> dict[str, Any]:
    return {key: pseudonym(value, salt) if key in IDENTIFYING and value else value for key, value in row.items()}
