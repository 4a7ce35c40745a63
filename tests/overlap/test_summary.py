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
    assert found.verdict == "leak found" and "1 of 20 images of b are images of a" in found.reason
    assert [one.rows for one in found.groups] == [[0, 1, 25, 26]] and found.sets[1].people == 2


def test_a_name_in_both_sets_is_a_leak_that_names_tell():
    pool = made_pool(["anna", *[None] * 29, "anna", *[None] * 9], [0] * 30 + [1] * 10)
    found = concluded("leak", pool, [])
    assert found.verdict == "leak found" and "1 more patient have the same name in both" in found.reason


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
