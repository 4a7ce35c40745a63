"""p-values that hold for any score and any data: how many unrelated real images, and how many unrelated people, score as high."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy.special import gammaln
from scipy.stats import false_discovery_control, rankdata

from doppelscan.errors import InputError

__all__ = ["Control", "q_values"]


class Control:
    """Scores of real images of patients who are not in the training set.

    Several images of one patient are not independent: ten slices of a person who happens to look like a training patient are not
    ten accidents. So the control counts as fewer images than it has, by Kish's design effect 1 + (b - 1) rho, with b the mean
    number of images of an image's patient and rho the intraclass correlation of the ranks of the scores.

    Args:
        scores: float [n], higher is more suspicious; with none every p-value is 1.
        patients: patient of each; None counts every image as a patient.
        reference_ratio: size of the training set over that of the reference that the control was scored against, >= 1. Where the
            control is held out of the training set its reference is smaller, and so is its largest similarity with it; by the
            union bound a p-value grows at most by this factor.
        seed: of the order of ties.

    Attributes:
        effective_size: float, how many independent images the control is worth, between its patients and its images.
        smallest: the smallest p-value that an image can have, reference_ratio / (effective_size + 1).
        smallest_of_patient: the same of a volume or a patient, reference_ratio / (number of patients + 1).
    """

    def __init__(
        self,
        scores: np.ndarray,
        patients: Sequence[Hashable] | None = None,
        reference_ratio: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        if patients is not None and len(patients) != len(self.scores):
            raise InputError(
                f"The 'patients' parameter must name the patient of each of {len(self.scores)} scores. Got {len(patients)}."
            )
        codes = np.arange(len(self.scores)) if patients is None else np.unique([str(p) for p in patients], return_inverse=True)[1]
        self.by_patient = [self.scores[codes == code] for code in range(int(codes.max(initial=-1)) + 1)]
        self.reference_ratio, self.seed = reference_ratio, seed
        self.effective_size = len(self.scores) / _design_effect(self.scores, codes)
        self._ordered = np.sort(self.scores)

    @property
    def smallest(self) -> float:
        return min(1.0, self.reference_ratio / (self.effective_size + 1))

    @property
    def smallest_of_patient(self) -> float:
        return min(1.0, self.reference_ratio / (len(self.by_patient) + 1))

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Conformal p-values of images: (1 + m a) / (1 + m), m the effective size, a the share of the control that is at least as high.

        With one image a patient this is (1 + #{h: s_h >= s_j}) / (1 + n) (Vovk et al. 2005). A score that equals some of the
        control takes a random place among them, the same for equal scores: counting all of them would make p-values too large.

        Args:
            scores: float [M].

        Returns:
            float64 [M] in (0, 1], times the reference ratio.
        """
        scores = np.asarray(scores, dtype=np.float64)
        count = len(self._ordered)
        above = count - np.searchsorted(self._ordered, scores, side="right")
        tied = count - np.searchsorted(self._ordered, scores, side="left") - above
        if tied.any():
            _, which = np.unique(scores, return_inverse=True)
            place = np.random.default_rng(self.seed).random(int(which.max()) + 1)[which]
            above = above + np.floor(place * (tied + 1)).astype(int)
        share = above / max(1, count)
        return np.minimum(1.0, self.reference_ratio * (1 + self.effective_size * share) / (1 + self.effective_size))

    def group_p_values(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """One p-value for each volume or patient: how many control patients have a slice as high as its highest.

        The highest of more slices is higher, so a control patient with N slices is asked for the chance that the highest of as many of them
        as the group has, m, drawn without replacement, reaches it. Where the group has more slices than control patients have, it
        is cut into parts of their number and corrected for the parts.

        Args:
            groups: the scores of each group, not empty.

        Returns:
            float64 [G] in (0, 1]; the smallest possible is :attr:`smallest_of_patient`.
        """
        if not self.by_patient:
            return np.ones(len(groups))
        sizes = np.array([len(one) for one in self.by_patient])
        typical = int(np.median(sizes))
        result = np.empty(len(groups))
        for i, group in enumerate(groups):
            drawn = min(len(group), typical)
            parts = math.ceil(len(group) / drawn)
            usable = [one for one in self.by_patient if len(one) >= drawn]
            highest = float(np.max(group))
            chance = sum(_reaches(int((one < highest).sum()), len(one), drawn) for one in usable)
            result[i] = min(1.0, parts * self.reference_ratio * (1 + chance) / (1 + len(usable)))
        return result


def _reaches(below: int, count: int, drawn: int) -> float:
    """Chance that ``drawn`` of ``count`` without replacement are not all among the ``below``."""
    if below < drawn:
        return 1.0
    return 1 - math.exp(gammaln(below + 1) - gammaln(below - drawn + 1) - gammaln(count + 1) + gammaln(count - drawn + 1))


def _design_effect(scores: np.ndarray, codes: np.ndarray) -> float:
    """Kish 1965: 1 + (b - 1) rho, rho by one-way analysis of variance of the ranks, not below 0."""
    counts = np.bincount(codes) if len(codes) else np.zeros(0, int)
    groups, total = len(counts), len(codes)
    if groups < 2 or total == groups:
        return float(counts.max(initial=1)) if groups == 1 else 1.0
    ranks = rankdata(scores)
    means = np.bincount(codes, ranks) / counts
    between = float((counts * (means - ranks.mean()) ** 2).sum()) / (groups - 1)
    within = float(((ranks - means[codes]) ** 2).sum()) / (total - groups)
    typical = (total - (counts**2).sum() / total) / (groups - 1)
    spread = between + (typical - 1) * within
    rho = (between - within) / spread if spread > 0 else 1.0
    return 1 + (float((counts**2).sum()) / total - 1) * min(1.0, max(0.0, rho))


def q_values(p_values: np.ndarray, method: str = "bh") -> np.ndarray:
    """The false discovery rate at which each image would just be flagged: float64 [M].

    Args:
        p_values: float [M].
        method: "bh" (Benjamini and Hochberg 1995), right for p-values on one common control (Bates et al. 2023); "by" (Benjamini and
            Yekutieli 2001) holds under any dependence, at the price of a factor of about ln M.
    """
    return false_discovery_control(p_values, method=method) if len(p_values) else np.zeros(0)
