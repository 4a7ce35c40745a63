"""The blockwise search against all cosines at once, and what may not hang on the rounding of a product."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from doppelscan.memorization import (
    TIE,
    NearestInBlocks,
    content_groups,
    falling_order,
    interleaved,
    nearest_rows,
    repeated,
    unit_length,
)

module = sys.modules[nearest_rows.__module__]


def units(*shape, seed=0, dtype=np.float32):
    return unit_length(np.random.default_rng(seed).normal(size=shape)).astype(dtype)


@pytest.fixture(params=[False, True], ids=["one block", "small blocks"])
def blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(module, "SIMILARITIES", 40)
        monkeypatch.setattr(module, "REFERENCE_ROWS", 7)


@pytest.mark.parametrize("sides", [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_blocks_and_poses_give_the_best_of_all_cosines(blocks, sides):
    queries, reference = units(11, sides[0], 5), units(23, sides[1], 5, seed=1)
    cosine = np.einsum("mpc,nqc->mnpq", queries, reference).reshape(11, 23, -1)
    found = nearest_rows(queries, reference if sides[1] > 1 else reference[:, 0], 4)
    best = cosine.max(2)
    assert (found.rows == np.argsort(-best, axis=1)[:, :4]).all()
    np.testing.assert_allclose(found.similarity, -np.sort(-best, axis=1)[:, :4], atol=1e-6)
    assert (found.poses == np.take_along_axis(cosine.argmax(2), found.rows, 1)).all()
    np.testing.assert_allclose(found.margin, np.sort(best, 1)[:, -1] - np.sort(best, 1)[:, -2], atol=1e-6)


def test_queries_in_one_pose_need_no_axis_for_it(blocks):
    queries, reference = units(5, 8), units(9, 8, seed=1)
    np.testing.assert_array_equal(nearest_rows(queries, reference, 2).rows, nearest_rows(queries[:, None], reference, 2).rows)


def test_double_precision_stays_double(blocks):
    queries, reference = units(6, 2, 40, dtype=np.float64), units(30, 40, seed=1, dtype=np.float64)
    found = nearest_rows(queries, reference, 3)
    assert found.similarity.dtype == np.float64
    expected = np.einsum("mpc,nc->mnp", queries, reference).max(2)
    np.testing.assert_allclose(found.similarity, -np.sort(-expected, axis=1)[:, :3], rtol=0, atol=1e-14)


def test_left_out_rows_are_never_named(blocks):
    reference = units(12, 5)
    out = np.arange(12) < 8
    found = nearest_rows(reference[:8], reference, 6, left_out=out)
    assert (found.rows[:, :4] >= 8).all() and (found.similarity < 0.999).all()
    assert (found.rows[:, 4:] == -1).all() and np.isneginf(found.similarity[:, 4:]).all()


def test_rows_of_the_own_group_do_not_take_part(blocks):
    images, patient = units(24, 6), np.arange(24) // 2
    images[13] = images[2]
    found = nearest_rows(images, images, 3, groups=(patient, patient))
    assert (patient[found.rows] != patient[:, None]).all()
    assert found.rows[2, 0] == 13 and found.rows[13, 0] == 2
    alone = nearest_rows(images, images, 3, groups=(np.zeros(24, int), np.zeros(24, int)))
    assert (alone.rows == -1).all() and (alone.margin == 0).all()
    nobody = nearest_rows(images, images, 3, left_out=np.ones(24, bool))
    assert (nobody.rows == -1).all() and np.isneginf(nobody.similarity).all()


def test_one_training_image_has_no_margin():
    found = nearest_rows(units(3, 1, 5), units(1, 5), 20)
    assert (found.rows == 0).all() and (found.margin == 0).all() and found.rows.shape == (3, 1)


@pytest.mark.parametrize("copies", [2, 300])
def test_equal_rows_come_in_order_of_the_row_wherever_they_lie_in_a_block(blocks, copies):
    # 37 values: rows at other places of a block are summed in another order.
    reference = np.tile(units(20, 37), (copies, 1))
    found = nearest_rows(units(20, 37), reference, 2)
    assert (found.rows == np.arange(20)[:, None] + [0, 20]).all() and (found.margin < 1e-6).all()


@pytest.mark.parametrize("noise", [1e-7, 2e-6])
def test_similarities_that_differ_by_a_rounding_are_equal(blocks, noise):
    rng = np.random.default_rng(0)
    similarity = np.repeat(rng.uniform(-0.5, 0.5, (50, 1, 12)), 40, 2) + rng.uniform(-noise, noise, (50, 1, 480))
    highest = similarity.reshape(50, 12, 40).max(2).argmax(1)
    collector = NearestInBlocks(50, 3)
    for start in range(0, 480, 60):
        collector.add(torch.tensor(similarity[..., start : start + 60], dtype=torch.float32), np.arange(start, start + 60))
    assert (collector.found().rows == highest[:, None] * 40 + np.arange(3)).all()


def test_of_poses_that_are_equal_the_first_is_named():
    queries = np.repeat(units(6, 1, 9), 8, 1)
    queries[:, 5:] += np.float32(1e-7)
    assert (nearest_rows(queries, units(14, 9, seed=1), 1).poses == 0).all()


def test_nothing_is_near_to_nothing_and_the_first_rows_are_named(blocks):
    found = nearest_rows(np.zeros((3, 8, 5), np.float32), units(40, 5), 4)
    assert (found.rows == np.arange(4)).all() and (found.similarity == 0).all() and (found.poses == 0).all()


def test_falling_order_is_that_of_argsort_but_for_ties():
    values = np.random.default_rng(0).permuted(np.tile(np.linspace(-1, 1, 40), (30, 1)), axis=1)
    np.testing.assert_array_equal(falling_order(values), np.argsort(-values, axis=1))
    np.testing.assert_array_equal(falling_order(values[0]), np.argsort(-values[0]))
    np.testing.assert_array_equal(falling_order(np.array([0.3, 0.7, 0.7 + TIE / 2, 0.7 - TIE / 2])), [1, 2, 3, 0])
    np.testing.assert_array_equal(falling_order(np.array([0.7, 0.7 + 1e-7]), np.array([9, 4])), [1, 0])


def test_a_slow_slope_is_no_tie():
    slope = np.linspace(0.5, 0.6, 30_000)
    order = falling_order(slope)
    assert order[-1] < 5 and order[0] > 29_990


def test_lists_are_interleaved_and_each_row_is_named_once():
    lists = [np.array([[3, 1, -1], [7, 7, 7]]), np.array([[1, 5], [-1, -1]])]
    assert interleaved(lists, 4).tolist() == [[3, 1, 5, -1], [7, -1, -1, -1]]
    assert interleaved(lists, 2).tolist() == [[3, 1], [7, -1]]
    rng = np.random.default_rng(0)
    lists = [rng.integers(-1, 9, (50, n)) for n in (6, 3, 8)]
    for row, merged in enumerate(interleaved(lists, 5)):
        order = dict.fromkeys(int(p[row, j]) for j in range(8) for p in lists if j < p.shape[1] and p[row, j] >= 0)
        assert [m for m in merged if m >= 0] == list(order)[:5]


def test_equal_features_are_one_content_and_keys_may_say_more():
    first, second = units(6, 4), units(6, 2, 3, seed=1)
    first[4], second[4] = first[1], second[1]
    first[5] = first[0]  # and another second feature
    groups = content_groups([first, second])
    assert groups[4] == groups[1] and len(set(groups)) == 5
    assert repeated(groups).tolist() == [False] * 4 + [True, False]
    assert len(set(content_groups([first, second], list("aabbcc")))) == 3


def test_a_repeated_row_takes_part_where_the_first_is_left_out():
    groups = np.array([0, 1, 0, 2, 1])
    assert repeated(groups, np.array([True, False, False, False, False])).tolist() == [True, False, False, False, True]
