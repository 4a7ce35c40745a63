"""Options of ``python -m monai.bundle run``: MONAI takes one that no config has as a new id, and the run goes on without it."""

from __future__ import annotations

import functools
import inspect
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser, ConfigWorkflow, ReferenceResolver, update_kwargs
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS
from monai.utils import ensure_tuple

from doppelscan.arguments import meant
from doppelscan.errors import InputError
from doppelscan.locations import audit_root

__all__ = ["called_by", "on_command_line", "require_known_options", "runs_own_configs"]

COMMANDS = ("run", "run_workflow")
# What these commands and the workflow take themselves, beside ids of the configs.
TAKEN = [
    name
    for face in (monai.bundle.run, monai.bundle.create_workflow, ConfigWorkflow.__init__)
    for name, parameter in inspect.signature(face).parameters.items()
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name != "self"
]


def on_command_line() -> bool:
    """A config is run by ``python -m monai.bundle``, whose terminal says nothing of what a run returns."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def called_by(redact: bool) -> str:
    """The command line of this process where a config is run by it, else nothing; a redacted one keeps no option, since any may name a path."""
    if not on_command_line():
        return ""
    return shlex.join(["python", "-m", "monai.bundle", *([*sys.argv[1:2], "..."] if redact else sys.argv[1:])])


def require_known_options() -> None:
    """Refuse an option of this process' command line that no config file defines or refers to; elsewhere nothing is checked.

    Raises:
        InputError: the option, with the one that was meant; a config file that is not there.
    """
    if not on_command_line() or sys.argv[1:2] not in [[name] for name in COMMANDS]:
        return
    given = _given(sys.argv[1:])
    files = [str(file) for file in ensure_tuple(given.get("config_file", ()))]
    _require_files(files)
    known = _Ids(ConfigParser.load_config_files(files))
    others = [*TAKEN, *_of_tracking(given.get("tracking"))]
    for option in given:
        name = ReferenceResolver.normalize_id(option)
        if name not in others and name not in known:
            beside = known.beside(name, others)
            what = meant(name.split("::")[-1], beside, lambda last: f"--{beside[last]}")  # noqa: B023
            raise InputError(f"There is no option --{option} of {' and '.join(files)}; {what}")


def runs_own_configs() -> bool:
    """Whether every config file of this process' command line is one that comes with this package."""
    if not on_command_line() or sys.argv[1:2] not in [[name] for name in COMMANDS]:
        return False
    files = ensure_tuple(_given(sys.argv[1:]).get("config_file", ()))
    own = [Path(audit_root()).resolve() / name for name in ("configs", "bundles")]
    return bool(files) and all(any(place in Path(str(file)).resolve().parents for place in own) for file in files)


def _require_files(files: list[str]) -> None:
    for file in map(Path, files):
        if not file.is_file():
            bundle = file.absolute().parent.parent
            absent = file.parent.name == "configs" and not bundle.exists()
            download = f"python -m monai.bundle download --name {bundle.name} --bundle_dir {file.parent.parent.parent}"
            todo = f"download the bundle: {download}" if absent else "pass --config_file FILE"
            raise InputError(f"The 'config_file' parameter must be existing files. Got {str(file)!r}, which does not exist; {todo}")


def _given(words: list[str]) -> dict[str, Any]:
    """Option -> value as MONAI gets them, with those of ``--args_file``."""
    from fire import Fire

    given: dict[str, Any] = {}
    command = getattr(monai.bundle, words[0])

    @functools.wraps(command)  # fire goes by the signature
    def take(*values: Any, **options: Any) -> None:
        bound = inspect.signature(command).bind(*values, **options).arguments
        given.update({**bound.pop(_rest(command), {}), **bound})

    Fire({words[0]: take}, command=words)
    return update_kwargs(args=given.pop("args_file", None), **given)


def _of_tracking(tracking: Any) -> list[str]:
    """The ids that MONAI adds for experiment tracking."""
    if tracking is None:
        return []
    defaults: Mapping[str, Any] = DEFAULT_EXP_MGMT_SETTINGS
    settings = defaults[tracking] if tracking in list(defaults) else ConfigParser.load_config_files(tracking)
    return ["save_execute_config", *settings["configs"]]


def _rest(command: Any) -> str:
    """The name of what takes further keywords."""
    return next(name for name, one in inspect.signature(command).parameters.items() if one.kind is one.VAR_KEYWORD)


class _Ids:
    """Which ids a run with ``config`` can make use of.

    A new key counts where all of a mapping is used: in a component, whose class then says what it takes, and in what is referred to as a whole.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self.defined = dict(_walk(config))
        texts = [value for value in self.defined.values() if isinstance(value, str)]
        self.referred = {
            one for text in texts for one in (*ReferenceResolver.match_refs_pattern(text), *([text[1:]] if text[:1] == "%" else []))
        }

    def __contains__(self, name: str) -> bool:
        parts = name.split("::")
        above = ["::".join(parts[:n]) for n in range(1, len(parts))]
        return (
            name in self.defined
            or any(one == name or one.startswith(f"{name}::") for one in self.referred)
            or any(one in self.referred or self._is_component(one) for one in above)
            or parts[0] == ConfigParser.meta_key
        )

    def _is_component(self, name: str) -> bool:
        value = self.defined.get(name)
        return isinstance(value, Mapping) and "_target_" in value

    def beside(self, name: str, others: list[str]) -> dict[str, str]:
        """Last key -> id of what can be meant by ``name``: settings of the top level, and what is defined where a nested ``name`` would be."""
        inside, _, _ = name.rpartition("::")
        nested = {one.rpartition("::")[2]: one for one in self.defined if inside and one.rpartition("::")[0] == inside}
        settings = [one for one, value in self.config.items() if not isinstance(value, Mapping) and one not in ("imports", "run")]
        return {**{one: one for one in (*settings, *others)}, **nested}


def _walk(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Id -> value of all that is in ``config``."""
    for key, value in config.items() if isinstance(config, Mapping) else enumerate(config):
        one = f"{name}::{key}" if name else str(key)
        yield one, value
        if isinstance(value, (Mapping, list)):
            yield from _walk(value, one)
