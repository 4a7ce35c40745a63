"""Names against images: what disagrees is told, and what is only a hint is a question."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doppelscan.decide import Rules
from doppelscan.overlap import NearestImage, OverlapRules, compare_names, grouped, with_names_of_files
from made_links import copy, made_pool, person, searched


def compared(pool, links):
    return compare_names(pool, grouped(pool.images.records, pool.of_set, links, OverlapRules()))


def test_one_person_under_two_names():
    names = compared(made_pool(["anna", "anna", "ben", "ben"]), [person(0, 2, 0.95), person(1, 3, 0.95)])
    (one,) = names.disagreements
    assert one.kind == "one person under two names?" and names.named == 4


def test_an_image_that_agrees_with_another_patient_and_with_none_of_its_own():
    links = [person(0, 1, 0.95), person(1, 2, 0.95), person(4, 5, 0.95), person(3, 4, 0.95)]
    names = compared(made_pool(["anna", "anna", "anna", "anna", "ben", "ben"]), links)
    (one,) = names.disagreements
    assert one.kind == "an image under another's name?" and (one.row, one.other) == (3, 4)


def test_unnamed_images_disagree_with_nobody():
    assert compared(made_pool([None, "ben", None]), [copy(1, 0), person(2, 1)]).disagreements == ()


def test_names_in_both_sets_are_borne_out_or_not():
    names = compared(made_pool(["anna", "ben", "anna", "ben"], [0, 0, 1, 1]), [person(0, 2, 0.95)])
    assert names.in_both == ("anna", "ben") and names.borne_out == ("anna",) and names.disagreements == ()


def test_names_of_files_that_pairs_bear_out_are_used_and_said():
    pool = made_pool([None] * 30)
    records = [
        type(r)(f"sub-{i // 3:02d}_{i % 3}.png", (f"sub-{i // 3:02d}_{i % 3}.png",), r.volume, r.patient, patient_known=False)
        for i, r in enumerate(pool.images.records)
    ]
    pool.images.records[:] = records
    found = searched(pool, [person(i, i + 1) for i in (0, 3, 6)])
    found.beside[:] = [i + 1 if i % 3 < 2 else i - 1 for i in range(30)]
    named, notes, _ = with_names_of_files(found, Rules())
    assert [r.patient for r in named.pool.images.records[:4]] == ["sub-00"] * 3 + ["sub-01"]
    assert "10 people" in notes[0] and "--patient-pattern" in notes[0]


@pytest.mark.parametrize("same", [True, False])
def test_a_subject_of_both_sets_is_a_leak_where_the_images_say_so(same):
    """Slices of one data set that were split at random carry the same names in both sets; two data sets carry sub-01, too, of others."""
    count = 24
    pool = made_pool([None] * 2 * count, [0] * count + [1] * count)
    records = [
        type(r)(n, (n,), n, n, patient_known=False)
        for i, r in enumerate(pool.images.records)
        for n in [f"{'ab'[i // count]}/sub-{i % count // 2:02d}_{i % 2}.png"]
    ]
    pool.images.records[:] = records
    found = searched(pool, [])
    near = [NearestImage(i if same else (i * 7 + 5) % count, 0.5) for i in range(count)]
    found = replace(found, nearest=(NearestImage(),) * count + tuple(near))
    named, notes, one_list = with_names_of_files(found, Rules())
    patients = [r.patient for r in named.pool.images.records]
    assert one_list is same and (patients[0] == patients[count]) is same and patients[0].endswith("sub-00")
    assert ("they count as leaks." in notes[-1] and "12 of these names are in both sets" in notes[-1]) and (
        "pass --patient-pattern" in notes[-1]
    ) is not same
