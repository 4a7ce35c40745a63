"""Tests of a difference hold their level, with and without volumes."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import chance_unseen, share_p_value
from doppelscan.errors import InputError


def test_a_test_of_shares_holds_its_level_and_finds_a_difference():
    rng, rejected = np.random.default_rng(0), 0
    for _ in range(400):
        first, second = rng.random(60) < 0.1, rng.random(80) < 0.1
        rejected += share_p_value(first, range(60), second, range(80)) <= 0.05
    assert rejected / 400 < 0.05
    assert share_p_value([True] * 20 + [False] * 40, range(60), [False] * 60, range(60)) < 1e-6


def test_slices_of_one_volume_count_once():
    slices = [True] * 16 + [False] * 144
    volumes = [i // 16 for i in range(160)]
    none = [False] * 160
    assert share_p_value(slices, range(160), none, range(160)) < 1e-4
    assert share_p_value(slices, volumes, none, volumes) == 1.0


def test_an_empty_set_shows_nothing_and_clusters_must_be_named():
    assert share_p_value([], [], [True], [0]) == 1.0
    with pytest.raises(InputError, match="'clusters'"):
        share_p_value([True], [], [True], [0])


def test_who_was_seen_once_may_be_unseen_by_chance():
    assert chance_unseen(1, 100, 100) == pytest.approx(0.5)
    assert chance_unseen(6, 100, 100) < 0.016
    assert chance_unseen(1, 100, 1900) == pytest.approx(0.05)
    assert chance_unseen(3, 100, 0) == chance_unseen(0, 100, 100) == 1.0
