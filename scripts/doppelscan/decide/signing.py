"""From a decision to a claim that can be signed: planted copies are judged by the rule that flags, and the words follow from what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from doppelscan.calibrate import Competition, Prevalence, clopper_pearson, memorized_share, memorized_upper_bound
from doppelscan.decide.conclusion import Conclusion, Verdict
from doppelscan.decide.decision import Decision, findings_of
from doppelscan.decide.findings import Finding
from doppelscan.decide.power import NegativeResult, PlantedResult, SelfTest, patients_to_plant
from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.rivals import with_rivals
from doppelscan.decide.rules import Rules
from doppelscan.decide.sampled import SampleClaim
from doppelscan.images import DrawnSample, ImageRecord
from doppelscan.wording import counted

__all__ = ["JudgedCopies", "Planted", "bounded", "of_sample", "self_tested", "sign"]


@dataclass(frozen=True)
class Planted:
    """Images of one transform, scored.

    Attributes:
        name: of the transform.
        words: what was done, as it follows "copies".
        images: scored against the training set.
        sources: int64 [n], the training row that each is a copy of; -1 for a negative, which is a copy of nobody.
        patients: of each, who was planted.
        declared: a claim of none found is to cover the transform.
    """

    name: str
    words: str
    images: ScoredSet
    sources: np.ndarray
    patients: tuple[str, ...]
    declared: bool = True


@dataclass(frozen=True)
class JudgedCopies:
    """Planted copies of one transform, judged.

    Attributes:
        result: what was found of them.
        found: bool [n], of each.
        patients: of each, who was planted.
    """

    result: PlantedResult
    found: np.ndarray
    patients: Sequence[str]


def self_tested(decision: Decision, planted: Sequence[Planted], rules: Rules) -> SelfTest:
    """Judge planted images by the audit's final rule, each as one more image of the set.

    Args:
        decision: of the audit.
        planted: copies by transform, and negatives.
        rules: thresholds.
    """
    training = decision.training
    copies, negatives = [], []
    for one, images, findings in _judged(decision, planted, rules):
        found = np.array([finding is not None and finding.of_somebody for finding in findings])
        if (one.sources < 0).all():
            flagged = sum(finding is not None for finding in findings)
            negatives.append(NegativeResult(one.name, one.words, len(found), flagged, int(found.sum())))
            continue
        sources = [
            training.patients[s.part_match if f is not None and f.of_region else s.match]
            for s, f in zip(images.scored, findings, strict=True)
        ]
        right = [hit and source == training.patients[row] for hit, source, row in zip(found, sources, one.sources, strict=True)]
        named = sum(f is not None and f.kind in ("copy", "blend") for f in findings)
        power = clopper_pearson(found, one.patients, rules.bound)
        result = PlantedResult(one.name, one.words, len(found), int(found.sum()), power, int(sum(right)), named, one.declared)
        copies.append(JudgedCopies(result, found, one.patients))
    like = [one for one in decision.images if not one.unlike]
    return bounded(
        copies,
        negatives,
        [one.shows_patient for one in like],
        decision.control_as_close,
        rules,
        volumes=[one.record.volume for one in like],
        control_patients=decision.control_set.patients,
    )


def _judged(
    decision: Decision, planted: Sequence[Planted], rules: Rules
) -> Iterator[tuple[Planted, ScoredSet, list[Finding | None]]]:
    """Each of ``planted`` with its scores and what it is found to be; those that were embedded together are judged together, by all workers."""
    for _, group in groupby(planted, key=lambda one: id(one.images.images)):
        together = list(group)
        scored = tuple(one for group in together for one in group.images.scored)
        images = with_rivals(replace(together[0].images, scored=scored), decision.near_duplicates, rules)
        flags = decision.flags_beside(images, rules, np.concatenate([one.sources for one in together]).tolist())
        findings, start = findings_of(images, flags, decision.same_patient, rules), 0
        for one in together:
            own = slice(start, start + len(one.sources))
            yield one, replace(images, scored=images.scored[own]), findings[own]
            start = own.stop


def bounded(
    copies: Sequence[JudgedCopies],
    negatives: Sequence[NegativeResult],
    flagged: np.ndarray | Sequence[bool],
    close: np.ndarray | Sequence[bool],
    rules: Rules,
    *,
    volumes: Sequence[str] | None = None,
    control_patients: Sequence[str] | None = None,
) -> SelfTest:
    """The self-test with what follows of the share that is memorized.

    Nobody knows how the copies among the synthetic images were changed. The bound, and the upper end of the interval, are those of the transform
    whose copies are found least surely; the lower end is that of the one whose copies are found most surely: of copies that are all found, what
    is flagged is all there is. The estimate between is that of all transforms together. Where the weakest transform is mostly missed there is no
    bound: by 3 found of 18 it would be 10 %, and copies that are changed a little more are not found at all.

    Args:
        copies: one entry a transform; those that are not declared are left out of shares and bound.
        negatives: images of nobody.
        flagged: bool [m], of each synthetic image that is like the training set: it is said to show a patient.
        close: bool [n], of each control image, it scores as high as what is flagged.
        rules: thresholds.
        volumes: of each synthetic image: slices of one volume are not independent; None counts each for itself.
        control_patients: of each control image, likewise.
    """
    declared = [one for one in copies if one.result.declared] or copies
    weakest = min(declared, key=lambda one: one.result.power.lower)
    strongest = max(declared, key=lambda one: one.result.power.lower)

    def share(found: np.ndarray, patients: Sequence[str]) -> Prevalence:
        return memorized_share(
            flagged,
            close,
            found,
            flagged_patients=volumes,
            control_patients=control_patients,
            found_patients=patients,
            confidence=rules.bound,
        )

    together = share(np.concatenate([one.found for one in declared]), [who for one in declared for who in one.patients])
    least, most = (share(one.found, one.patients) for one in (strongest, weakest))
    upper, bound = 1.0, 1.0
    if weakest.result.power.lower >= rules.bounded_power:
        upper = max(most.upper, together.upper)
        bound = memorized_upper_bound(
            flagged, weakest.found, flagged_patients=volumes, found_patients=weakest.patients, confidence=rules.bound
        )
    return SelfTest(
        tuple(one.result for one in copies),
        tuple(negatives),
        Prevalence(together.value, min(least.lower, together.lower), upper),
        bound,
    )


def sign(decision: Decision, test: SelfTest | None, owed: Competition | None, rules: Rules) -> Decision:
    """The decision with what it could have found: a negative claim needs that."""
    said = decision.conclusion
    if said.verdict is Verdict.NOT_FOUND:
        said = _negative(decision, test, owed, rules)
    return replace(decision, conclusion=said, test=test, owed=owed)


def of_sample(decision: Decision, sample: DrawnSample | None, rules: Rules) -> Decision:
    """``decision`` with what follows for the whole set in its reason; as it is where the whole set was audited.

    Args:
        decision: signed.
        sample: how much of the synthetic set was drawn, or None.
        rules: ``bound`` is the confidence.
    """
    if sample is None:
        return decision
    audited = {_drawn_together(one.record) for one in decision.images}
    flagged = {_drawn_together(one.record) for one in decision.images if one.finding is not None}
    of = "image" if all(one.record.slice is None and not one.record.whole for one in decision.images) else "volume"
    claim = SampleClaim.of_counts(len(flagged), len(audited), max(sample.total, len(audited)), of, rules.bound)
    said = decision.conclusion
    return replace(decision, conclusion=Conclusion(said.verdict, f"{said.reason}. {claim.words}"), sample=claim)


def _drawn_together(record: ImageRecord) -> str:
    """A file, or a series, whose stacks are several volumes."""
    return record.volume.split(",stack=")[0]


def _negative(decision: Decision, test: SelfTest | None, owed: Competition | None, rules: Rules) -> Conclusion:
    none = decision.conclusion.reason
    if test is None:
        return Conclusion(Verdict.CANNOT, f"{none}; but the self-test was switched off, so nobody knows what would have been found")
    if owed is not None and owed.p_value <= rules.owed_p:
        return Conclusion(
            Verdict.CANNOT,
            f"{none}; but the set as a whole is nearer to training patients than to other people (p {owed.p_value:.1g}): it owes "
            f"{100 * max(0.0, owed.owed):.0f} % of its images to them (95 % interval {100 * max(0.0, owed.owed_lower):.0f} to {100 * max(0.0, owed.owed_upper):.0f} %)",
        )
    missed = test.missed(rules)
    most = max(one.planted for one in test.copies)
    if missed and most < patients_to_plant(rules):
        return Conclusion(
            Verdict.CANNOT,
            f"{none}; but only {counted(most, 'training patient')} could be planted as a test: if all were found, that would not "
            f"show that {100 * rules.power:.0f} % of copies are; {patients_to_plant(rules)} are needed",
        )
    if missed:
        worst = min(missed, key=lambda one: one.power.lower)
        others = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
        return Conclusion(
            Verdict.CANNOT,
            f"{none}; but copies {worst.words}{others} cannot be excluded: of {worst.planted} that were planted {worst.found} were found, so "
            f"perhaps only {100 * worst.power.lower:.0f} % would be, and {100 * rules.power:.0f} % are needed",
        )
    return Conclusion(Verdict.NOT_FOUND, f"{none}; {_claim(test, rules)}")


def _claim(test: SelfTest, rules: Rules) -> str:
    """What planted copies show, and of which nothing is claimed."""
    declared = [one for one in test.copies if one.declared]
    least, most = 100 * min(one.power.lower for one in declared), 100 * test.bound
    if len(declared) == len(test.copies):
        return (
            f"planted copies are found, whichever way they were changed (at least {least:.0f} %), so at most {most:.1f} % can be memorized "
            "(95 % upper bound)"
        )
    ways = " or ".join(one.words for one in declared)
    left = " or ".join(one.words for one in test.unclaimed(rules))
    also = f". Nothing is claimed of copies {left}: these may go unseen, and were not declared" if left else ""
    return (
        f"planted copies {ways} are found (at least {least:.0f} %), so at most {most:.1f} % can be copies that are changed in these ways "
        f"(95 % upper bound){also}"
    )
