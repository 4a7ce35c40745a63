"""What binds a dossier to the files that it was made of: sha256 of each, of all, and of the dossier's own content; an optional HMAC.

A hash says that nothing was changed since; it does not say who wrote it: whoever changes a file can compute its hash anew. An HMAC (RFC 2104) can be
computed by whoever holds the secret, and by nobody else; it is no signature of a person either, since checking needs the same secret.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppelscan.errors import InputError
from doppelscan.filing.audits import file_sha256, whole_sha256
from doppelscan.locations import REPORT_FILES

__all__ = ["Checked", "content_sha256", "hmac_of", "plain", "read_seal", "read_secret", "seal_of", "seal_text"]

# In the properties of a PDF, which hold no record.
SEAL = re.compile(rb"doppelscan-seal (\{[^{}()\\]*(?:\{[^{}()\\]*\}[^{}()\\]*)*\})")
EMBEDDED = re.compile(r'<script type="application/json" id="dossier">(.*?)</script>', re.S)
SHORTEST = 16


@dataclass(frozen=True)
class Checked:
    """One thing that was compared.

    Attributes:
        name: what.
        passed: it is as it was; None where it was not compared.
        words: in words.
    """

    name: str
    passed: bool | None
    words: str

    def __str__(self) -> str:
        return f"{ {True: 'same', False: 'CHANGED', None: 'not compared'}[self.passed]:12} {self.name}: {self.words}"


def plain(value: Any) -> Any:
    """``value`` as JSON has it: what is not finite is null, tuples are lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def content_sha256(record: Mapping[str, Any]) -> str:
    """sha256 of a dossier's content, its seal left out: of its JSON with sorted keys, without spaces, in ASCII."""
    content = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(plain(content), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_secret(path: str | os.PathLike | None) -> bytes | None:
    """The secret in a file, without the white space round it.

    Raises:
        InputError: it cannot be read, or holds fewer than 16 bytes.
    """
    if path is None:
        return None
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise InputError(
            f"The 'secret' parameter must be a file that can be read. Got {str(path)!r}: {error.strerror}; pass another."
        ) from error
    if len(secret) < SHORTEST:
        raise InputError(
            f"The 'secret' parameter must be a file of at least {SHORTEST} bytes. Got {str(path)!r}, which holds {len(secret)}; make one with "
            "head -c 32 /dev/urandom | base64."
        )
    return secret


def hmac_of(content: str, secret: bytes) -> str:
    """HMAC-SHA256 of a content's sha256."""
    return hmac.new(secret, content.encode(), hashlib.sha256).hexdigest()


def seal_of(record: Mapping[str, Any], secret: bytes | None) -> dict[str, Any]:
    """The seal of a dossier: hash of its content, and with a ``secret`` an HMAC of that."""
    content = content_sha256(record)
    return {"content_sha256": content, "hmac_sha256": None if secret is None else hmac_of(content, secret)}


def seal_text(record: Mapping[str, Any]) -> str:
    """What the properties of a PDF keep: the seal and the hashes of the inputs, in one line."""
    return "doppelscan-seal " + json.dumps({"seal": record["seal"], "files": record["inputs"]["files"]}, separators=(",", ":"))


def read_seal(path: str | os.PathLike) -> tuple[dict[str, str], dict[str, Any], dict[str, Any] | None]:
    """Hashes of the inputs, the seal, and the record itself where the file holds it, which a PDF does not.

    Raises:
        InputError: it is no dossier.
    """
    path = Path(path)
    refused = InputError(
        f"The 'check' parameter must be a dossier that doppelscan wrote. Got {str(path)!r}, in which there is none; pass a .json, .html or .pdf."
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise refused from error
    try:
        if content.startswith(b"%PDF"):
            # Its strings are ASCII; parentheses and backslashes are not among what is kept.
            found = SEAL.search(content)
            if found is None:
                raise refused
            kept = json.loads(found[1])
            return dict(kept["files"]), dict(kept["seal"]), None
        text = content.decode("utf-8")
        embedded = EMBEDDED.search(text)
        record = json.loads(html.unescape(embedded[1]) if embedded else text)
        return dict(record["inputs"]["files"]), dict(record["seal"]), record
    except (ValueError, KeyError, TypeError) as error:
        raise refused from error


def compared(files: Mapping[str, str], folder: str | os.PathLike) -> list[Checked]:
    """Each file of an audit that a dossier was made of, beside what is in ``folder`` now."""
    folder, found = Path(folder), []
    for name, sha256 in files.items():
        path = folder / name
        now = file_sha256(path) if path.is_file() else None
        words = (
            "is missing"
            if now is None
            else f"sha256 {sha256[:12]}..."
            if now == sha256
            else f"sha256 was {sha256[:12]}..., is {now[:12]}..."
        )
        found.append(Checked(name, now == sha256, words))
    new = [name for name in REPORT_FILES if name not in files and (folder / name).is_file()]
    found += [Checked(name, False, "was not there") for name in new]
    return [*found, Checked("the whole audit", all(one.passed for one in found), f"sha256 {whole_sha256(files)[:12]}...")]
