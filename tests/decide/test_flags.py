"""By which rule an image is flagged, with scores made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from doppelscan.calibrate import Control
from doppelscan.decide import Flag, Reason, Rule, Rules, ScoredImage, control_as_close, flag, wider
from doppelscan.errors import InputError
from made_records import made_score

STRANGERS = [made_score(i, 0.2 + 0.002 * i, part=0.7, part_share=0.05) for i in range(100)]  # up to 0.398


def flagged(scored: Sequence[ScoredImage], control: Sequence[ScoredImage] = STRANGERS, rules: Rules | None = None) -> list[Flag]:
    null, part_null = (Control(np.array([getattr(s, name) for s in control])) for name in ("score", "part"))
    return flag(scored, control, null, part_null, rules or Rules())


def rules_of(flags: Sequence[Flag]) -> list[Rule | None]:
    return [one.reason.rule if one.reason else None for one in flags]


def test_copies_are_flagged_by_their_q_value_and_strangers_are_not():
    flags = flagged([made_score(0, 0.9), *(made_score(i, 0.3) for i in range(1, 10))])
    assert rules_of(flags) == [Rule.BEYOND, *[None] * 9], (
        "one of ten against 100 controls: q is 0.12, but it stands far beyond them"
    )
    flags = flagged([made_score(i, 0.9) for i in range(9)] + [made_score(9, 0.3)])
    assert rules_of(flags) == [*[Rule.RATE] * 9, None] and flags[0].reason.value <= flags[0].reason.limit == 0.05


def test_rare_is_not_enough_without_a_pair_that_agrees():
    flags = flagged([made_score(i, 0.9, detail=0.5, agreement=0.59, part=0.6) for i in range(10)])
    assert rules_of(flags) == [None] * 10 and all(one.q_value <= 0.05 for one in flags)


@pytest.mark.parametrize(("verified", "expected"), [(0.73, Rule.BEYOND), (0.71, None)])
def test_far_beyond_needs_the_agreement_of_copies_however_low_the_control_lies(verified, expected):
    images = [made_score(0, verified), *(made_score(i, 0.3) for i in range(1, 50))]
    assert rules_of(flagged(images))[0] is expected


def test_far_beyond_keeps_its_distance_from_the_highest_control_image():
    control = [*STRANGERS, made_score(100, 0.85)]
    images = [made_score(0, 0.94), made_score(1, 0.96), *(made_score(i, 0.3) for i in range(2, 60))]
    assert rules_of(flagged(images, control))[:2] == [None, Rule.BEYOND]


def test_a_region_is_flagged_by_its_own_family():
    regions = [made_score(i, 0.3, part=0.99, part_share=0.1) for i in range(30)]
    control = [*STRANGERS, *STRANGERS]
    flags = flagged([*regions, made_score(30, 0.3, part=0.6)], control)
    assert rules_of(flags) == [*[Rule.REGION_RATE] * 30, None]
    large = flagged([made_score(0, 0.3, part=0.985, part_share=0.4), *(made_score(i, 0.3, part=0.6) for i in range(1, 60))])
    assert rules_of(large)[0] is Rule.REGION_BEYOND


def test_few_controls_say_little_of_a_small_region():
    one = [made_score(0, 0.3, part=0.999, part_share=0.05), *(made_score(i, 0.3, part=0.6) for i in range(1, 60))]
    assert rules_of(flagged(one, STRANGERS[:49]))[0] is None and rules_of(flagged(one, STRANGERS[:50]))[0] is Rule.REGION_BEYOND


def test_without_a_control_nothing_is_flagged():
    assert rules_of(flagged([made_score(0, 1.0)], [])) == [None]


def test_every_threshold_is_a_rule_that_can_be_changed():
    images = [made_score(i, 0.5) for i in range(10)]
    assert rules_of(flagged(images)) == [None] * 10
    assert rules_of(flagged(images, rules=Rules(least_verified=0.45))) == [Rule.RATE] * 10


def test_control_images_as_close_as_the_lowest_flag_are_counted():
    images = [made_score(i, 0.7) for i in range(10)]
    control = [*STRANGERS, made_score(100, 0.72), made_score(101, 0.72, detail=0.1, agreement=0.2)]
    flags = [Flag(0.01, 0.01, reason=one.reason) for one in flagged(images)]
    assert control_as_close(images, flags, control, Rules()) == 1, "one agrees as well, the other by its score alone"
    assert control_as_close(images, [Flag(0.5, 0.5)] * 10, control, Rules()) == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"fdr": 0.0}, "between 0 and 1"), ({"correction": "holm"}, "bh or by"), ({"score": "ssim"}, "combined, verified")],
)
def test_rules_that_do_not_exist_are_one_line(wrong, words):
    with pytest.raises(InputError, match=words):
        Rules(**wrong)


def test_of_two_calibrations_the_one_that_claims_less_decides():
    flagged_one, other = Flag(0.01, 0.02, 0.3, 0.4, Reason(Rule.RATE, 0.02, 0.05)), Flag(0.02, 0.07, 0.2, 0.3)
    assert wider(flagged_one, other) == Flag(0.02, 0.07, 0.3, 0.4) and wider(other, flagged_one).reason is None
    assert wider(flagged_one, flagged_one) == flagged_one


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (Reason(Rule.PIXELS, 0.9995, 0.998), "identical pixels"),
        (Reason(Rule.RATE, 0.0123, 0.05), "false discovery rate: q 0.0123 <= 0.05"),
        (Reason(Rule.BEYOND, 0.91, 0.72), "far beyond every control image: verified 0.91 >= 0.72"),
        (Reason(Rule.REGION_BEYOND, 0.99, 0.8), "region, far beyond every control image: agreement 0.99 >= 0.8"),
    ],
)
def test_a_reason_names_the_rule_and_its_rate(reason, words):
    assert reason.words == words
