"""The blockwise search against all cosines at once."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.memorization import nearest as module
from doppelscan.memorization import unit_length
from doppelscan.memorization.nearest import nearest


def units(*shape, seed=0):
    return unit_length(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("block", [2**25, 40])
@pytest.mark.parametrize("sides", [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_blocks_and_poses_give_the_best_of_all_cosines(monkeypatch, block, sides):
    monkeypatch.setattr(module, "BLOCK_VALUES", block)
    monkeypatch.setattr(module, "REFERENCE_ROWS", 7)
    queries, reference = units(11, sides[0], 5), units(23, sides[1], 5, seed=1)
    cosine = np.einsum("mpc,nqc->mnpq", queries, reference).reshape(11, 23, -1)
    found = nearest(queries, reference if sides[1] > 1 else reference[:, 0], 4)
    best = cosine.max(2)
    np.testing.assert_allclose(found.similarity, best.max(1), atol=1e-6)
    assert (found.row == best.argmax(1)).all()
    assert (found.pose == cosine[np.arange(11), found.row].argmax(1)).all()
    assert (found.candidates == np.argsort(-best, axis=1)[:, :4]).all()
    np.testing.assert_allclose(found.margin, np.sort(best, 1)[:, -1] - np.sort(best, 1)[:, -2], atol=1e-6)


def test_left_out_rows_are_never_named():
    reference = units(12, 5)
    out = np.arange(12) < 8
    found = nearest(reference[:8, None], reference, 3, out)
    assert (found.candidates >= 8).all() and (found.similarity < 0.999).all()


def test_equals_come_in_order_of_the_row():
    reference = np.concatenate([units(4, 6), units(4, 6)])
    found = nearest(units(4, 6)[:, None], reference, 3)
    assert (found.row == np.arange(4)).all() and (found.candidates[:, 1] == np.arange(4, 8)).all()


def test_one_training_image_has_no_margin():
    found = nearest(units(3, 1, 5), units(1, 5), 20)
    assert (found.row == 0).all() and (found.margin == 0).all() and found.candidates.shape == (3, 1)
