"""Does memorization grow with how often a record was shown in training?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import kendalltau

from doppelscan.calibrate.intervals import wilson

__all__ = ["duplication_trend"]


def duplication_trend(repeats: np.ndarray, leaked: np.ndarray) -> dict[str, Any] | None:
    """Share of training images that leaked, by how often each was in training.

    Args:
        repeats: int [N], how often each training image was shown, >= 1.
        leaked: bool [N], a flagged synthetic image matches it.

    Returns:
        ``groups`` (repeats, images, leaked, share, lower, upper; Wilson 95 %), Kendall's ``tau`` and its ``p_value``; None when all
        were shown equally often.
    """
    repeats, leaked = np.asarray(repeats), np.asarray(leaked, bool)
    values = np.unique(repeats)
    if len(values) < 2:
        return None
    # At most five groups of whole values, split where the images are.
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 6), method="lower")) if len(values) > 5 else values
    group = np.searchsorted(edges, repeats, side="right") - 1
    groups = []
    for number in np.unique(group):
        inside = group == number
        share = wilson(int(leaked[inside].sum()), int(inside.sum()))
        low, high = int(repeats[inside].min()), int(repeats[inside].max())
        groups.append(
            {
                "repeats": str(low) if low == high else f"{low}-{high}",
                "images": share.total,
                "leaked": share.count,
                "share": share.share,
                "lower": share.lower,
                "upper": share.upper,
            }
        )
    if leaked.all() or not leaked.any():
        return {"groups": groups, "tau": 0.0, "p_value": 1.0}
    test = kendalltau(repeats, leaked)
    return {"groups": groups, "tau": float(test.statistic), "p_value": float(test.pvalue)}
