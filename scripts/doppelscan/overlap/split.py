"""A split that keeps people apart: images of one group, and of one named patient, fall into one part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold

from doppelscan.errors import InputError
from doppelscan.overlap.groups import Grouping, Joined
from doppelscan.overlap.links import Pool
from doppelscan.overlap.rules import OverlapRules
from doppelscan.wording import counted

__all__ = ["Split", "people_apart", "require_people", "split_people"]

# Pieces of about equal size that parts are made of: shares are met to a hundredth where people are many and small.
PIECES = 100
# Parts where nobody says how many.
FOLDS = 5


@dataclass(frozen=True)
class Split:
    """Which image falls into which part.

    Attributes:
        person: of each image a number, counted from 1.
        part: of each image its fold or part, counted from 0.
        images: number of images of each part.
        people: number of people of each part.
    """

    person: tuple[int, ...]
    part: tuple[int, ...]
    images: tuple[int, ...]
    people: tuple[int, ...]


def people_apart(pool: Pool, grouping: Grouping, rules: OverlapRules) -> list[int]:
    """Of each image the number of its person, counted from 1; an image in no group is a person of its own.

    Pairs that were doubted keep people together here, up to a share of all images: a split may be too careful, not too careless.
    """
    apart = Joined(len(pool))
    for group in grouping.groups:
        for row in group.rows:
            apart.join(group.rows[0], row)
    most = rules.suspected * len(pool)
    for link in sorted(grouping.doubtful, key=lambda one: one.strength):
        first, second = (apart.members[apart.of(row)] for row in (link.first, link.second))
        if len(first) + len(second) <= most:
            apart.join(link.first, link.second)
    number: dict[int, int] = {}
    return [number.setdefault(apart.of(row), len(number) + 1) for row in range(len(pool))]


def require_people(people: int, folds: int | None = None, parts: Sequence[float] | None = None) -> None:
    """Refuse a split into more parts than there are ``people``; parameters as of :func:`split_people`.

    Raises:
        InputError: there are fewer.
    """
    name, asked, count = "folds", str(folds or FOLDS), folds or FOLDS
    if parts is not None:
        name, asked, count = "parts", ",".join(f"{share:g}" for share in parts), len(parts)
    if people < count:
        raise InputError(
            f"The '{name}' parameter must ask for no more parts than there are people. Got {asked} for {counted(people, 'person')}; pass fewer --{name}."
        )


def split_people(person: Sequence[int], folds: int | None = None, parts: Sequence[float] | None = None) -> Split:
    """Split images by person, parts as near to their sizes as people allow (scikit-learn's ``GroupKFold``).

    Args:
        person: of each image.
        folds: number of parts of one size.
        parts: shares of the parts, which add up to 1; instead of ``folds``.

    Raises:
        InputError: there are fewer people than parts.
    """
    shares = np.full(folds or FOLDS, 1 / (folds or FOLDS)) if parts is None else np.asarray(parts, float)
    people = len(set(person))
    require_people(people, folds, parts)
    groups, rows = np.asarray(person), np.zeros((len(person), 1))
    count = len(shares) if parts is None else min(PIECES, people)
    piece = np.zeros(len(person), np.int64)
    for number, (_, held) in enumerate(GroupKFold(count).split(rows, groups=groups)):
        piece[held] = number
    part_of = np.arange(count) if parts is None else _parts_of_pieces(np.bincount(piece, minlength=count), shares)
    part = part_of[piece]
    images = np.bincount(part, minlength=len(shares))
    of_part = [len(set(groups[part == number].tolist())) for number in range(len(shares))]
    return Split(tuple(person), tuple(part.tolist()), tuple(images.tolist()), tuple(of_part))


def _parts_of_pieces(sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """The part of each piece: the largest first, each to the part that lacks most; no part stays empty."""
    lacks = shares * sizes.sum()
    part = np.zeros(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    for done, piece in enumerate(order):
        empty = np.flatnonzero(~np.isin(np.arange(len(shares)), part[order[:done]]))
        must = empty if len(empty) >= len(order) - done else np.arange(len(shares))
        part[piece] = must[np.argmax(lacks[must])]
        lacks[part[piece]] -= sizes[piece]
    return part
