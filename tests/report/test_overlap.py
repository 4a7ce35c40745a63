"""What is written of groups: those that were asked for are counted from 1, in the order in which the page shows them."""

from __future__ import annotations

from doppelscan.overlap import OverlapRules, compare_names, conclude_overlap, grouped
from doppelscan.report.overlap import group_rows, pair_rows
from made_links import changed, copy, made_pool, person, searched

RULES = OverlapRules()


def overlap(links):
    pool = made_pool([None] * 8, [0, 0, 0, 0, 0, 1, 1, 1])
    grouping = grouped(pool.images.records, pool.of_set, links, RULES)
    return conclude_overlap("leak", searched(pool, links), grouping, compare_names(pool, grouping), [0, 0], RULES)


def test_groups_of_a_leak_are_counted_from_one_whatever_else_hangs_together_in_one_set():
    """Two images of the first set are the same and in no other: that is no leak, and takes no number."""
    made = overlap([copy(0, 1), person(2, 5, score=0.99), changed(3, 6)])
    numbers = {row["image"]: row["group"] for row in group_rows(made)}
    assert [one.number for one in made.groups] == [2, 3], "as they are found"
    assert numbers["3.png"] == numbers["6.png"] == "1", "copies first"
    assert numbers["2.png"] == numbers["5.png"] == "2"
    assert numbers["0.png"] == numbers["1.png"] == numbers["4.png"] == ""
    assert {row["image"]: row["group"] for row in pair_rows(made)} == {"3.png": "1", "2.png": "2"}
