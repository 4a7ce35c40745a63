"""Pseudonyms in place of whatever names a path or a patient."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import secrets
from pathlib import Path

from doppelscan.errors import ReportError

__all__ = ["Pseudonyms"]

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

    def reason(self, path: str, reason: str) -> str:
        """Why the image of ``path`` was left out, without what names it or looks like a path."""
        for name in sorted({path, os.path.basename(path), os.path.dirname(path)}, key=len, reverse=True):
            reason = reason.replace(name, "(path)") if name else reason
        return PATH.sub("(path)", reason)

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
