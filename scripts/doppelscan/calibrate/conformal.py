"""p-values that hold for any score and any data: how many unrelated people, and how many of their images, score as high."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control

from doppelscan.errors import InputError

__all__ = ["Control", "q_values"]


@dataclass(frozen=True)
class Weighting:
    """A control in which the images of a patient count together.

    Attributes:
        scores: float [n], ascending.
        share: float [n + 1], share of the control from each place on; the last is 0.
        size: how many independent patients it is worth.
    """

    scores: np.ndarray
    share: np.ndarray
    size: float

    @classmethod
    def of(cls, scores: np.ndarray, weights: np.ndarray, size: float) -> Weighting:
        """Sort ``scores``; ``weights`` sum to 1."""
        order = np.argsort(scores, kind="stable")
        share = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
        return cls(scores[order], share, size)


class Control:
    """Scores of real images of patients who are not in the training set.

    Several images of one patient are not independent: ten slices of a person who happens to look like a training patient are not
    ten accidents. So the control counts its patients, not its images. Whether an unrelated synthetic image is like a random image of a
    random patient, or like a random image of all, nobody knows; where patients have unequally many images the two differ, and both are
    counted: each image by 1 / (images of its patient), with as many patients as there are (Lee, Barber and Willett 2023,
    arXiv 2306.06342, hierarchical conformal prediction); and each image alike, with Kish's effective number of patients,
    (sum of n)^2 / (sum of n^2) for n images of each. The larger p-value holds. With equally many images they are the same.

    Args:
        scores: float [n], higher is more suspicious; with none every p-value is 1.
        patients: patient of each; None counts every image as a patient.
        reference_ratio: size of the training set over that of the reference that the control was scored against, >= 1. Where the
            control is held out of the training set its reference is smaller, and so is its largest similarity with it; by the
            union bound a p-value grows at most by this factor.
        seed: of the order of ties.

    Attributes:
        patients: int, number of patients.
        effective_size: float, how many patients with equally many images the control is worth.
        counted: the smallest p-value that counting can give, reference_ratio / (effective_size + 1).
        smallest: the smallest p-value that an image can have.
    """

    def __init__(
        self,
        scores: np.ndarray,
        patients: Sequence[Hashable] | None = None,
        reference_ratio: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.scores = np.asarray(scores, dtype=np.float64)
        if self.scores.ndim != 1 or not np.isfinite(self.scores).all():
            raise InputError(
                f"The 'scores' parameter must be one list of finite numbers. Got shape {self.scores.shape} with "
                f"{int((~np.isfinite(self.scores)).sum())} that are not finite instead; leave those images out of the control."
            )
        if patients is not None and len(patients) != len(self.scores):
            raise InputError(
                f"The 'patients' parameter must name the patient of each of {len(self.scores)} scores. Got {len(patients)} instead; name all or pass None."
            )
        codes = np.arange(len(self.scores)) if patients is None else np.unique([str(p) for p in patients], return_inverse=True)[1]
        self.reference_ratio, self.seed = reference_ratio, seed
        counts = np.bincount(codes)
        self.patients = len(counts)
        self.effective_size = float(len(codes) ** 2 / (counts**2).sum()) if len(codes) else 0.0
        self.weightings = [Weighting.of(self.scores, 1 / (counts[codes] * self.patients), self.patients)] if self.patients else []
        if len(set(counts.tolist())) > 1:
            self.weightings.append(Weighting.of(self.scores, np.full(len(codes), 1 / len(codes)), self.effective_size))

    @property
    def counted(self) -> float:
        return min(1.0, self.reference_ratio / (self.effective_size + 1))

    @property
    def smallest(self) -> float:
        return self.counted

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Conformal p-values of images: (1 + P a) / (1 + P), P the number of patients, a the share of the control that is at least as high.

        With one image a patient this is (1 + #{h: s_h >= s_j}) / (1 + n) (Vovk et al. 2005). A score that equals some of the
        control takes a random place among them, the same for equal scores: counting all of them would make p-values too large.

        Args:
            scores: float [M].

        Returns:
            float64 [M] in (0, 1], times the reference ratio.
        """
        scores = np.asarray(scores, dtype=np.float64)
        largest = np.full(len(scores), 0.0 if self.weightings else 1.0)
        place: np.ndarray | None = None
        for one in self.weightings:
            above = one.share[np.searchsorted(one.scores, scores, side="right")]
            tied = one.share[np.searchsorted(one.scores, scores, side="left")] - above
            if tied.any():
                if place is None:
                    _, which = np.unique(scores, return_inverse=True)
                    place = np.random.default_rng(self.seed).random(int(which.max()) + 1)[which]
                above = above + place * tied
            largest = np.maximum(largest, (1 + one.size * above) / (1 + one.size))
        return np.minimum(1.0, self.reference_ratio * largest)


def q_values(p_values: np.ndarray, method: str = "bh") -> np.ndarray:
    """The false discovery rate at which each image would just be flagged: float64 [M].

    Args:
        p_values: float [M].
        method: "bh" (Benjamini and Hochberg 1995), right for p-values on one common control (Bates et al. 2023); "by" (Benjamini and
            Yekutieli 2001) holds under any dependence, at the price of a factor of about ln M.
    """
    return false_discovery_control(p_values, method=method) if len(p_values) else np.zeros(0)
