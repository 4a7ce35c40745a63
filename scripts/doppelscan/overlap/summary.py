"""What was concluded of two sets or of one, as one record: the words, the numbers, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from doppelscan.decide import LeftOut
from doppelscan.images import ImageRecord
from doppelscan.overlap.groups import KNOWN, Group, Grouping
from doppelscan.overlap.links import COPIES, RELATIONS, Link, Pool
from doppelscan.overlap.names import Disagreement, NamedPeople
from doppelscan.overlap.rules import OverlapRules
from doppelscan.overlap.search import SearchedPool
from doppelscan.wording import counted, one_of

__all__ = ["FOUND", "NOTHING", "PEOPLE", "UNSURE", "Overlap", "OverlapSummary", "SetCounts", "conclude_overlap"]

UNSURE = "cannot conclude"
FOUND = {"leak": "leak found", "duplicates": "duplicates found"}
# No image twice, but images of one person that no name told: a finding of its own, which a split has to know of.
PEOPLE = "several images of one person"
NOTHING = {"leak": "no leak found", "duplicates": "no duplicates found"}


@dataclass(frozen=True)
class SetCounts:
    """Numbers of one set.

    Attributes:
        name: of the set.
        images: that were read.
        left_out: that could not be.
        named: whose patient is named.
        copies: that hold an image which is elsewhere too: of two sets, in the other one.
        people: in groups that were found: of two sets, that reach into the other one.
    """

    name: str
    images: int
    left_out: int
    named: int
    copies: int
    people: int


@dataclass(frozen=True)
class Overlap:
    """What was found and what it means.

    Attributes:
        command: leak or duplicates.
        found: what was searched.
        grouping: all groups; of two sets those within one of them, too.
        names: names against it.
        sets: numbers of each set.
        verdict: the words.
        reason: why, in one line.
    """

    command: str
    found: SearchedPool
    grouping: Grouping
    names: NamedPeople
    sets: tuple[SetCounts, ...]
    verdict: str
    reason: str

    @property
    def groups(self) -> list[Group]:
        """That the command asks for: of two sets, those that reach into both."""
        return [one for one in self.grouping.groups if self.command != "leak" or len(one.sets) > 1]

    @property
    def links(self) -> list[Link]:
        """Of these groups, and those that were doubted between what the command asks for."""
        asked = {one.number for one in self.groups}
        of_image = self.grouping.of_image
        return [
            one
            for one in self.grouping.links
            if of_image[one.first] in asked
            or of_image[one.second] in asked
            or self.command != "leak"
            or _crosses(one, self.found.pool)
        ]

    @property
    def surest(self) -> Link | None:
        """The pair that shows best what was found: of two sets one between them, of one set copies, or people whom no name or volume told."""
        if self.verdict not in (*FOUND.values(), PEOPLE):
            return None
        pool, records = self.found.pool, self.found.pool.images.records

        def shows(one: Link) -> bool:
            if self.command == "leak":
                return _crosses(one, pool)
            return one.relation in COPIES or _who(records[one.first]) != _who(records[one.second])

        asked = [one for one in self.links if one.joins and shows(one)]
        return min(asked, key=lambda one: (*one.strength, one.first, one.second), default=None)

    @property
    def unlinked(self) -> list[tuple[int, int, float]]:
        """The nearest pairs that say nothing: two rows and their score, the highest first, without those of one name or volume."""
        records = self.found.pool.images.records
        linked = {frozenset((one.first, one.second)) for one in self.grouping.links}
        found: dict[frozenset[int], tuple[int, int, float]] = {}
        for row, near in enumerate(self.found.nearest):
            pair = frozenset((row, near.row))
            if near.row >= 0 and pair not in linked and _who(records[row]) != _who(records[near.row]):
                found.setdefault(pair, (row, near.row, near.score))
        return sorted(found.values(), key=lambda one: (-one[2], one[0]))


def _who(record: ImageRecord) -> str:
    """The patient as far as it is named, else the volume."""
    return record.patient if record.patient_known else record.volume


@dataclass(frozen=True)
class OverlapSummary:
    """What summary.json holds; docs/leaks.md says what the numbers mean, ``of`` what is counted: image or volume.

    ``strongest`` is the surest pair of what was asked for: image, set, match, match_set, relation, score and pose, as in pairs.csv; of two sets the
    image is of the second. None where nothing was found, or where nobody is to be named.
    """

    command: str
    of: str
    conclusion: str
    reason: str
    sets: Sequence[SetCounts]
    groups: Mapping[str, int]
    largest_group: int
    pairs: Mapping[str, int]
    doubted_pairs: int
    registered_pairs: int
    highest_unlinked: float | None
    strongest: Mapping[str, object] | None
    names_in_both: int
    names_borne_out: int
    disagreements: Sequence[Mapping[str, object]]
    notes: Sequence[str]
    split: Mapping[str, object] | None
    removable: int | None
    skipped: Sequence[LeftOut]
    settings: Mapping[str, object]
    rules: Mapping[str, object]
    weights_sha256: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """Plain dictionaries and lists, in the order of the file."""
        return asdict(self)


def conclude_overlap(
    command: str, found: SearchedPool, grouping: Grouping, names: NamedPeople, left_out: Sequence[int], own: OverlapRules
) -> Overlap:
    """Count what was found, and say what it means.

    Args:
        command: leak or duplicates.
        found: what was searched.
        grouping: its groups.
        names: names against them; of two sets a disagreement within one of them is no leak.
        left_out: of each set the number of images that could not be read.
        own: when nothing can be concluded.
    """
    pool = found.pool
    doubted = [one for one in grouping.doubtful if command != "leak" or _crosses(one, pool)]
    disagreements = [one for one in names.disagreements if command != "leak" or _crosses(one.link, pool)]
    asked = [one for one in grouping.groups if command != "leak" or len(one.sets) > 1]
    news = [one for one in asked if one.found and (command == "leak" or _is_news(one, pool.images.records))]
    crossing = [one for one in grouping.links if one.relation in COPIES and (command != "leak" or _crosses(one, pool))]
    copied = {row for one in crossing for row in (one.first, one.second)}
    inside = {row for one in news for row in one.rows}
    records = pool.images.records
    sets = tuple(
        SetCounts(
            name,
            pool.of_set.count(number),
            left_out[number],
            sum(r.patient_known for r, s in zip(records, pool.of_set, strict=True) if s == number),
            sum(pool.of_set[row] == number for row in copied),
            sum(pool.of_set[row] == number for row in inside),
        )
        for number, name in enumerate(pool.names)
    )
    known = [one for one in asked if command == "leak" and one.relation == KNOWN]
    if copied or news or known or disagreements:
        twice = command == "leak" or copied or disagreements
        verdict, reason = FOUND[command] if twice else PEOPLE, _found_words(command, sets, news, known, disagreements, pool.of)
    else:
        unsure = _why_unsure(found, sets, doubted, own)
        verdict = NOTHING[command] if unsure is None else UNSURE
        reason = unsure or _nothing_words(command, sets, pool.of)
    return Overlap(command, found, grouping, names, sets, verdict, reason)


def _crosses(link: Link, pool: Pool) -> bool:
    """Whether a link is between two sets."""
    return pool.of_set[link.first] != pool.of_set[link.second]


def _is_news(group: Group, records: Sequence[ImageRecord]) -> bool:
    """Whether a group says more than names and volumes do: copies, or images that nothing else holds together."""
    if group.relation in COPIES:
        return True
    return len({_who(records[row]) for row in group.rows}) > 1


def _found_words(
    command: str,
    sets: Sequence[SetCounts],
    news: Sequence[Group],
    known: Sequence[Group],
    disagreements: Sequence[Disagreement],
    of: str,
) -> str:
    people = sum(one.relation not in COPIES for one in news)
    told = []
    if command == "leak":
        first, second = sets
        images, copies = counted(second.images, of), second.copies
        # What is a copy is of the person, too: that is said once.
        others = max(0, second.people - copies)
        if copies:
            what = f"is {one_of(of)}" if copies == 1 else f"are {of}s"
            told.append(f"{copies} of {images} of {second.name} {what} of {first.name}")
            told += [f"{others} more {'is' if others == 1 else 'are'} of people of {first.name}"] if others else []
        elif others:
            told.append(
                f"{others} of {images} of {second.name} {'is' if others == 1 else 'are'} of people of {first.name}, none is {one_of(of)} of it"
            )
        else:
            told.append(f"none of {images} of {second.name} is {one_of(of)} of {first.name}")
        if known:
            told.append(f"{counted(len(known), 'more patient')} {'has' if len(known) == 1 else 'have'} the same name in both")
        # Of those that are joined the groups speak.
        apart = sum(not one.link.joins for one in disagreements)
        if apart:
            told.append(
                f"{counted(apart, 'pair')} of patients of two names, one of each set, {'looks' if apart == 1 else 'look'} like one person"
            )
    else:
        (only,) = sets
        told.append(
            f"{only.copies or 'none'} of {counted(only.images, of)} {'is' if (only.copies or 1) == 1 else 'are'} there more than once"
        )
        if people:
            told.append(
                f"{counted(people, 'group')} of different {of}s {'is' if people == 1 else 'are'} of one person each, though nothing names them so"
            )
        if disagreements:
            told.append(f"{counted(len(disagreements), 'pair')} of patients' names disagree with the {of}s")
    return "; ".join(told)


def _nothing_words(command: str, sets: Sequence[SetCounts], of: str) -> str:
    count = counted(sum(one.images for one in sets), of)
    where = f"no {of} and no person of one set was found in the other" if command == "leak" else f"no {of} was found twice"
    seen = "slices and visits" if of == "image" else "visits"
    return f"among {count} {where}; {seen} of one person that look different are not found this way"


def _why_unsure(found: SearchedPool, sets: Sequence[SetCounts], doubted: Sequence[Link], own: OverlapRules) -> str | None:
    images, left_out, of = sum(one.images for one in sets), sum(one.left_out for one in sets), found.pool.of
    if doubted:
        where, one = " of the two sets" if len(sets) > 1 else "", len(doubted) == 1
        return f"{counted(len(doubted), 'pair')}{where} {'looks' if one else 'look'} like one person but {'was' if one else 'were'} not joined; see pairs.csv"
    if found.few:
        return (
            f"{counted(images, of)} are too few to learn what strangers share (at least {own.fewest}): only {of}s of the same pixels, or changed "
            "a little, would have been found"
        )
    if left_out > own.left_out * (images + left_out):
        return f"{counted(left_out, of)} of {images + left_out} could not be read, and what is in them was not looked at"
    return None


def counted_relations(links: Sequence[Link]) -> dict[str, int]:
    """Relation -> number of links."""
    return {name: sum(one.relation == name for one in links) for name in RELATIONS}
