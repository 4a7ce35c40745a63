"""The words: what was found, what was not, and what cannot be said."""

from __future__ import annotations

import pytest
from doppelscan.overlap import OverlapRules, compare_names, conclude_overlap, grouped
from made_links import copy, made_pool, person, searched

RULES = OverlapRules()


def concluded(command, pool, links, left_out=(0, 0), few=False):
    found = searched(pool, links, few)
    grouping = grouped(pool.images.records, pool.of_set, links, RULES)
    return conclude_overlap(command, found, grouping, compare_names(pool, grouping), left_out, RULES)


def test_a_copy_inside_of_one_set_is_no_leak():
    pool = made_pool([None] * 40, [0] * 20 + [1] * 20)
    assert concluded("leak", pool, [copy(1, 0)]).verdict == "no leak found"
    found = concluded("leak", pool, [copy(1, 0), copy(25, 0), person(26, 25)])
    assert found.verdict == "leak found" and "1 of 20 images of b is an image of a" in found.reason
    assert [one.rows for one in found.groups] == [[0, 1, 25, 26]] and found.sets[1].people == 2


def test_a_leak_is_told_once():
    """ "1 is an image of a; 1 is in 1 group that reaches into both" told of one image twice."""
    pool = made_pool([None] * 40, [0] * 20 + [1] * 20)
    assert concluded("leak", pool, [copy(25, 0)]).reason == "1 of 20 images of b is an image of a"
    both = concluded("leak", pool, [copy(25, 0), copy(26, 1), person(27, 2)])
    assert both.reason == "2 of 20 images of b are images of a; 1 more is of people of a"
    people = concluded("leak", pool, [person(27, 2), person(28, 3)])
    assert people.reason == "2 of 20 images of b are of people of a, none is an image of it"


def test_a_name_in_both_sets_is_a_leak_that_names_tell():
    pool = made_pool(["anna", *[None] * 29, "anna", *[None] * 9], [0] * 30 + [1] * 10)
    found = concluded("leak", pool, [])
    assert found.verdict == "leak found" and "1 more patient has the same name in both" in found.reason


@pytest.mark.parametrize(("links", "verdict"), [
    ([copy(1, 0)], "duplicates found"),
    ([person(1, 0)], "several images of one person"),
    ([], "no duplicates found"),
])  # fmt: skip
def test_duplicates(links, verdict):
    assert concluded("duplicates", made_pool([None] * 40), links).verdict == verdict


def test_named_people_with_several_images_are_no_news():
    pool = made_pool([f"p{i // 2}" for i in range(40)])
    assert concluded("duplicates", pool, [person(1, 0)]).verdict == "no duplicates found"
    assert concluded("duplicates", pool, [person(2, 0)]).verdict == "duplicates found", "one person under two names"


def test_nothing_is_not_nothing_where_little_was_looked_at():
    assert concluded("duplicates", made_pool([None] * 10), [], few=True).verdict == "cannot conclude"
    assert concluded("duplicates", made_pool([None] * 90), [], (10,)).verdict == "cannot conclude"
    assert concluded("duplicates", made_pool([None] * 10), [copy(1, 0)], few=True).verdict == "duplicates found"


def of_volumes(sets):
    """Two volumes of four slices, one in each half, among images of other people."""
    volumes = ["v"] * 4 + [f"w{i}" for i in range(14)] + ["u"] * 4 + [f"x{i}" for i in range(14)]
    return made_pool([None] * 36, sets, volumes)


def test_a_pair_that_was_doubted_is_not_no_leak():
    """It passes both thresholds, and joins nobody because it alone would join two people of several images."""
    pair, halves = person(1, 19), [0] * 18 + [1] * 18
    found = concluded("leak", of_volumes(halves), [pair])
    assert found.verdict == "cannot conclude" and not found.groups
    assert found.reason == "1 pair of the two sets looks like one person but was not joined; see pairs.csv"
    found = concluded("duplicates", of_volumes(None), [pair, person(1, 20, 0.87)])
    assert found.verdict == "cannot conclude" and found.reason.startswith("2 pairs look like one person but were not joined")
    within = concluded("leak", of_volumes([0] * 35 + [1]), [pair])
    assert within.verdict == "no leak found", "a doubt within one set says nothing of the other"


def test_one_person_under_two_names_in_two_sets_is_a_leak_as_it_is_a_duplicate():
    names = ["anna"] * 3 + [None] * 15 + ["bella"] * 3 + [None] * 15
    found = concluded("leak", made_pool(names, [0] * 18 + [1] * 18), [person(1, 19)])
    assert found.verdict == "leak found" and not found.groups
    assert "1 pair of patients of two names, one of each set, looks like one person" in found.reason
    assert concluded("duplicates", made_pool(names), [person(1, 19)]).verdict == "duplicates found"
    within = concluded("leak", made_pool(names, [0] * 35 + [1]), [person(1, 19)])
    assert within.verdict == "no leak found", "two names within one set are no leak"
