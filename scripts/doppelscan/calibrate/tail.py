"""p-values beyond the highest score of the control, with what they rest on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np
from scipy.special import betaincinv, gammaincinv, lambertw

from doppelscan.calibrate.conformal import Control, Weighting
from doppelscan.errors import InputError

__all__ = ["StratifiedControl", "TailBound", "TailControl"]

SHARE, FEWEST, ACCIDENT = 0.2, 10.0, 0.05


class TailBound:
    """Upper confidence bound of the chance that an unrelated image scores at least s, for s beyond a threshold u.

    It assumes that the hazard does not decrease beyond u: each further step is at least as rare, given that it was reached, as the step
    before. Normal, gamma, uniform and exponential tails, and every log-concave density, are of this kind; power laws are not, and a
    group of look-alikes rarer than about 3 in the number of control patients, none of which is in the control, is invisible to it.

    With chance z of exceeding u and mean excess m, S(s) <= z exp(-w (s - u)) for s - u > m, where 1 - w m = exp(-w (s - u)): sharp for
    increasing hazard (Barlow and Proschan 1965, *Mathematical Theory of Reliability*, chapter 2). z is taken at its Clopper-Pearson limit, m
    at that of exponential excesses, which is conservative for increasing hazard; the error is split between both, nine tenths to m, which
    decides far out. Patients count, not
    images: an excess has the weight of its image.

    Args:
        control: ascending scores and shares.
        confidence: of the bound, in (0, 1).

    Attributes:
        threshold: float, u: a fifth of the control lies above it, or what 10 patients are worth; of fewer than 20 there is none.
        exceedance: float, upper limit of z; 1 where the control tells nothing.
        mean_excess: float, upper limit of m; 0 where the control tells nothing.
    """

    def __init__(self, control: Weighting, confidence: float = 0.95) -> None:
        scores, share, size = control.scores, control.share, control.size
        self.threshold, self.exceedance, self.mean_excess = math.inf, 1.0, 0.0
        if size < 2 * FEWEST:
            return
        first = int(np.searchsorted(-share[:-1], -max(SHARE, FEWEST / size), side="right")) - 1
        if first < 1:
            return
        threshold = float(scores[first - 1])
        # Excesses are of what lies strictly above the threshold: of ties nothing.
        first = int(np.searchsorted(scores, threshold, side="right"))
        above = float(share[first])
        if above <= 0:
            return
        weights = share[first:-1] - share[first + 1 :]
        mean = float((weights * (scores[first:] - threshold)).sum()) / above
        number, error = size * above, 1 - confidence
        self.threshold = threshold
        self.exceedance = float(betaincinv(number + 1, size - number, 1 - 0.1 * error)) if number < size else 1.0
        self.mean_excess = mean * number / float(gammaincinv(number, 0.9 * error))

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Float64 [M] in (0, 1], not increasing in ``scores``; 1 at and below the threshold."""
        scores = np.asarray(scores, dtype=np.float64)
        result = np.ones(len(scores))
        beyond = scores > self.threshold
        if not beyond.any():
            return result
        step = (scores[beyond] - self.threshold) / self.mean_excess
        rate = np.zeros(len(step))
        far = step > 1
        # w m = 1 + W(-t exp(-t)) / t with t = (s - u) / m and the principal branch of Lambert's W.
        rate[far] = 1 + np.real(lambertw(-step[far] * np.exp(-step[far]))) / step[far]
        result[beyond] = self.exceedance * np.exp(-rate * step)
        return result


