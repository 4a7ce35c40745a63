"""Shares with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betaincinv

__all__ = ["Difference", "Share", "clustered_share", "difference", "residual_risk", "wilson"]

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Difference:
    """A share minus another, with its 95 % interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Share:
    """``count`` of ``total`` with its interval, 95 % of Wilson where nothing else is said."""

    count: int
    total: int
    share: float
    lower: float
    upper: float


def wilson(count: float, total: float, z: float = Z95) -> Share:
    """Wilson score interval of a share (Wilson 1927), also of effective numbers; total 0 gives the interval 0 to 1."""
    if total == 0:
        return Share(0, 0, 0.0, 0.0, 1.0)
    share = count / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    lower = max(0.0, centre - half) if count else 0.0  # no rounding of nothing
    return Share(int(count), int(total), share, lower, min(1.0, centre + half))


def clustered_share(hits: Sequence[bool] | np.ndarray, clusters: Sequence[Hashable]) -> Share:
    """Share of ``hits`` whose members are alike within clusters, such as the slices of a patient.

    Wilson's interval at an effective number: the members by the design effect, the variance between clusters over that of independent members
    (Rao and Scott 1992), at least 1. Where all are hits or none is, nothing tells how alike they are, and clusters are counted; where each is a
    cluster of its own it is Wilson's interval of them as they are. One function for every share of an audit, a comparison and a dossier.

    Args:
        hits: bool [N].
        clusters: of each, which it belongs to.
    """
    hit = np.asarray(hits, bool)
    total, names = len(hit), {name: row for row, name in enumerate(dict.fromkeys(clusters))}
    if total == 0:
        return wilson(0, 0)
    member = np.array([names[name] for name in clusters])
    count, size, share = np.bincount(member, hit, len(names)), np.bincount(member, minlength=len(names)), float(hit.mean())
    many = len(names)
    if many == total:
        return wilson(int(hit.sum()), total)
    effective = float(many)
    if 0 < share < 1 and many > 1:
        between = many / (many - 1) * float(((count - share * size) ** 2).sum()) / total**2
        effective = min(total, max(1.0, share * (1 - share) / between)) if between > 0 else float(total)
    interval = wilson(share * effective, effective)
    return replace(interval, count=int(hit.sum()), total=total)


def difference(first: Share, second: Share) -> Difference:
    """``first`` minus ``second``, of independent sets, by the limits of each (Newcombe 1998, method 10)."""
    value = first.share - second.share
    down = math.hypot(first.share - first.lower, second.upper - second.share)
    up = math.hypot(first.upper - first.share, second.share - second.lower)
    return Difference(value, max(-1.0, value - down), min(1.0, value + up))


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
