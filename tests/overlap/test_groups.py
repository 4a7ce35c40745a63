"""Groups: what hangs together, and what one wrong pair must not join."""

from __future__ import annotations

from doppelscan.overlap import KNOWN, OverlapRules, grouped
from made_links import changed, copy, made_pool, person

RULES = OverlapRules()


def groups(pool, links):
    made = grouped(pool.images.records, pool.of_set, links, RULES)
    return [one.rows for one in made.groups], made


def test_a_chain_of_neighbouring_slices_is_one_person():
    rows, made = groups(made_pool([None] * 6), [person(i, i + 1, 0.92) for i in range(4)])
    assert rows == [[0, 1, 2, 3, 4]] and made.of_image == (1, 1, 1, 1, 1, 0)


def test_one_weak_pair_does_not_join_two_people_of_many_images():
    inside = [person(a, a + 1, 0.95) for a in (0, 1, 4, 5)]
    rows, made = groups(made_pool([None] * 8), [*inside, person(2, 4, 0.87)])
    assert rows == [[0, 1, 2], [4, 5, 6]]
    assert [(one.first, one.second) for one in made.doubtful] == [(2, 4)]


def test_a_second_pair_of_other_images_bears_it_out_and_a_second_pair_of_the_same_image_does_not():
    inside = [person(a, a + 1, 0.95) for a in (0, 1, 4, 5)]
    rows, _ = groups(made_pool([None] * 8), [*inside, person(2, 4, 0.87), person(1, 5, 0.87)])
    assert rows == [[0, 1, 2, 4, 5, 6]]
    rows, _ = groups(made_pool([None] * 8), [*inside, person(2, 4, 0.87), person(2, 5, 0.87)])
    assert rows == [[0, 1, 2], [4, 5, 6]], "one image that looks like two slices of another person"


def test_a_sure_pair_joins_and_so_does_an_image_that_is_alone():
    inside = [person(a, a + 1, 0.95) for a in (0, 1, 4, 5)]
    assert groups(made_pool([None] * 8), [*inside, person(2, 4, 0.93)])[0] == [[0, 1, 2, 4, 5, 6]]
    assert groups(made_pool([None] * 8), [*inside, person(2, 7, 0.87)])[0] == [[0, 1, 2, 7], [4, 5, 6]]


def test_a_hundred_people_are_not_joined_by_a_wrong_pair_each():
    """A ring of wrong pairs between people of three images."""
    inside = [person(3 * p + i, 3 * p + i + 1, 0.95) for p in range(100) for i in range(2)]
    wrong = [person(3 * p, (3 * p + 4) % 300, 0.865) for p in range(100)]
    rows, made = groups(made_pool([None] * 300), [*inside, *wrong])
    assert len(rows) == 100 and max(map(len, rows)) == 3 and len(made.doubtful) == 100


def test_names_and_volumes_hold_together_what_no_pair_was_found_of():
    pool = made_pool(["anna", "anna", None, None, "ben"], volumes=["v0", "v1", "v2", "v2", "v3"])
    rows, made = groups(pool, [])
    assert rows == [[0, 1], [2, 3]] and [one.relation for one in made.groups] == [KNOWN, KNOWN]
    assert not any(one.found for one in made.groups) and made.groups[0].names == ("anna",)


def test_the_strongest_relation_of_each_image_is_told():
    _, made = groups(made_pool([None] * 4), [copy(1, 0), changed(2, 1), person(3, 2, 0.9)])
    (group,) = made.groups
    assert [(one.relation, one.nearest) for one in group.members] == [
        ("same image", 1), ("same image", 0), ("same image changed", 1), ("same person", 2),
    ]  # fmt: skip
    assert group.relation == "same image"


def test_a_template_filed_under_every_name_joins_nobody():
    """Image 2 i is of patient i alone, 2 i + 1 the same logo."""
    pool = made_pool([f"p{i // 2}" for i in range(20)])
    rows, made = groups(pool, [copy(i, 1) for i in range(3, 20, 2)])
    assert rows == [list(range(1, 20, 2))], "the picture is a group of its own"
    assert made.pictures == (tuple(range(1, 20, 2)),)


def test_one_picture_of_two_patients_joins_them():
    assert groups(made_pool(["anna", "anna", "ben", "ben"]), [copy(2, 0)])[0] == [[0, 1, 2, 3]]


def test_the_same_name_in_two_sets_is_one_group():
    _, made = groups(made_pool(["anna", "ben", "anna"], [0, 0, 1]), [])
    (group,) = made.groups
    assert group.sets == (0, 1) and group.rows == [0, 2]


def test_nothing_and_one_image():
    assert groups(made_pool([None]), [])[0] == [] and groups(made_pool([None, None]), [])[1].of_image == (0, 0)
