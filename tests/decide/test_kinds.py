"""Of what kind a finding is, by evidence made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from doppelscan.decide import PairEvidence, Rules, kind_of
from made_records import BY_RATE

COPY = PairEvidence(
    explained=0.99, coarse=False, margin=0.5, loss=0.0, mixed=0.2, mixed_row=5, mixed_share=0.1, both=0.9, third=0.2, set_in=0.5, set_in_row=6, set_in_share=0.0, agreeing=0.95,
    disagreeing=0.0, region_of_match=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "copy"),
        ({"explained": 0.961}, "copy"),
        ({"explained": 0.959}, "same patient?"),
        ({"explained": 0.94, "loss": 0.23}, "copy"),
        ({"explained": 0.94, "loss": 0.03}, "same patient?"),
        ({"explained": 0.95, "coarse": True}, "unresolved"),
        ({"explained": 0.85, "coarse": True}, "same patient?"),
        ({"explained": 0.9, "margin": 0.22}, "unresolved"),
        ({"explained": 0.9, "margin": 0.19}, "no single source"),
        ({"explained": 0.97, "margin": 0.05}, "no single source"),
        ({"explained": 0.97, "margin": 0.12}, "copy"),
        ({"explained": 0.99, "margin": 0.05}, "copy"),
        ({"explained": 0.7, "margin": float("inf")}, "same patient?"),
        ({"mixed": 0.6}, "blend"),
        ({"mixed": 0.7, "third": 0.5, "explained": 0.9, "margin": 0.1}, "no single source"),
        ({"mixed": 0.7, "third": 0.5, "both": 0.97, "explained": 0.9, "margin": 0.1}, "blend"),
        ({"mixed": 0.7, "third": 0.5, "explained": 0.9, "margin": 0.3}, "blend"),
        ({"mixed": 0.7, "third": 0.4, "explained": 0.9, "margin": 0.1}, "blend"),
        ({"explained": 0.9, "set_in": 0.95, "set_in_share": 0.05}, "blend"),
        ({"explained": 0.98, "set_in": 0.95, "set_in_share": 0.05}, "copy"),
        ({"explained": 0.5, "agreeing": 0.3, "disagreeing": 0.4}, "part"),
        ({"explained": 0.5, "agreeing": 0.3, "disagreeing": 0.4, "region_of_match": False}, "same patient?"),
        ({"explained": 0.5, "agreeing": 0.05, "disagreeing": 0.4}, "same patient?"),
    ],
)
def test_kind(changed, kind):
    found = kind_of(replace(COPY, **changed), BY_RATE, Rules())
    assert found.kind == kind and found.reason is BY_RATE and found.explained == replace(COPY, **changed).explained


@pytest.mark.parametrize(
    ("changed", "somebody"), [({}, True), ({"explained": 0.9, "margin": 0.1}, False), ({"explained": 0.9, "margin": 0.22}, True)]
)
def test_only_an_image_of_no_single_source_shows_nobody(changed, somebody):
    assert kind_of(replace(COPY, **changed), BY_RATE, Rules()).of_somebody is somebody


def test_a_blend_names_the_second_source_that_made_it_one():
    mixed, set_in = (
        kind_of(replace(COPY, **changed), BY_RATE, Rules())
        for changed in ({"mixed": 0.7, "mixed_share": 0.4}, {"explained": 0.9, "set_in": 0.95, "set_in_share": 0.05})
    )
    assert (mixed.second_match, mixed.second_share) == (5, 0.4) and (set_in.second_match, set_in.second_share) == (6, 0.05)
    assert kind_of(COPY, BY_RATE, Rules()).second_match is None


OPEN = [{"explained": 0.95, "coarse": True}, {"explained": 0.9, "margin": 0.22}]


@pytest.mark.parametrize("question", OPEN)
@pytest.mark.parametrize(
    ("p", "lead", "kind"),
    [
        (0.01, 1.0, "same patient?"),
        (0.004, math.inf, "same patient?"),
        (0.011, 5.0, "unresolved"),
        (0.004, 0.9, "unresolved"),
        (math.nan, math.nan, "unresolved"),
    ],
)
def test_an_open_question_is_answered_where_strangers_hardly_ever_lie_so(question, p, lead, kind):
    found = kind_of(replace(COPY, **question, same_patient_p=p, same_patient_lead=lead), BY_RATE, Rules())
    assert found.kind == kind
    assert found.same_patient_p == pytest.approx(p, nan_ok=True)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({}, "copy"),
        ({"explained": 0.9, "margin": 0.19}, "no single source"),
        ({"mixed": 0.6}, "blend"),
        ({"explained": 0.85}, "same patient?"),
    ],
)
@pytest.mark.parametrize("p", [0.001, 1.0])
def test_no_other_kind_hangs_on_it(changed, kind, p):
    found = kind_of(replace(COPY, **changed, same_patient_p=p, same_patient_lead=9.0), BY_RATE, Rules())
    assert found.kind == kind and found.same_patient_p == p
