"""The contract between a rival and the benchmark."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.rivals import RIVALS, Ranking, nearest, require_squares, rivals
from doppelscan.rivals.ranking import LastFit

# Its training takes longer; it has a test of its own.
QUICK = [name for name in RIVALS if name != "dar-fitted"]


@pytest.mark.parametrize("name", QUICK)
def test_every_rival_ranks_exact_copies_above_strangers_and_names_their_source(name, squares):
    (rival,) = rivals([name])
    found = rival.rank(squares.training, squares.images, squares.holdout)
    assert found.score.dtype == np.float64 and found.match.dtype == np.int64
    assert found.score.shape == found.match.shape == (11,) and np.isfinite(found.score).all()
    assert tuple(found.match[:3]) == squares.sources
    assert found.score[:3].min() > found.score[3:].max()


@pytest.mark.parametrize("name", [name for name in QUICK if name not in ("semdedup", "m3")])  # as dar, but slower than the rest
def test_the_order_of_the_images_and_other_training_sets_before_change_nothing(name, squares):
    (rival,) = rivals([name])
    rival.rank(squares.holdout, squares.images[:2])  # what was kept of it must not be used again
    found, turned = (rival.rank(squares.training, images) for images in (squares.images, squares.images.flip(0)))
    np.testing.assert_allclose(found.score[::-1], turned.score, atol=1e-4)
    assert found.match[::-1].tolist() == turned.match.tolist()


def test_only_what_lies_above_the_threshold_is_a_copy():
    ranking = Ranking(np.array([0.5, 0.6, 0.7]), np.array([0, 1, 2]), 0.6)
    assert ranking.copies.tolist() == [False, False, True]
    assert not Ranking(ranking.score, ranking.match).copies.any(), "nobody is, without a threshold"


def test_of_equal_training_images_the_first_is_the_match():
    assert nearest(np.array([[0.1, 0.9, 0.9], [0.3, 0.2, 0.1]])).match.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("images", torch.zeros(2, 1, 40, 40)),
        ("images", torch.zeros(2, 3, 32, 32)),
        ("images", torch.zeros(2, 1, 32, 32, dtype=torch.uint8)),
        ("holdout", torch.zeros(0, 1, 32, 32)),
        ("training", torch.zeros(2, 32, 32)),
    ],
    ids=["other size", "colour", "bytes", "nobody", "no channel"],
)
def test_images_that_cannot_be_compared_are_refused(name, wrong):
    sets = {"training": torch.zeros(2, 1, 32, 32), "images": torch.zeros(2, 1, 32, 32), "holdout": None}
    with pytest.raises(InputError, match=f"'{name}' parameter of a rival"):
        require_squares(**{**sets, name: wrong})


def test_a_training_set_is_fitted_once_and_another_one_anew():
    fit, calls = LastFit(), []
    first, second = torch.zeros(1), torch.ones(1)
    made = [fit.of(t, lambda x: calls.append(float(x)) or float(x)) for t in (first, first, second, first)]
    assert made == [0.0, 0.0, 1.0, 0.0] and calls == [0.0, 1.0, 0.0]
