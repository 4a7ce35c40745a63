"""Shares with their uncertainty."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import betaincinv

__all__ = ["Share", "residual_risk", "wilson"]

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` with its interval, 95 % of Wilson where nothing else is said."""

    count: int
    total: int
    share: float
    lower: float
    upper: float


def wilson(count: int, total: int, z: float = Z95) -> Share:
    """Wilson score interval of a share (Wilson 1927); total 0 gives the interval 0 to 1."""
    if total == 0:
        return Share(0, 0, 0.0, 0.0, 1.0)
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Share(count, total, share, max(0.0, centre - half), min(1.0, centre + half))


def exact_limits(count: float, total: float, confidence: float) -> tuple[float, float]:
    """Clopper and Pearson 1934; with an effective number in place of a count, Korn and Graubard 1998. Total 0 gives 0 to 1."""
    error = (1 - confidence) / 2
    low = float(betaincinv(count, total - count + 1, error)) if count > 0 else 0.0
    return low, float(betaincinv(count + 1, total - count, 1 - error)) if count < total else 1.0


def residual_risk(synthetic: Share, control: Share) -> dict[str, float]:
    """(synthetic - control) / (1 - control), the part of the flagged share that the control does not explain.

    The interval takes each share at the unfavourable end of its own interval, so it is conservative (as anonymeter does).
    """

    def risk(attack: float, base: float) -> float:
        return 0.0 if base >= 1 else max(0.0, (attack - base) / (1 - base))

    return {
        "value": risk(synthetic.share, control.share),
        "lower": risk(synthetic.lower, control.upper),
        "upper": risk(synthetic.upper, control.lower),
    }
