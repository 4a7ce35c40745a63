"""Templates of the offline pages, which share the style of the report, and how they write counts and names of files."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from doppelscan.wording import control_of, counted, noun_of, of_whom, one_of

__all__ = ["file_name", "page_templates"]

PACKAGE = Path(__file__).parent
# The end of a name that no line is to break: .png, .nii.gz, and which slice it is.
EXTENSION = re.compile(r"(\.[A-Za-z0-9]{1,5}){1,2}(#[\w=,]{1,16})?$")


def file_name(name: object) -> Markup:
    """A name for a page, whose extension stays in one piece however narrow the page is."""
    text = str(name)
    found = EXTENSION.search(text)
    if found is None or found.start() == 0:
        return escape(text)
    return escape(text[: found.start()]) + Markup('<span class="ext">{}</span>').format(found[0])


def page_templates(*rooms: str) -> jinja2.Environment:
    """Templates of the report, with its style.css, and those of further ``rooms``, by their names; none of them is imported. All of them can count."""
    folders = [PACKAGE / room / "templates" for room in ("report", *rooms)]
    loader = jinja2.FileSystemLoader(folders)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"control_of": control_of, "counted": counted, "noun_of": noun_of, "of_whom": of_whom, "one_of": one_of}
    environment.filters["file_name"] = file_name
    return environment
