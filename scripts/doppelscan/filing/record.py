"""The dossier as one record: everything that is printed, whether as PDF, page or JSON, and nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from doppelscan.calibrate import Share
from doppelscan.filing.audits import FinishedAudit, whole_sha256
from doppelscan.filing.comparison import Comparison
from doppelscan.filing.decisions import Review
from doppelscan.filing.details import Details
from doppelscan.filing.sampling import Sampling
from doppelscan.filing.seal import plain, seal_of
from doppelscan.filing.statements import SOURCES, Statement, card, control_fitness, criteria, tested, threat_model
from doppelscan.pseudonyms import Pseudonyms
from doppelscan.scores import p_value_of, source_of
from doppelscan.settings import masked_command
from doppelscan.version import __version__

__all__ = [
    "SCHEMA",
    "Control",
    "Dossier",
    "ImageFinding",
    "Inputs",
    "LeftOutImage",
    "NegativeCopies",
    "Results",
    "Run",
    "SetRecord",
    "ShownPatient",
    "hidden_patients",
    "make_dossier",
]

SCHEMA = "urn:doppelscan:dossier:1"
KINDS = ("copy", "blend", "part", "same patient?", "unresolved")


@dataclass(frozen=True)
class SetRecord:
    """A set that was audited; ``sha256`` as in summary.json, ``patients`` None where they are not named, or not asked for."""

    name: str
    images: int
    patients: int | None
    sha256: str


@dataclass(frozen=True)
class Run:
    """How the audit was made."""

    finished: str
    command: str
    weights_sha256: str
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    rules: Mapping[str, Any]
    patient_source: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """The numbers of the set.

    Attributes:
        flagged: images that are flagged.
        findings: how many of each kind.
        patients_shown: training patients that flagged images show.
        residual_risk: (share that shows a patient - control share) / (1 - control share): value, lower, upper.
        memorized: share that is memorized by what is flagged and what would be: value, lower, upper; None without a self-test.
        bound: upper 95 % bound of that share, 1 where there is none; None without a self-test.
        competition: of training against other patients, or None.
        unlike: images of another domain, of which nothing is said; None where nobody looked.
        sample: where a sample was audited, what it bounds; or None.
        extrapolated: a sentence where flags rest on the fitted tail of the control, else empty.
        p_value_floors: where that tail is cut off: a p-value there is an upper limit.
    """

    flagged: Share
    findings: Mapping[str, int]
    patients_shown: int
    residual_risk: Mapping[str, float | None]
    memorized: Mapping[str, float | None] | None
    bound: float | None
    competition: Mapping[str, float | None] | None
    unlike: int | None
    sample: Mapping[str, Any] | None
    extrapolated: str = ""
    p_value_floors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Control:
    """What the flags are calibrated by, and whether it is fit for that; ``patients`` is None where they are not named."""

    words: str
    images: int
    patients: int | None
    as_close: Share
    fitness: tuple[Statement, ...]


@dataclass(frozen=True)
class PlantedCopies:
    """What the self-test found of copies that were changed in one way; ``power`` by patient."""

    words: str
    planted: int
    found: int
    power: Share
    right_patient: int
    declared: bool


@dataclass(frozen=True)
class NegativeCopies:
    """What the self-test said of images of nobody."""

    words: str
    images: int
    flagged: int
    accused: int


@dataclass(frozen=True)
class ShownPatient:
    """A training patient whom flagged images show, by kind of finding; ``smallest_p_value`` is None where identical pixels decide."""

    patient: str
    images: int
    kinds: Mapping[str, int]
    training_images: int
    highest_score: float
    smallest_p_value: float | None


@dataclass(frozen=True)
class ImageFinding:
    """A flagged image; ``p_value`` is None where identical pixels decide."""

    image: str
    finding: str
    match: str
    match_patient: str
    score: float
    p_value: float | None
    reason: str


@dataclass(frozen=True)
class LeftOutImage:
    """An image that was not audited, and why."""

    set: str
    image: str
    reason: str


@dataclass(frozen=True)
class Inputs:
    """sha256 of what the dossier was made of.

    Attributes:
        files: of the audit, by name.
        sha256: of all of these.
        details, decisions, manifest, before: of the further inputs, None of those that were not given; ``before`` is of a whole audit.
    """

    files: Mapping[str, str]
    sha256: str
    details: str | None = None
    decisions: str | None = None
    manifest: str | None = None
    before: str | None = None


@dataclass(frozen=True)
class Dossier:
    """What is filed of an audit. The page and the PDF print it, the JSON is it.

    Attributes:
        schema: names the JSON schema that its JSON obeys.
        made, made_by: when, in UTC, and by which version.
        redacted: paths and patients are pseudonyms, drawn anew for this dossier.
        details: what a person said of the release.
        not_given: headings of what nobody said.
        conclusion, reason: the audit's words.
        sets: training, synthetic and control.
        generator: what the sampler's manifest says, or None.
        threat, tested, criteria, card: what was looked at and what was not.
        results, control, planted, negatives: the numbers; ``planted`` is empty without a self-test, and ``power_needed`` what each of it needs.
        patients: every training patient who is shown; images: every flagged image.
        near_duplicates: pairs of real images under two names that agree as copies do.
        left_out: images that could not be audited.
        review: what reviewers decided, or None.
        before: the comparison with an earlier audit, or None.
        run: how the audit was made.
        inputs: hashes of what it was made of.
        sources: of the methods and criteria.
        of: what was audited, image or volume.
        seal: hash of all the above, and an HMAC where there is a secret.
    """

    schema: str
    made: str
    made_by: str
    redacted: bool
    details: Details
    not_given: tuple[str, ...]
    conclusion: str
    reason: str
    sets: tuple[SetRecord, ...]
    generator: Sampling | None
    threat: tuple[Statement, ...]
    tested: tuple[Statement, ...]
    criteria: tuple[Statement, ...]
    card: tuple[Statement, ...]
    results: Results
    control: Control
    power_needed: float
    planted: tuple[PlantedCopies, ...]
    negatives: tuple[NegativeCopies, ...]
    patients: tuple[ShownPatient, ...]
    images: tuple[ImageFinding, ...]
    near_duplicates: int
    left_out: tuple[LeftOutImage, ...]
    review: Review | None
    before: Comparison | None
    run: Run
    inputs: Inputs
    sources: Mapping[str, str]
    of: str = "image"
    seal: Mapping[str, str | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, in the order of the file; what is not finite is None."""
        return plain(asdict(self))

    @property
    def named(self) -> bool:
        """Whether the patients of training set and control are."""
        known = {one.name: one.patients for one in self.sets}
        return known.get("training") is not None and self.control.patients is not None

    @property
    def training_images_shown(self) -> int:
        """How many training images are shown."""
        return sum(one.training_images for one in self.patients)

    @property
    def expired(self) -> bool:
        """It was made after the day on which the release was to be judged anew."""
        return bool(self.details.expires) and self.details.expires < self.made[:10]


