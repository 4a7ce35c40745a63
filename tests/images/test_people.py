"""Who may be whom: names propose what registration refutes or not, and pairs make people."""

from __future__ import annotations

import re

import numpy as np
import pytest
from doppelscan.images import ImageRecord, InputError, agrees, bids_subjects, people_of, propose_patients


def records(names: list[str]) -> list[ImageRecord]:
    return [ImageRecord(f"/set/{n}", (f"/set/{n}",), f"/set/{n}", f"/set/{n}", patient_known=False) for n in names]


def best(names: list[str]):
    return next(iter(propose_patients(records(names))), None)


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz", "sub-02_T1w.nii.gz"], ["sub-01", "sub-01", "sub-02"]),
        (["patient_12_a.png", "patient_12_b.png", "patient_3_a.png"], ["patient_12", "patient_12", "patient_3"]),
        (["brain_patient12_1.png", "brain_patient12_2.png", "brain_patient4_1.png"], ["patient12", "patient12", "patient4"]),
        (["t1-pat-7-03.png", "t1-pat-7-04.png", "t1-pat-8-03.png"], ["pat-7", "pat-7", "pat-8"]),
        (["MR_P001_10.png", "MR_P001_11.png", "MR_P002_10.png"], ["P001", "P001", "P002"]),
        (["case12.1.png", "case12.2.png", "case13.1.png"], ["case12", "case12", "case13"]),
        (["p012_slice3.png", "p012_slice4.png", "p013_slice3.png"], ["p012", "p012", "p013"]),
        (["p012-3.png", "p012-4.png", "p013-3.png"], ["p012", "p012", "p013"]),
        (["anna.12.png", "anna.13.png", "bob.12.png", "carl.png"], ["anna", "anna", "bob", "carl"]),
        (["anna12.png", "anna13.png", "bob1.png"], ["anna", "anna", "bob"]),
        (["train003_slice2.png", "train003_slice7.png", "train004_slice2.png"], ["train003", "train003", "train004"]),
        (["IM-0427__norm0.jpg", "IM-0427__norm1.jpg", "NORMAL2-IM-0596__norm0.jpg"], ["IM-0427", "IM-0427", "NORMAL2-IM-0596"]),
        (["BraTS_001_z10.png", "BraTS_001_z11.png", "BraTS_002_z10.png"], ["BraTS_001", "BraTS_001", "BraTS_002"]),
        (["0012 (1).jpg", "0012 (2).jpg", "0013 (1).jpg"], ["0012", "0012", "0013"]),
    ],
)
def test_what_a_name_says_of_the_patient_is_proposed_as_a_pattern(names, patients):
    proposal = best(names)
    assert proposal.kind == "name" and list(proposal.patients) == patients and proposal.count == len(set(patients))
    # The pattern is what --patient-pattern takes: searched in the file name, group 1 is the patient.
    matches = [re.search(proposal.pattern, name) for name in names]
    assert [m.group(1) if m else f"/set/{n}" for m, n in zip(matches, names, strict=True)] == patients
    assert not any(name.split(".")[0] in proposal.words for name in names)


@pytest.mark.parametrize(
    ("names", "patients"),
    [
        (["p1/1.png", "p1/2.png", "p2/1.png", "p2/2.png"], ["p1", "p1", "p2", "p2"]),
        (["site1/anna/1.png", "site1/anna/2.png", "site2/anna/1.png"], ["site1/anna", "site1/anna", "site2/anna"]),
        (["sub-01/anat/T1w.nii", "sub-01/func/bold.nii", "sub-02/anat/T1w.nii"], ["sub-01", "sub-01", "sub-02"]),
        (["anna/scan1/1.png", "anna/scan2/1.png", "bob/scan1/1.png"], ["anna", "anna", "bob"]),
    ],
)
def test_a_folder_per_patient_is_proposed(names, patients):
    proposal = best(names)
    assert proposal.kind == "folder" and proposal.pattern is None and list(proposal.patients) == patients


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a.png"],
        [f"img{i:04d}.png" for i in range(1, 999)],
        [f"{i}.png" for i in range(200)],
        [f"img_{i}.png" for i in range(200)],
        [f"p{i:02d}.png" for i in range(30)],
        ["sub-01_1.png", "sub-01_2.png"],  # all of one
        [f"{kind}_{i}.png" for kind in ("glioma", "meningioma", "notumor") for i in range(20)],
        [f"{kind}/{i}.png" for kind in ("train", "test") for i in range(20)],
        [f"{kind}/{kind}_{i}.png" for kind in ("NORMAL", "PNEUMONIA") for i in range(20)],
        [f"batch{b}_{i}.png" for b in range(4) for i in range(20)],
        [f"{kind}_{i:03d}.png" for kind in ("T1", "T2", "FLAIR") for i in range(20)],
        [f"{kind}-{i}.png" for kind in ("astro", "oligo") for i in range(200)],  # words alone, and hundreds of files each
    ],
)
def test_a_running_number_or_a_kind_of_image_proposes_nobody(names):
    assert propose_patients(records(names)) == ()


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-01_ses-1_T1w.nii.gz", "sub-01"),
        ("sub-13__ax098.png", "sub-13"),
        ("sub-A7.nii", "sub-A7"),
        ("sub-01/ses-1/anat/T1w.nii", "sub-01"),
        ("sub-01/sub-02_T1w.nii", "sub-02"),
        ("sub-01-02.png", None),  # a label has no hyphen
        ("sub-01-1/slice3.png", None),
        ("brain_sub-01_3.png", None),  # no file of BIDS begins so
        ("subject-1_2.png", None),
        ("Sub-01_2.png", None),
    ],
)
def test_a_subject_of_bids_is_read_from_the_name_or_its_folder(name, subject):
    assert bids_subjects(records([name])) == [subject]


