"""What an audit cannot know and a dossier needs: purpose, provenance, licence, generator, contact, expiry; a file that a person fills in."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from doppelscan.arguments import meant
from doppelscan.errors import InputError

__all__ = ["ASKED", "Details", "named_in", "read_details", "write_template"]

# Field -> (heading, what is asked), in the order of the dossier.
ASKED = {
    "title": ("Title", "name and version of the synthetic set"),
    "purpose": ("Purpose", "what the synthetic set is made for and what it must not be used for"),
    "recipients": ("Recipients and access", "who receives it, how, and on what terms"),
    "provenance": ("Provenance of the training set", "where they come from, over what time, which devices, which people"),
    "legal_basis": ("Legal basis and approval", "consent, ethics vote, data use agreement, with their numbers"),
    "licence": ("Licence", "of the synthetic set, and that of the training images"),
    "generator": ("Generator", "name, architecture, version, and how it was trained"),
    "generator_sha256": ("Generator's weights", "sha256 of the weights file; a sampler's manifest tells it, too"),
    "mitigation": ("Mitigation", "what was done against memorization, before or after an earlier audit"),
    "author": ("Prepared by", "who is responsible for this dossier"),
    "contact": ("Contact", "where questions, objections and requests of patients go"),
    "expires": ("Expires", "YYYY-MM-DD: when the release is to be judged anew"),
    "sign_off": ("Sign-off", "roles that sign, such as Data protection officer, with semicolons between"),
}
SIGNERS = "Data steward; Data protection officer; Ethics board or access committee"


@dataclass(frozen=True)
class Details:
    """What a person says of the release, each as text; empty where it was not given. :data:`ASKED` says what each is."""

    title: str = ""
    purpose: str = ""
    recipients: str = ""
    provenance: str = ""
    legal_basis: str = ""
    licence: str = ""
    generator: str = ""
    generator_sha256: str = ""
    mitigation: str = ""
    author: str = ""
    contact: str = ""
    expires: str = ""
    sign_off: str = SIGNERS

    @property
    def missing(self) -> tuple[str, ...]:
        """Headings of what was not given."""
        return tuple(heading for name, (heading, _) in ASKED.items() if not getattr(self, name))

    @property
    def signers(self) -> tuple[str, ...]:
        """The roles that sign."""
        return tuple(one.strip() for one in self.sign_off.split(";") if one.strip())

    def require_unnamed(self, names: Collection[str]) -> None:
        """Refuse a text that names an image or a patient of the audit, which a redacted dossier must not.

        Raises:
            InputError: the field, and what it names.
        """
        for name in ASKED:
            told = named_in(getattr(self, name), names)
            if told is not None:
                raise InputError(
                    f"The 'details' file must not name images or patients in a redacted dossier. Got {told!r} in {name!r}; take it out, or pass "
                    "--redact False."
                )


def named_in(text: str, names: Collection[str]) -> str | None:
    """The first word of ``text`` that is a name of an image or a patient; names of up to 3 letters, such as 7, stand in any text and are not looked for."""
    words = (word.strip(".") for word in re.split(r"[\s,;:()\"']+", text))
    return next((word for word in words if len(word) > 3 and word in names), None)


def read_details(path: str | os.PathLike | None) -> Details:
    """Read a file of details; None gives none.

    Args:
        path: .json, .yaml or .yml, a mapping of the names of :class:`Details` to text, see :func:`write_template`.

    Raises:
        InputError: it cannot be read, has an unknown name, or a value that is no text; a date or sha256 that is none.
    """
    if path is None:
        return Details()
    content = _content(Path(path))
    if not isinstance(content, Mapping):
        raise InputError(
            f"The 'details' parameter must be a file with names and texts. Got {str(path)!r}, which holds no mapping; start from --template FILE."
        )
    known = [field.name for field in fields(Details)]
    given: dict[str, str] = {}
    for name, value in content.items():
        if name == "help":
            continue
        if name not in known:
            raise InputError(f"There is no detail {name!r} of a dossier in {str(path)!r}; {meant(str(name), known)}")
        if isinstance(value, (datetime.date, datetime.datetime)):
            value = value.isoformat()[:10]  # YAML reads a date as one
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            value = "; ".join(value)
        if value is not None and not isinstance(value, str):
            raise InputError(f"The detail {name!r} of {str(path)!r} must be text. Got {value!r} instead; put it into quotes.")
        if value and value.strip():
            given[name] = " ".join(value.split())
    details = Details(**given)
    _check(details, path)
    return details


def _content(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The 'details' parameter must be a .json or .yaml file in UTF-8. Got {str(path)!r}, which cannot be read; save it as UTF-8."
        ) from error
    if path.suffix.lower() in (".yaml", ".yml"):
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(
                f"The 'details' parameter must be a readable .yaml file. Got {str(path)!r}: {_line(error)}; correct it."
            ) from error
    if path.suffix.lower() != ".json":
        raise InputError(
            f"The 'details' parameter must be a .json or .yaml file. Got {str(path)!r} instead; start from --template FILE.json."
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            f"The 'details' parameter must be a readable .json file. Got {str(path)!r}: {error}; correct it."
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check(details: Details, path: str | os.PathLike) -> None:
    if details.expires:
        try:
            datetime.date.fromisoformat(details.expires)
        except ValueError as error:
            raise InputError(
                f"The detail 'expires' of {str(path)!r} must be a date such as 2027-06-30. Got {details.expires!r} instead; correct it."
            ) from error
    if details.generator_sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", details.generator_sha256):
        raise InputError(
            f"The detail 'generator_sha256' of {str(path)!r} must be 64 hexadecimal digits. Got {details.generator_sha256!r} instead; take what "
            "sha256sum FILE prints."
        )


def write_template(path: str | os.PathLike) -> Path:
    """Write a file of details to fill in: .json, or .yaml with what is asked as comments.

    Raises:
        InputError: the file is there, or is neither, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise InputError(f"The 'template' parameter must be a .json or .yaml file. Got {str(path)!r} instead; pass details.yaml.")
    empty = {name: SIGNERS if name == "sign_off" else "" for name in ASKED}
    if path.suffix.lower() == ".json":
        text = json.dumps({"help": {name: asked for name, (_, asked) in ASKED.items()}, **empty}, indent=2) + "\n"
    else:
        text = "".join(f"# {asked}\n{name}: {json.dumps(empty[name])}\n" for name, (_, asked) in ASKED.items())
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(
            f"The 'template' parameter must be a new file. Got {str(path)!r}, which is there; pass another."
        ) from error
    except OSError as error:
        raise InputError(
            f"The 'template' parameter must be a file that can be written. Got {str(path)!r}: {error.strerror}; pass another."
        ) from error
    return path
