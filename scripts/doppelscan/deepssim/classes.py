"""The three classes of arXiv 2509.16582, by SSIM or by the score that estimates it."""

from __future__ import annotations

import numpy as np

from doppelscan.errors import InputError

__all__ = ["THRESHOLDS", "VERDICTS", "verdict", "verdict_number"]

VERDICTS = ("different", "similar", "duplicate")
THRESHOLDS = (0.60, 0.85)


def verdict_number(values: np.ndarray) -> np.ndarray:
    """int64 of the shape of ``values``: 2 (duplicate) above 0.85, 1 (similar) above 0.60, else 0 (different).

    Raises:
        InputError: a value is NaN, of which no class is the safe one.
    """
    found = np.asarray(values, dtype=np.float64)
    if np.isnan(found).any():
        raise InputError(
            f"The SSIM of a pair must be a number to have a class. Got NaN in {int(np.isnan(found).sum())} of {found.size}."
        )
    return np.digitize(found, THRESHOLDS, right=True)


def verdict(ssim: float) -> str:
    """``duplicate`` above 0.85, ``similar`` above 0.60, else ``different``."""
    return VERDICTS[int(verdict_number(np.array(ssim)))]
