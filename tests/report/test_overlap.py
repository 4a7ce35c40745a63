"""What is written of groups: those that were asked for are counted from 1, in the order in which the page shows them."""

from __future__ import annotations

import re
from dataclasses import replace

from doppelscan.overlap import OverlapRules, compare_names, conclude_overlap, grouped
from doppelscan.report.overlap import group_rows, pair_rows, relation_words, strongest_pair, surest_words, write_overlap
from doppelscan.verify import Pose
from made_links import changed, copy, made_overlap_summary, made_pool, person, searched

RULES = OverlapRules()


def overlap(links, pool=None):
    command = "leak" if pool is None else "duplicates"
    pool = pool or made_pool([None] * 8, [0, 0, 0, 0, 0, 1, 1, 1])
    grouping = grouped(pool.images.records, pool.of_set, links, RULES)
    return conclude_overlap(command, searched(pool, links), grouping, compare_names(pool, grouping), [0] * len(pool.names), RULES)


def test_groups_of_a_leak_are_counted_from_one_whatever_else_hangs_together_in_one_set():
    """Two images of the first set are the same and in no other: that is no leak, and takes no number."""
    made = overlap([copy(0, 1), person(2, 5, score=0.99), changed(3, 6)])
    numbers = {row["image"]: row["group"] for row in group_rows(made)}
    assert [one.number for one in made.groups] == [2, 3], "as they are found"
    assert numbers["3.png"] == numbers["6.png"] == "1", "copies first"
    assert numbers["2.png"] == numbers["5.png"] == "2"
    assert numbers["0.png"] == numbers["1.png"] == numbers["4.png"] == ""
    assert {row["image"]: row["group"] for row in pair_rows(made)} == {"3.png": "1", "2.png": "2"}


def test_the_surest_pair_is_told_with_its_files_and_its_pose_in_words():
    """A headline named no file and no pose."""
    mirrored = replace(copy(6, 0), pose=Pose(True, 1))
    made = overlap([person(2, 5), mirrored, copy(0, 1)])
    pair = strongest_pair(made)
    assert pair is not None and (pair["image"], pair["set"], pair["match"], pair["match_set"]) == ("6.png", "b", "0.png", "a"), (
        "not that of one set alone"
    )
    assert surest_words(pair, "image") == "the surest pair: 6.png is 0.png, mirrored left to right, turned by 90° counter-clockwise"
    turned = strongest_pair(overlap([replace(copy(0, 6), pose=Pose(False, 1))]))
    assert turned is not None and turned["image"] == "6.png" and turned["pose"] == "turn 270", (
        "what maps the other way turns the other way"
    )
    assert "6.png is 3.png changed, in place, as it is" in surest_words(strongest_pair(overlap([changed(3, 6)])), "image")
    assert "5.png and 2.png look like one person (score 0.90; 2.png in place, as it is)" in surest_words(
        strongest_pair(overlap([person(2, 5)])), "image"
    )
    assert strongest_pair(overlap([copy(0, 1)])) is None and surest_words(None, "image") == ""


def test_what_names_already_told_is_no_surest_pair_beside_nothing_found():
    """Two slices of one named patient stood beside "no duplicates found"."""
    pool = made_pool(["anna", "anna", None, None])
    known = overlap([person(0, 1)], pool)
    assert known.verdict == "no duplicates found" and strongest_pair(known) is None
    found = overlap([person(0, 1, score=0.99), copy(2, 3)], pool)
    assert found.verdict == "duplicates found" and strongest_pair(found)["relation"] == "same image"


def test_a_page_says_poses_and_relations_in_words(tmp_path):
    """Under a picture stood flip-x, and volumes were the same image."""
    made = overlap([replace(copy(6, 0), pose=Pose(True)), changed(3, 7)])
    for of in ("image", "volume"):
        (tmp_path / of).mkdir()
        summary = replace(
            made_overlap_summary(made),
            of=of,
            reason="because",
            strongest=strongest_pair(made),
            notes=[],
            skipped=[],
            disagreements=[],
        )
        write_overlap(tmp_path / of, made, summary, redact=True)
        page = (tmp_path / of / "report.html").read_text()
        spoken = " ".join(re.sub(r"<[^>]+>", " ", page.split("<main>")[1]).split())
        assert f"same {of} changed" in spoken and "mirrored left to right" in spoken and "flip-x" not in spoken
        assert ("image" in spoken) is (of == "image")
    assert "same volume changed" in relation_words("same image changed", "volume")
