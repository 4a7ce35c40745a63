"""Progress bars with a rate and an end time, on a terminal and in a log alike."""

from __future__ import annotations

import sys

from tqdm import tqdm

__all__ = ["progress"]


def progress(iterable, label: str, unit: str, total: int | None = None) -> tqdm:
    """A tqdm bar: done/total, rate, remaining and elapsed time. ``None`` gives a bar to ``update`` by hand."""
    seldom = 0.2 if sys.stderr.isatty() else 10.0  # a log wants a line now and then, a terminal a moving bar
    return tqdm(iterable, desc=f"{label:<18}", unit=f" {unit}", total=total, dynamic_ncols=True, smoothing=0.1, mininterval=seldom)
