"""How files are written: whole or not at all, tables and JSON the same for the same content."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

__all__ = ["to_csv", "to_json", "write_atomic"]


def to_json(content: object) -> str:
    """JSON of ``content``; NaN is no JSON, so a value that is not defined becomes null."""
    return json.dumps(_without_nan(content), indent=1, default=float)


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside ``path`` and rename: a full disk leaves the old file or none, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _number(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return f"{np.float32(value):.7g}" if np.isfinite(value) else "nan"
    return str(value)


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """CSV text; floats with 7 significant digits, true and false in lower case."""
    columns = list(columns)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_number(row[c]) for c in columns] for row in rows])
    return text.getvalue()
