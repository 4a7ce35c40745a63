"""A split keeps people apart, whatever their sizes; files that can go are only listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.overlap import OverlapRules, grouped, people_apart, removable, split_people
from made_links import changed, copy, made_pool, person


def grouping(pool, links):
    return grouped(pool.images.records, pool.of_set, links, OverlapRules())


def test_no_person_is_in_two_parts_and_shares_are_met():
    person_of = np.repeat(np.arange(200), np.random.default_rng(0).integers(1, 9, 200)).tolist()
    for folds, parts in ((5, None), (None, (0.8, 0.1, 0.1)), (None, (0.5, 0.5))):
        split = split_people(person_of, folds, parts)
        part_of: dict[int, set[int]] = {}
        for who, part in zip(person_of, split.part, strict=True):
            part_of.setdefault(who, set()).add(part)
        assert all(len(one) == 1 for one in part_of.values())
        shares = np.array(split.images) / len(person_of)
        assert np.abs(shares - (parts or [0.2] * 5)).max() < 0.02 and sum(split.people) == 200


def test_few_people_leave_no_part_empty():
    split = split_people([1] * 50 + [2, 3], None, (0.8, 0.1, 0.1))
    assert sorted(split.people) == [1, 1, 1]


def test_more_parts_than_people_is_refused_in_one_line():
    with pytest.raises(
        InputError, match=r"'folds' parameter must ask for no more parts than there are people\. Got 5 for 2 people"
    ):
        split_people([1, 1, 2], 5)
    with pytest.raises(InputError, match=r"Got 0\.5,0\.5 for 1 person"):
        split_people([1, 1], None, (0.5, 0.5))


def test_pairs_that_are_doubted_stay_together_in_a_split():
    inside = [person(a, a + 1, 0.95) for a in (0, 1, 3, 4)]
    pool = made_pool([None] * 120)
    assert people_apart(pool, grouping(pool, [*inside, person(2, 3, 0.87)]), OverlapRules())[:7] == [1, 1, 1, 1, 1, 1, 2]


def test_many_pairs_that_are_doubted_leave_something_to_split():
    """A ring of wrong pairs between a hundred people of three images."""
    inside = [person(3 * p + i, 3 * p + i + 1, 0.95) for p in range(100) for i in range(2)]
    wrong = [person(3 * p, (3 * p + 4) % 300, 0.865) for p in range(100)]
    pool = made_pool([None] * 300)
    people = people_apart(pool, grouping(pool, [*inside, *wrong]), OverlapRules())
    assert max(Counter(people).values()) <= 15 and len(split_people(people, 5).images) == 5


def test_a_file_that_a_table_names_twice_is_not_to_be_removed(tmp_path):
    """Nor is one to which what stays is a link."""
    pool = made_pool(["anna", "ben", None])
    first = pool.images.records[0]
    pool.images.records[1] = replace(first, patient="ben")
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    assert removable(pool, grouping(pool, [copy(1, 0)]), OverlapRules()) == []
    paths = [str(tmp_path / name) for name in ("link.png", "a.png")]
    linked = made_pool([None, None])
    linked.images.records[:] = [replace(r, paths=(p,)) for r, p in zip(linked.images.records, paths, strict=True)]
    assert removable(linked, grouping(linked, [copy(1, 0)]), OverlapRules()) == []


def test_of_three_copies_two_can_go_and_a_named_one_stays():
    pool = made_pool([None, "anna", None, None])
    gone = removable(pool, grouping(pool, [copy(1, 0), changed(2, 1)]), OverlapRules())
    assert [(one.path, one.relation, one.kept) for one in gone] == [
        ("0.png", "same image", "1.png"), ("2.png", "same image changed", "1.png"),
    ]  # fmt: skip


def test_a_volume_stays_when_one_of_its_slices_is_in_no_other():
    pool = made_pool([None] * 5, volumes=["v0", "v0", "v1", "v1", "v1"])
    made = grouping(pool, [copy(2, 0), copy(3, 1)])
    assert [one.path for one in removable(pool, made, OverlapRules())] == ["v0"], "all of it is in v1, which has a slice more"


def test_other_slices_of_one_person_are_not_to_be_removed():
    pool = made_pool([None] * 3)
    blurred = replace(changed(2, 0), fine=0.9)
    assert removable(pool, grouping(pool, [person(0, 1), person(1, 2), blurred]), OverlapRules()) == [], (
        "a blurred one may be a neighbour"
    )
