"""Completion: each shell that is here completes commands, options, choices and files by its own means."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from doppelscan import cli
from doppelscan.arguments import choices_of
from doppelscan.completion import completion_script

COMMANDS = [cli._command(name) for names in cli.TOPICS.values() for name in names]


def run(shell: str, script: str, folder, **environment: str) -> str:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this machine")
    done = subprocess.run(
        [program, "-c", script], cwd=folder, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def place(tmp_path):
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / shell).write_text(completion_script(shell, COMMANDS))
    (tmp_path / "sample").mkdir()
    return tmp_path


IN_BASH = """
source ./bash
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _doppelscan; echo "${COMPREPLY[*]}"; }
ask doppelscan au
ask doppelscan audit --trai
ask doppelscan audit --redact --ind
ask doppelscan audit --index ""
ask doppelscan audit --index = iv
ask doppelscan audit --training sam
ask doppelscan dossier ""
ask doppelscan dossier --che
ask doppelscan completion f
ask doppelscan audit --training sample ""
complete -p doppelscan
"""


def test_bash_completes(place):
    lines = run("bash", IN_BASH, place).splitlines()
    assert lines[:9] == ["audit", "--training", "--index", "auto exact ivf", "ivf", "", "", "--check", "fish"]
    assert {"--synthetic", "--no-gate", "--config", "--help"} <= set(lines[9].split())
    assert "-o default" in lines[10], "where nothing is known, files are completed"


def test_fish_completes(place):
    asked = [
        "doppelscan au",
        "doppelscan audit --ind",
        "doppelscan audit --index e",
        "doppelscan audit --training sam",
        "doppelscan completion z",
    ]
    script = "source ./fish; " + "".join(f"complete -C '{line}' | head -1 | cut -f1;" for line in asked)
    assert run("fish", script, place, HOME=str(place)).split() == ["audit", "--index", "exact", "sample/", "zsh"]


def test_zsh_reads_its_script_and_has_every_command(place):
    script = "autoload -Uz compinit && compinit -u -d ./dump; source ./zsh; print $_comps[doppelscan]; whence -f _doppelscan"
    told = run("zsh", script, place, HOME=str(place))
    assert told.startswith("_doppelscan") and all(f"({one.name})" in told for one in COMMANDS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_option_and_choice_is_in_the_script(shell):
    script = completion_script(shell, COMMANDS)
    for command in COMMANDS:
        for one in command.options:
            name = one.dashed[2:] if shell == "fish" else one.dashed
            assert one.by_place or name in script, (command.name, one.name)
            assert one.is_flag or " ".join(choices_of(one.kind)) in script, (command.name, one.name)
