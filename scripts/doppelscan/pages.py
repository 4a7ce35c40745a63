"""Templates of the offline pages, which share the style of the report."""

from __future__ import annotations

from pathlib import Path

import jinja2

__all__ = ["page_templates"]

PACKAGE = Path(__file__).parent


def page_templates(*rooms: str) -> jinja2.Environment:
    """Templates of the report, with its style.css, and those of further ``rooms``, by their names; none of them is imported."""
    folders = [PACKAGE / room / "templates" for room in ("report", *rooms)]
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folders), autoescape=True, trim_blocks=True, lstrip_blocks=True)