class TailControl(Control):
    """A control whose p-values go on beyond its highest score.

    Up to the highest score they are those of :class:`~doppelscan.calibrate.conformal.Control` and assume nothing. Beyond it they are the
    upper confidence bound of the tail, see :class:`TailBound`, where that is smaller than what counting gives; never below ``floor``.

    With Benjamini and Hochberg's procedure over all images the false discovery rate is then at most the nominal one plus the bound's error
    (1 - confidence), if the assumption holds; in simulated audits it stays below the nominal one (docs/benchmarks.md).

    Args:
        scores: float [n], of the control; this and the next three as of :class:`~doppelscan.calibrate.conformal.Control`.
        patients: patient of each, or None.
        reference_ratio: size of the training set over that of the reference of the control, >= 1.
        seed: of the order of ties.
        confidence: of the bound, in (0, 1).
        extrapolation: by which factor the floor lies below the smallest p-value of counting; 1 extrapolates nothing.

    Attributes:
        floor: the smallest p-value that the tail may give, ``counted`` / ``extrapolation``, of a control without a tail
            ``counted``. Beyond it nothing but the assumption speaks.
        highest: float, the highest score of the control, -inf without one.
    """

    def __init__(
        self,
        scores: np.ndarray,
        patients: Sequence[Hashable] | None = None,
        reference_ratio: float = 1.0,
        seed: int = 0,
        *,
        confidence: float = 0.95,
        extrapolation: float = 100.0,
    ) -> None:
        super().__init__(scores, patients, reference_ratio, seed)
        if not 0 < confidence < 1:
            raise InputError(f"The 'confidence' parameter must lie between 0 and 1. Got {confidence!r} instead; use 0.95.")
        if extrapolation < 1:
            raise InputError(f"The 'extrapolation' parameter must be at least 1. Got {extrapolation!r} instead; use 100.")
        self.confidence, self.extrapolation = confidence, extrapolation
        self.highest = float(self.scores.max(initial=-math.inf))

    @cached_property
    def tail(self) -> TailBound:
        """Of a random image of a random patient."""
        return TailBound(self.weightings[0], self.confidence)

    @cached_property
    def holds(self) -> bool:
        """The control has such a tail: its own highest score is no accident of less than 1 in 20 under the bound.

        One look-alike far above all others is of another population, of which this control has one member and the next may have five: then
        nothing but counting is left.
        """
        if not self.weightings or math.isinf(self.tail.threshold):
            return False
        return bool(self.weightings[0].size * self.tail(np.array([self.highest]))[0] >= ACCIDENT)

    @property
    def floor(self) -> float:
        if not self.holds:
            return self.counted
        return self.counted / self.extrapolation

    @property
    def smallest(self) -> float:
        return self.floor

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Float64 [M] in (0, 1], not increasing in ``scores``."""
        scores = np.asarray(scores, dtype=np.float64)
        result = super().p_values(scores)
        beyond = scores > self.highest
        if self.holds and beyond.any():
            result[beyond] = np.clip(self.reference_ratio * self.tail(scores[beyond]), self.floor, result[beyond])
        return result

    def fewest_flagged(self, images: int, rate: float) -> int:
        """How many of ``images`` must lie far beyond the control for any to have a q-value of at most ``rate``."""
        return math.ceil(images * self.floor / rate - 1e-9)


class StratifiedControl:
    """Controls by stratum, such as the position of a slice: each image is compared with the control images of its own stratum.

    A score that is higher at some positions than at others is calibrated for each (Mondrian conformal prediction, Vovk et al. 2005). Where a
    stratum has too few patients, or an image a stratum that the control lacks, all of the control answers.

    Args:
        scores: float [n].
        patients: patient of each, or None.
        strata: stratum of each.
        reference_ratio: size of the training set over that of the reference of the control, >= 1.
        seed: of the order of ties.
        least: a stratum has a control of its own from this many patients on.
        confidence: of the bound of the tails, in (0, 1).
        extrapolation: see :class:`TailControl`.

    Attributes:
        overall: all of the control.
        by_stratum: stratum to its own control.
    """

    def __init__(
        self,
        scores: np.ndarray,
        patients: Sequence[Hashable] | None,
        strata: Sequence[Hashable],
        reference_ratio: float = 1.0,
        seed: int = 0,
        *,
        least: int = 30,
        confidence: float = 0.95,
        extrapolation: float = 100.0,
    ) -> None:
        def control_of(own: np.ndarray, who: Sequence[Hashable] | None) -> TailControl:
            return TailControl(own, who, reference_ratio, seed, confidence=confidence, extrapolation=extrapolation)

        scores = np.asarray(scores, dtype=np.float64)
        self.overall = control_of(scores, patients)
        self.by_stratum: dict[Hashable, TailControl] = {}
        for stratum, rows in _rows(strata, len(scores)).items():
            control = control_of(scores[rows], None if patients is None else [patients[i] for i in rows])
            if control.patients >= least:
                self.by_stratum[stratum] = control

    def p_values(self, scores: np.ndarray, strata: Sequence[Hashable]) -> np.ndarray:
        """Float64 [M] in (0, 1], of images of the given strata."""
        scores = np.asarray(scores, dtype=np.float64)
        result = self.overall.p_values(scores)
        for stratum, rows in _rows(strata, len(scores)).items():
            if stratum in self.by_stratum:
                result[rows] = self.by_stratum[stratum].p_values(scores[rows])
        return result


def _rows(strata: Sequence[Hashable], count: int) -> dict[Hashable, list[int]]:
    """The rows of each stratum."""
    if len(strata) != count:
        raise InputError(
            f"The 'strata' parameter must name the stratum of each of {count} scores. Got {len(strata)} instead; name all."
        )
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for i, stratum in enumerate(strata):
        rows[stratum].append(i)
    return rows
