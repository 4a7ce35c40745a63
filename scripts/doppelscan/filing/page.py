"""A document as one offline page that prints whole, with the record that it shows inside of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from doppelscan.filing.document import Document
from doppelscan.pages import page_templates

__all__ = ["render"]


def render(document: Document, record: Mapping[str, Any] | None = None) -> str:
    """The page as HTML text.

    Args:
        document: what it shows.
        record: plain dictionaries, kept in the page as JSON, so that a machine reads what a person reads.
    """
    template = page_templates("filing").get_template("filed.html")
    # Nothing in it may end the element, or begin a comment.
    kept = None if record is None else Markup(json.dumps(record).replace("<", "\\u003c").replace("&", "\\u0026"))
    return template.render(document=document, colour=document.colour, record=kept)
