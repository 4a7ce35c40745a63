"""Counted words, for pages, tables of words and terminals alike: the one place that knows when a noun takes its s."""

from __future__ import annotations

__all__ = ["counted", "noun_of"]


def noun_of(number: int, noun: str) -> str:
    """``noun`` as it follows ``number``: ``patient`` after 1, else ``patients``."""
    return noun if number == 1 else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """For example ``1 patient`` or ``2 patients``."""
    return f"{number} {noun_of(number, noun)}"
