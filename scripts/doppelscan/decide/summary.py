"""What summary.json holds, as one record."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from doppelscan.calibrate import Competition, Share, duplication_trend, residual_risk
from doppelscan.decide.conclusion import unlike_words
from doppelscan.decide.decision import Decision
from doppelscan.decide.power import SelfTest
from doppelscan.decide.reviewed import ReviewCount, ReviewedImages
from doppelscan.decide.rules import Rules
from doppelscan.decide.same_patient import SamePatientControl
from doppelscan.decide.sampled import SampleClaim
from doppelscan.deepssim import VERDICTS, verdict
from doppelscan.images import unit_of
from doppelscan.search import EmbeddedSet
from doppelscan.wording import counted

__all__ = ["AuditSummary", "ImageCounts", "LeftOut", "NearDuplicateRow", "SetFacts", "summarize"]

# Of fewer patients nothing is said of how well another image of a patient is told.
FEW_PATIENTS = 10


@dataclass(frozen=True)
class ImageCounts:
    """Numbers of images and patients; ``unlike`` is None where nobody looked, ``training_unnamed`` and ``control_unnamed`` are images whose patients nothing
    names: of such the number of patients is how many they count as, not how many there are. ``control_from_training`` of the control are no holdout."""

    training: int
    synthetic: int
    control: int
    training_patients: int
    control_patients: int
    skipped: int
    unlike: int | None
    training_unnamed: int = 0
    control_unnamed: int = 0
    control_from_training: int = 0


@dataclass(frozen=True)
class SetFacts:
    """Which images an audit looked at, so that a later reader can tell whether another audit looked at the same.

    Attributes:
        images, patients: how many were read, and of how many patients as they are known.
        sha256: over the sorted sha256 of the images, each of its file's bytes and which slice it is: the same set, whatever its files are called. It
            names nobody: who has not got the whole set cannot compute it.
    """

    images: int
    patients: int
    sha256: str

    @classmethod
    def of(cls, images: EmbeddedSet) -> SetFacts:
        digest = hashlib.sha256("\n".join(sorted(images.keys)).encode())
        return cls(len(images), len(set(images.patients)), digest.hexdigest())


@dataclass(frozen=True)
class LeftOut:
    """An image that is not in the audit: of which set, its path, and why."""

    set: str
    path: str
    reason: str


@dataclass(frozen=True)
class NearDuplicateRow:
    """Who is there twice: of the control or the training set, and of the training set."""

    set: str
    image: str
    patient: str
    match: str
    match_patient: str
    score: float


@dataclass(frozen=True)
class AuditSummary:
    """The set in numbers, and how they were made; docs/interpretation.md says what they mean, ``of`` what is counted: image or volume. ``verdicts`` are of images alone."""

    of: str
    conclusion: str
    reason: str
    images: ImageCounts
    flagged: Share
    flagged_control: Share
    findings: Mapping[str, int]
    residual_risk: Mapping[str, float]
    self_test: SelfTest | None
    competition: Mapping[str, float] | None
    verdicts: Mapping[str, int] | None
    set_mi: Mapping[str, float] | None
    duplication_trend: Mapping[str, object] | None
    near_duplicates: Sequence[NearDuplicateRow]
    fdr: float
    correction: str
    score: str
    smallest_p_value: float
    smallest_patient_p_value: float
    smallest_tail_p_value: float
    effective_control: float
    look_alikes: Mapping[str, int]
    control: str
    control_against_training: Mapping[str, float] | None
    patient_source: str
    people: Sequence[str]
    notes: Sequence[str]
    skipped: Sequence[LeftOut]
    settings: Mapping[str, object]
    rules: Rules
    weights_sha256: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    sets: Mapping[str, SetFacts] = field(default_factory=dict)
    command: str = ""
    finished: str = ""
    sample: SampleClaim | None = None
    decisions: ReviewCount | None = None
    same_patient: Mapping[str, object] | None = None
    unnamed: str = ""
    extrapolated: str = ""
    p_value_floors: Sequence[float] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain dictionaries and lists, in the order of the file; ``sample``, ``decisions`` and ``same_patient`` are there where there are any."""
        return plain(self)


