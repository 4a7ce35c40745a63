"""The decision as a whole, with scores made by hand: what is certain needs no control, and what the control says is said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from doppelscan.calibrate import TailControl, wilson
from doppelscan.decide import Decision, NearDuplicate, Rule, Rules, ScoredControl, ScoredSet, Verdict, decide
from doppelscan.report.tables import score_rows
from doppelscan.verify import IdenticalImage, Pose
from made_records import made_decision, made_reference, made_score, made_set, made_summary


@pytest.fixture
def no_pairs(monkeypatch):
    """Nothing is registered: no pair is to be looked at."""
    monkeypatch.setattr(
        "doppelscan.decide.decision.explain", lambda scored, *rest: [] if not scored else pytest.fail("a pair was looked at")
    )


def decided(
    identical: Sequence[IdenticalImage | None],
    controls: int = 100,
    patients: int = 20,
    score: float = 0.3,
    unlike: list[bool] | None = None,
) -> Decision:
    images = len(identical)
    training = made_set("training", 20, patients=[f"t{i % patients}" for i in range(20)])
    made, people = made_set("synthetic", images), made_set("control", controls)
    synthetic = ScoredSet(
        made, tuple(made_score(i, score, match=i % 20, part=0.5, part_match=0) for i in range(images)), made_reference(training)
    )
    control = ScoredControl(
        people, tuple(made_score(i, 0.2 + 0.001 * i, match=0, part=0.5, part_match=0) for i in range(controls)), 1.0
    )
    return decide(synthetic, control, [], identical, unlike, None, Rules())


SAME = IdenticalImage(7, 5, True, 0.9995, 0.998)


@pytest.mark.parametrize(("controls", "patients"), [(100, 20), (3, 20), (0, 20), (100, 1)])
def test_the_same_pixels_are_a_copy_whatever_control_and_patients_say(no_pairs, controls, patients):
    decision = decided([SAME, *[None] * 499], controls, patients)
    first = decision.images[0]
    assert first.finding is not None and first.finding.kind == "copy" and first.finding.reason.rule is Rule.PIXELS
    assert first.match.id == "training/7.png" and first.scored.pose == Pose(True, 1, inverted=True)
    assert first.scored.pose.words(256) == "inverted flip-x turn 90" and first.scored.ssim > 0.99 and first.scored.score > 0.85
    assert decision.conclusion.verdict is Verdict.FOUND and decision.kinds["copy"] == 1
    assert all(one.finding is None for one in decision.images[1:])
    # Image 0 and training image 7 are 0.7 radians apart: nothing of the pair that registration found is left.
    assert first.scored.deepssim == first.scored.embedding == pytest.approx(math.cos(0.7), abs=1e-6)
    assert first.scored.part == first.scored.ssim and (first.scored.part_match, first.scored.part_share) == (7, 1.0)


def test_slices_of_one_volume_do_not_make_the_interval_of_the_flagged_share_narrow(no_pairs):
    """As in a comparison of two audits: one function for the same share."""
    decision = decided([SAME] * 12 + [None] * 28)
    assert decision.flagged == wilson(12, 40)
    of_ten = tuple(replace(one, record=replace(one.record, volume=f"v{i // 4}")) for i, one in enumerate(decision.images))
    slices = replace(decision, images=of_ten)
    assert slices.flagged.share == 0.3 and slices.flagged.upper == pytest.approx(wilson(2.7, 9).upper)
    assert slices.flagged.upper > wilson(12, 40).upper
    assert slices.showing == slices.flagged
    people = decision.control_set.images
    doubled = replace(people, records=[replace(r, patient=f"c{i // 2}") for i, r in enumerate(people.records)])
    control = replace(decision, control_set=replace(decision.control_set, images=doubled)).flagged_control
    assert (control.count, control.total) == (0, 100) and control.upper == wilson(0, 50).upper, "of 50 patients"


def test_what_the_control_cannot_say_of_the_others_is_said_beside_the_copies(no_pairs):
    decision = decided([SAME, SAME, None], controls=3)
    assert decision.conclusion.reason.startswith(
        "2 of 3 synthetic images hold the pixels of a training image, which needs no control"
    )
    assert "nothing can be said: the control holds 3 patients" in decision.conclusion.reason


def test_where_all_are_copies_nothing_is_said_of_others(no_pairs):
    assert decided([SAME, SAME], controls=3).conclusion.reason.endswith(
        "hold the pixels of a training image, which needs no control"
    )


def test_a_pair_that_folds_meet_from_both_sides_is_listed_once(no_pairs):
    training = made_set("training", 20)
    first, second = training.records[1], training.records[2]
    images = (made_score(0, 0.3, match=0, part=0.5, part_match=0),)
    people = tuple(made_score(i, 0.2, match=0, part=0.5, part_match=0) for i in range(30))
    doubles = (NearDuplicate(True, first, second, 0.8), NearDuplicate(True, second, first, 0.79))
    control = ScoredControl(made_set("control", 30), people, 1.0, doubles=doubles)
    given = [NearDuplicate(False, first, second, 0.8)]
    decision = decide(
        ScoredSet(made_set("synthetic", 1), images, made_reference(training)), control, given, [None], [False], None, Rules()
    )
    assert decision.near_duplicates == doubles[:1]


def test_an_image_without_a_region_to_compare_is_not_said_to_have_one_of_the_last_training_image(no_pairs):
    """-1 was taken for a row."""
    images = (made_score(0, 0.3, match=0, part=-1.0, part_match=-1),)
    people = tuple(made_score(i, 0.2, match=0, part=0.5, part_match=0) for i in range(30))
    synthetic = ScoredSet(made_set("synthetic", 1), images, made_reference(made_set("training", 20)))
    decision = decide(synthetic, ScoredControl(made_set("control", 30), people, 1.0), [], [None], [False], None, Rules())
    assert decision.images[0].part_match is None and decision.images[0].source.id == "training/0.png"


def test_without_the_same_pixels_a_useless_control_refuses(no_pairs):
    assert decided([None, None], controls=3).conclusion.verdict is Verdict.CANNOT


def test_what_registration_measured_of_the_same_pair_is_kept(no_pairs):
    same = IdenticalImage(0, 0, False, 0.9985, 0.998)
    assert decided([same]).images[0].scored.ssim == 0.9985, "the pair that was measured agreed by 0.3 only"
    assert decided([same], score=0.999).images[0].scored.ssim == 0.999


def test_images_of_another_domain_are_counted_and_the_shares_speak_of_the_others(no_pairs):
    decision = decided([SAME, *[None] * 9], unlike=[True, True, True, *[False] * 7])
    assert decision.unlike == 2 and decision.flagged.total == 8, "a flagged image is never of another domain"
    note = made_summary(decision).notes[0]
    assert note.startswith("2 of 10 synthetic images are unlike the training set") and note.endswith("speak of the other 8.")


def test_where_nobody_looked_for_another_domain_none_is_counted_as_looked_at(no_pairs):
    """Of volumes the summary said 0, as if none were."""
    for unlike, told in ((None, None), ([False] * 10, 0)):
        decision = decided([SAME, *[None] * 9], unlike=unlike)
        assert decision.unlike == told == made_summary(decision).images.unlike and decision.flagged.total == 10
        assert {row["unlike"] for row in score_rows(decision.images)} == {"" if unlike is None else False}
    assert {row["unlike"] for row in score_rows(decision.control)} == {""}, "of the control nobody asks"


def test_look_alikes_in_the_control_are_told_with_both_numbers_and_the_wider_decides(no_pairs, monkeypatch):
    """One of 100 control people looks like a training patient: without it 4 images of 500 would be flagged as far beyond the others."""
    training = made_set("training", 20)
    images = tuple(made_score(i, 0.85 if i < 4 else 0.2, match=0, part=0.5, part_match=0) for i in range(500))
    people = [made_score(i, 0.2 + 0.001 * i, match=0, part=0.5, part_match=0) for i in range(99)]
    control = ScoredControl(made_set("control", 100), (*people, made_score(99, 0.8, match=0, part=0.5, part_match=0)), 1.0)
    decision = decide(
        ScoredSet(made_set("synthetic", 500), images, made_reference(training)),
        control,
        [],
        [None] * 500,
        [False] * 500,
        None,
        Rules(),
    )
    assert decision.flagged.count == 0 and decision.flagged_without == 4 and decision.look_alikes == 1
    summary = made_summary(decision)
    assert summary.look_alikes == {"images": 1, "flagged_with": 0, "flagged_without": 4}
    assert any("with them 0 synthetic images are flagged, without them 4" in note for note in summary.notes)


def test_many_images_of_nobody_do_not_lower_the_bar_for_those_that_are_said_to_show_a_patient(monkeypatch):
    """150 means of training images are rightly rejected; by a rate over all flags strangers would be flagged beside them."""
    from doppelscan.decide import PairEvidence

    def evidence(scored, *rest):
        near = PairEvidence(0.8, False, 0.5, 0.0, -1.0, 0, 0.0, 0.0, 0.0, -1.0, 0, 0.0, 1.0, 0.0, True)
        return [replace(near, margin=0.5 if one.row >= 150 else 0.05) for one in scored]

    monkeypatch.setattr("doppelscan.decide.decision.explain", evidence)
    training = made_set("training", 20)
    scores = [0.9] * 150 + [0.615] * 3 + [0.3] * 47
    images = ScoredSet(
        made_set("synthetic", 200),
        tuple(made_score(i, s, match=i % 20, part=0.5, part_match=0) for i, s in enumerate(scores)),
        made_reference(training),
    )
    strangers = tuple(made_score(i, 0.62 if i < 2 else 0.25 + 0.002 * i, match=0, part=0.5, part_match=0) for i in range(100))
    decision = decide(
        images, ScoredControl(made_set("control", 100), strangers, 1.0), [], [None] * 200, [False] * 200, None, Rules()
    )
    assert decision.kinds["no single source"] == 150 and decision.kinds["same patient?"] == 0
    assert all(one.flag.reason is None and one.flag.q_value > 0.05 for one in decision.images[150:])
    assert decision.conclusion.verdict is Verdict.CANNOT and "derived from training" in decision.conclusion.reason
    assert decision.showing.count == 0 and decision.flagged.count == 150


def test_flags_that_counting_the_control_would_not_give_are_told():
    few, every = made_decision(3, 60), made_decision(60, 60)
    assert few.null.counted == pytest.approx(1 / 31) and few.on_tail == 3, "1 / 31 x 60 / 3 is no rate of 0.05"
    regions = sum(one.of_region for one in every.images)
    assert regions and every.on_tail == regions, "1 / 31 x 60 / 50 of four fifths is one, of a fifth is none"
    told = made_summary(few).extrapolated
    assert told.startswith("3 of 3 flags by rate rest on a tail fitted") and "below 0.032, they would not" in told
    assert made_summary(made_decision(0, 9)).extrapolated == ""


def test_where_tails_are_cut_off_is_kept():
    decision = made_decision(3, 60)
    assert decision.floors == (decision.null.counted / 100,) == made_summary(decision).p_value_floors
    bare = replace(
        decision, calibrations=tuple(replace(one, null=TailControl(one.null.scores[:9])) for one in decision.calibrations)
    )
    assert bare.null.floor == bare.null.counted and bare.null.floor not in bare.floors, "without a tail the p-value is counted"
