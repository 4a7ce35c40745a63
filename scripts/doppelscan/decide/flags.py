"""Which images are flagged, by which rule, and what that rule's error rests on."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce

import numpy as np

from doppelscan.calibrate import StratifiedControl, TailControl, clopper_pearson, q_values
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage
from doppelscan.scores import REGION

__all__ = ["Calibration", "Flag", "Reason", "Rule", "calibrated", "control_as_close", "wider", "widest"]


# Squared correlation of 64 pixels that windowing to 8 bit keeps; what was resized, blurred or made noisy has less.
SAME = 0.9999


class Rule(str, Enum):
    """The rules by which an image can be flagged."""

    PIXELS = "identical pixels"
    RATE = "false discovery rate"
    PLAIN = "the same image, registered"
    REGION_RATE = f"{REGION}false discovery rate"
    REGION_BEYOND = f"{REGION}far beyond every control image"

    @property
    def of_region(self) -> bool:
        """It speaks of a region, not of the whole image."""
        return self.value.startswith(REGION)

    @property
    def by_rate(self) -> bool:
        """It holds a false discovery rate, of whole images or of regions."""
        return self in (Rule.RATE, Rule.REGION_RATE)


@dataclass(frozen=True)
class Reason:
    """Why an image is flagged.

    Attributes:
        rule: which rule.
        value: what the rule looked at: the squared correlation of the pixels, the q-value, the share of the structure that the match explains,
            or the agreement of the region.
        limit: what it was held against.
        error: what may be false: by a rate, of all images that it flags, on average; by a plain pair or a region, of strangers, at most,
            95 % upper limit of the control's share; 0 for identical pixels.
        told: what else there is to say, in words.
    """

    rule: Rule
    value: float
    limit: float
    error: float = math.nan
    told: str = ""

    @property
    def words(self) -> str:
        """For a table: the rule, its value, its limit and its error."""
        if self.rule is Rule.PIXELS:
            words = self.rule.value + (f", {self.told}" if self.told else "")
            return words if self.value >= SAME else f"{words} but for resizing, blur or noise: squared correlation {self.value:.4f}"
        by_rate = self.rule in (Rule.RATE, Rule.REGION_RATE)
        name = "q" if by_rate else {Rule.PLAIN: "explained"}.get(self.rule, "agreement")
        told = f"{self.rule.value}: {name} {self.value:.4g} {'<=' if by_rate else '>='} {self.limit:.4g}"
        return told if by_rate or math.isnan(self.error) else f"{told}, of strangers at most {100 * self.error:.2g} %"

    def words_of(self, of: str) -> str:
        """:attr:`words` of an image, or of a volume."""
        return self.words if of == "image" else self.words.replace("pixels", "voxels").replace("image", of)


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


@dataclass(frozen=True)
class Calibration:
    """The rule that flags, as one control calibrates it.

    Attributes:
        null: the control's scores.
        part_null: the same of its best regions; None where regions are not tested.
        by_position: of slices of volumes, the scores and the best regions of each part of the volume; None of other images.
        highest: of its best regions, the highest agreement; 1 without a control.
        widest: and the largest share of the structure.
        plain_explained, plain_margin: of control images that their matches explain as copies are explained, the largest share and the largest
            margin, 0 where there is none: beside these a pair must be explained far better to be said the same image.
        strangers: 95 % upper limit of the share of control patients whom a rule would flag that flags none of them.
        rules: thresholds.
    """

    null: TailControl
    part_null: TailControl | None
    highest: float
    widest: float
    plain_explained: float
    plain_margin: float
    strangers: float
    rules: Rules
    by_position: tuple[StratifiedControl, StratifiedControl] | None = None

    @classmethod
    def on(
        cls,
        control: Sequence[ScoredImage],
        patients: Sequence[str],
        explained: np.ndarray,
        ratio: float,
        rules: Rules,
        seed: int = 0,
        positions: Sequence[Hashable] = (),
    ) -> Calibration:
        """Calibrate.

        Args:
            control: the control images.
            patients: of each.
            explained: float [n], share of the structure that the match explains; NaN where the pair does not agree as a copy's does.
            ratio: see :class:`~doppelscan.calibrate.Control`.
            rules: thresholds.
            seed: of the order of ties.
            positions: where in its volume each control image lies, None of one that is no slice; none where there are no volumes.
        """
        bounds = {"confidence": rules.tail_confidence, "extrapolation": rules.tail_extrapolation}
        scores, parts = (np.array([getattr(s, name) for s in control]) for name in ("score", "part"))
        null = TailControl(scores, patients, ratio, seed, **bounds)
        part_null = TailControl(parts, patients, ratio, seed, **bounds) if rules.tests_regions else None
        plain = [
            (float(share), s.margin)
            for share, s in zip(explained, control, strict=True)
            if rules.same_image(float(share), s.margin)
        ]
        by_position = None
        if any(one is not None for one in positions):
            by_position = (
                StratifiedControl(scores, patients, positions, ratio, seed, least=rules.position_patients, **bounds),
                StratifiedControl(parts, patients, positions, ratio, seed, least=rules.position_patients, **bounds),
            )
        return cls(
            null,
            part_null,
            max((s.part for s in control), default=1.0),
            max((s.part_share for s in control), default=1.0),
            max((share for share, _ in plain), default=0.0),
            max((margin for _, margin in plain), default=0.0),
            clopper_pearson([False] * len(control), patients, 0.9).upper if control else 1.0,
            rules,
            by_position,
        )

    @property
    def floors(self) -> tuple[float, ...]:
        """Where the tails are cut off that p-values beyond the control are taken of: a p-value there is an upper limit, not measured."""
        nulls = [self.null, *([] if self.part_null is None else [self.part_null])]
        for one in self.by_position or ():
            nulls += [one.overall, *one.by_stratum.values()]
        return tuple(one.floor for one in nulls if one.floor < one.counted)

    def q_values(self, p_values: np.ndarray, share: float) -> np.ndarray:
        """Of p-values of one family, float64 [n], which has ``share`` of the rate."""
        return np.minimum(1, q_values(p_values, self.rules.correction) / share)

    def flags(
        self,
        scored: Sequence[ScoredImage],
        explained: np.ndarray,
        positions: Sequence[Hashable] = (),
        set_aside: np.ndarray | None = None,
    ) -> list[Flag]:
        """One entry an image; ``explained`` and ``positions`` as of :meth:`on`; what is ``set_aside`` (bool [n]) is counted, but rejected by none."""
        p, part_p = self.p_values(scored, positions)
        held, part_held = (one if set_aside is None else np.where(set_aside, 1.0, one) for one in (p, part_p))
        q = self.q_values(held, self.rules.whole_rate)
        part_q = part_p
        if self.part_null is not None:
            part_q = self.q_values(part_held, 1 - self.rules.whole_rate)
        return self._flags(scored, explained, p, q, part_p, part_q)

    def flags_beside(
        self, scored: Sequence[ScoredImage], explained: np.ndarray, beside: Sequence[Flag], positions: Sequence[Hashable] = ()
    ) -> list[Flag]:
        """The flag that each of ``scored`` would have as one more image of a set whose flags are ``beside``."""
        p, part_p = self.p_values(scored, positions)
        q = self._one_more(p, np.array([one.p_value for one in beside])) / self.rules.whole_rate
        part_q = part_p
        if self.part_null is not None:
            part_q = self._one_more(part_p, np.array([one.part_p_value for one in beside])) / (1 - self.rules.whole_rate)
        return self._flags(scored, explained, p, np.minimum(1, q), part_p, np.minimum(1, part_q))

    def p_values(self, scored: Sequence[ScoredImage], positions: Sequence[Hashable] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Of whole images and of their best regions, float64 [n] each; NaN where regions are not tested.

        Of a slice the larger of those among all of the control and among the control's slices of the same part of the volume: at some positions
        strangers are more alike than at others.
        """
        score, part = np.array([s.score for s in scored]), np.array([s.part for s in scored])
        p = self.null.p_values(score)
        part_p = np.full(len(part), np.nan) if self.part_null is None else self.part_null.p_values(part)
        if self.by_position is None or not positions:
            return p, part_p
        whole, regions = self.by_position
        return np.maximum(p, whole.p_values(score, positions)), np.maximum(part_p, regions.p_values(part, positions))

    def _one_more(self, p_values: np.ndarray, others: np.ndarray) -> np.ndarray:
        different, place = np.unique(p_values, return_inverse=True)
        return np.array([q_values(np.append(others, p), self.rules.correction)[-1] for p in different] or [0.0])[place]

    def _flags(
        self,
        scored: Sequence[ScoredImage],
        explained: np.ndarray,
        p: np.ndarray,
        q: np.ndarray,
        part_p: np.ndarray,
        part_q: np.ndarray,
    ) -> list[Flag]:
        rules, result = self.rules, []
        for i, one in enumerate(scored):
            reason = None
            if q[i] <= rules.fdr and one.verified >= rules.least_verified:
                reason = Reason(Rule.RATE, float(q[i]), rules.fdr, rules.fdr)
            elif self.null.patients and self._same_image(float(explained[i]), one.margin):
                limit = rules.explained if one.margin >= rules.alone else rules.explained_twice
                reason = Reason(Rule.PLAIN, float(explained[i]), max(limit, self._plain_limit), self.strangers)
            elif part_q[i] <= rules.fdr and one.part >= rules.least_part:
                reason = Reason(Rule.REGION_RATE, float(part_q[i]), rules.fdr, rules.fdr)
            elif self.part_null is not None and self.null.patients and self._region_beyond(one):
                reason = Reason(Rule.REGION_BEYOND, one.part, self.highest, self.strangers)
            result.append(Flag(float(p[i]), float(q[i]), float(part_p[i]), float(part_q[i]), reason))
        return result

    @property
    def _plain_limit(self) -> float:
        """The share that a match must explain beside control images that are explained as copies are; 0 without one."""
        return 1 - (1 - self.plain_explained) / self.rules.beyond_plain if self.plain_explained else 0.0

    def _same_image(self, explained: float, margin: float) -> bool:
        beyond = explained > self._plain_limit and margin >= self.rules.beyond_alone * self.plain_margin
        return beyond and self.rules.same_image(explained, margin)

    def _region_beyond(self, one: ScoredImage) -> bool:
        rules = self.rules
        large = one.part_share >= max(rules.beyond_share, rules.beyond_widest * self.widest)
        left = min(1 - rules.close_part, (1 - self.highest) / rules.beyond_part)
        enough = len(self.null.scores) >= rules.beyond_control
        return (large and one.part >= max(rules.shared_part, self.highest)) or (enough and 1 - one.part <= left)


