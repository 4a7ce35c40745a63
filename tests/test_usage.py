"""Help for people: every command tells each option once, in a group, with its type and default, in lines that fit."""

from __future__ import annotations

import re

import pytest
from doppelscan import cli
from doppelscan.arguments import Count, Flag, Range, Score, Text
from doppelscan.settings import GROUPS
from doppelscan.usage import MANY, Command, Option, overview, page


def told(name: str) -> str:
    return page(cli._command(name), {**GROUPS, "This command": ("config",)})


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_line_is_wider_than_the_terminal(monkeypatch, name, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    widest = max(len(line) for line in told(name).splitlines())
    assert widest <= min(columns, 100)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_is_told_once(monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    listed = re.findall(r"^  (?:--)?([A-Za-z][\w-]*)", told(name).partition(":\n")[2], re.M)
    assert sorted(one.lower() for one in listed) == sorted(one.name.replace("_", "-") for one in cli._command(name).options)


def test_every_setting_of_an_audit_is_in_one_group():
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    for command in ("audit", "leak"):
        assert {one.name for one in cli._command(command).options} - set(named) == {"config"}, "a new setting needs a group"


def test_what_a_value_must_be_and_its_default_stand_in_the_line():
    options = {
        "required": Option("a", Count, "how many", None, True),
        "a default": Option("b", Count, "how many", 5),
        "pairs": Option("c", Range, "from where", (0.25, 0.75)),
        "choices": Option("d", Score, "what ranks", "mi"),
        "a flag": Option("e", Flag, "or not", True),
        "none": Option("f", Text | None, "a word"),
    }
    words = {name: one.words for name, one in options.items()}
    assert words == {
        "required": "how many (an integer >= 1; required)",
        "a default": "how many (an integer >= 1; default 5)",
        "pairs": "from where (two shares with 0 <= start < stop <= 1, such as 0.25,0.75; default 0.25,0.75)",
        "choices": "what ranks (default mi)",
        "a flag": "or not (default on)",
        "none": "a word (text)",
    }
    told = page(Command("x", "Does it.", tuple(options.values())), {})
    assert "--d combined|verified|deepssim|mi" in told and "--e, --no-e" in told and "usage: doppelscan x --a N [options]" in told


def test_few_options_are_not_taken_apart_and_percent_signs_are_no_formats():
    few = tuple(Option(f"o{i}", Count, "100 % of it") for i in range(MANY))
    groups = {"First": ("o1",)}
    assert "First:" not in page(Command("x", "At 5 %.", few), groups)
    many = (*few, Option("seed", Count, "of it"))
    assert "First:" in page(Command("x", "At 5 %.", many), groups) and "100 % of it" in page(Command("x", "At 5 %.", many), groups)


def test_every_command_is_in_the_overview_once():
    topics = {title: [cli._command(one) for one in names] for title, names in cli.TOPICS.items()}
    assert sorted(one for names in cli.TOPICS.values() for one in names) == sorted(cli.COMMANDS)
    listed = re.findall(r"^  ([a-z-]+) +[A-Z]", overview(topics, "All.", "Begin."), re.M)
    assert sorted(listed) == sorted(name.replace("_", "-") for name in cli.COMMANDS)
