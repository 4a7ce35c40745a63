"""Links: two real images that are the same, the same but changed, or of one person, as search and registration found them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from doppelscan.decide import PersonPair, Rules
from doppelscan.images import unit_of
from doppelscan.overlap.rules import OverlapRules
from doppelscan.search import EmbeddedSet
from doppelscan.verify import IdenticalImage, Pose, VolumePose

__all__ = ["COPIES", "RELATIONS", "Link", "Pool", "Relation", "identical_link", "link_of", "part_link"]

Relation = Literal["same image", "same image changed", "same person", "part"]
RELATIONS: tuple[Relation, ...] = ("same image", "same image changed", "same person", "part")
# Relations of two files that hold one image.
COPIES = RELATIONS[:2]


@dataclass(frozen=True)
class Pool:
    """The images of one set, or of two, as one.

    Attributes:
        images: as they are searched, turned by a few degrees too.
        posed: the same in all flip-and-turn poses, as they are looked for.
        names: of the sets.
        of_set: of each image the number of its set in ``names``.
    """

    images: EmbeddedSet
    posed: EmbeddedSet
    names: tuple[str, ...]
    of_set: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def of(self) -> str:
        """What it holds: image, or volume."""
        return unit_of(self.images.records)


@dataclass(frozen=True)
class Link:
    """Two images of a :class:`Pool`.

    Attributes:
        first, second: their rows.
        relation: what they are to each other.
        score: verified score of the registered pair, of the same pixels their correlation, of a part its agreement.
        pose: what maps the second on the first.
        explained: share of the structure of the first that the second explains; 1 for the same pixels, of a part how much of the first it is.
        fine: share of the fine structure alone; 1 for the same pixels, 0 for a part, which alone joins no two people of many images.
        joins: it makes them one group; False where one pair alone would join two people of many images.
    """

    first: int
    second: int
    relation: Relation
    score: float
    pose: Pose | VolumePose
    explained: float = 1.0
    fine: float = 1.0
    joins: bool = True

    @property
    def strength(self) -> tuple[int, float, float]:
        """Sorts the strongest evidence first."""
        return RELATIONS.index(self.relation), -self.fine, -self.score


def identical_link(row: int, same: IdenticalImage) -> Link:
    """Of the image ``row`` and an earlier one of the same pixels."""
    return Link(row, same.row, "same image", same.correlation, same.mapped)


def link_of(pair: PersonPair, rules: Rules, own: OverlapRules) -> Link | None:
    """What a registered pair says, or None where it says nothing."""
    if pair.score < rules.close_pair:
        return None
    explained = 0.0 if pair.coarse else pair.explained
    if not pair.confirmed and explained < rules.explained and pair.score < own.certain:
        return None
    relation: Relation = "same image changed" if own.is_changed(explained, pair.fine) else "same person"
    return Link(pair.first, pair.second, relation, pair.score, pair.pose, pair.explained, pair.fine)


def part_link(row: int, region: tuple[float, int, float, bool], rules: Rules) -> Link | None:
    """Of the image ``row`` and the one that its best region agrees with, see :func:`~doppelscan.decide.best_region`; None where it says nothing."""
    agreement, other, share, mirrored = region
    if other < 0 or agreement < rules.shared_part or share < rules.beyond_share:
        return None
    return Link(row, other, "part", agreement, Pose(mirrored), share, 0.0)
