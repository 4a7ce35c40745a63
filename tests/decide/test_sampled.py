"""What is said of a whole set of which a sample was audited: never that it is clean without the bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
from doppelscan.calibrate import chance_of_one, most_in_whole
from doppelscan.decide import Conclusion, Rules, SampleClaim, Verdict, of_sample
from doppelscan.images import DrawnSample
from made_records import made_decision, made_summary

RULES = Rules()


def test_a_claim_of_none_found_carries_bound_and_power_of_the_sample():
    decision = replace(made_decision(0, 200), conclusion=Conclusion(Verdict.NOT_FOUND, "none of 200 images"))
    said = of_sample(decision, DrawnSample(200, 10_000), RULES)
    most = most_in_whole(0, 200, 10_000)
    claim = said.sample
    assert (claim.drawn, claim.total, claim.flagged, claim.most, claim.missed) == (200, 10_000, 0, most, most)
    assert claim.power == {str(k): pytest.approx(chance_of_one(k, 200, 10_000)) for k in (1, 10, 100)}
    assert said.conclusion.verdict is Verdict.NOT_FOUND
    assert said.conclusion.reason == (
        f"none of 200 images. This is a sample of 200 of 10000 synthetic images: of all 10000 at most 1.5 % ({most}) would be flagged (95 % upper "
        f"bound), so {most} more may lie among the 9800 that were not looked at; a single copy would be in the sample with a probability of 2 %, at "
        "least one of 10 with 18 % and of 100 with 87 %"
    )


def test_flagged_images_of_the_sample_are_not_among_the_missed():
    said = of_sample(made_decision(6, 20), DrawnSample(20, 50), RULES).sample
    assert said.flagged == 6 and said.most == most_in_whole(6, 20, 50) == said.missed + 6 and said.bound == said.most / 50
    assert list(said.power) == ["1", "10"], "there are no 100 among 50"


def test_where_copies_were_found_nothing_is_told_of_how_probably_they_would_be():
    words = of_sample(made_decision(6, 20), DrawnSample(20, 50), RULES).sample.words
    assert "run again without --limit" in words and "among the 30 that were not looked at" in words
    assert "probability" not in words and "at least one" not in words


def test_no_more_digits_are_told_than_are_known():
    words = SampleClaim.of_counts(0, 200, 1_000_000).words
    assert "1.5 % (about 15000) would be" in words and "so about 15000 more" in words
    near = SampleClaim.of_counts(0, 190, 200).words
    assert "with a probability of 95 %" in near and "of 10 with more than 99 %" in near and "99.9" not in near


def test_volumes_that_were_scored_whole_are_called_volumes_and_all_of_them_are_100_percent():
    decision = made_decision(2, 3)
    whole = [replace(one, record=replace(one.record, whole=True)) for one in decision.images]
    said = of_sample(replace(decision, images=whole), DrawnSample(3, 4), RULES).sample
    assert "a sample of 3 of 4 synthetic volumes: of all 4 at most 100 % (4)" in said.words or said.bound < 1
    assert "e+0" not in said.words and "synthetic volumes" in said.words


def test_slices_of_a_volume_were_drawn_together_and_count_once():
    decision = made_decision(4, 12)
    records = [replace(one.record, volume=f"v{i // 4},stack={i % 2}", slice=i) for i, one in enumerate(decision.images)]
    images = tuple(replace(one, record=record) for one, record in zip(decision.images, records, strict=True))
    said = of_sample(replace(decision, images=images), DrawnSample(3, 30), RULES).sample
    assert (said.drawn, said.total, said.of, said.flagged) == (3, 30, "volume", 1)


def test_a_whole_set_says_nothing_of_a_sample():
    decision = made_decision(2)
    assert of_sample(decision, None, RULES) is decision
    assert "sample" not in made_summary(decision).as_dict()
    assert made_summary(of_sample(decision, DrawnSample(7, 70), RULES)).as_dict()["sample"]["total"] == 70
