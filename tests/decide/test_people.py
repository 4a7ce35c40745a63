"""Who is who where nobody says it: found by pairs that agree, or by names of files that agree with them, never assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from doppelscan.decide import People, PersonPair, Rules, find_people, person_pairs
from doppelscan.search import EmbeddedSet
from made_records import made_set

SLICES = 3
RULES = Rules()


def unnamed(names: Sequence[str], folder: str = "training") -> EmbeddedSet:
    made = made_set(folder, len(names))
    records = [
        replace(
            r, id=f"{folder}/{n}", paths=(f"{folder}/{n}",), volume=f"{folder}/{n}", patient=f"{folder}/{n}", patient_known=False
        )
        for r, n in zip(made.records, names, strict=True)
    ]
    return replace(made, records=records)


def neighbours(count: int) -> np.ndarray:
    """The next slice of the same person; of the last one the one before."""
    return np.array([i + 1 if i % SLICES < SLICES - 1 else i - 1 for i in range(count)])


def found(names: Sequence[str], pairs: Sequence[tuple[int, int]], nearest: np.ndarray | None = None) -> People:
    confirmed = [PersonPair(a, b, 0.9, True) for a, b in pairs]
    return find_people(unnamed(names), None, confirmed, neighbours(len(names)) if nearest is None else nearest, "volume", RULES)


def test_names_that_agree_with_what_was_found_name_the_people():
    people = found([f"sub-{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)], [(0, 1), (3, 4)])
    assert people.known and len(set(people.training.patients)) == 10 and people.training.patients[:4] == ["sub-00"] * 3 + ["sub-01"]
    assert "10 people" in people.notes[0] and "--patient-pattern" in people.notes[0] and "sub-..." in people.source


def test_names_by_bids_need_no_bearing_out():
    """Twelve of thirty people were known, since two pairs alone were found: exposure.csv had paths for patients."""
    rng = np.random.default_rng(0)
    names = [f"sub-{i // 2:02d}__ax{70 + i}.png" for i in range(60)]
    people = found(names, [(0, 1)], rng.permutation(60))
    assert people.known and len(set(people.training.patients)) == 30 and people.training.patients[0] == "sub-00"
    assert "name of the files (the BIDS subject (sub-...))" in people.source
    one_each = found([f"sub-{i:02d}.nii.gz" for i in range(30)], [])
    assert one_each.known and one_each.training.patients[3] == "sub-03", "also where nobody has two files"
    folders = found([f"sub-{i // 3}/anat/T{i % 3}.nii" for i in range(30)], [])
    assert folders.known and folders.training.patients[:4] == ["sub-0"] * 3 + ["sub-1"]
    assert "folder of the files" in folders.source and "a column 'patient'" in folders.notes[0], "no pattern of file names says so"


def test_names_that_only_resemble_bids_are_a_guess():
    rng = np.random.default_rng(0)
    people = found([f"scan_sub-{i // SLICES:02d}-{i % SLICES}.png" for i in range(30)], [], rng.permutation(30))
    assert not people.known and "would be 10 people" in people.notes[0] and "nothing (each image" in people.source


def test_names_by_bids_that_pairs_refute_are_not_used_and_a_few_are_told():
    names = [f"sub-{i % 10:02d}_{i}.png" for i in range(30)]
    people = found(names, [(i, i + 1) for i in range(0, 30, SLICES)])
    assert not people.known and len(set(people.training.patients)) == 20, "ten pairs of one person each, ten images alone"
    assert (
        "10 of 10 pairs" in people.notes[0] and "was not used" in people.notes[0] and "they count as 20 people" in people.notes[1]
    )
    named = [f"sub-{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)]
    twice = found(named, [(0, 1), (3, 4), (6, 7), (0, 29)])
    assert twice.known and len(set(twice.training.patients)) == 9, "one person under two names counts once, and that is told"
    assert "Of 4 pairs that show one person 1 are of two of these" in twice.notes[0]
    assert [(d.first.patient, d.second.patient) for d in twice.doubles] == [("sub-00", "sub-09")]


def test_files_that_bids_does_not_name_are_told():
    people = found([*(f"sub-{i // 2:02d}_{i % 2}.png" for i in range(20)), "phantom.png", "x.png"], [])
    assert not people.known and len(set(people.training.patients)) == 12
    assert "By the names of 20 of them" in people.notes[0] and "Nothing names the patients of 2 training images" in people.notes[1]
    assert "sub-..." in people.source and "nothing (" in people.source


def test_the_people_of_names_are_those_whom_names_name():
    """ "By the names of 4 of them they are 5 people": the fifth had no name."""
    one = found(["sub-01_a.png", "sub-01_b.png", "sub-02_a.png", "sub-03_a.png", "phantom.png"], [], np.full(5, -1)).notes[0]
    assert "By the names of 4 of them (the BIDS subject (sub-...)) these are 3 people, as that standard has it." in one
    assert "The other image counts as a person of its own." in one and "5 training images" in one
    two = found(["sub-01_a.png", "sub-02_a.png", "sub-03_a.png", "x.png", "y.png"], [], np.full(5, -1)).notes[0]
    assert "names of 3 of them" in two and "The other 2 images count as 2 people more" in two
    every = found(["sub-01_a.png", "sub-02_a.png"], [], np.full(2, -1)).notes[0]
    assert "By their names (the BIDS subject (sub-...)) they are 2 people" in every and "other" not in every.split("To choose")[0]


def test_names_that_part_one_person_are_not_believed():
    names = [f"patient{i % 10:02d}_{i}.png" for i in range(30)]
    people = found(names, [(i, i + 1) for i in range(0, 30, SLICES)])
    assert not people.known and len(set(people.training.patients)) == 20, "ten pairs of one person each, ten images alone"
    assert "was not used" in people.notes[0] and "they count as 20 people" in people.notes[1]


def test_names_that_nothing_bears_out_are_proposed_only():
    rng = np.random.default_rng(0)
    people = found([f"patient{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)], [], rng.permutation(30))
    assert not people.known and len(set(people.training.patients)) == 30 and "would be 10 people" in people.notes[0]
    assert "--patient-pattern" in people.notes[0]


@pytest.mark.parametrize("borne_out", [True, False])
def test_sets_that_are_named_alike_are_believed_together_or_not_at_all(borne_out):
    """A holdout's names were used and the same ones of training were not."""
    rng = np.random.default_rng(0)
    training = unnamed([f"patient{i // SLICES:02d}_{i % SLICES}.png" for i in range(12)])
    holdout = unnamed([f"patient{50 + i // SLICES}_{i % SLICES}.png" for i in range(60 if borne_out else 12)], "holdout")
    nearest = np.concatenate([rng.permutation(12), 12 + neighbours(len(holdout))])
    if not borne_out:
        nearest[12:] = rng.permutation(24)[:12]
    people = find_people(training, holdout, [], nearest, "volume", RULES)
    assert people.holdout is not None
    assert people.known is borne_out and (len(set(people.holdout.patients)) == len(holdout) // SLICES) is borne_out


@pytest.mark.parametrize("pairs", [[], [(0, 1), (12, 13)]])
def test_names_of_sites_are_not_people_though_images_of_a_site_are_alike(pairs):
    names = [f"{site}_{i:03d}.png" for site in ("aachen", "bonn", "celle", "demmin", "emden") for i in range(12)]
    people = found(names, pairs, np.array([i // 12 * 12 + (i + 1) % 12 for i in range(60)]))
    assert not people.known and len(set(people.training.patients)) == 60 - len(pairs), (
        "a few doubles in a site do not make it one person"
    )
    assert "would be 5 people" in people.notes[0]


def test_names_without_a_word_for_a_person_are_believed_with_pairs():
    people = found(
        [f"{chr(97 + i // SLICES)}{i // SLICES}_{i % SLICES}.png" for i in range(30)], [(i, i + 1) for i in range(0, 18, 3)]
    )
    assert people.known and len(set(people.training.patients)) == 10


def test_names_that_make_many_people_of_few_images_are_believed_by_what_search_found():
    """Slices 10 mm apart are no pairs, but each other's nearest."""
    names = [f"brain{i // SLICES:03d}_axial{i % SLICES}.png" for i in range(75)]
    people = found(names, [])
    assert people.known and len(set(people.training.patients)) == 25
    assert not found(names[:45], []).known, "15 may be sites"


def test_names_fill_up_a_mixed_table():
    training = unnamed([f"sub-{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)])
    records = [replace(r, patient="anna", patient_known=True) if i < 3 else r for i, r in enumerate(training.records)]
    people = find_people(
        replace(training, records=records), None, [PersonPair(3, 4, 0.9, True)], neighbours(30), "column and volume", RULES
    )
    assert people.known and people.source == "column and name of the files (the BIDS subject (sub-...))"


def test_opaque_names_leave_what_registration_found():
    people = found([f"{i:04d}.png" for i in range(30)], [(0, 1), (1, 2), (5, 9)])
    assert [people.training.patients[i] for i in (0, 1, 2)] == ["training/0000.png"] * 3
    assert len(set(people.training.patients)) == 27 and people.notes[0].startswith(
        "Of 30 training images whose patient nothing names, 5 were found"
    )


def test_without_any_pair_every_file_is_a_person_and_that_is_said():
    people = found([f"{i:04d}.png" for i in range(30)], [])
    assert len(set(people.training.patients)) == 30 and "every file counts as a patient of its own" in people.notes[0]


def test_a_mixed_table_says_so_and_the_others_are_looked_for():
    training = unnamed([f"{i:04d}.png" for i in range(12)])
    records = [replace(r, patient=f"anna{i // 2}", patient_known=True) if i < 6 else r for i, r in enumerate(training.records)]
    pairs = [PersonPair(6, 7, 0.9, True), PersonPair(5, 8, 0.9, True)]
    people = find_people(replace(training, records=records), None, pairs, neighbours(12), "column and volume", RULES)
    assert "6 of 12 training images have no patient" in people.notes[0]
    assert people.training.patients[:8] == ["anna0"] * 2 + ["anna1"] * 2 + ["anna2"] * 2 + ["training/0006.png"] * 2
    assert people.training.patients[8] == "anna2", "an unnamed image that is of a named person is that person's"
    assert not people.known, "who the others are nobody knows, and they must not be taken for strangers"
    assert "Of 6 training images whose patient nothing names, 3 were found" in people.notes[1]


def test_the_same_name_in_the_holdout_is_not_the_same_person_unless_pairs_say_so():
    names = [f"{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)]
    training, holdout = unnamed([f"p{n}" for n in names]), unnamed([f"p{n}" for n in names], "holdout")
    nearest = np.concatenate([neighbours(30), 30 + neighbours(30)])
    apart = find_people(training, holdout, [], nearest, "volume", RULES)
    assert apart.holdout is not None and not set(apart.training.patients) & set(apart.holdout.patients)
    both = find_people(training, holdout, [PersonPair(0, 30, 0.9, True)], nearest, "volume", RULES)
    assert both.holdout is not None and set(both.training.patients) & set(both.holdout.patients) == {both.training.patients[0]}


def test_a_subject_of_both_sets_is_one_person_only_where_the_images_say_so():
    """sub-01 of one data set is not sub-01 of another, and within one it is."""
    names = [f"sub-{i // SLICES:02d}_{i % SLICES}.png" for i in range(30)]
    training, holdout = unnamed(names), unnamed(names, "holdout")
    own = np.concatenate([neighbours(30), 30 + neighbours(30)])
    apart = find_people(training, holdout, [], own, "volume", RULES)
    assert apart.holdout is not None and not set(apart.training.patients) & set(apart.holdout.patients)
    assert any("10 of these names are names of the training set, too; nothing that was found" in note for note in apart.notes)
    both = find_people(training, holdout, [], np.concatenate([neighbours(30), neighbours(30)]), "volume", RULES)
    assert both.holdout is not None and set(both.training.patients) == set(both.holdout.patients)
    assert any("the same people: they are no control" in note for note in both.notes)


def test_two_named_patients_who_agree_are_listed_and_only_the_confirmed_are_one():
    training = made_set("training", 6)
    people = find_people(
        training, None, [PersonPair(0, 1, 0.95, True), PersonPair(2, 3, 0.8, False)], np.arange(6), "column", RULES
    )
    assert [(d.first.patient, d.second.patient, d.control) for d in people.doubles] == [
        ("training-patient0", "training-patient1", False),
        ("training-patient2", "training-patient3", False),
    ]
    assert (
        people.training.patients == ["training-patient0"] * 2 + [f"training-patient{i}" for i in range(2, 6)] and not people.notes
    )


@pytest.mark.parametrize("known", [True, False])
def test_people_of_a_column_are_known(known):
    training = made_set("training", 6) if known else unnamed([f"{i}.png" for i in range(6)])
    assert find_people(training, None, [], np.arange(6), "column" if known else "volume", RULES).known is known


class Agreement:
    """Stands for registration: the verified score of pairs of images by their names, and what one explains of the other."""

    def __init__(self, pairs: dict[tuple[str, str], tuple[float, float]]) -> None:
        self.pairs, self.asked, self.flush = pairs, [], lambda: None

    def _of(self, first, row, second, other) -> tuple[float, float]:
        return self.pairs.get((first.records[row].id, second.records[other].id), (0.3, 0.1))

    def best(self, queries, rows, training, candidates, poses, descriptor):
        self.asked += [(queries.records[a].id, training.records[b[0]].id) for a, b in zip(rows, candidates, strict=True)]
        scores = [self._of(queries, a, training, b[0])[0] for a, b in zip(rows, candidates, strict=True)]
        return np.array([[[0, 0, 0, 0, 1, 0, 0, score, score, score, 1]] for score in scores], np.float32)

    def aligned(self, queries, rows, training, matches, poses, descriptor):
        shares = [self._of(queries, a, training, b)[1] for a, b in zip(rows, matches, strict=True)]
        return [SimpleNamespace(explained=share, coarse=False, fine=share) for share in shares]


class Directions:
    """Stands for a store of embeddings: image i points to angle i degrees."""

    def __init__(self, degrees: Sequence[float]) -> None:
        angle = np.radians(np.asarray(degrees, np.float32))
        self.values = np.stack([np.cos(angle), np.sin(angle)], 1)[:, None]

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        return {"embedding": self.values[[int(key.rpartition("/")[2]) for key in keys]]}


def directed(name: str, degrees: Sequence[float], patients: Sequence[str] | None = None) -> EmbeddedSet:
    store: Any = Directions(degrees)
    return replace(made_set(name, len(degrees), patients=patients), store=store, outputs={"embedding": slice(0, 2)})


SEARCH: Any = SimpleNamespace(whitened=lambda values: values, patches=SimpleNamespace(descriptor=None), clustered=False)
CLUSTERED: Any = SimpleNamespace(**{**vars(SEARCH), "clustered": True})


def test_pairs_of_two_patients_are_looked_at_in_both_sets_and_told_apart():
    training = directed("training", [0, 1, 40, 41, 80, 81], ["anna", "anna", "ben", "carl", "dora", "emil"])
    holdout = directed("holdout", [81.5, 160])
    agreement: Any = Agreement({
        ("training/2.png", "training/3.png"): (0.9, 0.95),
        ("training/4.png", "training/5.png"): (0.9, 0.5),
        ("training/5.png", "holdout/0.png"): (0.8, 0.9),
    })  # fmt: skip
    pairs, nearest = person_pairs(training, holdout, SEARCH, agreement, RULES)
    assert sorted((p.first, p.second, p.confirmed) for p in pairs) == [(2, 3, True), (4, 5, False), (5, 6, True)]
    assert nearest.tolist() == [1, 0, 3, 2, 5, 6, 5, 6], "of any patient, and never the image itself"
    assert ("training/0.png", "training/1.png") not in agreement.asked, "who is one person already is not asked"
    assert not {pair[::-1] for pair in agreement.asked} & set(agreement.asked), "no pair is registered twice"


@pytest.mark.parametrize("search", [SEARCH, CLUSTERED], ids=["exact", "in clusters"])
def test_the_most_similar_pairs_come_first_and_the_search_ends_when_none_agrees_any_more(monkeypatch, search):
    from doppelscan.decide import people

    monkeypatch.setattr(people, "PATIENCE", 20)
    monkeypatch.setattr(people, "BLOCK", 10)
    training = directed("training", [*np.arange(0, 90, 1.5), 100, 100.1])
    agreement: Any = Agreement({("training/60.png", "training/61.png"): (0.9, 0.95)})
    pairs, _ = person_pairs(training, None, search, agreement, RULES)
    assert [(p.first, p.second, p.confirmed) for p in pairs] == [(60, 61, True)]
    assert agreement.asked[0] == ("training/60.png", "training/61.png") and 20 <= len(agreement.asked) <= 30


def test_an_audit_keeps_whose_patients_nothing_names():
    people = found([*(f"sub-{i // 2:02d}_{i % 2}.png" for i in range(20)), "phantom.png", "x.png"], [])
    assert people.training.unnamed == 2 and not people.training.records[-1].patient_known
