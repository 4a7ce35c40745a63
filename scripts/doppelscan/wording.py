"""Counted words, for pages, tables of words and terminals alike: the one place that knows the plural of a noun."""

from __future__ import annotations

__all__ = ["counted", "noun_of"]

# Nouns that take more than an s.
PLURALS = {"person": "people", "copy": "copies"}


def noun_of(number: int, noun: str) -> str:
    """``noun`` as it follows ``number``: ``patient`` after 1, else ``patients``; of several words the last one counts."""
    if number == 1:
        return noun
    first, space, last = noun.rpartition(" ")
    return f"{first}{space}{PLURALS.get(last, f'{last}s')}"


def counted(number: int, noun: str) -> str:
    """For example ``1 patient`` or ``2 patients``."""
    return f"{number} {noun_of(number, noun)}"
