"""Every command and every Python block of README and docs is run, in a folder that holds the sample cohort."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("bundles/*/docs/README.md"))]
NOT_HERE = ("pip install", "make train", "make benchmark", "make test-real")


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (p.relative_to(ROOT).as_posix(), b) for p in PAGES for b in re.findall(rf"```{language}\n(.*?)```", p.read_text(), re.S)
    ]


def commands() -> list[tuple[str, str]]:
    """(page, command) of all bash blocks; continued lines joined, comments dropped."""
    found = []
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line).strip()
            if line and not line.startswith("#"):
                found.append((page, " ".join(line.split())))
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that looks like the checkout to a reader of the docs, with a small sample cohort in it."""
    from doppelscan.images.sample import write_sample

    folder = tmp_path_factory.mktemp("docs")
    write_sample(folder / "sample", training=7, holdout=7, novel=1, copies=3)
    for name in ("configs", "bundles", "docs", "Makefile", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(arguments: list[str], place: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=400)


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda v: v[:60])
def test_documented_command_runs(place, page, line):
    words = shlex.split(line)
    if line.startswith("make "):  # these make an environment of their own: that the targets exist is what can be told here
        target = run(["make", "-n", *words[1:], "DATA=x"], ROOT)
        assert target.returncode == 0, target.stderr
        return
    if line.startswith(NOT_HERE):
        assert (ROOT / "pyproject.toml").is_file()
        return
    if words[:2] == ["doppelscan", "sample"]:
        words = [*words[:-1], "another-sample"]
    words[0] = sys.executable if words[0] == "python" else str(Path(sys.executable).parent / words[0])
    done = run(words, place)
    assert done.returncode == 0, f"{page}: {line}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize(("page", "block"), blocks("python"), ids=lambda v: v[:40])
def test_documented_python_runs(place, page, block):
    done = run([sys.executable, "-c", block], place)
    assert done.returncode == 0, f"{page}\n{done.stderr[-2000:]}"


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_doctests_of_the_package():
    import doctest

    from doppelscan.memorization import index

    assert doctest.testmod(index).attempted > 0 and doctest.testmod(index).failed == 0
