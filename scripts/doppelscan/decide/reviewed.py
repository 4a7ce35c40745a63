"""What people decided of images after they had looked: read from a table, and counted beside the flags, which it does not change."""

from __future__ import annotations

import csv
import datetime
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from doppelscan.errors import InputError

__all__ = ["DECISIONS", "DECISION_COLUMNS", "DISPUTED", "ReviewCount", "ReviewedImages", "ReviewerSaid", "read_reviews"]

DECISION_COLUMNS = ("image", "decision", "comment", "reviewer", "date")
COPY, NOT_A_COPY, UNSURE = DECISIONS = ("copy", "not a copy", "unsure")
# Of an image of which two reviewers decided differently.
DISPUTED = "disputed"


@dataclass(frozen=True)
class ReviewerSaid:
    """A row of the table.

    Attributes:
        image: its id.
        decision: one of :data:`DECISIONS`.
        comment, reviewer: as given, or empty.
        date: YYYY-MM-DD, or empty.
    """

    image: str
    decision: str
    comment: str = ""
    reviewer: str = ""
    date: str = ""


@dataclass(frozen=True)
class ReviewCount:
    """How many images reviewers decided of, and how that agrees with the flags.

    Attributes:
        copy, not_a_copy, unsure, disputed: images by what was decided of them.
        flagged: images that are flagged, by decision; "open" where nobody decided.
        not_flagged: the others of which somebody decided, by decision.
        disagree: flagged images that are said to be no copy, and others that are said to be one.
        reviewers: how many there were.
    """

    copy: int
    not_a_copy: int
    unsure: int
    disputed: int
    flagged: Mapping[str, int]
    not_flagged: Mapping[str, int]
    disagree: int
    reviewers: int


@dataclass(frozen=True)
class ReviewedImages:
    """The decisions of all reviewers, in the order of their table."""

    said: tuple[ReviewerSaid, ...] = ()

    @cached_property
    def by_image(self) -> dict[str, str]:
        """Image -> what all who looked at it decided, or :data:`DISPUTED`."""
        found: dict[str, set[str]] = defaultdict(set)
        for one in self.said:
            found[one.image].add(one.decision)
        return {image: next(iter(told)) if len(told) == 1 else DISPUTED for image, told in found.items()}

    def count(self, findings: Mapping[str, str]) -> ReviewCount:
        """Count beside ``findings``: image -> kind of its finding, empty where it is not flagged."""
        told = self.by_image
        kinds = (*DECISIONS, DISPUTED)
        flagged = [told.get(image, "open") for image, finding in findings.items() if finding]
        others = [decision for image, decision in told.items() if not findings.get(image)]
        every = [*(one for one in flagged if one != "open"), *others]
        return ReviewCount(
            copy=every.count(COPY),
            not_a_copy=every.count(NOT_A_COPY),
            unsure=every.count(UNSURE),
            disputed=every.count(DISPUTED),
            flagged={kind: flagged.count(kind) for kind in (*kinds, "open")},
            not_flagged={kind: others.count(kind) for kind in kinds},
            disagree=flagged.count(NOT_A_COPY) + others.count(COPY),
            reviewers=len({one.reviewer for one in self.said}),
        )

    def removes(self, image: str, flagged: bool) -> bool:
        """Whether the image is to be taken out: it is flagged and nobody's decision lifts that, or reviewers call it a copy."""
        told = self.by_image.get(image)
        return told != NOT_A_COPY if flagged else told == COPY


def read_reviews(path: str | os.PathLike | None, images: Sequence[str]) -> ReviewedImages:
    """Read a CSV of decisions, as the page exports it; None gives none.

    Args:
        path: columns image, decision, comment, reviewer, date; the last three may be empty.
        images: the ids of the synthetic set. The name of a file is enough where only one has it.

    Raises:
        InputError: the column, the image or the decision that is wrong, with its line.
    """
    if path is None:
        return ReviewedImages()
    known, named = set(images), defaultdict(list)
    for image in images:
        named[os.path.basename(image)].append(image)
    found: dict[tuple[str, str], ReviewerSaid] = {}
    for line, row in _rows(Path(path)):
        values = {name: (row.get(name) or "").strip() for name in DECISION_COLUMNS}

        def refuse(what: str, todo: str, line: int = line) -> InputError:
            return InputError(
                f"The 'decisions' parameter must be a table of decisions on synthetic images. Got {what} in line {line} of {str(path)!r}; {todo}."
            )

        image = values["image"]
        if image not in known:
            if len(named[image]) != 1:
                what = "several folders have" if named[image] else "is not in the synthetic set"
                raise refuse(f"the image {image!r}, which {what}", "name it as scores.csv does")
            image = named[image][0]
        values["decision"] = " ".join(values["decision"].lower().split())
        if values["decision"] not in DECISIONS:
            raise refuse(f"the decision {values['decision']!r}", f"write {', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}")
        if values["date"] and not _is_date(values["date"]):
            raise refuse(f"the date {values['date']!r}", "write it as 2026-11-29")
        if (image, values["reviewer"]) in found:
            raise refuse(
                f"a second decision of {values['reviewer'] or 'an unnamed reviewer'} on {values['image']!r}", "keep one of them"
            )
        found[image, values["reviewer"]] = ReviewerSaid(**{**values, "image": image})
    return ReviewedImages(tuple(found.values()))


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in DECISION_COLUMNS if name not in (reader.fieldnames or ())]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"The 'decisions' parameter must be a .csv file in UTF-8. Got {str(path)!r}, which cannot be read; save it as CSV in UTF-8."
        ) from error
    if missing:
        raise InputError(
            f"The 'decisions' parameter must be a .csv with the columns {', '.join(DECISION_COLUMNS)}. Got {str(path)!r}, which has no {missing[0]!r}; add it."
        )
    return rows
