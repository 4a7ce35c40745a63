"""A table of what people decided of images after they had looked, row by row; what the rows amount to is told by who reads it."""

from __future__ import annotations

import csv
import datetime
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from doppelscan.errors import InputError

__all__ = ["DECISION_COLUMNS", "ReviewerSaid", "read_decision_rows"]

DECISION_COLUMNS = ("image", "decision", "comment", "reviewer", "date")


@dataclass(frozen=True)
class ReviewerSaid:
    """A row of the table.

    Attributes:
        image: its id.
        decision: in lower case.
        comment, reviewer: as given, or empty.
        date: YYYY-MM-DD, or empty.
    """

    image: str
    decision: str
    comment: str = ""
    reviewer: str = ""
    date: str = ""


def read_decision_rows(
    path: str | os.PathLike,
    images: Iterable[str],
    of: str,
    absent: str,
    mistaken: Callable[[str, str], tuple[str, str] | None],
) -> list[ReviewerSaid]:
    """The rows of a CSV of decisions, in its order.

    Args:
        path: columns image, decision, comment, reviewer, date; the last three may be empty.
        images: the ids that may be named. The name of a file is enough where only one has it.
        of: what they are, in an error.
        absent: what is said of an image that is none of them.
        mistaken: of a decision and its image as it is written: None, or what is wrong and what to do.

    Raises:
        InputError: a column is missing, an image or a decision is wrong, a reviewer decided twice of one image, or a date is none; with its line.
    """
    known, named = set(images), defaultdict(list)
    for image in known:
        named[os.path.basename(image)].append(image)
    found: dict[tuple[str, str], ReviewerSaid] = {}
    for line, row in _rows(Path(path)):

        def refuse(what: str, todo: str, line: int = line) -> InputError:
            return InputError(
                f"The 'decisions' parameter must be a table of decisions on {of}. Got {what} in line {line} of {str(path)!r}; {todo}."
            )

        values = {name: (row.get(name) or "").strip() for name in DECISION_COLUMNS}
        written = image = values["image"]
        if image not in known:
            same_name = named.get(image, [])
            if len(same_name) != 1:
                what = "several folders have" if same_name else absent
                raise refuse(f"the image {image!r}, which {what}", "name it as scores.csv does")
            image = same_name[0]
        values["decision"] = " ".join(values["decision"].lower().split())
        mistake = mistaken(values["decision"], written)
        if mistake is not None:
            raise refuse(*mistake)
        if values["date"] and not _is_date(values["date"]):
            raise refuse(f"the date {values['date']!r}", "write it as 2026-11-29")
        if (image, values["reviewer"]) in found:
            raise refuse(f"a second decision of {values['reviewer'] or 'an unnamed reviewer'} on {written!r}", "keep one of them")
        found[image, values["reviewer"]] = ReviewerSaid(**{**values, "image": image})
    return list(found.values())


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
