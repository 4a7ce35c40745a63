"""Progress bars with a rate and an end time, on a terminal and in a log alike; and how long each stage took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

__all__ = ["StageClock", "progress"]


def progress(iterable, label: str, unit: str, total: int | None = None, done: int = 0) -> tqdm:
    """A tqdm bar: done/total, rate, remaining and elapsed time. ``None`` gives a bar to ``update`` by hand, from ``done`` on."""
    seldom = 0.2 if sys.stderr.isatty() else 10.0  # a log wants a line now and then, a terminal a moving bar
    return tqdm(
        iterable,
        desc=f"{label:<18}",
        unit=f" {unit}",
        total=total,
        initial=done,
        dynamic_ncols=True,
        smoothing=0.1,
        mininterval=seldom,
    )


class StageClock:
    """Seconds of each stage of a run; a stage that is entered again adds up.

    Attributes:
        seconds: stage -> seconds, in the order in which they were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)
