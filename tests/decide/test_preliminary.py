"""Before a conclusion: the nearest by the encoder are found in every pose, and the same pixels go before everything else."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.decide import ScoredSet, nearest_by_encoder, ranked_so_far
from doppelscan.verify import IdenticalImage
from made_records import MadeStore, made_reference, made_score, made_set

SAME = IdenticalImage(2, 5, True, 0.9999, 0.998)


class TurnedStore(MadeStore):
    """The image as it is comes in the fourth of 8 poses; the others show nothing that is known."""

    def read(self, keys, names, keep=False):
        found = super().read(keys, names, keep)
        views = np.zeros((len(keys), 8, 2), np.float32)
        views[:, 3] = found["deepssim"][:, 0]
        return {**found, "deepssim": views}


def turned(name: str, count: int):
    made = made_set(name, count)
    object.__setattr__(made, "store", TurnedStore())
    return made


def test_the_nearest_is_found_in_the_pose_in_which_it_is_alike():
    found = nearest_by_encoder(turned("synthetic", 5), made_set("training", 20), [None] * 5)
    assert [one.match for one in found.images] == [0, 1, 2, 3, 4]
    assert [one.deepssim for one in found.images] == pytest.approx([1.0] * 5, abs=1e-6)
    assert found.identical == 0 and all(one.scored is None and one.pose is None for one in found.images)


def test_a_first_answer_costs_the_same_however_many_training_images_there_are(monkeypatch):
    """All were compared with all, in one process: of a million and a million, hours."""
    monkeypatch.setattr("doppelscan.decide.preliminary.COMPARED", 3)
    found = nearest_by_encoder(turned("synthetic", 20), made_set("training", 20), [SAME] + [None] * 19)
    assert found.known.endswith("by the encoder alone, of 3 of the 20 training images")
    assert {one.match for one in found.images[1:]} <= {0, 10, 19} and found.images[19].match == 19
    assert found.images[0].match == 2, "the same pixels are looked for among all"


def test_the_same_pixels_name_the_match_and_claim_no_similarity_that_was_not_measured():
    first, second = nearest_by_encoder(turned("synthetic", 2), made_set("training", 20), [SAME, None]).images
    assert first.match == 2 and np.isnan(first.deepssim) and first.match_record.id == "training/2.png"
    assert first.pose.flip and first.pose.inverted and first.pose.quarter_turns == 1
    assert second.match == 1 and first.likeness > second.likeness


def test_scored_images_carry_their_scores_but_not_those_of_another_pair():
    images, training = made_set("synthetic", 3), made_set("training", 20)
    scored = ScoredSet(images, tuple(made_score(row, 0.3 + 0.1 * row) for row in range(3)), made_reference(training))
    found = ranked_so_far(scored, [SAME, None, SAME]).images
    assert [one.scored is None for one in found] == [True, False, False], "the first one's match was another image"
    assert [one.match for one in found] == [2, 1, 2] and found[2].scored.score == pytest.approx(0.5)
    assert sorted(found, key=lambda one: one.row == 1)[0].identical is SAME
