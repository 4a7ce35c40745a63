"""Records are shown as often as was said, also across epochs, processes and a resume."""

from __future__ import annotations

from collections import Counter

import pytest
from doppelscan.errors import InputError
from doppelscan.generate import RepeatSampler, draw_repeats
from doppelscan.images import ImageRecord


def records(repeats: list[int]) -> list[ImageRecord]:
    return [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", str(i), repeats=times) for i, times in enumerate(repeats)]


def test_each_word_draws_from_its_range_and_a_seed_draws_the_same():
    some = records([1] * 400)
    assert set(draw_repeats(some, "none")) == {1}
    assert set(draw_repeats(some, "low", 3)) == set(range(1, 5))
    assert set(draw_repeats(some, "high", 3)) == set(range(1, 15))
    assert draw_repeats(some, "high", 3) == draw_repeats(some, "high", 3) != draw_repeats(some, "high", 4)


def test_the_column_of_the_table_decides_and_is_missed_where_there_is_none():
    assert draw_repeats(records([1, 16, 4]), "column") == [1, 16, 4]
    assert draw_repeats(records([1, 16, 4]), "none") == [1, 1, 1]
    with pytest.raises(InputError, match=r"column 'repeats'"):
        draw_repeats(records([1, 1]), "column")
    with pytest.raises(InputError, match=r"must be none, low, high or column. Got 'medium'"):
        draw_repeats(records([1, 1]), "medium")


def drawn(epochs: range, repeats: list[int], batches: int = 4, rank: int = 0, world_size: int = 1) -> list[int]:
    sampler = RepeatSampler(repeats, batch_size=3, batches=batches, seed=5, rank=rank, world_size=world_size)
    found: list[int] = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        for batch in sampler:
            assert len(batch) == 3
            found += batch
    return found


def test_a_pass_shows_each_record_as_often_as_it_is_duplicated_and_goes_on_over_epochs():
    repeats = [1, 5, 2]  # a pass of 8, in epochs of 12
    whole = drawn(range(6), repeats)
    for start in range(0, len(whole), 8):
        assert Counter(whole[start : start + 8]) == Counter({0: 1, 1: 5, 2: 2})
    assert whole[:8] != whole[8:16]


def test_an_epoch_after_a_resume_is_the_one_that_was_interrupted():
    assert drawn(range(6), [1, 5, 2])[36:] == drawn(range(3, 6), [1, 5, 2])


def test_processes_share_a_pass():
    both = [drawn(range(2), [1, 5, 2], rank=rank, world_size=2) for rank in (0, 1)]
    alone = drawn(range(4), [1, 5, 2])
    assert [item for start in range(0, 24, 3) for rank in (0, 1) for item in both[rank][start : start + 3]] == alone
