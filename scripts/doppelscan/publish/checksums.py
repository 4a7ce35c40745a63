"""sha256 of files that are handed on: models/checksums.json beside the weights, checksums.json of a whole packed bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path

from doppelscan.deepssim import file_sha256

__all__ = ["CHECKSUMS", "changed_files", "list_checksum", "write_checksums"]

CHECKSUMS = "checksums.json"
# What the Hub, its client and a run leave in the folder. Any other file that checksums.json does not list was put there by somebody else, and
# the folder is on the path that Python imports from.
LEFT_BY_USE = (".cache", ".gitattributes", ".git", "eval")


def list_checksum(path: str | os.PathLike) -> str:
    """Enter the sha256 of ``path`` in the checksums.json of its folder; returns the sha256."""
    path = Path(path)
    found = file_sha256(path)
    listed = path.parent / CHECKSUMS
    entries = json.loads(listed.read_text()) if listed.is_file() else {}
    entries[path.name] = found
    _write(listed, entries)
    return found


def write_checksums(folder: Path) -> Path:
    """Write ``checksums.json`` of every file under ``folder`` but itself: path with forward slashes -> sha256."""
    listed = folder / CHECKSUMS
    _write(listed, {name: file_sha256(folder / name) for name in _files(folder) if name != CHECKSUMS})
    return listed


def changed_files(folder: Path) -> tuple[int, list[str]]:
    """How many files ``checksums.json`` of ``folder`` lists, and what is wrong: one line a missing, changed or unlisted file.

    Raises:
        OSError, ValueError: there is no readable ``checksums.json``.
    """
    entries = json.loads((folder / CHECKSUMS).read_text())
    wrong = []
    for name, expected in sorted(entries.items()):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif (found := file_sha256(path)) != expected:
            wrong.append(f"{name} has the sha256 {found[:16]}..., not {expected[:16]}...")
    unlisted = (name for name in _files(folder) if name not in entries and name != CHECKSUMS)
    wrong += [f"{name} is not listed" for name in unlisted if name.split("/")[0] not in LEFT_BY_USE]
    return len(entries), wrong


def _files(folder: Path) -> list[str]:
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in paths if "__pycache__" not in p.parts)


def _write(path: Path, entries: dict[str, str]) -> None:
    path.write_text(json.dumps(dict(sorted(entries.items())), indent=2) + "\n")
