"""The words: memorization found, no memorization found, cannot conclude. The rules stand in docs/interpretation.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from doppelscan.calibrate import TwoSampleResult, wilson
from doppelscan.decide.findings import OF_NOBODY
from doppelscan.decide.rules import Rules
from doppelscan.wording import counted, values_of

__all__ = ["Conclusion", "Evidence", "Verdict", "conclude", "control_needed", "count_kinds", "unlike_words"]


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
        unlike: number of synthetic images that are of another domain than the training set and not flagged.
        identical: number of synthetic images that hold the pixels of a training image.
        flagged: bool [M], a finding.
        close: bool [M], the verified pair agrees as copies do.
        highest: bool [M], it scores above every control image.
        control_close: bool [n], the same of the control.
        training_patients: number of patients in training.
        control_patients: number of patients in the control.
        training_named, control_named: they are named; else the number is how many they count as.
        smallest: smallest p-value that counting the control can give an image, see :class:`~doppelscan.calibrate.Control`.
        findings: how many of each kind were flagged.
        by_rule: how many by each rule, by its words.
        same_kind: training against control, or None when it was not tested.
        of: what they are, image or volume.
        left_out: number of synthetic files that could not be read or compared.
    """

    p_values: np.ndarray
    unlike: int
    identical: int
    flagged: np.ndarray
    close: np.ndarray
    highest: np.ndarray
    control_close: np.ndarray
    training_patients: int
    control_patients: int
    smallest: float
    findings: Mapping[str, int] = field(default_factory=dict)
    same_kind: TwoSampleResult | None = None
    by_rule: Mapping[str, int] = field(default_factory=dict)
    of: str = "image"
    left_out: int = 0
    training_named: bool = True
    control_named: bool = True


def conclude(evidence: Evidence, rules: Rules) -> Conclusion:
    """Apply the rules in their order; the first that holds gives the words. The same pixels are a copy whatever the control is."""
    said, e = _by_control(evidence, rules), evidence
    if not e.identical or said.verdict is Verdict.FOUND:
        return said
    total = len(e.p_values)
    held = f"{e.identical} of {counted(total, f'synthetic {e.of}')} {'holds' if e.identical == 1 else 'hold'} the {values_of(e.of)} of a training {e.of}"
    registered = int(np.sum(e.flagged)) - e.identical
    also = f"; {registered} more {'is' if registered == 1 else 'are'} flagged by registration" if registered > 0 else ""
    others = "" if e.identical == total else f"{also}; of the others nothing can be said: {said.reason}"
    return Conclusion(Verdict.FOUND, f"{held}, which needs no control{others}")


