"""checksums.json beside the weights: sha256 of each file that is handed on."""

from __future__ import annotations

import json
import os
from pathlib import Path

from doppelscan.deepssim import file_sha256

__all__ = ["list_checksum"]


def list_checksum(path: str | os.PathLike) -> str:
    """Enter the sha256 of ``path`` in the checksums.json of its folder; returns the sha256."""
    path = Path(path)
    found = file_sha256(path)
    listed = path.parent / "checksums.json"
    entries = json.loads(listed.read_text()) if listed.is_file() else {}
    entries[path.name] = found
    listed.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n")
    return found