def make_dossier(
    audit: FinishedAudit,
    details: Details,
    *,
    redact: bool = True,
    generator: Sampling | None = None,
    review: Review | None = None,
    before: Comparison | None = None,
    inputs: Mapping[str, str | None] | None = None,
    secret: bytes | None = None,
    names: Pseudonyms | None = None,
    made: str | None = None,
) -> Dossier:
    """Make the record.

    Args:
        audit: finished.
        details: of the release.
        redact: pseudonyms in place of paths and patients, and no comments of reviewers, which may name them. Those of a redacted audit stay as they are.
        generator: of the synthetic set.
        review: reviewers' decisions.
        before: the comparison with an earlier audit.
        inputs: sha256 of further inputs, by their names in :class:`Inputs`.
        secret: of the HMAC; None makes none.
        names: gives the pseudonyms, and keeps them for a key.
        made: when, in UTC; None is now.
    """
    summary = audit.summary
    hide = _Hidden(names or Pseudonyms()) if redact and not audit.redacted else _Shown()
    test = summary["self_test"]
    results = Results(
        Share(**summary["flagged"]),
        summary["findings"],
        len(audit.exposure),
        summary["residual_risk"],
        None if test is None else test["memorized"],
        None if test is None else test["bound"],
        summary["competition"],
        summary["images"]["unlike"],
        summary.get("sample"),
        summary.get("extrapolated", ""),
        tuple(summary.get("p_value_floors", ())),
    )
    dossier = Dossier(
        SCHEMA,
        made or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        f"doppelscan {__version__}",
        redact or audit.redacted,
        details,
        details.missing,
        summary["conclusion"],
        summary["reason"],
        tuple(
            SetRecord(name, one["images"], None if name == "synthetic" or audit.unnamed(name) else one["patients"], one["sha256"])
            for name, one in summary["sets"].items()
        ),
        generator,
        threat_model(audit.of),
        tested(audit),
        criteria(audit),
        card(audit, details.missing),
        results,
        Control(
            summary["control"],
            summary["images"]["control"],
            None if audit.unnamed("control") else summary["images"]["control_patients"],
            Share(**summary["flagged_control"]),
            control_fitness(audit),
        ),
        summary["rules"]["power"],
        tuple(
            PlantedCopies(one["words"], one["planted"], one["found"], Share(**one["power"]), one["right_source"], one["declared"])
            for one in (test["copies"] if test else ())
        ),
        tuple(
            NegativeCopies(one["words"], one["images"], one["flagged"], one["accused"])
            for one in (test["negatives"] if test else ())
        ),
        tuple(
            ShownPatient(
                hide.name(row["patient"]),
                int(row["flagged_images"]),
                {kind: int(row[kind]) for kind in KINDS if row.get(kind)},
                int(row["training_images"]),
                float(row["highest_score"]),
                _p_of(row, audit),
            )
            for row in audit.exposure
        ),
        tuple(_image(row, hide) for row in audit.flagged),
        len(summary["near_duplicates"]),
        hide.left_out([LeftOutImage(one["set"], one["path"], one["reason"]) for one in summary["skipped"]]),
        None if review is None else hide.review(review),
        None if before is None else hide.comparison(before),
        Run(
            summary["finished"],
            masked_command(summary["command"]) if redact else summary["command"],
            summary["weights_sha256"],
            summary["versions"],
            summary["settings"],
            summary["rules"],
            summary["patient_source"],
            tuple(summary["notes"]),
        ),
        Inputs(audit.files, whole_sha256(audit.files), **(inputs or {})),
        SOURCES,
        audit.of,
    )
    # What is printed is what its JSON gives back: a check prints it again of that, and compares.
    dossier = TypeAdapter(Dossier).validate_python(dossier.as_dict())
    return replace(dossier, seal=seal_of(dossier.as_dict(), secret))


