"""Of what kind each finding is: a copy, perhaps only the same patient, a blend, a part, or of nobody alone; and real images that agree so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from doppelscan.decide.evidence import PairEvidence
from doppelscan.decide.flags import Reason
from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage
from doppelscan.images import ImageRecord

__all__ = ["KINDS", "OF_NOBODY", "Finding", "NearDuplicate", "PairEvidence", "explain", "kind_of"]

# Of findings, in the order of a report.
KINDS = ("copy", "blend", "part", "same patient?", "no single source", "unresolved")
# Derived from the training set, but of no patient alone: it names nobody.
OF_NOBODY = "no single source"
BLOCK = 64


@dataclass(frozen=True)
class Finding:
    """What a flagged image is.

    Attributes:
        kind: one of :data:`KINDS`.
        reason: by which rule it is flagged.
        explained: share of the structure that the match explains, see :func:`~doppelscan.verify.agreement.explained`; NaN for a part.
        second_match: training row of the second source of a blend, or None.
        second_share: its share of the image.
        same_patient_p: share of strangers' pairs that the same-patient score takes for one person as surely as image and match, NaN where nobody asked.
    """

    kind: str
    reason: Reason
    explained: float = float("nan")
    second_match: int | None = None
    second_share: float = float("nan")
    same_patient_p: float = float("nan")

    @property
    def of_somebody(self) -> bool:
        """It says that a patient is shown."""
        return self.kind != OF_NOBODY

    @property
    def of_region(self) -> bool:
        """It is told by a region: its source is that of the region. A half of a volume that its match explains is told by the whole, and the match's."""
        return self.reason.rule.of_region


def kind_of(evidence: PairEvidence, reason: Reason, rules: Rules) -> Finding:
    """The kind of an image that is flagged by its whole; docs/interpretation.md has the rules in words."""
    return replace(_kind_of(evidence, reason, rules), same_patient_p=evidence.same_patient_p)


def _kind_of(e: PairEvidence, reason: Reason, rules: Rules) -> Finding:
    of_many = e.third >= rules.third and e.both < rules.both and e.margin < rules.no_source
    if e.mixed >= rules.mixed and not of_many:
        return Finding("blend", reason, e.explained, e.mixed_row, e.mixed_share)
    if e.set_in >= rules.set_in and e.set_in_share >= rules.set_in_share and e.explained < rules.explained:
        return Finding("blend", reason, e.explained, e.set_in_row, e.set_in_share)
    # Some of the image agrees as copies do and much of it not at all, as where a half was set into another person.
    partial = e.explained < rules.part_explained and e.agreeing >= rules.part_agreeing and e.disagreeing >= rules.part_disagreeing
    if partial and e.region_of_match:
        return Finding("part", reason, e.explained)
    if rules.same_image(e.explained, e.margin, e.loss):
        return Finding("copy", reason, e.explained)
    if e.margin < rules.no_source:
        return Finding(OF_NOBODY, reason, e.explained)
    # So blurred, a copy and a neighbouring slice look alike; and so near to another patient's, nobody knows whose it is.
    open_question = e.margin < rules.one_source or (e.coarse and e.explained >= rules.coarse_explained)
    # Where nothing is moved, the same-patient score may know: NaN knows nothing.
    known = e.same_patient_p <= rules.same_patient_p and e.same_patient_lead >= rules.same_patient_lead
    kind = "unresolved" if open_question and not known else "same patient?"
    return Finding(kind, reason, e.explained)


def explain(scored: Sequence[ScoredImage], images: ScoredSet, rules: Rules) -> list[PairEvidence]:
    """Measure the pair of each of ``scored``, entries of ``images`` that are flagged by their whole."""
    workers = images.reference.workers
    return [one for part in workers.map(PairExplainer(tuple(scored), images, rules), range(len(scored))) for one in part]


@dataclass(frozen=True)
class PairExplainer:
    """Measures blocks of the pairs of ``scored``; what it holds is what :func:`explain` takes."""

    scored: tuple[ScoredImage, ...]
    images: ScoredSet
    rules: Rules

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[PairEvidence]:
        """One entry a row of ``scored``."""
        result: list[PairEvidence] = []
        for start in range(0, len(rows), BLOCK):
            block = [self.scored[row] for row in rows[start : start + BLOCK]]
            result += self.images.reference.evidence(self.images.images, block, self.rules)
            advance(len(block))
        return result


@dataclass(frozen=True)
class NearDuplicate:
    """Real images of two patients that agree as copies of one another do.

    Attributes:
        control: the first is of the control, else of training.
        first: one image.
        second: the other, of training.
        score: verified score of the pair.
    """

    control: bool
    first: ImageRecord
    second: ImageRecord
    score: float