def calibrated(
    control: Sequence[ScoredImage],
    patients: Sequence[str],
    explained: np.ndarray,
    ratio: float,
    rules: Rules,
    seed: int = 0,
    positions: Sequence[Hashable] = (),
) -> tuple[Calibration, ...]:
    """The rule calibrated on a control and, where it has look-alikes, without them; arguments as of :meth:`Calibration.on`.

    Nobody knows whether look-alikes are one person twice: the wider of both decides, see :func:`widest`.
    """
    all_of_it = Calibration.on(control, patients, explained, ratio, rules, seed, positions)
    others = [i for i, one in enumerate(control) if one.verified < rules.close_pair]
    if len(others) == len(control):
        return (all_of_it,)
    kept, who = [control[i] for i in others], [patients[i] for i in others]
    where = [positions[i] for i in others] if positions else ()
    return all_of_it, Calibration.on(kept, who, explained[others], ratio, rules, seed, where)


def wider(one: Flag, other: Flag) -> Flag:
    """Of two calibrations of one image what claims less: the larger probabilities, and flagged by both or not at all."""
    q, part_q = max(one.q_value, other.q_value), max(one.part_q_value, other.part_q_value)
    return Flag(
        max(one.p_value, other.p_value),
        q,
        max(one.part_p_value, other.part_p_value),
        part_q,
        _weaker(one.reason, other.reason, q, part_q),
    )


