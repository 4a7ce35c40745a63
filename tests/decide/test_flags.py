"""By which rule an image is flagged, with scores made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from doppelscan.calibrate import q_values
from doppelscan.decide import Calibration, Flag, Reason, Rule, Rules, ScoredImage, control_as_close, wider
from doppelscan.decide.reference import slice_positions
from doppelscan.errors import InputError
from doppelscan.images import ImageRecord
from made_records import made_score

STRANGERS = [made_score(i, 0.2 + 0.002 * i, part=0.7, part_share=0.05) for i in range(100)]  # up to 0.398


def calibrated(
    control: Sequence[ScoredImage] = STRANGERS, rules: Rules | None = None, told: Sequence[float] | None = None
) -> Calibration:
    """Each control image is of a patient of its own; ``told`` is what its match explains."""
    explained = np.full(len(control), np.nan) if told is None else np.array(told)
    return Calibration.on(control, [str(i) for i in range(len(control))], explained, 1.0, rules or Rules())


def flagged(
    scored: Sequence[ScoredImage],
    control: Sequence[ScoredImage] = STRANGERS,
    rules: Rules | None = None,
    explained: Sequence[float] | None = None,
) -> list[Flag]:
    return calibrated(control, rules).flags(scored, np.full(len(scored), np.nan) if explained is None else np.array(explained))


def rules_of(flags: Sequence[Flag]) -> list[Rule | None]:
    return [one.reason.rule if one.reason else None for one in flags]


def test_one_copy_among_many_is_flagged_by_a_p_value_beyond_the_control():
    """By counting, one of 200 against 100 controls has a q-value of 1: its p-value is a bound of the control's tail."""
    images = [made_score(0, 0.9), *(made_score(i, 0.3) for i in range(1, 200))]
    flags = flagged(images)
    assert rules_of(flags) == [Rule.RATE, *[None] * 199]
    assert flags[0].p_value < 1 / 101 / 50 and flags[0].q_value <= 0.05 and flags[0].reason.error == 0.05
    assert rules_of(flagged(images, rules=Rules(tail_extrapolation=1))) == [None] * 200, "counting alone"
    assert rules_of(flagged(images, STRANGERS[:15])) == [None] * 200, "15 patients have no tail"


def test_strangers_who_lie_a_little_above_the_control_are_not_flagged():
    images = [made_score(0, 0.42), *(made_score(i, 0.3) for i in range(1, 200))]
    assert rules_of(flagged(images)) == [None] * 200


def test_what_is_flagged_and_the_q_values_say_the_same():
    images = [made_score(i, 0.35 + 0.005 * i, detail=0.9, agreement=0.9, part=0.6) for i in range(60)]
    for one in flagged(images):
        assert (one.reason is not None) == (one.q_value <= 0.05)


def test_the_same_image_registered_is_flagged_where_the_control_is_too_small_for_a_rate():
    images, told = [made_score(0, 0.95), made_score(1, 0.95)], [0.98, 0.95]
    flags = flagged(images, STRANGERS[:10], explained=told)
    assert rules_of(flags) == [Rule.PLAIN, None], "what is explained less may be another slice"
    assert flags[0].reason.error == pytest.approx(1 - 0.05 ** (1 / 10)), "none of ten strangers"
    assert rules_of(flagged(images, [], explained=told)) == [None, None]


def test_a_mean_that_is_as_near_to_two_patients_is_not_the_same_image():
    images = [made_score(0, 0.95, runner_up=0.9), made_score(1, 0.95, runner_up=0.3), made_score(2, 0.95, runner_up=0.9)]
    assert rules_of(flagged(images, STRANGERS[:10], explained=[0.97, 0.97, 0.99])) == [None, Rule.PLAIN, Rule.PLAIN]


def test_where_strangers_are_explained_as_copies_are_that_says_nothing():
    spoiled = calibrated(STRANGERS[:10], told=[0.97, *[np.nan] * 9])
    assert rules_of(spoiled.flags([made_score(0, 0.95)], np.array([0.98]))) == [None]


def test_a_copy_far_beyond_a_stranger_who_looks_like_one_is_still_said():
    """Of ten people's slices one was explained to 0.963 and by 0.12 nearer to its match than to others; turned copies to 0.999 and by 0.5."""
    control = [made_score(0, 0.8, runner_up=0.68), *STRANGERS[1:10]]
    spoiled = calibrated(control, told=[0.963, *[np.nan] * 9])
    near, alike = made_score(0, 0.97, runner_up=0.45), made_score(1, 0.97, runner_up=0.8)
    flags = spoiled.flags([near, near, alike], np.array([0.999, 0.98, 0.999]))
    assert rules_of(flags) == [Rule.PLAIN, None, None], "explained less, or near to others too, it may be a stranger"
    assert flags[0].reason.limit == pytest.approx(1 - 0.037 / 4)
    leaked = calibrated(control, told=[1.0, *[np.nan] * 9])
    assert rules_of(leaked.flags([near], np.array([1.0]))) == [None], "a copy in the control leaves nothing to be beyond"


