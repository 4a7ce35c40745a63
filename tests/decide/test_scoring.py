"""Which candidate is the match of an image: the score that ranks chooses it, too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from doppelscan.decide.scoring import chosen_by, score_images
from doppelscan.search import PatchMatches, Proposals
from made_records import made_set


def proposals() -> Proposals:
    """Of one image: row 7 by registration, 5 by deepssim, 3 by the index."""
    index = SimpleNamespace(match=np.array([3]), similarity=[0.9], mi=[4.0], oni=[-1.0], consensus=[3])
    cells = np.full((1, 81), 0.5, np.float32)
    patches = PatchMatches(
        np.array([[7]]), np.array([[0.5]]), np.array([0.5]), np.array([7]), cells, np.array([False]), np.full((1, 81), True)
    )
    return Proposals(
        np.array([[3, 5, 7, -1]]),
        np.array([[0.5, 0.6, 0.7, -1]]),
        np.array([[0.8, 0.9, 0.2, -1]]),
        np.tile([0, 4], (1, 4, 1)),
        index,
        patches,
    )


class Search:
    patches = SimpleNamespace(descriptor=None)

    def propose(self, features, thumbnails):
        return proposals()


class Registered:
    """Stands for registration: row 7 agrees best, then 5, then 3."""

    def __init__(self):
        self.flush = self.refresh = lambda: None

    def best(self, queries, rows, training, candidates, poses, descriptor, update):
        self.asked = candidates[0][candidates[0] >= 0].tolist()
        agreement = {3: 0.2, 5: 0.4, 7: 0.9}
        pairs = [[place, 0, 0, 0, 1, 0, 0, 0.5, agreement[row], agreement[row], 0.5] for place, row in enumerate(self.asked)]
        return np.array([sorted(pairs, key=lambda pair: -pair[8])], np.float32)


@pytest.mark.parametrize(("score", "match", "value", "asked"), [
    ("combined", 7, None, [3, 5, 7]), ("verified", 7, 0.9, [3, 5, 7]), ("deepssim", 5, 0.9, [5]), ("mi", 3, 4.0, [3]),
])  # fmt: skip
def test_the_score_that_ranks_chooses_the_match(score, match, value, asked):
    registered = Registered()
    queries = made_set("synthetic", 1)
    (found,) = score_images(queries, made_set("training", 9), Search(), registered, "synthetic", score)
    assert found.match == match and registered.asked == asked
    assert value is None or found.score == pytest.approx(value)


def test_of_equal_cosines_the_first_row_is_the_match():
    given = proposals()
    tied = Proposals(given.rows, given.embedding, np.array([[0.9, 0.900001, 0.2, -1]]), given.poses, given.index, given.patches)
    assert chosen_by("deepssim", tied).rows.tolist() == [[3]]
