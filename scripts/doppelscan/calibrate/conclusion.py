"""The words: memorization found, no memorization found, cannot conclude. The rules stand in docs/interpretation.md."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from doppelscan.calibrate.intervals import wilson

__all__ = ["Conclusion", "Evidence", "Verdict", "conclude"]

SMALLEST_PATIENTS = 5
CLOSE_SHARE = 0.05


class Verdict(str, Enum):
    FOUND = "memorization found"
    NOT_FOUND = "no memorization found"
    CANNOT = "cannot conclude"


@dataclass(frozen=True)
class Conclusion:
    """What the audit says of the set, and why, in one sentence."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What a conclusion is drawn from.

    Attributes:
        p_values: float [M] of the synthetic images.
        flagged: bool [M], q-value within the false discovery rate and the aligned pair at least similar.
        duplicate: bool [M], the aligned pair is a duplicate by its SSIM.
        control_duplicate: bool [n], the same of the control.
        training_patients: number of patients in training.
        control_patients: number of patients in the control.
        fdr: false discovery rate of the flags.
        reference_ratio: see :func:`~doppelscan.calibrate.conformal_p_values`.
    """

    p_values: np.ndarray
    flagged: np.ndarray
    duplicate: np.ndarray
    control_duplicate: np.ndarray
    training_patients: int
    control_patients: int
    fdr: float
    reference_ratio: float = 1.0


def conclude(evidence: Evidence) -> Conclusion:
    """Apply the rules in their order: too few patients, control too small, flagged, out of reach, control too close, clear."""
    e = evidence
    images, controls = len(e.p_values), len(e.control_duplicate)
    if e.training_patients < SMALLEST_PATIENTS:
        return _cannot(
            f"the training set holds {_count(e.training_patients, 'patient')} and at least {SMALLEST_PATIENTS} are needed to tell a copy "
            "from a look-alike"
        )
    if e.control_patients < SMALLEST_PATIENTS:
        return _cannot(
            f"the control holds {_count(e.control_patients, 'patient')} and at least {SMALLEST_PATIENTS} are needed; give a larger holdout"
        )
    smallest = e.reference_ratio / (controls + 1)
    if smallest > e.fdr:
        needed = math.ceil(e.reference_ratio / e.fdr) - 1
        return _cannot(
            f"the control is too small: with {_count(controls, 'image')} no p-value can fall below {smallest:.3f}, above the false discovery rate "
            f"of {e.fdr:g}; give at least {needed} holdout images"
        )
    if e.flagged.any():
        return Conclusion(
            Verdict.FOUND,
            f"{int(e.flagged.sum())} of {_count(images, 'synthetic image')} are closer to a training image than real images of other patients "
            f"are, at a false discovery rate of {e.fdr:g}",
        )
    top = e.p_values <= smallest * (1 + 1e-9)
    above = int((top & e.duplicate).sum())
    if above:
        needed = math.ceil(e.reference_ratio * images / (max(1, int(top.sum())) * e.fdr)) - 1
        return _cannot(
            f"{_count(above, 'synthetic image')} would pass as duplicate and above every control image, but {_count(controls, 'control image')} are too few to "
            f"flag that many of {images} at a false discovery rate of {e.fdr:g}; give at least {needed} holdout images or look at them"
        )
    close = wilson(int(e.control_duplicate.sum()), controls)
    if close.share > CLOSE_SHARE:
        return _cannot(
            f"the control is too close: {close.count} of {_count(controls, 'control image')} are themselves duplicates of training images by "
            "their SSIM, so a copy would not stand out; check that the holdout shares no patient with the training set"
        )
    bound = wilson(0, images).upper
    return Conclusion(
        Verdict.NOT_FOUND,
        f"none of {_count(images, 'synthetic image')} is closer to a training image than real images of other patients are; up to "
        f"{100 * bound:.1f} % could still be (95 % upper bound)",
    )


def _cannot(reason: str) -> Conclusion:
    return Conclusion(Verdict.CANNOT, reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
