"""Groups: who hangs together by links and by names, and which links are left out because one wrong one would join many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from doppelscan.images import ImageRecord
from doppelscan.overlap.links import COPIES, RELATIONS, Link
from doppelscan.overlap.rules import OverlapRules

__all__ = ["KNOWN", "Group", "Grouping", "Joined", "Membership", "grouped"]

# Of images that only a name, a volume or a table says to be of one person.
KNOWN = "known"


@dataclass(frozen=True)
class Membership:
    """One image of a group.

    Attributes:
        row: of the pool.
        relation: the strongest that it has to another image of the group; ``known`` where a name or a volume alone says so.
        nearest: row of that image; -1 where only a name says so.
        link: the link to it, or None.
    """

    row: int
    relation: str
    nearest: int
    link: Link | None


@dataclass(frozen=True)
class Group:
    """Images of one person, or of one image, as far as was found or named.

    Attributes:
        number: counted from 1, in order of the first image.
        members: in order of their rows.
        names: known patients among them, in order.
        sets: numbers of the sets that they are of.
        relation: the strongest of all.
        found: a link is in it, not only names.
    """

    number: int
    members: tuple[Membership, ...]
    names: tuple[str, ...]
    sets: tuple[int, ...]
    relation: str

    @property
    def found(self) -> bool:
        """A link is in it, not only names."""
        return self.relation != KNOWN

    @property
    def rows(self) -> list[int]:
        """Of the pool."""
        return [one.row for one in self.members]


@dataclass(frozen=True)
class Grouping:
    """All groups of a pool.

    Attributes:
        groups: of at least two images.
        of_image: of each image the number of its group, 0 for one that is alone.
        links: all, those that do not join told.
        pictures: groups of rows that hold one picture under so many names that it joins nobody.
    """

    groups: tuple[Group, ...]
    of_image: tuple[int, ...]
    links: tuple[Link, ...]
    pictures: tuple[tuple[int, ...], ...]

    @property
    def doubtful(self) -> list[Link]:
        """Links that were not believed enough to join two people of many images."""
        return [one for one in self.links if not one.joins]


class Joined:
    """Sets of rows that are joined, and who is in each (union-find).

    Attributes:
        members: of the row that stands for a set, see :meth:`of`, all that are in it.
    """

    def __init__(self, count: int) -> None:
        self.root = list(range(count))
        self.members = [{i} for i in range(count)]

    def of(self, row: int) -> int:
        """The row that stands for all that are joined with ``row``."""
        while self.root[row] != row:
            self.root[row] = row = self.root[self.root[row]]
        return row

    def join(self, first: int, second: int) -> None:
        """Join what two rows are in."""
        kept, gone = sorted((self.of(first), self.of(second)), key=lambda r: -len(self.members[r]))
        if kept != gone:
            self.root[gone] = kept
            self.members[kept] |= self.members[gone]
            self.members[gone] = set()


def grouped(records: Sequence[ImageRecord], of_set: Sequence[int], links: Sequence[Link], rules: OverlapRules) -> Grouping:
    """Who hangs together.

    Names and volumes come first, then images that are the same, then pairs of one person, the surest first. Such a pair alone joins
    two groups of several images each only where it is sure; otherwise a second pair of other images has to say so, too.

    Args:
        records: of the pool.
        of_set: of each image its set; the same name in two sets is one name.
        links: between rows of the pool.
        rules: what joins.
    """
    copies = Joined(len(records))
    for link in links:
        if link.relation in COPIES:
            copies.join(link.first, link.second)
    pictures = _shared_pictures(records, copies, rules)
    nobody = {row for rows in pictures for row in rows}
    joined = Joined(len(records))
    _join_by_names(records, joined, nobody)
    ordered = sorted(links, key=lambda one: (*one.strength, one.first, one.second))
    kept: dict[int, Link] = {}
    waiting = []
    of_row: dict[int, list[Link]] = defaultdict(list)
    for i, one in enumerate(ordered):
        if one.relation in COPIES:
            joined.join(one.first, one.second)
            kept[i] = one
        elif not {one.first, one.second} & nobody:
            waiting.append(i)
            for row in (one.first, one.second):
                of_row[row].append(one)
    # A pair that waits for a second one may be joined when others have made the groups what they are.
    before = -1
    while len(waiting) != before:
        before = len(waiting)
        for i in waiting:
            if _may_join(ordered[i], of_row, joined, rules):
                joined.join(ordered[i].first, ordered[i].second)
                kept[i] = ordered[i]
        waiting = [i for i in waiting if i not in kept]
    told = [kept.get(i, replace(one, joins=False)) for i, one in enumerate(ordered)]
    return _named(records, of_set, told, joined, pictures)


def _shared_pictures(records: Sequence[ImageRecord], copies: Joined, rules: OverlapRules) -> tuple[tuple[int, ...], ...]:
    found = []
    for members in copies.members:
        names = {records[row].patient for row in members if records[row].patient_known}
        if len(names) > rules.shared_names:
            found.append(tuple(sorted(members)))
    return tuple(sorted(found))


def _join_by_names(records: Sequence[ImageRecord], joined: Joined, nobody: set[int]) -> None:
    first: dict[tuple[str, str], int] = {}
    for row, record in enumerate(records):
        if row in nobody:
            continue
        kinds = [("volume", record.volume), *([("name", record.patient)] if record.patient_known else [])]
        for kind in kinds:
            joined.join(first.setdefault(kind, row), row)


def _may_join(link: Link, of_row: Mapping[int, Sequence[Link]], joined: Joined, rules: OverlapRules) -> bool:
    """Whether a pair of one person may make two groups one: they are already, one is small, it is sure, or another pair says so, too."""
    one, other = joined.of(link.first), joined.of(link.second)
    small, large = sorted((one, other), key=lambda root: len(joined.members[root]))
    if one == other or len(joined.members[small]) < rules.large or link.fine >= rules.sure:
        return True
    ends = {link.first, link.second}
    return any(
        joined.of(second.first if second.second == row else second.second) == large and not ends & {second.first, second.second}
        for row in joined.members[small]
        for second in of_row.get(row, ())
    )


def _named(
    records: Sequence[ImageRecord],
    of_set: Sequence[int],
    links: Sequence[Link],
    joined: Joined,
    pictures: tuple[tuple[int, ...], ...],
) -> Grouping:
    """The groups of at least two images, numbered."""
    best: dict[int, Link] = {}
    for link in links:
        if link.joins:
            for row in (link.first, link.second):
                if row not in best or link.strength < best[row].strength:
                    best[row] = link
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in range(len(records)):
        rows_of[joined.of(row)].append(row)
    groups: list[Group] = []
    of_image = [0] * len(records)
    for rows in sorted((rows for rows in rows_of.values() if len(rows) > 1), key=lambda rows: rows[0]):
        members = tuple(_member(row, best.get(row)) for row in rows)
        order = [*RELATIONS, KNOWN]
        relation = min((one.relation for one in members), key=order.index)
        names = tuple(dict.fromkeys(records[row].patient for row in rows if records[row].patient_known))
        groups.append(Group(len(groups) + 1, members, names, tuple(sorted({of_set[row] for row in rows})), relation))
        for row in rows:
            of_image[row] = len(groups)
    return Grouping(tuple(groups), tuple(of_image), tuple(links), pictures)


def _member(row: int, link: Link | None) -> Membership:
    if link is None:
        return Membership(row, KNOWN, -1, None)
    return Membership(row, link.relation, link.second if link.first == row else link.first, link)
