"""A region that agrees by chance is never named as the source of what the whole image tells."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doppelscan.decide import Finding, Flag, Rule
from doppelscan.report.tables import score_rows
from doppelscan.scores import ends_at_floor, of_region, p_value_of, small_words, source_of
from made_records import BY_RATE, BY_REGION, made_decision


@pytest.mark.parametrize("rule", Rule)
def test_the_reason_says_whether_a_region_is_flagged(rule):
    assert of_region({"reason": replace(BY_RATE, rule=rule).words}) == rule.of_region == ("region" in rule.value)


@pytest.mark.parametrize(("reason", "source", "p"), [(BY_REGION, "training/1.png", 0.7), (BY_RATE, "training/2.png", 0.01)])
def test_a_row_and_its_record_name_the_same_source(reason, source, p):
    """Of a half of a volume the region is wherever another volume happens to lie alike: it was named in place of the match."""
    one = replace(made_decision(6).images[2], finding=Finding("part", reason, 0.6), flag=Flag(0.01, 0.02, 0.7, 0.9, reason))
    (row,) = score_rows([one])
    assert (row["finding"], row["match"], row["part_match"]) == ("part", "training/2.png", "training/1.png")
    assert source_of(row) == one.source.id == source and p_value_of(row) == one.p_value == p


def test_what_is_not_flagged_is_of_its_match():
    (row,) = score_rows(made_decision(0).images[:1])
    assert source_of(row) == "training/0.png" and p_value_of(row) == 0.5
    assert p_value_of({"reason": "region, far beyond every control image", "p_value": "0.2", "part_p_value": "nan"}) == 0.2


def test_without_a_region_to_compare_the_column_is_empty():
    (row,) = score_rows([replace(made_decision(0).images[0], part_match=None)])
    assert row["part_match"] == "" and source_of(row) == "training/0.png"


@pytest.mark.parametrize(
    ("value", "at_most", "told"),
    [
        (0.0123, False, "0.0123"),
        (0.00012345, False, "0.00012"),
        (0.000155936, True, "≤ 0.00016"),
        (0.00012, True, "≤ 0.00012"),
        (1.0, False, "1.0000"),
        (float("nan"), True, ""),
    ],
)
def test_an_upper_limit_is_told_as_one_and_never_rounded_below_itself(value, at_most, told):
    assert small_words(value, at_most) == told


def test_a_p_value_is_known_to_be_cut_off_by_the_digits_of_a_table():
    assert ends_at_floor(0.0001559356, [0.00015593561368209256]) and not ends_at_floor(0.000156, [0.00015593561368209256])
    assert not ends_at_floor(float("nan"), [0.1]) and not ends_at_floor(0.1, [])
