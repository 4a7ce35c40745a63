"""Pairs of the re-identification benchmark (tests/real/reidentification.py), on images that were made."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doppelscan.images import generate_cohort
from made_files import save_png

sys.path.insert(0, str(Path(__file__).parents[1] / "real"))

import reid_pairs
from reid_pairs import NEIGHBOUR, Pair, Shown, copy_pairs, load_slices, people_of, same_patient_pairs, thumbnails
from reidentification import measured, scores_of, table

PEOPLE, SLICES = 8, 4


@pytest.fixture(scope="module")
def pool() -> list[Shown]:
    """Four slices a person, 3 mm apart; those of odd people lie half a millimetre higher."""
    images, numbers = generate_cohort(PEOPLE, SLICES, 48, seed=4)
    return [
        Shown(f"p{number}", "axial", 3.0 * (row % SLICES) + 0.5 * (number % 2), image[0].numpy().astype(np.float32) / 255)
        for row, (image, number) in enumerate(zip(images, numbers.tolist(), strict=True))
    ]


def test_positives_are_of_one_patient_that_far_apart_and_negatives_of_others(pool):
    pairs = same_patient_pairs(pool, (3.0, 6.0))
    assert {pair.case for pair in pairs} == {"3 mm", "6 mm"}
    for pair in pairs:
        first, second = pool[pair.reference], pool[pair.query]
        assert (first.patient == second.patient) == pair.positive and second.patient == pair.patient
        if pair.positive:
            assert abs(first.position - second.position) == float(pair.case.split()[0])


def test_negatives_lie_where_the_query_or_the_image_lies(pool):
    pairs = same_patient_pairs(pool, (6.0,))
    for at in range(0, len(pairs), 5):
        true, *others = pairs[at : at + 5]
        assert true.positive and not any(one.positive for one in others)
        query, image = pool[true.query].position, pool[true.reference].position
        for one in others:
            goal = query if one.against == "at the query" else image
            assert abs(pool[one.reference].position - goal) <= 0.5


def test_without_positions_negatives_are_those_that_look_alike(pool, monkeypatch):
    monkeypatch.setattr(reid_pairs, "NEAREST", 2)
    # Three kinds of person; a stranger of another kind would be told from the patient by anything.
    kinds = np.random.default_rng(0).random((3, 48, 48)).astype(np.float32)
    alike = [replace(one, position=float("nan"), pixels=0.9 * kinds[int(one.patient[1:]) % 3] + 0.1 * one.pixels) for one in pool]
    pairs = same_patient_pairs(alike)
    assert {pair.case for pair in pairs} == {"another image"} and sum(pair.positive for pair in pairs) == PEOPLE
    for pair in pairs:
        if int(pair.patient[1:]) % 3 < 2:  # three people of these kinds, so that there are two others
            assert int(alike[pair.reference].patient[1:]) % 3 == int(pair.patient[1:]) % 3


def test_patients_with_one_image_make_no_pair(pool):
    assert same_patient_pairs([one for row, one in enumerate(pool) if row % SLICES == 0]) == []


def test_copies_and_negatives_go_through_one_transform(pool):
    pairs, queries = copy_pairs(pool, 2, ("exact", "flip-x"))
    assert len(pairs) == len(queries) == 2 * 2 * 3
    for pair in pairs:
        image, query = pool[pair.reference].pixels, queries[pair.query]
        undone = query[:, ::-1] if pair.case == "flip-x" else query
        equal = [i for i, one in enumerate(pool) if np.allclose(one.pixels, undone, atol=1e-6)]
        assert len(equal) == 1
        shown = pool[equal[0]]
        assert pair.positive == np.allclose(image, undone, atol=1e-6)
        if pair.against == NEIGHBOUR:
            assert shown.patient == pair.patient and abs(shown.position - pool[pair.reference].position) == 3.0
        elif pair.against:
            assert shown.patient != pair.patient


def test_the_same_seed_makes_the_same_pairs(pool):
    first, second = copy_pairs(pool, 2, ("noise", "blend 75/25")), copy_pairs(pool, 2, ("noise", "blend 75/25"))
    assert first[0] == second[0] and all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True))
    assert same_patient_pairs(pool, (3.0,), seed=1) == same_patient_pairs(pool, (3.0,), seed=1)


def pairs_of(positives: int, negatives: int) -> list[Pair]:
    kinds = ["at the query", "at the image"]
    made = [Pair("same patient", "3 mm", True, "", 0, 0, f"p{i}") for i in range(positives)]
    return made + [Pair("same patient", "3 mm", False, kinds[i % 2], 0, 0, f"p{i % positives}") for i in range(negatives)]


def test_recall_is_above_all_but_one_percent_of_the_negatives():
    pairs = pairs_of(10, 200)
    # One of 200 negatives may lie above: the second highest is the threshold, as in doppelscan.benchmark.
    scores = np.concatenate([np.linspace(0.55, 0.95, 10), [0.99, 0.7], np.linspace(0, 0.5, 198)])
    found = measured(scores, pairs)
    assert found["recall"][0] == pytest.approx(np.mean(np.linspace(0.55, 0.95, 10) > 0.7))
    wins = sum((p > scores[10:]).sum() for p in scores[:10])
    assert found["auc"][0] == pytest.approx(wins / 2000) and found["patients"] == 10
    assert found["auc"][1] < found["auc"][0] < found["auc"][2] and found["recall"][1] < found["recall"][0] < found["recall"][2]


def test_a_table_parts_cases_and_kinds_of_negatives():
    pairs = pairs_of(4, 8)
    scores = np.array([0.6, 0.6, 0.6, 0.6] + [0.9, 0.1] * 4)
    found = table({"one": scores}, pairs)
    assert found["all"]["one"]["auc"][0] == 0.5
    assert found["at the query"]["one"]["auc"][0] == 0.0 and found["at the image"]["one"]["auc"][0] == 1.0
    assert found["3 mm"]["one"]["positives"] == 4 and found["3 mm"]["one"]["negatives"] == 8


def test_every_score_ranks_exact_copies_over_strangers(pool):
    pairs, pixels = copy_pairs(pool, 4, ("exact", "flip-x"))
    told = [pair for pair in pairs if pair.against != NEIGHBOUR]
    scores = scores_of(thumbnails([one.pixels for one in pool]), thumbnails(pixels), told, 8)
    truth = np.array([pair.positive for pair in told])
    for name, values in scores.items():
        assert values.shape == (len(told),)
        poses = np.array([pair.case == "exact" or name != "SSIM" for pair in told])  # plain SSIM knows one pose
        assert values[truth & poses].min() > values[~truth & poses].max(), name


def test_a_source_is_read_by_its_people_and_slices_are_counted_from_their_middle(tmp_path):
    lines = ["path,subject,plane,slice,source"]
    for person, numbers in (("a", (10, 20)), ("b", (110, 120)), ("c", (50,)), ("d", (5, 15))):
        for number in numbers:
            lines.append(f"{person}{number}.png,{person},axial,{number},ds002748_t1")
            pixels = np.random.default_rng(number).random((32, 24))
            save_png(tmp_path / f"{person}{number}.png", pixels)
    lines.append("e1.png,e,coronal,1,ds002748_t1")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    assert people_of(tmp_path, "ds002748_t1", "axial", None) == ["a", "b", "d", "c"]
    assert people_of(tmp_path, "ds002748_t1", "axial", None, 2) == ["a", "b"]
    halves = [people_of(tmp_path, "ds002748_t1", "", train) for train in (True, False)]
    assert sorted(halves[0] + halves[1]) == ["a", "b", "c", "d", "e"] and not set(halves[0]) & set(halves[1])
    found = load_slices(tmp_path, "ds002748_t1", "axial", ["a", "b"])
    assert [(one.patient, one.position) for one in found] == [("a", -5.0), ("a", 5.0), ("b", -5.0), ("b", 5.0)]
    assert found[0].pixels.shape == (32, 24)
