"""What the page tells of each synthetic image, in its order: flagged, nearest of the others, all that is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

from doppelscan.decide import AuditedImage, Decision, ScoredImage, kept_from_flag
from doppelscan.report.tables import Row, risk

__all__ = ["Entries", "PageEntry", "entries_of", "short_names"]

# Of the images that are not flagged, the nearest so many are shown as the flagged ones are; more where nothing is flagged.
NEAREST, NEAREST_OF_NONE = 12, 20


@dataclass(frozen=True)
class PageEntry:
    """A synthetic image on the page.

    Attributes:
        number: its place on the page, from 1.
        image: what was decided of it.
        row: of scores.csv, with pseudonyms where the page is redacted.
        kept: what kept it from being flagged; empty where it is flagged.
        condition: what the generator was asked for, or empty.
        patient: whose the source is.
        second_patient: of a blend, whose the other source is; else empty.
    """

    number: int
    image: AuditedImage
    row: Row
    kept: str
    condition: str
    patient: str
    second_patient: str

    @property
    def flagged(self) -> bool:
        return self.image.finding is not None

    @property
    def pair(self) -> ScoredImage:
        """The image with the training image that is shown beside it: of a region, its source in place."""
        return self.image.scored.in_region if self.image.of_region else self.image.scored

    @property
    def source(self) -> str:
        """Name of the training image that is shown beside it."""
        return str(self.row["part_match" if self.image.of_region else "match"])

    @property
    def p_value(self) -> float:
        """Of what is told of it, see :attr:`~doppelscan.decide.AuditedImage.p_value`."""
        return self.image.p_value

    @property
    def q_value(self) -> float:
        """Likewise."""
        return self.image.q_value

    @property
    def why(self) -> str:
        """Why it is flagged, or what kept it from being flagged."""
        return str(self.row["reason"]) or self.kept


@dataclass(frozen=True)
class Entries:
    """All synthetic images.

    Attributes:
        every: in the order of :func:`~doppelscan.report.tables.risk`, as in scores.csv.
    """

    every: tuple[PageEntry, ...]

    @cached_property
    def flagged(self) -> tuple[PageEntry, ...]:
        return tuple(one for one in self.every if one.flagged)

    @cached_property
    def others(self) -> tuple[PageEntry, ...]:
        return self.every[len(self.flagged) :]

    @cached_property
    def nearest(self) -> tuple[PageEntry, ...]:
        """Near misses: what "not flagged" looks like."""
        return self.others[: NEAREST if self.flagged else NEAREST_OF_NONE]


def entries_of(decision: Decision, rows: Sequence[Row], pseudonym: Callable[[str], str] | None = None) -> Entries:
    """The entries of the page.

    Args:
        decision: the finished audit.
        rows: of scores.csv, in the order of the set, redacted where asked for.
        pseudonym: of a patient's name, of a redacted page, which leaves out the conditions too: nobody has checked their words for names.
    """
    images, named = decision.images, pseudonym or str

    return Entries(
        tuple(
            PageEntry(
                number,
                images[i],
                rows[i],
                kept_from_flag(images[i], decision),
                "" if pseudonym else images[i].record.condition,
                named(images[i].source.patient),
                "" if (second := images[i].second_match) is None else named(second.patient),
            )
            for number, i in enumerate(sorted(range(len(images)), key=lambda i: risk(rows[i])), 1)
        )
    )


def short_names(names: Iterable[str]) -> Mapping[str, str]:
    """Name -> the last part of its path, or the last two, where no other name has the same; else the name."""
    every = list(dict.fromkeys(names))
    result: dict[str, str] = {}
    for parts in (1, 2):
        ends = {name: "/".join(PurePath(name.replace("\\", "/")).parts[-parts:]) for name in every if name not in result}
        count = Counter(ends.values())
        result |= {name: end for name, end in ends.items() if count[end] == 1 and end}
    return {name: result.get(name, name) for name in every}