def _by_control(evidence: Evidence, rules: Rules) -> Conclusion:
    e = evidence
    images, controls = len(e.p_values) - e.unlike, len(e.control_close)
    highest = int(np.sum(e.highest))
    # Said of none; where none is flagged, those that score above everybody in the control are the first thing to look at.
    unsaid = (
        f"can be flagged at a false discovery rate of {rules.fdr:g}, but {highest} {'scores' if highest == 1 else 'score'} above every control {e.of}: look at "
        f"{'it' if highest == 1 else 'them'} first"
        if highest
        else f"is closer to a training {e.of} than real {e.of}s of other patients are"
    )
    if not images:
        return _cannot(f"all {len(e.p_values)} synthetic {e.of}s are unlike the training set ({unlike_words(e.of)})")
    if e.training_patients < rules.smallest_patients:
        return _cannot(
            f"the training set {_holds(e.training_patients, e.training_named)} and at least {rules.smallest_patients} are needed to tell a copy "
            "from a look-alike"
        )
    if e.control_patients < rules.smallest_patients:
        return _cannot(
            f"the control {_holds(e.control_patients, e.control_named)} and at least {rules.smallest_patients} are needed; give a larger holdout"
        )
    if e.smallest > rules.fdr:
        return _cannot(
            f"the control is too small: with {counted(controls, e.of)} {_of_people(e)} no p-value can fall below "
            f"{e.smallest:.3f}, above the false discovery rate of {rules.fdr:g}; give at least {control_needed(controls, e.smallest, rules)} holdout {e.of}s, of patients in proportion"
        )
    if e.same_kind is not None and e.same_kind.auc >= rules.apart_auc and e.same_kind.p_value <= rules.apart_p:
        return _cannot(
            f"the control is of another kind than the training set (a classifier tells their patients apart with an AUC of {e.same_kind.auc:.2f}, "
            f"p {e.same_kind.p_value:.1g}): another scanner, sequence, plane or preparation, whose images are too easily unlike the training "
            "set; give a holdout of the same kind"
        )
    close = wilson(int(e.control_close.sum()), controls)
    if close.share > rules.close_share:
        return _cannot(
            f"the control is too close: {close.count} of {counted(controls, f'control {e.of}')} agree with a training {e.of} as copies do, so "
            "a copy would not stand out; check that the holdout shares no patient with the training set"
        )
    of_nobody = e.findings.get(OF_NOBODY, 0)
    if of_nobody and of_nobody == e.flagged.sum():
        return _cannot(
            f"{of_nobody} of {counted(images, f'synthetic {e.of}')} {'is' if of_nobody == 1 else 'are'} closer to the training set than real {e.of}s of "
            f"other patients are, and to no single patient, as means of several training {e.of}s are: derived from training; of none of them can one patient be told"
        )
    if e.flagged.any():
        shown = {kind: number for kind, number in e.findings.items() if kind != OF_NOBODY}
        number = int(e.flagged.sum()) - of_nobody
        kinds, rules_told = count_kinds(shown), ", ".join(f"{count} by {words}" for words, count in e.by_rule.items() if count)
        more = (
            f"; {of_nobody} more {'is' if of_nobody == 1 else 'are'} derived from training, of no single source"
            if of_nobody
            else ""
        )
        return Conclusion(
            Verdict.FOUND,
            f"{number} of {counted(images, f'synthetic {e.of}')} {'shows' if number == 1 else 'show'} a training patient"
            + (f": {kinds}" if kinds else "")
            + more
            + (f". Flagged: {rules_told}" if rules_told else ""),
        )
    above = int((e.highest & e.close).sum())
    if above:
        return _cannot(
            f"{counted(above, f'synthetic {e.of}')} would pass as a copy and above every control {e.of}, but {counted(controls, f'control {e.of}')} "
            f"{_of_people(e)} are too few or too close to flag that many of {images} at a false discovery rate of {rules.fdr:g}; "
            "give a larger holdout or look at them"
        )
    if e.unlike > rules.unlike_most * len(e.p_values):
        return _cannot(
            f"{e.unlike} of {counted(len(e.p_values), f'synthetic {e.of}')} are unlike the training set ({unlike_words(e.of)}), so that little is known of the set; of "
            f"the other {images} none {unsaid}"
        )
    if e.left_out > rules.left_out * (len(e.p_values) + e.left_out):
        return _cannot(
            f"{e.left_out} of {counted(len(e.p_values) + e.left_out, f'synthetic {e.of}')} {'was' if e.left_out == 1 else 'were'} left out, and what is in "
            f"{'it' if e.left_out == 1 else 'them'} was not looked at; of the others none {unsaid}"
        )
    return Conclusion(
        Verdict.NOT_FOUND,
        f"none of {counted(images, f'synthetic {e.of}')} {unsaid}",
    )


def _holds(patients: int, named: bool) -> str:
    """How many patients a set holds, or, where nobody named them, counts as."""
    return f"holds {counted(patients, 'patient')}" if named else f"counts as {counted(patients, 'patient')}, who are not named,"


def _of_people(evidence: Evidence) -> str:
    """Of how many patients the control is, as it follows the number of its images."""
    people = counted(evidence.control_patients, "patient")
    return f"of {people}" if evidence.control_named else f"that count as {people}"


def control_needed(count: int, smallest: float, rules: Rules) -> int:
    """How many of a control are needed for a p-value at the rate, where ``count`` give ``smallest``, which is below 1."""
    return math.ceil(count * (1 / rules.fdr - 1) / max(1e-9, 1 / smallest - 1))


def count_kinds(findings: Mapping[str, int]) -> str:
    """For example ``20 copies, 1 blend, 2 same patient?``; kinds that were not found are left out."""
    nouns = ("copy", "blend", "part")
    return ", ".join(counted(number, kind) if kind in nouns else f"{number} {kind}" for kind, number in findings.items() if number)


def unlike_words(of: str) -> str:
    """What images, or volumes, may be that are of another domain than the training set."""
    if of == "volume":
        return "another modality, anatomy or preparation, a small part of it, a wrong voxel size in the header, or noise"
    return "another modality, plane or preparation, or noise"


def _cannot(reason: str) -> Conclusion:
    return Conclusion(Verdict.CANNOT, reason)
