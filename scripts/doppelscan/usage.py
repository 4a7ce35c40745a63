"""Help of the command: what it can do, and of each command its options in groups, with what a value must be and what it is by default."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from doppelscan.arguments import Flag, short_of, words_of

__all__ = ["Command", "Option", "overview", "page"]

# Columns of a line at most: of a wide terminal, longer ones are hard to read.
WIDEST = 100
# Options from which on they stand in groups.
MANY = 14


@dataclass(frozen=True)
class Option:
    """An option of a command, or what it takes by its place.

    Attributes:
        name: of its parameter, such as patient_pattern.
        kind: what a value must be, of :mod:`doppelscan.arguments`.
        said: what it is, in words.
        default: that it has, None where the words say it.
        required: it has to be given.
        by_place: it is given without its name.
    """

    name: str
    kind: Any
    said: str
    default: Any = None
    required: bool = False
    by_place: bool = False

    @property
    def dashed(self) -> str:
        """As it is written on a command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_flag(self) -> bool:
        """It is said or not, without a value."""
        return self.kind is Flag

    @property
    def words(self) -> str:
        """What it is, what a value must be, and the default."""
        told = "" if self.is_flag or "|" in short_of(self.kind) else words_of(self.kind)
        usual = _shown(self.default)
        given = "required" if self.required else f"default {usual}" if usual else ""
        must = "; ".join(one for one in (told, given) if one)
        return f"{self.said} ({must})" if must else self.said


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is written, such as label-app.
        said: what it does, a sentence.
        options: what it takes, in order.
        more: what is to be told beneath.
    """

    name: str
    said: str
    options: tuple[Option, ...]
    more: str = ""


def _shown(value: Any) -> str:
    """A default as it would be written; that of None is told in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _width() -> int:
    return min(WIDEST, shutil.get_terminal_size().columns)


def _lines(words: Sequence[str]) -> str:
    """``words`` in lines that fit behind "usage: "."""
    begin = len("usage: ")
    wrapper = textwrap.TextWrapper(_width(), " " * begin, " " * (begin + 2), break_long_words=False, break_on_hyphens=False)
    return wrapper.fill(" ".join(words))[begin:]


def _formatter(prog: str) -> argparse.HelpFormatter:
    width = _width()
    return argparse.HelpFormatter(prog, max_help_position=min(26, width // 3), width=width)


def _parser(prog: str, usage: str, said: str, more: str = "") -> argparse.ArgumentParser:
    """What argparse writes a help of: nothing is parsed by it."""
    return argparse.ArgumentParser(
        prog=prog,
        usage=usage,
        description=said.replace("%", "%%"),
        epilog=more.replace("%", "%%"),
        add_help=False,
        formatter_class=_formatter,
    )


def page(command: Command, groups: Mapping[str, Sequence[str]]) -> str:
    """The help of ``command``.

    Args:
        command: what is told.
        groups: title -> names of the options under it; those of a command with a few are not in groups.
    """
    needed = [one for one in command.options if one.required]
    words = [one.name.upper() if one.by_place else f"{one.dashed} {short_of(one.kind)}" for one in needed]
    optional_places = [f"[{one.name.upper()}]" for one in command.options if one.by_place and not one.required]
    words = ["doppelscan", command.name, *optional_places, *words, *(["[options]"] if len(command.options) > len(needed) else [])]
    parser = _parser("doppelscan", _lines(words), command.said, command.more)
    places = [one for one in command.options if one.by_place]
    others = [one for one in command.options if not one.by_place]
    if places:
        group = parser.add_argument_group("What is given by its place")
        for one in places:
            group.add_argument(one.name.upper(), help=one.words.replace("%", "%%"))
    named = groups if len(others) > MANY else {}
    of_group = {name: title for title, names in named.items() for name in names}
    titles = [title for title in ("Options", *named) if any(of_group.get(one.name, "Options") == title for one in others)]
    for title in titles:
        group = parser.add_argument_group(title)
        for one in others:
            if of_group.get(one.name, "Options") == title:
                _add(group, one)
    return parser.format_help().rstrip("\n")


def _add(group: Any, one: Option) -> None:
    said = one.words.replace("%", "%%")
    if one.is_flag:
        group.add_argument(one.dashed, action=argparse.BooleanOptionalAction, help=said)
    else:
        group.add_argument(one.dashed, metavar=short_of(one.kind), help=said)


def overview(groups: Mapping[str, Sequence[Command]], said: str, more: str) -> str:
    """The help of the bare name.

    Args:
        groups: title -> commands under it.
        said: what all of it is for.
        more: what is to be told beneath, line by line as it is.
    """
    parser = _parser("doppelscan", "doppelscan COMMAND ...", said)
    for title, commands in groups.items():
        group = parser.add_argument_group(title)
        for one in commands:
            group.add_argument(one.name, help=one.said.replace("%", "%%"))
    return f"{parser.format_help()}\n{more}"
