"""The three classes of arXiv 2509.16582, by SSIM or by the score that estimates it."""

from __future__ import annotations

import numpy as np

__all__ = ["THRESHOLDS", "VERDICTS", "verdict", "verdict_number"]

VERDICTS = ("different", "similar", "duplicate")
THRESHOLDS = (0.60, 0.85)


def verdict_number(values: np.ndarray) -> np.ndarray:
    """int64 of the shape of ``values``: 2 (duplicate) above 0.85, 1 (similar) above 0.60, else 0 (different), NaN too."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(found), 0, np.digitize(found, THRESHOLDS, right=True))


def verdict(ssim: float) -> str:
    """``duplicate`` above 0.85, ``similar`` above 0.60, else ``different``."""
    return VERDICTS[int(verdict_number(np.array(ssim)))]
