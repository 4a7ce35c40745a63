"""What reviewers decided of images: a table that is counted beside what the statistics say of the same images."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from doppelscan.errors import InputError
from doppelscan.filing.audits import FinishedAudit
from doppelscan.filing.details import named_in
from doppelscan.reviewers import read_decision_rows

__all__ = ["DecisionCount", "Review", "ReviewerDecision", "counted_review", "read_decisions"]


@dataclass(frozen=True)
class ReviewerDecision:
    """A row of the table.

    Attributes:
        image: as scores.csv names it.
        decision: one or a few words, such as memorized, not memorized or unclear.
        comment, reviewer: as given, or empty.
        date: YYYY-MM-DD, or empty.
        finding: what the audit says of the image; empty where it is not flagged.
    """

    image: str
    decision: str
    comment: str
    reviewer: str
    date: str
    finding: str


@dataclass(frozen=True)
class DecisionCount:
    """How many decisions of one kind there are, on images that the audit flagged and on others."""

    decision: str
    flagged: int
    not_flagged: int


@dataclass(frozen=True)
class Review:
    """The decisions and what they amount to.

    Attributes:
        decisions: in the order of the table; none where only the audit's counts are known.
        counts: by decision, most frequent first.
        images: how many were looked at.
        flagged, flagged_seen: flagged images of the audit, and how many of them were looked at.
        disputed: images of which reviewers decided differently.
    """

    decisions: tuple[ReviewerDecision, ...]
    counts: tuple[DecisionCount, ...]
    images: int
    flagged: int
    flagged_seen: int
    disputed: int

    def require_unnamed(self, names: Collection[str]) -> None:
        """Refuse decisions and reviewers that name an image or a patient of the audit, which a redacted dossier must not; comments are left out of it.

        Raises:
            InputError: the word, and its image's row.
        """
        for one in self.decisions:
            told = named_in(f"{one.decision} {one.reviewer}", names)
            if told is not None:
                raise InputError(
                    f"The 'decisions' parameter must not name images or patients beside the column image in a redacted dossier. Got {told!r}; write it into "
                    "the comment, which is left out, or pass --redact False."
                )


def read_decisions(path: str | os.PathLike | None, audit: FinishedAudit) -> Review | None:
    """Read a CSV of reviewers' decisions on images of ``audit``; None gives None.

    Args:
        path: columns image, decision, comment, reviewer, date; the last three may be empty. ``image`` as in scores.csv, or the name of its file where
            only one has it.
        audit: whose images they are.

    Raises:
        InputError: a column is missing, an image is not in the audit, a reviewer decided twice of one image, or a date is none; with its line.
    """
    if path is None:
        return None
    finding = {row["image"]: row["finding"] for row in audit.scores}

    def mistaken(decision: str, image: str) -> tuple[str, str] | None:
        return None if decision else (f"no decision on {image!r}", "write one, such as memorized, not memorized or unclear")

    said = read_decision_rows(path, finding, "images of the audit", "is not there", mistaken)
    found = [ReviewerDecision(**vars(one), finding=finding[one.image]) for one in said]
    return _review(found, audit)


def counted_review(audit: FinishedAudit) -> Review | None:
    """What the audit itself counted of the decisions that it was given; None where it was given none."""
    told = audit.summary.get("decisions")
    if told is None:
        return None
    flagged, others = (
        {kind: int(number) for kind, number in told[name].items() if kind != "open"} for name in ("flagged", "not_flagged")
    )
    counts = [DecisionCount(kind, flagged.get(kind, 0), others.get(kind, 0)) for kind in dict.fromkeys((*flagged, *others))]
    seen = sum(flagged.values())
    return Review(
        (),
        tuple(
            sorted(
                (one for one in counts if one.flagged or one.not_flagged),
                key=lambda one: (-one.flagged - one.not_flagged, one.decision),
            )
        ),
        seen + sum(others.values()),
        len(audit.flagged),
        seen,
        int(told["disputed"]),
    )


def _review(found: Sequence[ReviewerDecision], audit: FinishedAudit) -> Review:
    of_image: dict[str, set[str]] = defaultdict(set)
    for one in found:
        of_image[one.image].add(one.decision)
    counts = Counter(one.decision for one in found)
    return Review(
        tuple(found),
        tuple(
            DecisionCount(
                decision,
                sum(one.decision == decision and bool(one.finding) for one in found),
                sum(one.decision == decision and not one.finding for one in found),
            )
            for decision, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ),
        len(of_image),
        len(audit.flagged),
        sum(row["image"] in of_image for row in audit.flagged),
        sum(len(decisions) > 1 for decisions in of_image.values()),
    )
