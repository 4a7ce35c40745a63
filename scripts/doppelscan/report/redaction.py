"""Pseudonyms in place of whatever names a path or a patient."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from doppelscan.decide import AuditSummary, LeftOut
from doppelscan.errors import ReportError
from doppelscan.report.tables import Row

__all__ = ["Pseudonyms"]

IDENTIFYING = ("image", "patient", "match", "match_patient", "volume", "second_match", "part_match")
# What looks like a path from the root, or like a file of a kind that holds images.
PATH = re.compile(r"(?:[A-Za-z]:\\|/)[^\s'\":;,]+|[^\s'\":;,]+\.(?:png|jpe?g|tiff?|npy|nii|gz|dcm|dicom|ima)\b", re.I)


class Pseudonyms:
    """Names that stand for others in one redacted report.

    They are drawn anew for each report, by a key that is not kept, so that two reports cannot be linked; only :meth:`write_key` keeps
    which is which.
    """

    def __init__(self) -> None:
        self._salt = secrets.token_bytes(16)
        self.names: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The pseudonym of ``name``, 12 hexadecimal digits; that of nothing is nothing."""
        if not name:
            return name
        pseudonym = hashlib.blake2b(name.encode(), key=self._salt, digest_size=6).hexdigest()
        self.names[pseudonym] = name
        return pseudonym

    def row(self, row: Row) -> Row:
        """A row of a table."""
        return {key: self.of(str(value)) if key in IDENTIFYING else value for key, value in row.items()}

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Rows of a table, in the order of their first column: that of the names would undo the pseudonyms."""
        return sorted((self.row(row) for row in rows), key=lambda row: str(next(iter(row.values()))))

    def summary(self, summary: AuditSummary) -> AuditSummary:
        """The summary; of the reasons of what was left out, whatever looks like a path is taken out too."""
        twice = [
            replace(
                one,
                image=self.of(one.image),
                patient=self.of(one.patient),
                match=self.of(one.match),
                match_patient=self.of(one.match_patient),
            )
            for one in summary.near_duplicates
        ]
        return replace(summary, skipped=self.left_out(summary.skipped), near_duplicates=sorted(twice, key=lambda one: -one.score))

    def left_out(self, skipped: Sequence[LeftOut]) -> list[LeftOut]:
        """What was left out, in the order of the pseudonyms: that of the names would undo them for whoever has a list of the files."""
        return sorted((self._left_out(one) for one in skipped), key=lambda one: (one.set, one.path))

    def _left_out(self, one: LeftOut) -> LeftOut:
        reason = one.reason
        for name in sorted({one.path, os.path.basename(one.path), os.path.dirname(one.path)}, key=len, reverse=True):
            reason = reason.replace(name, "(path)") if name else reason
        return replace(one, path=self.of(one.path), reason=PATH.sub("(path)", reason))

    def write_key(self, path: Path) -> None:
        """Write which pseudonym stands for what, a table that only its owner may read.

        Raises:
            ReportError: it cannot be written.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pseudonym", "name"])
        writer.writerows([pseudonym, name] for pseudonym, name in sorted(self.names.items(), key=lambda item: (item[1], item[0])))
        temporary = path.with_name(path.name + ".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text.getvalue())
            os.replace(temporary, path)
        except OSError as error:
            raise ReportError(f"The key {str(path)!r} cannot be written: {error.strerror}; pass another --key.") from error
