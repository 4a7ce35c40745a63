"""Which images are flagged, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from doppelscan.calibrate import Control, q_values
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage

__all__ = ["Flag", "Reason", "Rule", "control_as_close", "flag", "wider"]


class Rule(str, Enum):
    """The rules by which an image can be flagged."""

    PIXELS = "identical pixels"
    RATE = "false discovery rate"
    BEYOND = "far beyond every control image"
    REGION_RATE = "region, false discovery rate"
    REGION_BEYOND = "region, far beyond every control image"

    @property
    def of_region(self) -> bool:
        """It speaks of a region, not of the whole image."""
        return self in (Rule.REGION_RATE, Rule.REGION_BEYOND)


@dataclass(frozen=True)
class Reason:
    """Why an image is flagged.

    Attributes:
        rule: which rule.
        value: what the rule looked at: the squared correlation of the pixels, the q-value, the verified score, or the agreement of the region.
        limit: what it was held against.
    """

    rule: Rule
    value: float
    limit: float

    @property
    def words(self) -> str:
        """For a table: the rule, its value and its limit."""
        if self.rule is Rule.PIXELS:
            return self.rule.value
        sign = "<=" if self.rule in (Rule.RATE, Rule.REGION_RATE) else ">="
        name = {Rule.RATE: "q", Rule.BEYOND: "verified", Rule.REGION_RATE: "q", Rule.REGION_BEYOND: "agreement"}[self.rule]
        return f"{self.rule.value}: {name} {self.value:.4g} {sign} {self.limit:.4g}"


@dataclass(frozen=True)
class Flag:
    """Of one image.

    Attributes:
        p_value, q_value: of the whole image; q-values of both families together hold the rate.
        part_p_value, part_q_value: of its best region.
        reason: why it is flagged, or None.
    """

    p_value: float
    q_value: float
    part_p_value: float = float("nan")
    part_q_value: float = float("nan")
    reason: Reason | None = None


def flag(
    scored: Sequence[ScoredImage], control: Sequence[ScoredImage], null: Control, part_null: Control, rules: Rules
) -> list[Flag]:
    """Flag by q-value, or far beyond every control image.

    Args:
        scored: the synthetic images.
        control: the control images.
        null: the control's scores.
        part_null: the same of its best regions.
        rules: thresholds.

    Returns:
        one entry an image.
    """
    values, parts, verified = (np.array([getattr(s, name) for s in scored]) for name in ("score", "part", "verified"))
    p, part_p = null.p_values(values), part_null.p_values(parts)
    q = np.minimum(1, q_values(p, rules.correction) / rules.whole_rate)
    part_q = np.minimum(1, q_values(part_p, rules.correction) / (1 - rules.whole_rate))
    limit = rules.close_pair
    highest, widest = 1.0, 1.0
    if control:
        limit = max(limit, max(s.verified for s in control) + rules.beyond_score)
        highest, widest = max(s.part for s in control), max(s.part_share for s in control)
    result = []
    for i, one in enumerate(scored):
        reason = None
        if q[i] <= rules.fdr and verified[i] >= rules.least_verified:
            reason = Reason(Rule.RATE, float(q[i]), rules.fdr)
        elif control and verified[i] >= limit:
            reason = Reason(Rule.BEYOND, float(verified[i]), limit)
        elif part_q[i] <= rules.fdr and parts[i] >= rules.least_part:
            reason = Reason(Rule.REGION_RATE, float(part_q[i]), rules.fdr)
        elif control and _region_beyond(one, len(control), highest, widest, rules):
            reason = Reason(Rule.REGION_BEYOND, float(parts[i]), highest)
        result.append(Flag(float(p[i]), float(q[i]), float(part_p[i]), float(part_q[i]), reason))
    return result


def _region_beyond(one: ScoredImage, controls: int, highest: float, widest: float, rules: Rules) -> bool:
    large = one.part_share >= max(rules.beyond_share, rules.beyond_widest * widest) and one.part >= max(rules.shared_part, highest)
    left = min(1 - rules.close_part, (1 - highest) / rules.beyond_part)
    return large or (controls >= rules.beyond_control and 1 - one.part <= left)


def wider(one: Flag, other: Flag) -> Flag:
    """Of two calibrations of one image what claims less: the larger probabilities, and flagged by both or not at all."""
    return Flag(
        max(one.p_value, other.p_value),
        max(one.q_value, other.q_value),
        max(one.part_p_value, other.part_p_value),
        max(one.part_q_value, other.part_q_value),
        one.reason if other.reason is not None else None,
    )


def control_as_close(scored: Sequence[ScoredImage], flags: Sequence[Flag], control: Sequence[ScoredImage], rules: Rules) -> int:
    """Number of control images that score as high as the lowest of the flagged."""
    cut, part_cut = float("inf"), float("inf")
    for one, said in zip(scored, flags, strict=True):
        if said.reason is not None and said.reason.rule.of_region:
            part_cut = min(part_cut, one.part)
        elif said.reason is not None:
            cut = min(cut, one.score)
    return sum(
        (s.score >= cut and s.verified >= rules.least_verified) or (s.part >= part_cut and s.part >= rules.least_part)
        for s in control
    )
