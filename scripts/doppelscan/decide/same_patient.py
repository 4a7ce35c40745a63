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
from doppelscan.search import EmbeddedSet

__all__ = ["SamePatientControl", "same_patient_control"]

# Training patients of whom two images are compared, at most.
PATIENTS = 200
BLOCK = 256


@dataclass(frozen=True)
class SamePatientControl:
    """Same-patient scores of pairs of which it is known whether they show one person, see :func:`~doppelscan.verify.same_patient.same_patient_scores`.

    Attributes:
        strangers: float64 [K], of control images and their matches: two people each, the most alike that there are. Empty of volumes, which have no such score.
        own: float64 [P], of two images of one training patient each, drawn at random; none of patients whom only registration named, which knows the alike.
        rate: of strangers' pairs that may be taken for one person.
        people: of each of ``strangers``, the control patient; empty counts each pair for itself.
    """

    strangers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    own: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rate: float = Rules.same_patient_p
    people: tuple[str, ...] = ()

    def p_value(self, score: float) -> float:
        """Share of the strangers' pairs that score at least so, the pair itself counted; NaN where there is no score or no stranger.

        Pairs are counted, not people: it is a rate of pairs, not a bound for the set.
        """
        if math.isnan(score) or not len(self.strangers):
            return math.nan
        return float((1 + np.count_nonzero(self.strangers >= score)) / (1 + len(self.strangers)))

    @property
    def tells(self) -> bool:
        """There are strangers enough for a p-value of :attr:`rate`."""
        return 1 / (1 + len(self.strangers)) <= self.rate

    @property
    def area(self) -> Share:
        """AUC of pairs of one patient against those of strangers, its interval by patient."""
        people = [f"own {i}" for i in range(len(self.own))] + [
            f"stranger {one}" for one in self.people or range(len(self.strangers))
        ]
        truth = np.arange(len(people)) < len(self.own)
        return area_under_curve(np.concatenate([self.own, self.strangers]), truth, people)

    @property
    def recall(self) -> Share | None:
        """Share of the pairs of one patient that are told at :attr:`rate`; None without such pairs, or where :attr:`tells` is false."""
        if not len(self.own) or not self.tells:
            return None
        return clopper_pearson([self.p_value(one) <= self.rate for one in self.own.tolist()])

    def told(self, images: ScoredSet, scored: Sequence[ScoredImage], evidence: Sequence[PairEvidence]) -> list[PairEvidence]:
        """``evidence`` of some ``scored`` images with what the score says of the match, and by how much less of the best other patient's image in the pose in
        which that lies most alike; where the p-value decides nothing, that is not asked."""
        if not len(self.strangers) or not scored:
            return list(evidence)
        scores = _matched(images.reference, images.images, scored)
        p_values = [self.p_value(float(score)) for score in scores]
        asked = [i for i, p in enumerate(p_values) if p <= self.rate and scored[i].runner_up_match >= 0]
        lead = np.full(len(scored), math.inf)
        rivals = [scored[i] for i in asked]
        others = [one.runner_up_match for one in rivals]
        lead[asked] = scores[asked] - _scores(images.reference, images.images, rivals, others, None)
        return [
            replace(found, same_patient_p=p, same_patient_lead=float(ahead))
            for found, p, ahead in zip(evidence, p_values, lead, strict=True)
        ]


def same_patient_control(control: ScoredControl, reference: Reference, rules: Rules, seed: int = 0) -> SamePatientControl:
    """The scores of the control's pairs, and of one pair each of some training patients who are named and have two images."""
    strangers = _matched(reference, control.images, control.scored)
    if np.isnan(strangers).any():
        return SamePatientControl(rate=rules.same_patient_p)
    rows: dict[str, list[int]] = defaultdict(list)
    for row, record in enumerate(reference.training.records):
        if record.patient_known:
            rows[record.patient].append(row)
    rng = np.random.default_rng(seed)
    with_two = [own for own in rows.values() if len(own) > 1]
    pairs = [rng.permutation(with_two[k])[:2].tolist() for k in rng.permutation(len(with_two))[:PATIENTS]]
    own = np.zeros(0)
    if pairs and len(strangers):
        first, second = (list(side) for side in zip(*pairs, strict=True))
        own = reference.same_patient(reference.training, first, second, [0] * len(pairs))
    return SamePatientControl(strangers, own, rules.same_patient_p, tuple(control.patients))


def _matched(reference: Reference, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> np.ndarray:
    """Of each of ``scored`` and its match in its flip and quarter turn, float64 [n]."""
    return _scores(reference, images, scored, [one.match for one in scored], [one.pose.number for one in scored])


def _scores(
    reference: Reference, images: EmbeddedSet, scored: Sequence[ScoredImage], matches: Sequence[int], poses: Sequence[int] | None
) -> np.ndarray:
    """Of each of ``scored`` and the training image in the same place of ``matches``, see ``Reference.same_patient``."""
    found = [np.zeros(0)]
    for start in range(0, len(scored), BLOCK):
        block = slice(start, start + BLOCK)
        rows = [one.row for one in scored[block]]
        found.append(reference.same_patient(images, rows, matches[block], None if poses is None else poses[block]))
    return np.concatenate(found)
