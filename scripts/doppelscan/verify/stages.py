"""What is known of pairs after each stage of their registration: it hangs on the pair alone, so that it holds in every later search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["COARSE_STAGE", "HALF_STAGE", "SMALL_STAGE", "STAGES", "WHOLE_STAGE", "Stages"]

# Columns of a pair: where it is (a sampling matrix of 6), of the first two stages the number of the flip-and-turn pose before it, and but for the last stage
# how well it agrees there.
COARSE_STAGE, SMALL_STAGE, HALF_STAGE, WHOLE_STAGE = slice(0, 8), slice(8, 16), slice(16, 23), slice(23, 29)
STAGES = 29


class Stages:
    """Registration of P pairs, stage by stage.

    Args:
        rows: float32 [P, 29], NaN where a stage was not done; what is done is written into it.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def done(self, stage: slice, pairs: np.ndarray, register: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """float32 [n, columns] of ``stage`` of some pairs, int64 [n]; ``register`` is asked for those alone that lack it."""
        missing = pairs[np.isnan(self.rows[pairs, stage.start])]
        if len(missing):
            self.rows[missing, stage] = register(missing)
        return self.rows[pairs, stage]
