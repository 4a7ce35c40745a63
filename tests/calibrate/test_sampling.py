"""A sample says of the whole exactly what counting says, and never less."""

from __future__ import annotations

from math import comb

import pytest
from doppelscan.calibrate import chance_of_one, clopper_pearson, most_in_whole
from doppelscan.errors import InputError


def at_most(found: int, drawn: int, total: int, of_kind: int) -> float:
    ways = sum(comb(of_kind, i) * comb(total - of_kind, drawn - i) for i in range(found + 1) if drawn - i <= total - of_kind)
    return ways / comb(total, drawn)


@pytest.mark.parametrize(("found", "drawn", "total"), [(0, 5, 20), (2, 5, 20), (0, 20, 20), (20, 20, 20), (0, 0, 7), (3, 30, 400)])
def test_the_bound_is_the_largest_number_that_the_sample_does_not_exclude(found, drawn, total):
    fitting = [k for k in range(found, total - drawn + found + 1) if at_most(found, drawn, total, k) > 0.05]
    assert most_in_whole(found, drawn, total) == max(fitting)


def test_of_a_whole_set_nothing_is_left_to_bound_and_of_a_very_large_one_the_bound_is_that_of_a_share():
    assert most_in_whole(3, 50, 50) == 3
    share = clopper_pearson([True] * 3 + [False] * 197, confidence=0.9).upper
    assert most_in_whole(3, 200, 1_000_000) / 1_000_000 == pytest.approx(share, abs=2e-4)


def test_one_copy_is_in_the_sample_by_the_share_that_is_drawn():
    assert chance_of_one(1, 200, 10_000) == pytest.approx(0.02)
    assert chance_of_one(10, 5, 20) == pytest.approx(1 - comb(10, 5) / comb(20, 5))
    assert chance_of_one(16, 5, 20) == 1 and chance_of_one(1, 0, 20) == 0


def test_numbers_that_no_sample_has_are_refused():
    for found, drawn, total in ((3, 2, 10), (-1, 2, 10), (1, 11, 10)):
        with pytest.raises(InputError, match="must lie between"):
            most_in_whole(found, drawn, total)
