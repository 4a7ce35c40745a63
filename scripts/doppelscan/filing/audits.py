"""The output folder of a finished audit, read back: its summary, its tables and the sha256 of every file."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppelscan.digests import file_sha256
from doppelscan.errors import InputError
from doppelscan.locations import NOT_FINISHED, REPORT_FILES, is_finished
from doppelscan.version import __version__

__all__ = ["FinishedAudit", "read_audit", "whole_sha256"]

Row = Mapping[str, str]
# What summary.json of a finished audit holds, and what the tables must have. Audits of 0.3.0 and before kept no hashes of their sets.
NEEDED = (
    "conclusion", "reason", "images", "flagged", "flagged_control", "findings", "residual_risk", "self_test", "competition", "fdr",
    "smallest_p_value", "effective_control", "look_alikes", "control", "control_against_training", "patient_source", "people", "notes",
    "skipped", "settings", "rules", "weights_sha256", "versions", "sets", "command", "finished",
)  # fmt: skip
# Whose output folders hold a summary, too, and no audit.
SEARCHES = ("leak", "duplicates")
TABLES = {
    "scores.csv": ("image", "match", "match_patient", "score", "p_value", "flagged", "finding", "reason", "unlike"),
    "control.csv": ("image", "patient", "score"),
    "exposure.csv": ("patient", "flagged_images", "training_images", "highest_score", "smallest_p_value"),
    "volumes.csv": ("volume", "images"),
}


@dataclass(frozen=True)
class FinishedAudit:
    """A finished audit as its files tell it.

    Attributes:
        folder: where they lie.
        summary: what summary.json holds.
        scores, control, exposure, volumes: rows of the tables, as text.
        files: name -> sha256 of each file of the report.
    """

    folder: Path
    summary: Mapping[str, Any]
    scores: tuple[Row, ...]
    control: tuple[Row, ...]
    exposure: tuple[Row, ...]
    volumes: tuple[Row, ...]
    files: Mapping[str, str]

    @property
    def of(self) -> str:
        """What was audited: image or volume."""
        return str(self.summary.get("of", "image"))

    def unnamed(self, name: str) -> int:
        """Of how many images of ``name``, training or control, nothing names the patient; audits of before 0.4.0 kept no number of those."""
        return int(self.summary["images"].get(f"{name}_unnamed", 0))

    @property
    def redacted(self) -> bool:
        """Its files carry pseudonyms in place of paths and patients."""
        return bool(self.summary["settings"].get("redact"))

    @property
    def flagged(self) -> tuple[Row, ...]:
        """The flagged images, as they come in the page: highest score first."""
        found = [row for row in self.scores if row["flagged"] == "true"]
        return tuple(sorted(found, key=lambda row: (-float(row["score"]), row["image"])))

    @property
    def names(self) -> frozenset[str]:
        """Whatever names an image or a patient in its tables, or a file of one."""
        columns = ("image", "patient", "match", "match_patient", "second_match", "part_match", "volume")
        rows = (*self.scores, *self.control, *self.exposure, *self.volumes)
        told = {row[column] for row in rows for column in columns if row.get(column)}
        return frozenset(told | {os.path.basename(name) for name in told})


def whole_sha256(files: Mapping[str, str]) -> str:
    """One sha256 for all ``files``: of the lines "name sha256", in the order of the names."""
    return hashlib.sha256("".join(f"{name} {files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def read_audit(folder: str | os.PathLike, name: str = "audit") -> FinishedAudit:
    """Read the output folder of an audit.

    Args:
        folder: what ``--output`` of the audit was.
        name: of the parameter, for messages.

    Raises:
        InputError: it is no such folder, the audit has not ended, an older version made it, or a file is damaged or missing.
    """
    folder = Path(folder)

    def refuse(why: str, todo: str) -> InputError:
        return InputError(
            f"The {name!r} parameter must be the output folder of a finished audit. Got {str(folder)!r}, {why}; {todo}."
        )

    if not folder.is_dir():
        raise refuse("which is no folder", "pass what --output of doppelscan audit was")
    if not (folder / "summary.json").is_file():
        raise refuse("which holds no summary.json", "pass what --output of doppelscan audit was")
    again = "run the audit again, which uses its store again"
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise refuse("whose summary.json is damaged", again) from error
    if not isinstance(summary, dict):
        raise refuse("whose summary.json is damaged", again)
    if summary.get("conclusion") == NOT_FINISHED:
        raise refuse("whose audit has not ended", "wait for its conclusion, or run it again")
    if summary.get("command") in SEARCHES:
        raise refuse(
            f"which is that of doppelscan {summary['command']}, a search in real images",
            "pass the output of doppelscan audit; what a search found is filed by its own report.html and summary.json",
        )
    missing = [key for key in NEEDED if key not in summary]
    if missing:
        versions = summary.get("versions")
        made_by = versions.get("doppelscan", "unknown version") if isinstance(versions, dict) else "unknown version"
        raise refuse(
            f"whose summary.json, of doppelscan {made_by}, lacks {missing[0]!r}",
            f"run the audit again by doppelscan {__version__}, which uses its store again",
        )
    if not is_finished(folder):
        raise refuse("whose report.html is missing or that of an audit that has not ended", again)
    tables = {}
    for table, columns in TABLES.items():
        try:
            with open(folder / table, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows = tuple(reader)
                known = reader.fieldnames or ()
        except (OSError, ValueError, csv.Error) as error:
            raise refuse(f"whose {table} is missing or damaged", again) from error
        lacking = [column for column in columns if column not in known]
        if lacking or any(None in row or None in row.values() for row in rows):
            raise refuse(f"whose {table} is damaged{f': it lacks the column {lacking[0]!r}' if lacking else ''}", again)
        tables[table] = rows
    try:
        counted = (len(tables["scores.csv"]), sum(row["flagged"] == "true" for row in tables["scores.csv"]))
        [float(row["score"]) for row in (*tables["scores.csv"], *tables["control.csv"])]
        told = (summary["images"]["synthetic"], sum(summary["findings"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise refuse("whose tables are damaged", again) from error
    if counted != told:
        raise refuse(
            f"whose scores.csv holds {counted[0]} images, {counted[1]} of them flagged, and whose summary.json tells of {told[0]} and {told[1]}",
            again,
        )
    files = {one: file_sha256(folder / one) for one in REPORT_FILES if (folder / one).is_file()}
    return FinishedAudit(
        folder, summary, tables["scores.csv"], tables["control.csv"], tables["exposure.csv"], tables["volumes.csv"], files
    )
