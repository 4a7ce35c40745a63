"""How often a record is shown to the generator while it trains: the cause of memorization that a case study sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from doppelscan.errors import InputError
from doppelscan.images import ImageRecord

__all__ = ["DUPLICATION", "RepeatSampler", "draw_repeats"]

# The most times that a record is shown in the conditions of arXiv 2509.16582; drawn uniformly from 1 on.
DUPLICATION = {"none": 1, "low": 4, "high": 14}


def draw_repeats(records: Sequence[ImageRecord], duplication: str = "none", seed: int = 0) -> list[int]:
    """How often each record is shown in a pass over the training set.

    Args:
        records: of the training set.
        duplication: none (once each), low (1 to 4 times) or high (1 to 14 times), drawn uniformly for each record; or column, which takes the
            column ``repeats`` of the set's table.
        seed: of the draw.

    Raises:
        InputError: another word; or column without such a column.
    """
    if duplication == "column":
        if all(record.repeats == 1 for record in records):
            raise InputError(
                "The 'duplication' parameter can be column for a table (.csv, .json) whose column 'repeats' says how often each image is shown. "
                "Got a set that shows each once; add the column, or pass --duplication none, low or high."
            )
        return [record.repeats for record in records]
    if duplication not in DUPLICATION:
        raise InputError(f"The 'duplication' parameter must be none, low, high or column. Got {duplication!r} instead.")
    return np.random.default_rng(seed).integers(1, DUPLICATION[duplication] + 1, len(records)).tolist()


class RepeatSampler(Sampler[list[int]]):
    """Batches from shuffled passes over a set in which each item is there ``repeats`` times; a pass goes on where the last epoch ended.

    An epoch is a number of batches, not a pass: a small set would else spend its time between epochs. What a batch holds depends on its number,
    ``seed`` and the number of processes alone, so a resumed training sees what it would have seen.

    Args:
        repeats: of each item.
        batch_size: items a batch, of each process.
        batches: batches an epoch.
        seed: of the passes.
        rank: of this process.
        world_size: number of processes; together they take ``world_size * batch_size`` items of the pass at a time.
    """

    def __init__(
        self, repeats: Sequence[int], batch_size: int, batches: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.items = np.repeat(np.arange(len(repeats)), repeats)
        self.batch_size, self.batches, self.seed = batch_size, batches, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """The next batches are those of ``epoch`` (from 0)."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * self.batches
        self.epoch += 1  # unless somebody says which, the next one
        number, order = -1, self.items
        for batch in range(first, first + self.batches):
            taken = []
            start = (batch * self.world_size + self.rank) * self.batch_size
            for place in range(start, start + self.batch_size):
                if place // len(self.items) != number:
                    number = place // len(self.items)
                    order = self.items[self._shuffled(number)]
                taken.append(int(order[place % len(self.items)]))
            yield taken

    def _shuffled(self, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        return torch.randperm(len(self.items), generator=generator).numpy()
