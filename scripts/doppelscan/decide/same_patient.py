"""Same patient, by how a person lies in the scan: what the score of a pair says, measured on the strangers and the patients of this audit."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from doppelscan.calibrate import Share, area_under_curve, clopper_pearson
from doppelscan.decide.control import ScoredControl
from doppelscan.decide.evidence import PairEvidence
from doppelscan.decide.reference import Reference, ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage

__all__ = ["SamePatientControl", "same_patient_control"]

# Training patients of whom two images are compared, at most.
PATIENTS = 200
BLOCK = 256


@dataclass(frozen=True)
class SamePatientControl:
    """Same-patient scores of pairs of which it is known whether they show one person, see :func:`~doppelscan.verify.same_patient.same_patient_scores`.

    Attributes:
        strangers: float64 [K], of control images and their matches: two people each. Empty of volumes, which have no such score.
        own: float64 [P], of two images of one training patient each, drawn at random.
        rate: of strangers' pairs that may be taken for one person.
    """

    strangers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    own: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rate: float = Rules.same_patient_p

    def p_value(self, score: float) -> float:
        """Share of the strangers' pairs that score at least so, the pair itself counted; NaN where there is no score or no stranger."""
        if math.isnan(score) or not len(self.strangers):
            return math.nan
        return float((1 + np.count_nonzero(self.strangers >= score)) / (1 + len(self.strangers)))

    @property
    def area(self) -> Share:
        """AUC of pairs of one patient against those of strangers."""
        return area_under_curve(
            np.concatenate([self.own, self.strangers]), np.arange(len(self.own) + len(self.strangers)) < len(self.own)
        )

    @property
    def recall(self) -> Share | None:
        """Share of the pairs of one patient that are told at :attr:`rate`; None where no training patient has two images, or of so few strangers no pair is."""
        if not len(self.own) or 1 / (1 + len(self.strangers)) > self.rate:
            return None
        return clopper_pearson([self.p_value(one) <= self.rate for one in self.own.tolist()])

    def told(self, images: ScoredSet, scored: Sequence[ScoredImage], evidence: Sequence[PairEvidence]) -> list[PairEvidence]:
        """``evidence`` of some ``scored`` images with what the score says of the match, and by how much less of the best other patient's image."""
        if not len(self.strangers) or not scored:
            return list(evidence)
        matched = _scores(images.reference, images, scored, [one.match for one in scored])
        others = [one.match if one.runner_up_match < 0 else one.runner_up_match for one in scored]
        lead = matched - _scores(images.reference, images, scored, others)
        return [
            replace(
                found,
                same_patient=float(score),
                same_patient_p=self.p_value(float(score)),
                same_patient_lead=math.inf if one.runner_up_match < 0 else float(ahead),
            )
            for one, found, score, ahead in zip(scored, evidence, matched, lead, strict=True)
        ]


def same_patient_control(control: ScoredControl, reference: Reference, rules: Rules, seed: int = 0) -> SamePatientControl:
    """The scores of the control's pairs, and of one pair each of some training patients who have two images."""
    images = ScoredSet(control.images, control.scored, reference)
    strangers = _scores(reference, images, control.scored, [one.match for one in control.scored])
    strangers = strangers[~np.isnan(strangers)]
    rows: dict[str, list[int]] = defaultdict(list)
    for row, patient in enumerate(reference.training.patients):
        rows[patient].append(row)
    rng = np.random.default_rng(seed)
    with_two = [own for own in rows.values() if len(own) > 1] if len(strangers) else []
    pairs = [rng.permutation(with_two[k])[:2].tolist() for k in rng.permutation(len(with_two))[:PATIENTS]]
    own = np.zeros(0)
    if pairs:
        first, second = (list(side) for side in zip(*pairs, strict=True))
        own = reference.same_patient(reference.training, first, second, [0] * len(pairs))
    return SamePatientControl(strangers, own, rules.same_patient_p)


def _scores(reference: Reference, images: ScoredSet, scored: Sequence[ScoredImage], matches: Sequence[int]) -> np.ndarray:
    found = [np.zeros(0)]
    for start in range(0, len(scored), BLOCK):
        block = scored[start : start + BLOCK]
        poses = [one.pose.number for one in block]
        found.append(reference.same_patient(images.images, [one.row for one in block], matches[start : start + BLOCK], poses))
    return np.concatenate(found)
