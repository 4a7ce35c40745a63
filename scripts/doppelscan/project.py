"""A project's settings in a file, .yaml, .toml or .json: its sets and how they are read stand there once, for every command that audits.

What is at the top serves each command that has such an option, but for the paths that are written; what is of one command stands under its name.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from doppelscan.arguments import AnyPath, Encoder, Existing, Folder, Source, Store, alike
from doppelscan.errors import InputError, MissingPackageError
from doppelscan.locations import is_url

__all__ = ["ENDINGS", "project_options"]

ENDINGS = (".yaml", ".yml", ".toml", ".json")
# Kinds of values that are paths, which are meant from the file's folder.
PATHS = (Source, Existing, Folder, Store, AnyPath, Encoder)
# The command that the paths at the top which are written belong to: another one would write over them.
FIRST = "audit"
WRITTEN = ("output", "key")


def project_options(
    path: str | os.PathLike, command: str, kinds: Mapping[str, Mapping[str, Any]], others: Callable[[str], bool]
) -> dict[str, Any]:
    """What the file ``path`` has for ``command``: name of the option -> value, relative paths as from the file's folder.

    Args:
        path: of the file.
        command: that runs, such as leak.
        kinds: command -> name of its options -> kind; of all commands that the file may be for.
        others: whether a name is a further one that the first command has, such as network_def::channels.

    Raises:
        InputError: the file cannot be read, or holds a name that none of the commands has.
        MissingPackageError: TOML on Python 3.10 without tomli.
    """
    place = Path(path)
    content = _content(place)
    sections = {_plain(name): value for name, value in content.items() if _plain(name) in kinds and isinstance(value, Mapping)}
    top = {_plain(name): value for name, value in content.items() if _plain(name) not in sections}
    everyone = {name for of_command in kinds.values() for name in of_command}
    for name in top:
        if name not in everyone and not others(name):
            raise _unknown(name, "doppelscan", place, {*everyone, *kinds})
    for section, options in sections.items():
        for name in map(_plain, options):
            if name not in kinds[section] and not (section == FIRST and others(name)):
                raise _unknown(name, f"doppelscan {section.replace('_', '-')}", place, kinds[section])
    own, known = {_plain(name): value for name, value in sections.get(command, {}).items()}, kinds[command]
    shared = {name: value for name, value in top.items() if _serves(name, command, known, others)}
    if command == "dossier":
        # The audit that is filed is the one that this file is of.
        written = {**top, **{_plain(name): value for name, value in sections.get(FIRST, {}).items()}}.get("output")
        shared = {**({"audit": written} if written is not None else {}), **shared}
    return {
        name: _from_folder(value, known.get(name), place.parent) for name, value in {**shared, **own}.items() if value is not None
    }


def _serves(name: str, command: str, known: Collection[str], others: Callable[[str], bool]) -> bool:
    """Whether what stands at the top is for ``command``."""
    return name in known or others(name) if command == FIRST else name in known and name not in WRITTEN


def _plain(name: Any) -> str:
    return name.replace("-", "_") if isinstance(name, str) else str(name)


def _unknown(name: str, whose: str, place: Path, known: Collection[str]) -> InputError:
    first = re.split("::|#", name)[0]
    close = alike(first, sorted(known))
    told = f"did you mean {close.replace('_', '-')}?" if close else f"see {whose} --help for what there is."
    return InputError(f"There is no option {name.replace('_', '-')!r} of {whose}, in {str(place)!r}; {told}")


def _from_folder(value: Any, kind: Any, folder: Path) -> Any:
    """A relative path as from ``folder``; anything else as it is."""
    if not isinstance(value, str) or not any(one in PATHS for one in (kind, *get_args(kind))):
        return value
    script, name = re.fullmatch(r"(torchscript:)?(.*)", value, re.S).groups()  # type: ignore[union-attr]
    if not name or is_url(name) or name.startswith("~") or (Encoder in (kind, *get_args(kind)) and name == "none"):
        return value
    return (script or "") + os.path.join(folder, name)


def _content(place: Path) -> Mapping[str, Any]:
    def refuse(why: str, todo: str) -> InputError:
        return InputError(
            f"The 'config' parameter must be a .yaml, .toml or .json file of options. Got {str(place)!r}, {why}; {todo}."
        )

    kind = place.suffix.lower()
    if not place.is_file():
        raise refuse("which is no file", "pass --config FILE")
    if kind not in ENDINGS:
        raise refuse("which is none", "pass --config FILE.yaml")
    try:
        text = place.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refuse("which cannot be read", "save it as UTF-8") from error
    try:
        content = {".json": _json, ".toml": _toml}.get(kind, _yaml)(text)
    except ValueError as error:
        raise refuse(f"which is damaged: {' '.join(str(error).split())}", "correct it") from error
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise refuse("which holds no names with values", "write a line such as training: DIR")
    return content


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A mapping whose names are each there once; formats that take the last of two would hide the first."""
    result: dict[Any, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"{name!r} is there twice")
        result[name] = value
    return result


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_once)


def _toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise MissingPackageError("TOML needs tomli on Python 3.10: pip install tomli, or use a .yaml file.") from error
    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    import yaml

    class Once(yaml.SafeLoader):
        """Safe: it makes plain values only."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        loader.flatten_mapping(node)
        return _once(loader.construct_pairs(node, deep=True))

    Once.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Once)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