def _weaker(one: Reason | None, other: Reason | None, q: float, part_q: float) -> Reason | None:
    """The reason that claims less of two for one image; by a rate, with the larger of the q-values."""
    if one is None or other is None:
        return None
    order = list(Rule)
    weaker = max(one, other, key=lambda reason: (order.index(reason.rule), reason.error))
    value = {Rule.RATE: q, Rule.REGION_RATE: part_q}.get(weaker.rule, weaker.value)
    return replace(weaker, value=value)


def widest(calibrated: Sequence[Sequence[Flag]]) -> list[Flag]:
    """Of several calibrations of the same images what claims least, see :func:`wider`."""
    return [reduce(wider, flags) for flags in zip(*calibrated, strict=True)]


def control_as_close(
    scored: Sequence[ScoredImage], flags: Sequence[Flag], control: Sequence[ScoredImage], rules: Rules
) -> tuple[bool, ...]:
    """Of each control image, whether it scores as high as the lowest of the flagged."""
    cut, part_cut = float("inf"), float("inf")
    for one, said in zip(scored, flags, strict=True):
        if said.reason is not None and said.reason.rule.of_region:
            part_cut = min(part_cut, one.part)
        elif said.reason is not None:
            cut = min(cut, one.score)
    return tuple(
        (s.score >= cut and s.verified >= rules.least_verified) or (s.part >= part_cut and s.part >= rules.least_part)
        for s in control
    )