def test_a_planted_image_is_judged_as_one_more_of_the_set():
    rule, alone = calibrated(), np.full(1, np.nan)
    images = [made_score(i, 0.3) for i in range(300)]
    beside = rule.flags(images, np.full(300, np.nan))
    for score in (0.3, 0.41, 0.45, 0.5, 0.6, 0.9):
        (found,) = rule.flags_beside([made_score(0, score)], alone, beside)
        whole = rule.flags([*images, made_score(300, score)], np.full(301, np.nan))[-1]
        assert found == whole
    p = np.array([one.p_value for one in beside])
    assert found.q_value == pytest.approx(min(1, q_values(np.append(p, found.p_value))[-1] / 0.8))


def test_rare_is_not_enough_without_a_pair_that_agrees():
    flags = flagged([made_score(i, 0.9, detail=0.5, agreement=0.59, part=0.6) for i in range(10)])
    assert rules_of(flags) == [None] * 10 and all(one.q_value <= 0.05 for one in flags)


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
    assert sum(control_as_close(images, flags, control, Rules())) == 1, "one agrees as well, the other by its score alone"
    assert not any(control_as_close(images, [Flag(0.5, 0.5)] * 10, control, Rules()))


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
        (Reason(Rule.PIXELS, 0.99996, 0.998), "identical pixels"),
        (Reason(Rule.PIXELS, 0.9985, 0.998), "identical pixels but for resizing, blur or noise: squared correlation 0.9985"),
        (Reason(Rule.RATE, 0.0123, 0.05), "false discovery rate: q 0.0123 <= 0.05"),
        (Reason(Rule.PLAIN, 0.98, 0.966, 0.031), "the same image, registered: explained 0.98 >= 0.966, of strangers at most 3.1 %"),
        (
            Reason(Rule.REGION_BEYOND, 0.99, 0.8, 0.03),
            "region, far beyond every control image: agreement 0.99 >= 0.8, of strangers at most 3 %",
        ),
    ],
)
def test_a_reason_names_the_rule_and_its_rate(reason, words):
    assert reason.words == words


def test_a_slice_is_held_against_strangers_at_its_own_place_in_the_volume():
    """At one end of the volume strangers are more alike than anywhere else; one of them there is no copy."""
    rng = np.random.default_rng(0)
    places = [(2, i % 5) for i in range(200)]
    people = [str(i // 5) for i in range(200)]
    control = [
        made_score(i, float(np.clip((0.62 if i % 5 == 0 else 0.25) + 0.02 * rng.standard_normal(), 0, 1)), part=0.5)
        for i in range(200)
    ]
    untold = np.full(200, np.nan)
    rule = Calibration.on(control, people, untold, 1.0, Rules(), positions=places)
    images = [made_score(0, 0.63), made_score(1, 0.4), made_score(2, 0.4)]
    here, there, nowhere = rule.p_values(images, [(2, 0), (2, 3), None])[0]
    assert here > 0.15 > rule.null.p_values(np.array([0.63]))[0] and nowhere == rule.null.p_values(np.array([0.4]))[0]
    assert there == nowhere, "of both p-values the larger holds"
    assert rule.p_values([made_score(0, 0.3)], [(2, 0)])[0][0] > 0.9, "a low score is no sign at a place where strangers score high"
    assert rule.by_position is not None and set(rule.by_position[0].by_stratum) == set(places)


def test_positions_are_fifths_of_the_depth_that_training_covers_whatever_the_number_of_slices():
    def one(number, slices=100, axis=2):
        return ImageRecord(f"v#slice={number}", ("v",), "v", "p", number, axis, slices=slices)

    training = [one(n) for n in range(40, 60)]
    flat = ImageRecord("a.png", ("a.png",), "a.png", "p")
    found = slice_positions([one(40), one(43), one(44), one(59), one(10), one(90), one(50, axis=0), flat], training)
    assert found == [(2, 0), (2, 0), (2, 1), (2, 4), (2, 0), (2, 4), None, None]
    thick = [one(n // 4, 25) for n in range(42, 60, 4)]
    assert [p[1] for p in slice_positions(thick, training)] == [0, 1, 2, 3, 4]
