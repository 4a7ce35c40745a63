"""Formulas between ``$$`` become MathML when the site is built: a browser shows them without a script from anywhere."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

BLOCK = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.M | re.S)
INLINE = re.compile(r"\$`(.+?)`\$")


def on_page_markdown(markdown: str, **context) -> str:
    """MkDocs calls this with the text of each page."""
    markdown = BLOCK.sub(lambda m: convert(m[1], display="block"), markdown)
    # In a span: a line that begins with an element that Markdown does not know would be a paragraph of its own.
    return INLINE.sub(lambda m: f"<span>{convert(m[1])}</span>", markdown)
