"""Which files can be removed so that each image is there once; nothing is ever removed here."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

from doppelscan.overlap.groups import Grouping
from doppelscan.overlap.links import COPIES, RELATIONS, Pool, Relation
from doppelscan.overlap.rules import OverlapRules

__all__ = ["Removal", "removable"]


@dataclass(frozen=True)
class Removal:
    """A file that holds nothing that another one does not hold.

    Attributes:
        path: of the file.
        relation: of the two: same image, or same image changed.
        kept: path of what stays.
    """

    path: str
    relation: Relation
    kept: str


def removable(pool: Pool, grouping: Grouping, rules: OverlapRules) -> list[Removal]:
    """Files all of whose images are in a file that stays; of two the larger one stays, and one with a named patient, then the first.

    A volume goes only where each of its slices that were looked at is in what stays.
    """
    copies: dict[int, dict[int, Relation]] = defaultdict(dict)
    for link in grouping.links:
        if link.relation in COPIES and link.fine >= rules.same_detail:
            copies[link.first][link.second] = copies[link.second][link.first] = link.relation
    records, shapes = pool.images.records, pool.images.native_shapes(range(len(pool)))
    units: dict[tuple[int, str], list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        units[pool.of_set[row], record.volume].append(row)
    order = sorted(
        units.values(), key=lambda rows: (-len(rows), -int(shapes[rows[0]].prod()), not records[rows[0]].patient_known, rows[0])
    )
    stays: set[int] = set()
    gone: list[tuple[int, Removal]] = []
    for rows in order:
        found = [_kept_copy(row, copies, stays) for row in rows]
        if all(one is not None for one in found):
            kept, relation = max((one for one in found if one is not None), key=lambda one: RELATIONS.index(one[1]))  # type: ignore[arg-type]
            gone += [(rows[0], Removal(path, relation, records[kept].paths[0])) for path in records[rows[0]].paths]
        else:
            stays.update(rows)
    # One file under two names in a table, or a link to what stays: to remove it would remove both.
    kept_files = {os.path.realpath(path) for row in stays for path in records[row].paths}
    listed = [one for one in gone if os.path.realpath(one[1].path) not in kept_files]
    return [one for _, one in sorted(listed, key=lambda pair: pair[0])]


def _kept_copy(row: int, copies: dict[int, dict[int, Relation]], stays: set[int]) -> tuple[int, Relation] | None:
    """The image that stays and is the same, reached over images that are the same, and the weakest relation on the way."""
    reached: dict[int, Relation] = {row: RELATIONS[0]}
    waiting = [row]
    while waiting:
        here = waiting.pop(0)
        for other, relation in copies.get(here, {}).items():
            if other not in reached:
                reached[other] = max(reached[here], relation, key=RELATIONS.index)
                if other in stays:
                    return other, reached[other]
                waiting.append(other)
    return None