def hidden_patients(comparison: Comparison, names: Pseudonyms | None = None) -> Comparison:
    """A comparison with pseudonyms of patients, in the order of these where names would tell."""
    names = names or Pseudonyms()
    hidden = [replace(one, patient=names.of(one.patient)) for one in comparison.patients]
    return replace(comparison, patients=tuple(sorted(hidden, key=lambda one: (one.status, -one.after, -one.before, one.patient))))


def _image(row: Mapping[str, str], hide: _Shown) -> ImageFinding:
    match = source_of(row)
    # The table names the patient of the whole image's match alone.
    patient = row["match_patient"] if match == row["match"] else ""
    return ImageFinding(
        hide.name(row["image"]),
        row["finding"],
        hide.name(match),
        hide.name(patient),
        float(row["score"]),
        p_value_of(row),
        row["reason"],
    )


def _p_of(patient: Mapping[str, str], audit: FinishedAudit) -> float | None:
    """The smallest p-value of a patient, None where none decided; an audit of volumes that were copied in part once left it out."""
    told = float(patient["smallest_p_value"])
    if math.isfinite(told):
        return told
    found = [p_value_of(row) for row in audit.flagged if row["match_patient"] == patient["patient"]]
    return min((one for one in found if math.isfinite(one)), default=None)


class _Shown:
    """Everything as it is."""

    def name(self, name: str) -> str:
        return name

    def left_out(self, skipped: Sequence[LeftOutImage]) -> tuple[LeftOutImage, ...]:
        return tuple(skipped)

    def review(self, review: Review) -> Review:
        return review

    def comparison(self, comparison: Comparison) -> Comparison:
        return comparison


class _Hidden(_Shown):
    """Pseudonyms in place of names, the same name the same pseudonym all through one dossier."""

    def __init__(self, names: Pseudonyms) -> None:
        self.names = names

    def name(self, name: str) -> str:
        return self.names.of(name)

    def left_out(self, skipped: Sequence[LeftOutImage]) -> tuple[LeftOutImage, ...]:
        hidden = [replace(one, image=self.name(one.image), reason=self.names.reason(one.image, one.reason)) for one in skipped]
        return tuple(sorted(hidden, key=lambda one: (one.set, one.image)))

    def review(self, review: Review) -> Review:
        hidden = tuple(
            replace(one, image=self.name(one.image), comment="(left out)" if one.comment else "") for one in review.decisions
        )
        return replace(review, decisions=hidden)

    def comparison(self, comparison: Comparison) -> Comparison:
        return hidden_patients(comparison, self.names)
