"""What an audit would have found, and what follows from it for the share that is memorized."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.calibrate.intervals import Share, exact_limits
from doppelscan.errors import InputError

__all__ = ["Prevalence", "clopper_pearson", "memorized_share", "memorized_upper_bound"]

DRAWS = 20_000


@dataclass(frozen=True)
class Prevalence:
    """Of a share that is seen through an imperfect test.

    Attributes:
        value: the estimate, in [0, 1]; NaN where the test finds what is there no more often than what is not.
        lower, upper: its interval.
    """

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class ByPatient:
    """Yes and no of images, counted by patient: ``count`` of ``total`` patients, a patient of whom some images say yes counts as their share."""

    count: float
    total: int

    @classmethod
    def of(cls, hits: np.ndarray | Sequence[bool], patients: Sequence[Hashable] | None, name: str) -> ByPatient:
        hits = np.asarray(hits, dtype=np.float64)
        if patients is None:
            return cls(float(hits.sum()), len(hits))
        if len(patients) != len(hits):
            raise InputError(
                f"The '{name}_patients' parameter must name the patient of each of {len(hits)} images. Got {len(patients)} instead; name all."
            )
        codes = np.unique([str(p) for p in patients], return_inverse=True)[1]
        counts = np.bincount(codes)
        # Shares of one patient are sums of fractions: 1/3 three times is to be 1.
        return cls(round(float((np.bincount(codes, hits) / counts).sum()), 9), len(counts)) if len(hits) else cls(0.0, 0)

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else 0.0

    def limits(self, confidence: float) -> tuple[float, float]:
        """Clopper-Pearson; a count between whole numbers is rounded to the wider side."""
        low, high = (exact_limits(whole, self.total, confidence) for whole in (math.floor(self.count), math.ceil(self.count)))
        return low[0], high[1]

    def lower_draws(self, rng: np.random.Generator) -> np.ndarray:
        """Draws of the confidence distribution whose quantiles are Clopper-Pearson's lower limits."""
        if self.count <= 0:
            return np.zeros(DRAWS)
        return rng.beta(self.count, self.total - self.count + 1, DRAWS)

    def upper_draws(self, rng: np.random.Generator) -> np.ndarray:
        """The same of the upper limits."""
        if self.count >= self.total:
            return np.ones(DRAWS)
        return rng.beta(self.count + 1, self.total - self.count, DRAWS)


def clopper_pearson(
    found: np.ndarray | Sequence[bool], patients: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> Share:
    """Share of planted copies that are found, with its exact interval (Clopper and Pearson 1934) by patient.

    Args:
        found: bool [n], of each planted copy.
        patients: the patient whose image was planted, of each; several copies of one patient count as one. None counts every copy.
        confidence: of the two-sided interval.

    Returns:
        ``count`` and ``total`` of copies; ``share``, ``lower`` and ``upper`` of patients. Without copies the interval is 0 to 1.
    """
    _check(confidence)
    counted = ByPatient.of(found, patients, "found")
    return Share(int(np.sum(found)), len(found), counted.share, *counted.limits(confidence))


def memorized_upper_bound(
    flagged: np.ndarray | Sequence[bool],
    found: np.ndarray | Sequence[bool],
    *,
    flagged_patients: Sequence[Hashable] | None = None,
    found_patients: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
) -> float:
    """Upper confidence bound of the share that is memorized, min(1, u / beta_L).

    u is the upper limit of the flagged share, beta_L the lower limit of the share of planted copies that are found; half of the error goes to
    either. Memorized images that are changed as the planted copies were are flagged with their probability, others may be flagged too: so the
    flagged share is at least the memorized share times that probability. Of several transforms the largest bound holds for copies
    changed by any of them, without correction for their number: the smallest beta_L is not above that of the transform that was at work.

    Args:
        flagged: bool [m], of each synthetic image.
        found: bool [n], of each planted copy, judged by the audit's final rule.
        flagged_patients: volume or patient of each synthetic image, where it has one.
        found_patients: patient of each planted copy.
        confidence: of the bound.

    Returns:
        in [0, 1]; 1 where no planted copy was found: nothing is excluded.
    """
    _check(confidence)
    seen = ByPatient.of(flagged, flagged_patients, "flagged").limits(confidence)[1]
    power = ByPatient.of(found, found_patients, "found").limits(confidence)[0]
    return min(1.0, seen / power) if power > 0 else 1.0


def memorized_share(
    flagged: np.ndarray | Sequence[bool],
    control: np.ndarray | Sequence[bool],
    found: np.ndarray | Sequence[bool],
    *,
    flagged_patients: Sequence[Hashable] | None = None,
    control_patients: Sequence[Hashable] | None = None,
    found_patients: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Prevalence:
    """Share that is memorized, (pi - FPR) / (beta - FPR), cut to [0, 1] (Rogan and Gladen 1978), with its interval.

    pi is the flagged share, FPR that of the control, beta that of the planted copies. The interval melds the three Clopper-Pearson confidence
    distributions (Fay, Proschan and Brittain 2015; Bayoumi and Fay 2023 for prevalence): each end takes all three at their unfavourable side.
    A bootstrap over patients gives an interval of no width where none or all were flagged, and covered as little as 21 % at 95 % (docs/benchmarks.md).

    Args:
        flagged: bool [m], of each synthetic image.
        control: bool [h], of each control image, flagged by the same rule.
        found: bool [n], of each planted copy.
        flagged_patients: volume or patient of each synthetic image, where it has one.
        control_patients: patient of each control image.
        found_patients: patient of each planted copy.
        confidence: of the two-sided interval.
        seed: of the draws.
    """
    _check(confidence)
    pi, base, beta = (
        ByPatient.of(hits, patients, name)
        for hits, patients, name in (
            (flagged, flagged_patients, "flagged"),
            (control, control_patients, "control"),
            (found, found_patients, "found"),
        )
    )
    value = float(_rogan_gladen(np.array(pi.share), base.share, beta.share)) if beta.share > base.share else float("nan")
    rng, tail = np.random.default_rng(seed), (1 - confidence) / 2
    low = _rogan_gladen(pi.lower_draws(rng), base.upper_draws(rng), beta.upper_draws(rng))
    high = _rogan_gladen(pi.upper_draws(rng), base.lower_draws(rng), beta.lower_draws(rng))
    return Prevalence(value, float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail)))


def _rogan_gladen(seen: np.ndarray, base: np.ndarray | float, power: np.ndarray | float) -> np.ndarray:
    """Cut to [0, 1]; of a test without power, 1 where more is seen than without memorization and 0 else."""
    room = np.asarray(power) - base
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(np.where(room > 0, (seen - base) / room, np.where(seen > base, 1.0, 0.0)), 0, 1)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"The 'confidence' parameter must lie between 0 and 1. Got {confidence!r} instead; use 0.95.")
