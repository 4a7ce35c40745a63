"""Templates of the offline pages, which share the style of the report."""

from __future__ import annotations

from pathlib import Path

import jinja2

from doppelscan.wording import counted, noun_of

__all__ = ["page_templates"]

PACKAGE = Path(__file__).parent


def page_templates(*rooms: str) -> jinja2.Environment:
    """Templates of the report, with its style.css, and those of further ``rooms``, by their names; none of them is imported. All of them can count."""
    folders = [PACKAGE / room / "templates" for room in ("report", *rooms)]
    loader = jinja2.FileSystemLoader(folders)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"counted": counted, "noun_of": noun_of}
    return environment
