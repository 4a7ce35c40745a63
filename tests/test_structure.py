"""The house: one direction of imports, no room of odds and ends, configs that people can read."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scripts" / "doppelscan"
ROOMS = [
    "version",
    "threads",
    "errors",
    "wording",
    "digests",
    "locations",
    "arguments",
    "settings",
    "usage",
    "completion",
    "project",
    "progress",
    "files",
    "pages",
    "pseudonyms",
    "reviewers",
    "scores",
    "workers",
    "images",
    "deepssim",
    "memorization",
    "search",
    "verify",
    "rivals",
    "calibrate",
    "decide",
    "overlap",
    "report",
    "filing",
    "generate",
    "workflows",
    "study",
    "benchmark",
    "publish",
    "cli",
]
CONFIGS = sorted([*ROOT.glob("configs/**/*.json"), *ROOT.glob("bundles/*/configs/*.json")])


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("doppelscan."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("doppelscan.")}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_from_rooms_above(path):
    place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if place == "__init__":
        return
    allowed = ROOMS[: ROOMS.index(place) + 1]
    assert imported_rooms(path) <= set(allowed)


def test_one_version_everywhere():
    from doppelscan.version import __version__

    for folder in ("configs", "configs/generator"):
        assert json.loads((ROOT / folder / "metadata.json").read_text())["version"] == __version__
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_room_of_odds_and_ends():
    assert not [p for p in PACKAGE.rglob("*") if re.search(r"util|helper|common|^base|manager", p.stem)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_are_short_and_hold_no_logic(path):
    text = path.read_text()
    json.loads(text)
    assert len(text.splitlines()) < 200
    for expression in re.findall(r'"\$([^"]*)"', text):
        assert not re.search(r"\bfor\b|\blambda\b|__import__|;", expression), expression
        assert len(expression) < 110, expression


def test_no_file_is_too_large_and_no_weights_over_15_mb():
    for path in ROOT.rglob("*"):
        if path.is_file() and not {".venv", ".git", "audit"} & set(path.relative_to(ROOT).parts):
            assert path.stat().st_size < (15 if path.suffix in (".pt", ".ts", ".onnx", ".safetensors") else 25) * 1e6, path
