"""Names of files by their bytes; nothing that takes long is loaded for them."""

from __future__ import annotations

import hashlib
import os
from typing import Any

__all__ = ["add_file", "file_sha256"]

BLOCK = 1 << 20  # bytes that are read at a time


def add_file(digest: Any, path: str | os.PathLike) -> None:
    """Add the bytes of a file to a digest of ``hashlib``."""
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)


def file_sha256(path: str | os.PathLike) -> str:
    """sha256 of a file's bytes, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    add_file(digest, path)
    return digest.hexdigest()