def plain(summary: Any) -> dict[str, object]:
    """A summary's record as plain dictionaries and lists, in the order of the file; ``sample``, ``decisions`` and ``same_patient`` are there where there are any."""
    optional = ("sample", "decisions", "same_patient")
    made = {name: value for name, value in asdict(summary).items() if name not in optional or value is not None}
    if "rules" in made:
        made["rules"] = {name: value for name, value in made["rules"].items() if name not in summary.rules.idle}
    return made


def summarize(
    decision: Decision,
    rules: Rules,
    *,
    patient_source: str,
    people: Sequence[str],
    notes: Sequence[str],
    skipped: Sequence[LeftOut],
    settings: Mapping[str, object],
    weights_sha256: str,
    versions: Mapping[str, str],
    seconds: Mapping[str, float],
    command: str = "",
    finished: str = "",
    reviews: ReviewedImages | None = None,
) -> AuditSummary:
    """The numbers of ``decision``; what it cannot know of the run is passed by its name in :class:`AuditSummary`."""
    images, null, alike = decision.images, decision.null, decision.same_kind
    mi = np.array([one.scored.mi for one in images])
    classes, of = [verdict(one.scored.ssim) for one in images], unit_of(one.record for one in images)
    return AuditSummary(
        of=of,
        conclusion=decision.conclusion.verdict.value,
        reason=decision.conclusion.reason,
        images=ImageCounts(
            training=len(decision.training),
            synthetic=len(images),
            control=len(decision.control),
            training_patients=len(set(decision.training.patients)),
            control_patients=null.patients,
            skipped=len(skipped),
            unlike=decision.unlike,
            training_unnamed=decision.training.unnamed,
            control_unnamed=decision.control_set.unnamed,
            control_from_training=decision.control_set.from_training,
        ),
        flagged=decision.flagged,
        flagged_control=decision.flagged_control,
        findings=decision.kinds,
        residual_risk=residual_risk(decision.showing, decision.flagged_control),
        self_test=decision.test,
        competition=None if decision.owed is None else _competition(decision.owed),
        verdicts=None if of == "volume" else {name: classes.count(name) for name in reversed(VERDICTS)},
        set_mi=None if np.isnan(mi).all() else {"mean": float(mi.mean()), "median": float(np.median(mi)), "max": float(mi.max())},
        duplication_trend=_trend(decision),
        near_duplicates=[
            NearDuplicateRow(
                "control" if one.control else "training",
                one.first.id,
                one.first.patient,
                one.second.id,
                one.second.patient,
                one.score,
            )
            for one in decision.near_duplicates
        ],
        fdr=rules.fdr,
        correction=rules.correction,
        score=rules.score,
        smallest_p_value=null.counted,
        smallest_patient_p_value=null.counted,
        smallest_tail_p_value=null.floor,
        effective_control=round(null.effective_size, 1),
        look_alikes={
            "images": decision.look_alikes,
            "flagged_with": decision.flagged.count,
            "flagged_without": decision.flagged_without,
        },
        control=decision.control_set.words,
        control_against_training=None if alike is None else {"auc": alike.auc, "p_value": alike.p_value},
        patient_source=patient_source,
        people=people,
        notes=[*_domain_notes(decision, of), *_look_alike_notes(decision, of), *_same_patient_notes(decision), *people, *notes],
        skipped=skipped,
        settings=settings,
        rules=rules,
        weights_sha256=weights_sha256,
        versions=versions,
        seconds=seconds,
        sets={
            "training": SetFacts.of(decision.training),
            "synthetic": SetFacts.of(decision.synthetic.images),
            "control": SetFacts.of(decision.control_set.images),
        },
        command=command,
        finished=finished,
        sample=decision.sample,
        decisions=None if reviews is None or not reviews.said else reviews.count(_findings(decision)),
        same_patient=_same_patient(decision.same_patient),
        unnamed=_unnamed(decision, of),
        extrapolated=_extrapolated(decision),
        p_value_floors=decision.floors,
    )


def _findings(decision: Decision) -> dict[str, str]:
    """Image -> kind of its finding, empty where it is not flagged."""
    return {one.record.id: "" if one.finding is None else one.finding.kind for one in decision.images}


