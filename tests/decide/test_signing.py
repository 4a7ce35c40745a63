"""What may be said follows from what planted copies show: with records made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from doppelscan.calibrate import compete
from doppelscan.decide import Decision, Planted, Rules, ScoredControl, ScoredSet, Verdict, decide, self_tested, sign
from made_records import made_reference, made_score, made_set

RULES = Rules()
TRAINING = 30


def clean(flagged: int = 0) -> Decision:
    """50 synthetic images, 40 control patients up to 0.39; ``flagged`` of the images are copies."""
    training = made_set("training", TRAINING)
    images = tuple(made_score(i, 0.95 if i < flagged else 0.25, match=i % TRAINING, part=0.5, part_match=0) for i in range(50))
    people = tuple(made_score(i, 0.2 + 0.005 * i, match=0, part=0.6, part_match=0) for i in range(40))
    control = ScoredControl(made_set("control", 40), people, 1.0)
    synthetic = ScoredSet(made_set("synthetic", 50), images, made_reference(training))
    return decide(synthetic, control, [], [None] * 50, [False] * 50, None, RULES)


def planted(decision: Decision, name: str, found: int, missed: int, nobody: bool = False, wrong: int = 0) -> Planted:
    """Copies of training images 0, 1, ..., the first ``found`` at 0.95, of the first ``wrong`` another image is the match."""
    count = found + missed
    scored = tuple(
        made_score(i, 0.95 if i < found else 0.3, match=(i + (i < wrong)) % TRAINING, part=0.5, part_match=0) for i in range(count)
    )
    images = ScoredSet(made_set("planted", count), scored, decision.synthetic.reference)
    sources = np.full(count, -1) if nobody else np.arange(count) % TRAINING
    return Planted(name, f"changed by {name}", images, sources, tuple(f"p{i}" for i in range(count)))


@pytest.fixture(autouse=True)
def pairs_are_copies(monkeypatch):
    """Flagged pairs are looked at: each explains what a copy does."""
    from doppelscan.decide import PairEvidence

    one = PairEvidence(0.99, False, 0.5, 0.0, -1.0, 0, 0.0, 0.0, 0.0, -1.0, 0, 0.0, 1.0, 0.0, True)
    monkeypatch.setattr("doppelscan.decide.decision.explain", lambda scored, *rest: [one] * len(scored))


def test_found_right_source_and_power_are_counted():
    decision = clean()
    test = self_tested(decision, [planted(decision, "turn", 28, 2, wrong=3), planted(decision, "means", 1, 9, nobody=True)], RULES)
    (copies,), (means,) = test.copies, test.negatives
    assert (copies.planted, copies.found, copies.right_source, copies.called_copy) == (30, 28, 25, 28)
    assert copies.power.lower == pytest.approx(0.7793, abs=1e-3), "Clopper and Pearson of 28 of 30"
    assert (means.images, means.flagged, means.accused) == (10, 1, 1)
    assert test.missed(RULES) == (copies,)


def test_images_of_nobody_are_flagged_and_accuse_nobody_and_copies_that_are_called_so_are_missed(monkeypatch):
    from doppelscan.decide import PairEvidence

    decision = clean()
    one = PairEvidence(0.9, False, 0.1, 0.0, -1.0, 0, 0.0, 0.0, 0.0, -1.0, 0, 0.0, 1.0, 0.0, True)
    monkeypatch.setattr("doppelscan.decide.decision.explain", lambda scored, *rest: [one] * len(scored))
    test = self_tested(decision, [planted(decision, "turn", 28, 2), planted(decision, "means", 8, 2, nobody=True)], RULES)
    assert (test.negatives[0].flagged, test.negatives[0].accused) == (8, 0)
    assert test.copies[0].found == 0, "an audit that calls copies images of nobody does not find them"


def test_the_bound_is_the_flagged_share_over_the_weakest_power():
    decision = clean()
    both = [planted(decision, "turn", 30, 0), planted(decision, "blur", 22, 8)]
    strong, weak = self_tested(decision, both[:1], RULES), self_tested(decision, both, RULES)
    # 0 of 50 and 30 of 30, each at its limit of 97.5 %.
    assert strong.bound == pytest.approx((1 - 0.025 ** (1 / 50)) / 0.025 ** (1 / 30), rel=1e-6)
    assert 1 > weak.bound > 1.5 * strong.bound and weak.memorized.value == 0.0
    half = self_tested(clean(25), [planted(clean(25), "turn", 30, 0)], RULES)
    assert half.memorized.lower < 0.5 < half.memorized.upper and half.memorized.value == pytest.approx(0.5)


def test_of_changes_that_are_mostly_missed_nothing_is_bounded():
    """By half that are found 23 % would be bounded; of copies that are changed a little more none may be found."""
    decision = clean()
    test = self_tested(decision, [planted(decision, "turn", 30, 0), planted(decision, "components", 15, 15)], RULES)
    assert test.copies[1].power.lower < RULES.bounded_power and test.bound == test.memorized.upper == 1.0
    assert test.memorized.lower == 0.0
    told = self_tested(decision, [planted(decision, "components", 15, 15)], replace(RULES, bounded_power=0.3))
    assert told.bound < 0.3


def test_the_estimate_takes_no_transform_for_granted():
    """Half of the set are copies that are all found; that others would be missed does not make them more."""
    decision = clean(25)
    test = self_tested(decision, [planted(decision, "turn", 30, 0), planted(decision, "components", 6, 24)], RULES)
    assert test.memorized.lower < 0.5, "0.5 is flagged, and nothing says that a copy was missed"
    assert test.memorized.value == pytest.approx(0.5 / 0.6) and test.memorized.upper == 1.0


def test_a_negative_claim_states_power_and_bound():
    decision = clean()
    test = self_tested(decision, [planted(decision, "turn", 30, 0)], RULES)
    said = sign(decision, test, None, RULES).conclusion
    assert said.verdict is Verdict.NOT_FOUND
    assert "at least 88 %" in said.reason and f"at most {100 * test.bound:.1f} % can be memorized" in said.reason


@pytest.mark.parametrize(("found", "missed"), [(2, 16), (17, 13), (16, 0)])
def test_copies_that_may_go_unseen_cannot_be_excluded(found, missed):
    decision = clean()
    test = self_tested(decision, [planted(decision, "turn", 30, 0), planted(decision, "blur", found, missed)], RULES)
    said = sign(decision, test, None, RULES).conclusion
    assert said.verdict is Verdict.CANNOT and "copies changed by blur cannot be excluded" in said.reason
    assert f"of {found + missed} that were planted {found} were found" in said.reason


def test_a_claim_covers_what_was_declared_and_says_what_it_leaves_out():
    decision = clean()
    both = [planted(decision, "turn", 30, 0), replace(planted(decision, "blur", 3, 27), declared=False)]
    test = self_tested(decision, both, RULES)
    alone = self_tested(decision, both[:1], RULES)
    assert (test.bound, test.memorized) == (alone.bound, alone.memorized), "of what was not declared nothing is bounded"
    assert test.missed(RULES) == () and [one.name for one in test.unclaimed(RULES)] == ["blur"] and len(test.copies) == 2
    said = sign(decision, test, None, RULES).conclusion
    assert said.verdict is Verdict.NOT_FOUND and "planted copies changed by turn are found (at least 88 %)" in said.reason
    assert said.reason.endswith("Nothing is claimed of copies changed by blur: these may go unseen, and were not declared")
    found = self_tested(decision, [both[0], replace(planted(decision, "blur", 30, 0), declared=False)], RULES)
    assert "Nothing is claimed" not in sign(decision, found, None, RULES).conclusion.reason
    weak = self_tested(decision, [replace(both[0], declared=False), replace(both[1], declared=True)], RULES)
    assert sign(decision, weak, None, RULES).conclusion.verdict is Verdict.CANNOT, "declared copies are missed"


def test_of_too_few_patients_it_is_said_that_they_are_too_few_not_that_copies_are_missed():
    decision = clean()
    said = sign(decision, self_tested(decision, [planted(decision, "turn", 12, 0)], RULES), None, RULES).conclusion
    assert (
        said.verdict is Verdict.CANNOT
        and "only 12 training patients could be planted" in said.reason
        and "17 are needed" in said.reason
    )


def test_slices_of_one_volume_do_not_narrow_the_bound():
    """5 volumes of 10 slices: one was copied, all its slices are found; ten of fifty images say less than ten of fifty volumes."""
    decision = clean(10)
    turned = [planted(decision, "turn", 30, 0)]
    alone = self_tested(decision, turned, RULES)
    images = tuple(replace(one, record=replace(one.record, volume=f"v{i // 10}")) for i, one in enumerate(decision.images))
    together = self_tested(replace(decision, images=images), turned, RULES)
    assert alone.bound < 0.45 and together.bound > 0.7


def test_without_a_self_test_nothing_is_called_clean_and_what_was_found_stays_found():
    assert sign(clean(), None, None, RULES).conclusion.verdict is Verdict.CANNOT
    assert "self-test was switched off" in sign(clean(), None, None, RULES).conclusion.reason
    assert sign(clean(20), None, None, RULES).conclusion == clean(20).conclusion


def test_a_set_that_is_owed_to_training_is_not_called_clean_though_no_image_is_a_copy():
    decision = clean()
    test = self_tested(decision, [planted(decision, "turn", 30, 0)], RULES)
    names = [f"t{i % 25}" for i in range(100)]
    won = np.arange(100) % 20 != 0
    owed = compete(np.where(won, 0.4, 0.2), np.full(100, 0.3), names, [f"d{n}" for n in names], 30, 30)
    said = sign(decision, test, owed, RULES).conclusion
    assert (
        owed.p_value < 0.01 and said.verdict is Verdict.CANNOT and "nearer to training patients than to other people" in said.reason
    )
    odd = np.arange(100) % 2
    even = compete(np.where(odd, 0.4, 0.2), np.where(odd, 0.2, 0.4), names, [f"d{n}" for n in names], 30, 30)
    assert sign(decision, test, even, RULES).conclusion.verdict is Verdict.NOT_FOUND


def test_a_planted_copy_of_a_region_counts_by_the_source_of_the_region():
    decision = clean()
    one = planted(decision, "part", 0, 20)
    scored = tuple(replace(s, part=0.9999, part_match=(s.row + 1) % TRAINING, part_share=0.5) for s in one.images.scored)
    wrong = self_tested(decision, [replace(one, images=replace(one.images, scored=scored))], RULES).copies[0]
    scored = tuple(replace(s, part_match=s.row) for s in scored)
    right = self_tested(decision, [replace(one, images=replace(one.images, scored=scored))], RULES).copies[0]
    assert wrong.found == right.found == 20 and (wrong.right_source, right.right_source) == (0, 20)


def test_a_planted_half_that_the_whole_tells_counts_by_its_match(monkeypatch):
    """Its best region lies where a third volume happens to be alike: the self-test counted its source as wrong."""
    from doppelscan.decide import PairEvidence

    half = PairEvidence(0.6, False, 0.5, 0.0, -1.0, 0, 0.0, 0.0, 0.0, -1.0, 0, 0.0, 0.5, 0.4, True)
    decision = clean()
    monkeypatch.setattr("doppelscan.decide.decision.explain", lambda scored, *rest: [half] * len(scored))
    one = planted(decision, "half", 20, 0)
    scored = tuple(replace(s, part_match=(s.row + 1) % TRAINING) for s in one.images.scored)
    copies = self_tested(decision, [replace(one, images=replace(one.images, scored=scored))], RULES).copies[0]
    assert (copies.found, copies.right_source) == (20, 20)