def test_the_same_name_in_two_folders_is_not_one_person():
    proposals = propose_patients(records(["x/slice1.png", "x/slice2.png", "y/slice1.png", "y/slice2.png"]))
    assert [p.patients for p in proposals] == [("x", "x", "y", "y")]


def test_slices_of_a_volume_are_one_person_and_one_volume_each_says_nothing():
    def slices(name: str) -> list[ImageRecord]:
        return [ImageRecord(f"{name}#slice={i}", (f"/set/{name}",), name, name, i, 2) for i in range(3)]

    assert propose_patients([*slices("anna_1.nii"), *slices("bob_1.nii")]) == ()
    (proposal,) = propose_patients([*slices("anna_1.nii"), *slices("anna_2.nii"), *slices("bob_1.nii")])
    assert proposal.patients == ("anna",) * 6 + ("bob",) * 3 and proposal.count == 2


def test_files_that_match_nothing_are_people_of_their_own_and_the_order_of_records_does_not_matter():
    names = ["sub-01_a.png", "sub-01_b.png", "sub-02_a.png", "phantom.png"]
    assert best(names).patients == ("sub-01", "sub-01", "sub-02", "/set/phantom.png") and best(names).count == 3
    assert best(names[::-1]).patients == best(names).patients[::-1]


def test_several_proposals_come_from_the_finest_to_the_coarsest_and_pairs_refute_the_too_fine():
    people = [f"s{site}x_n{n}_{slice}_{echo}.png" for site in (1, 2) for n in (1, 2) for slice in (1, 2) for echo in "ab"]
    proposals = propose_patients(records(people))
    assert [p.count for p in proposals] == sorted((p.count for p in proposals), reverse=True) and len(proposals) >= 3
    of_one_slice, of_one_person = [(0, 1), (2, 3)], [(0, 1), (1, 2)]
    assert next(p for p in proposals if agrees(p, of_one_slice)).count == 8
    assert next(p for p in proposals if agrees(p, of_one_person)).count == 4


def test_a_small_share_of_pairs_may_lie_apart_and_no_pairs_say_nothing():
    proposal = best(["anna.1.png", "anna.2.png", "bob.1.png"])
    assert agrees(proposal, []) and agrees(proposal, [(0, 1)]) and not agrees(proposal, [(0, 1), (1, 2)])
    assert agrees(proposal, [(0, 1)] * 99 + [(1, 2)]) and not agrees(proposal, [(0, 1)] * 99 + [(1, 2)], most_apart=0)


def test_pairs_connect_people_over_others():
    people = people_of(6, [(4, 2), (2, 0), (5, 3)])
    assert people == ["person 1", "person 2", "person 1", "person 4", "person 1", "person 4"]
    assert people_of(3, []) == ["person 1", "person 2", "person 3"] and people_of(0, np.zeros((0, 2), int)) == []


def test_names_connect_people_too_and_doubles_of_two_names_are_one_person():
    named = ["Ann", None, "Ann", "Bob", None, "person 5"]
    assert people_of(6, [(1, 2)], named) == ["Ann", "Ann", "Ann", "Bob", "person 5'", "person 5"]
    assert people_of(6, [(0, 3), (4, 3)], named) == ["Ann", "person 2", "Ann", "Ann", "Ann", "person 5"]


def test_pairs_and_names_of_another_set_are_refused():
    with pytest.raises(InputError, match=r"'pairs'.*0 to 2"):
        people_of(3, [(0, 3)])
    with pytest.raises(InputError, match=r"'named'.*3 images"):
        people_of(3, [], ["a"])