def _competition(owed: Competition) -> dict[str, float]:
    """As it is filed. Where others won more than chance has it the estimate lies below 0; as a share of the images that is none."""
    return {
        "images": len(owed.wins),
        "won_by_training": int(owed.wins.sum()),
        "expected_share": owed.expected,
        "p_value": owed.p_value,
        "owed": max(0.0, owed.owed),
        "owed_lower": max(0.0, owed.owed_lower),
        "owed_upper": max(0.0, owed.owed_upper),
    }


def _same_patient(known: SamePatientControl) -> dict[str, object] | None:
    """What the same-patient score tells of pairs that are known; None where no training patient has two images, or nobody is a stranger."""
    if not len(known.own) or not len(known.strangers):
        return None
    recall = known.recall
    return {
        "patients": len(known.own),
        "strangers": len(known.strangers),
        "auc": asdict(known.area),
        "recall": None if recall is None else asdict(recall),
        "rate": known.rate,
    }


def _same_patient_notes(decision: Decision) -> list[str]:
    recall = decision.same_patient.recall
    if recall is None or recall.total < FEW_PATIENTS:
        return []
    return [
        f"By another image of theirs, drawn at random and often of another place, {100 * recall.share:.0f} % ({100 * recall.lower:.0f} to {100 * recall.upper:.0f} %) of {recall.total} training patients are told "
        f"by the way they lie in the frame, at {100 * decision.same_patient.rate:g} % of strangers' pairs. This audit looks for copies of images: an image of a training patient "
        "at a place of the anatomy that no training image shows is not flagged."
    ]


def _unnamed(decision: Decision, of: str) -> str:
    """What stands beside the conclusion where nobody named the patients, a sentence; else empty."""
    sets = {"training": decision.training.unnamed, "control": decision.control_set.unnamed}
    without = [f"{count} {name}" for name, count in sets.items() if count]
    if not without:
        return ""
    return (
        f"Nobody named the patients of {' and '.join(without)} {of}s: unless registration found otherwise, each counts as one. If several are of one "
        "person, p-values and intervals claim too much: name the patients, by --patient-pattern or a table with a column 'patient', before you sign."
    )


def _extrapolated(decision: Decision) -> str:
    """What stands beside the conclusion where flags rest on more than counting, a sentence; else empty."""
    rated = sum(one.finding is not None and one.finding.reason.rule.by_rate for one in decision.images)
    rest = decision.on_tail
    if not rest:
        return ""
    flags = f"{rest} of {counted(rated, 'flag')} by rate {'rests' if rest == 1 else 'rest'}"
    return (
        f"{flags} on a tail fitted to the control beyond its highest score: by counting alone, which gives no p-value below "
        f"{decision.null.counted:.2g}, {'it' if rest == 1 else 'they'} would not be flagged."
    )


def _domain_notes(decision: Decision, of: str) -> list[str]:
    total = len(decision.images)
    if not decision.unlike:
        return []
    return [
        f"{decision.unlike} of {counted(total, f'synthetic {of}')} {'is' if decision.unlike == 1 else 'are'} unlike the training set ({unlike_words(of)}): the "
        f"shares speak of the other {total - decision.unlike}."
    ]


def _look_alike_notes(decision: Decision, of: str) -> list[str]:
    if not decision.look_alikes:
        return []
    flagged, without = decision.flagged.count, decision.flagged_without
    return [
        f"{counted(decision.look_alikes, f'control {of}')} {'agrees' if decision.look_alikes == 1 else 'agree'} with a training {of} of another patient as copies do, and "
        f"whether that is one person twice is not known: with them {counted(flagged, f'synthetic {of}')} {'is' if flagged == 1 else 'are'} flagged, without them {without}. The control with them decides."
    ]


def _trend(decision: Decision) -> dict[str, object] | None:
    """Flagged share of training images by how often they were shown: the column ``repeats``, and files of the same bytes."""
    training = decision.training
    shown: dict[str, int] = {}
    for record, key in zip(training.records, training.keys, strict=True):
        shown[key] = shown.get(key, 0) + record.repeats
    leaked = {training.keys[one.source_row] for one in decision.images if one.shows_patient}
    keys = list(shown)
    return duplication_trend(np.array([shown[k] for k in keys]), np.array([k in leaked for k in keys]))
