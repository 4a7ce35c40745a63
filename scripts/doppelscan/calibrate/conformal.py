"""p-values that hold for any score and any data: how many unrelated real images score as high."""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control

__all__ = ["conformal_p_values", "q_values"]


def conformal_p_values(scores: np.ndarray, control: np.ndarray, reference_ratio: float = 1.0) -> np.ndarray:
    """Conformal p-values p_j = (1 + #{h: s_h >= s_j}) / (1 + n).

    Args:
        scores: float [M], higher is more suspicious.
        control: float [n], scores of real images of patients who are not in the training set, n >= 1.
        reference_ratio: size of the training set over that of the reference which the control was scored against, >= 1. Where
            the control is held out of the training set its reference is smaller, and its largest similarity with it; by the union
            bound the p-value grows at most by this factor.

    Returns:
        float64 [M] in (0, 1]. The smallest one possible is reference_ratio / (n + 1).
    """
    ordered = np.sort(np.asarray(control, dtype=np.float64))
    at_least = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), side="left")
    return np.minimum(1.0, reference_ratio * (1 + at_least) / (1 + len(ordered)))


def q_values(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg q-values: float64 [M], the false discovery rate at which each image would just be flagged."""
    return false_discovery_control(p_values, method="bh") if len(p_values) else np.zeros(0)
