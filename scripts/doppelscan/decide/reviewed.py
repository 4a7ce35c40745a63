"""What people decided of images after they had looked: read from a table, and counted beside the flags, which it does not change."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from doppelscan.reviewers import ReviewerSaid, read_decision_rows

__all__ = ["DECISIONS", "DISPUTED", "ReviewCount", "ReviewedImages", "read_reviews"]

COPY, NOT_A_COPY, UNSURE = DECISIONS = ("copy", "not a copy", "unsure")
# Of an image of which two reviewers decided differently.
DISPUTED = "disputed"


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

    def mistaken(decision: str, image: str) -> tuple[str, str] | None:
        if decision in DECISIONS:
            return None
        return f"the decision {decision!r}", f"write {', '.join(DECISIONS[:-1])} or {DECISIONS[-1]}"

    return ReviewedImages(tuple(read_decision_rows(path, images, "synthetic images", "is not in the synthetic set", mistaken)))
