"""Names: those that files have, where they agree with what was found; one person under two names, an image under a wrong one, one name in two sets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from doppelscan.decide import Rules, UnnamedImages, names_of_files, same_people
from doppelscan.overlap.groups import Grouping
from doppelscan.overlap.links import Link, Pool
from doppelscan.overlap.search import SearchedPool
from doppelscan.wording import counted

__all__ = ["Disagreement", "NamedPeople", "compare_names", "with_names_of_files"]

TWO_NAMES, OTHER_NAME = "one person under two names?", "an image under another's name?"


@dataclass(frozen=True)
class Disagreement:
    """What names and images say differently.

    Attributes:
        kind: one person under two names, or an image that agrees with another patient's and with none of its own.
        row: the image; in the second case the one that may be misfiled.
        other: the other patient's image.
        link: the pair that says so.
    """

    kind: str
    row: int
    other: int
    link: Link


@dataclass(frozen=True)
class NamedPeople:
    """What names say of a pool.

    Attributes:
        named: images whose patient is named.
        in_both: patients that are named in both sets.
        borne_out: those of them whose images in both sets are linked.
        disagreements: see :class:`Disagreement`, the surest first, one for each two names.
    """

    named: int
    in_both: tuple[str, ...]
    borne_out: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]


def with_names_of_files(found: SearchedPool, rules: Rules) -> tuple[SearchedPool, list[str], bool]:
    """What was found, with the patients that the names of the files tell where nothing else does, what is said of them, and whether the names of two
    sets are of one list.

    Names are believed as in an audit: by a standard (BIDS), or where pairs and nearest images bear them out. ``p01`` of one set need not be ``p01`` of the other:
    it is where the images of the names that both sets have are nearest to each other.
    """
    pool = found.pool
    records = list(pool.images.records)
    confirmed = [(one.first, one.second) for one in found.links if one.relation != "part"]
    notes: list[str] = []
    told: list[dict[int, str]] = []  # of each set the names that files tell; what they do not match is a person of its own
    unnamed = []
    for number, name in enumerate(pool.names):
        rows = [i for i, of in enumerate(pool.of_set) if of == number and not records[i].patient_known]
        if rows:
            unnamed.append(UnnamedImages(name, rows, [records[i] for i in rows]))
    for images, (words, chosen) in zip(unnamed, names_of_files(unnamed, confirmed, found.beside, rules), strict=True):
        of = f" of {images.label}" if len(pool.names) > 1 else ""
        notes.append(f"Nobody named the patients of {counted(len(images.rows), pool.of)}{of}. {words}".strip())
        named = () if chosen is None else zip(images.rows, chosen.patients, strict=True)
        told.append({i: who for i, who in named if who != records[i].volume})
    both = set(told[0].values()) & set(told[1].values()) if len(told) == len(pool.names) == 2 else set()
    one_list = bool(both) and _of_one_list(found, told, both, rules)
    if both:
        notes.append(
            f"{len(both)} of these names {'is' if len(both) == 1 else 'are'} in both sets. "
            + (
                "By what was found they are the same people: they count as leaks."
                if one_list
                else "Nothing that was found shows them to be the same people. If both number their patients by one list, pass --patient-pattern: then they count as leaks."
            )
        )
    for images, names in zip(unnamed, told, strict=True):
        for i, who in names.items():
            label = who if len(pool.names) == 1 or one_list else f"{images.label} {who}"
            records[i] = replace(records[i], patient=label, patient_known=True)
    with_names = replace(pool, images=replace(pool.images, records=records))
    return replace(found, pool=with_names), notes, one_list


def _of_one_list(found: SearchedPool, told: list[dict[int, str]], both: set[str], rules: Rules) -> bool:
    first, second = told
    others = list(first)
    place = {row: i for i, row in enumerate(others)}
    shared = [row for row, who in second.items() if who in both]
    near = [place.get(found.nearest[row].row, -1) for row in shared]
    return same_people([second[row] for row in shared], near, list(first.values()), rules)


def compare_names(pool: Pool, grouping: Grouping) -> NamedPeople:
    """Hold the names of a pool against its links."""
    records = pool.images.records
    known = [record.patient if record.patient_known else None for record in records]
    sets_of: dict[str, set[int]] = {}
    for name, number in zip(known, pool.of_set, strict=True):
        if name is not None:
            sets_of.setdefault(name, set()).add(number)
    own: set[int] = set()  # images that are linked to another one of their own patient
    borne_out: set[str] = set()
    between: dict[frozenset[str], list[Link]] = {}
    for link in grouping.links:
        one, other = known[link.first], known[link.second]
        if one is None or other is None:
            continue
        if one == other:
            own |= {link.first, link.second}
            if pool.of_set[link.first] != pool.of_set[link.second]:
                borne_out.add(one)
        else:
            between.setdefault(frozenset((one, other)), []).append(link)
    several: set[str | None] = {name for name, count in Counter(known).items() if name is not None and count > 1}
    linked = {known[row] for row in own}
    told = [_disagreement(known, links, own, several & linked) for links in between.values()]
    in_both = sorted(name for name, sets in sets_of.items() if len(sets) > 1)
    return NamedPeople(
        sum(name is not None for name in known),
        tuple(in_both),
        tuple(sorted(borne_out)),
        tuple(sorted(told, key=lambda one: (*one.link.strength, one.link.first, one.link.second))),
    )


def _disagreement(known: list[str | None], links: list[Link], own: set[int], linked: set[str | None]) -> Disagreement:
    """Of two names: an image that alone agrees with the other patient, while the rest of its own are ``linked`` without it, may be misfiled."""
    best = min(links, key=lambda one: one.strength)
    for row, other in ((best.first, best.second), (best.second, best.first)):
        name = known[row]
        if name in linked and row not in own and all(row in (one.first, one.second) for one in links):
            return Disagreement(OTHER_NAME, row, other, best)
    return Disagreement(TWO_NAMES, best.first, best.second, best)
