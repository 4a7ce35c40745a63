"""How well a score ranks, with its uncertainty: the area under the ROC curve, and the difference of two scores of the same images."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import rankdata

from doppelscan.calibrate.intervals import Z95, Difference, Share
from doppelscan.errors import InputError

__all__ = ["area_difference", "area_under_curve"]


def area_under_curve(
    scores: np.ndarray | Sequence[float], truth: np.ndarray | Sequence[bool], patients: Sequence[Hashable] | None = None
) -> Share:
    """Area under the ROC curve (Mann and Whitney's share of pairs in the right order, ties half) with its 95 % interval.

    The interval is Newcombe's (2006, method 5): Hanley and McNeil's variance solved for the area as Wilson does for a share. Unlike DeLong's and a
    bootstrap it has a width where all pairs are in the right order.

    Args:
        scores: float [N], higher is positive.
        truth: bool [N].
        patients: of each image; then patients of positives and of negatives are counted, not images, since images of one patient are alike.

    Returns:
        ``share`` is the area, ``count`` the positives and ``total`` all images; NaN and the interval 0 to 1 where there are no positives or no
        negatives.

    Raises:
        InputError: the three have different lengths, or a score is NaN.
    """
    scores, truth = np.asarray(scores, np.float64), np.asarray(truth, bool)
    names = (
        np.arange(len(scores)) if patients is None else np.unique([str(p) for p in patients], return_inverse=True)[1].reshape(-1)
    )
    if not len(scores) == len(truth) == len(names) or np.isnan(scores).any():
        raise InputError(
            f"Scores, truth and patients must be of the same images, and no score NaN. Got {len(scores)}, {len(truth)} and {len(names)}, "
            f"{int(np.isnan(scores).sum())} of them NaN."
        )
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return Share(positives, len(scores), math.nan, 0.0, 1.0)
    area = (rankdata(scores)[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return Share(positives, len(scores), float(area), *_limits(float(area), len(set(names[truth])), len(set(names[~truth]))))


def _limits(area: float, positives: int, negatives: int) -> tuple[float, float]:
    extra = (positives + negatives) / 2 - 1

    def away(value: float) -> float:
        spread = value * (1 - value) * (1 + extra * ((1 - value) / (2 - value) + value / (1 + value))) / (positives * negatives)
        return abs(value - area) - Z95 * math.sqrt(max(0.0, spread))

    tiny = 1e-9
    lower = brentq(away, tiny, area - tiny) if area > 2 * tiny and away(tiny) > 0 > away(area - tiny) else 0.0
    upper = brentq(away, area + tiny, 1 - tiny) if area < 1 - 2 * tiny and away(1 - tiny) > 0 > away(area + tiny) else 1.0
    return float(lower), float(upper)


def area_difference(
    first: np.ndarray,
    second: np.ndarray,
    truth: np.ndarray,
    patients: Sequence[Hashable],
    draws: int = 1000,
    seed: int = 0,
) -> Difference:
    """Area of ``first`` minus that of ``second``, two scores of the same images, with a 95 % interval by a bootstrap over patients.

    Patients of positives and of negatives are drawn apart, each with all its images; both scores are of the same draws.

    Args:
        first: float [N].
        second: float [N], the other score.
        truth: bool [N], both values among them.
        patients: of each image.
        draws: of patients.
        seed: of the draws.
    """
    truth = np.asarray(truth, bool)
    rng = np.random.default_rng(seed)
    names = np.unique([str(p) for p in patients], return_inverse=True)[1].reshape(-1)
    weights = np.zeros((draws + 1, len(truth)))
    weights[0] = 1
    for side in (truth, ~truth):
        own, member = np.unique(names[side], return_inverse=True)
        times = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), draws)
        weights[1:, side] = times[:, member.reshape(-1)]
    differences = _areas(np.asarray(first, np.float64), truth, weights) - _areas(np.asarray(second, np.float64), truth, weights)
    lower, upper = np.quantile(differences[1:], [0.025, 0.975])
    return Difference(float(differences[0]), float(lower), float(upper))


def _areas(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Areas of images with ``weights`` float [D, N]: float64 [D]."""
    order = np.argsort(scores, kind="stable")
    ordered, positive, weight = scores[order], truth[order], weights[:, order]
    below = np.concatenate([np.zeros((len(weight), 1)), np.cumsum(weight * ~positive, 1)], 1)
    first, last = (np.searchsorted(ordered, ordered[positive], side) for side in ("left", "right"))
    won = (weight[:, positive] * (below[:, first] + below[:, last]) / 2).sum(1)
    return won / np.maximum(weight[:, positive].sum(1) * below[:, -1], 1e-12)
