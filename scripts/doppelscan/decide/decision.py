"""The decision of an audit: every image with its p-values, its finding and the reason, and the conclusion of the set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from doppelscan.calibrate import Competition, Share, TailControl, TwoSampleResult, clustered_share
from doppelscan.decide.conclusion import Conclusion, Evidence, conclude
from doppelscan.decide.control import ScoredControl
from doppelscan.decide.findings import KINDS, Finding, NearDuplicate, explain, kind_of
from doppelscan.decide.flags import Calibration, Flag, Reason, Rule, calibrated, control_as_close, widest
from doppelscan.decide.power import SelfTest
from doppelscan.decide.reference import ScoredSet, slice_positions
from doppelscan.decide.rivals import with_rivals
from doppelscan.decide.rules import Rules
from doppelscan.decide.same_patient import SamePatientControl, same_patient_control
from doppelscan.decide.sampled import SampleClaim
from doppelscan.decide.scoring import ScoredImage, ranking_score
from doppelscan.images import ImageRecord, unit_of
from doppelscan.search import EmbeddedSet
from doppelscan.verify import IdenticalImage
from doppelscan.wording import values_of

__all__ = ["AuditedImage", "Decision", "decide", "findings_of"]


@dataclass(frozen=True)
class AuditedImage:
    """One image with all that was decided of it.

    Attributes:
        record: the image.
        shape: native height and width in pixels, or voxels along x, y and z.
        scored: its measures against its match.
        match: the training image that it is most likely a copy of.
        part_match: the training image that its best region agrees with; None of a volume in which no region can be compared.
        flag: p-values, q-values, and why it is flagged.
        finding: what it is, or None when it is not flagged.
        second_match: the second source of a blend, or None.
        unlike: it is of another domain than the training set, see :func:`~doppelscan.decide.unlike_training`; never a flagged one. None where nobody
            looked: of the control, and where that function cannot tell. Of volumes see :func:`~doppelscan.decide.unlike_volumes`.
    """

    record: ImageRecord
    shape: tuple[int, ...]
    scored: ScoredImage
    match: ImageRecord
    part_match: ImageRecord | None
    flag: Flag
    finding: Finding | None = None
    second_match: ImageRecord | None = None
    unlike: bool | None = None

    @property
    def shows_patient(self) -> bool:
        """It is flagged, and not as an image of nobody alone."""
        return self.finding is not None and self.finding.of_somebody

    @property
    def of_region(self) -> bool:
        """The finding is told by a region, see :attr:`Finding.of_region`."""
        return self.finding is not None and self.finding.of_region

    @property
    def certain(self) -> bool:
        """It holds the pixels of a training image: no p-value decides that."""
        return self.finding is not None and self.finding.reason.rule is Rule.PIXELS

    @property
    def p_value(self) -> float:
        """Of what is told of it: of the region or of the whole image; NaN where none decided."""
        return math.nan if self.certain else self.flag.part_p_value if self.of_region else self.flag.p_value

    @property
    def q_value(self) -> float:
        """Likewise."""
        return math.nan if self.certain else self.flag.part_q_value if self.of_region else self.flag.q_value

    @property
    def source(self) -> ImageRecord:
        """The training image that a finding is of."""
        return self.part_match if self.part_match is not None and self.of_region else self.match

    @property
    def source_row(self) -> int:
        """Its row in the training set."""
        return self.scored.part_match if self.of_region else self.scored.match


@dataclass(frozen=True)
class Decision:
    """What an audit decided.

    Attributes:
        synthetic: the synthetic set, scored.
        control_set: the control, scored.
        images: one entry a synthetic image.
        control: one entry a control image, with its p-value among the others.
        calibrations: the rule that flags, calibrated on the control and, where it has look-alikes, without them; all must flag.
        control_as_close: of each control image, whether it scores as high as the lowest flagged image.
        look_alikes: number of control images that agree with a training image as copies do, and are in the control.
        flagged_without: number of synthetic images that would be flagged if these were left out.
        near_duplicates: real images of two patients that agree as copies do.
        same_kind: training against holdout, or None.
        conclusion: the words.
        same_patient: what the same-patient score says of pairs that are known.
        test: what the audit could have found, or None.
        owed: training against other patients, or None.
        sample: what follows for the whole set, where a sample of it was audited, or None.
    """

    synthetic: ScoredSet
    control_set: ScoredControl
    images: tuple[AuditedImage, ...]
    control: tuple[AuditedImage, ...]
    calibrations: tuple[Calibration, ...]
    control_as_close: tuple[bool, ...]
    look_alikes: int
    flagged_without: int
    near_duplicates: tuple[NearDuplicate, ...]
    same_kind: TwoSampleResult | None
    conclusion: Conclusion
    same_patient: SamePatientControl = field(default_factory=SamePatientControl)
    test: SelfTest | None = None
    owed: Competition | None = None
    sample: SampleClaim | None = None

    @property
    def null(self) -> TailControl:
        """The calibrated control."""
        return self.calibrations[0].null

    @property
    def floors(self) -> tuple[float, ...]:
        """Where the tails of its calibrations are cut off, ascending, see :attr:`Calibration.floors`."""
        return tuple(sorted({floor for one in self.calibrations for floor in one.floors}))

    @property
    def on_tail(self) -> int:
        """How many flags by rate there would not be if p-values ended where counting the control does."""
        rule = self.calibrations[0]
        # Images of nobody are rejected by no accusation, but are themselves by all.
        held = np.array([one.finding is not None and not one.shows_patient for one in self.images])

        def kept(p: list[float], nulls: list[TailControl], share: float) -> np.ndarray:
            ended = np.maximum(p, max(null.counted for null in nulls))
            q = np.where(held, rule.q_values(ended, share), rule.q_values(np.where(held, 1.0, ended), share))
            return q <= rule.rules.fdr

        by = {
            Rule.RATE: kept(
                [one.flag.p_value for one in self.images], [one.null for one in self.calibrations], rule.rules.whole_rate
            )
        }
        parts = [one.part_null for one in self.calibrations if one.part_null is not None]
        if parts:
            by[Rule.REGION_RATE] = kept([one.flag.part_p_value for one in self.images], parts, 1 - rule.rules.whole_rate)
        rules = [None if one.finding is None else one.finding.reason.rule for one in self.images]
        return sum(flagged in by and not by[flagged][i] for i, flagged in enumerate(rules) if flagged is not None)

    def flags_beside(self, images: ScoredSet, rules: Rules, like: Sequence[int] = ()) -> list[Flag]:
        """The flag that each of ``images`` would have as one more synthetic image.

        Args:
            images: scored.
            rules: thresholds.
            like: training rows in whose places in a volume they lie, -1 for nowhere.
        """
        explained = images.explained(rules.close_pair)
        # Images of nobody are rejected by no accusation.
        beside = [
            replace(one.flag, p_value=1.0, part_p_value=1.0) if one.finding is not None and not one.shows_patient else one.flag
            for one in self.images
        ]
        places = slice_positions(self.training.records, self.training.records) if len(like) else []
        positions = [places[row] if row >= 0 else None for row in like]
        return widest([one.flags_beside(images.scored, explained, beside, positions) for one in self.calibrations])

    @property
    def training(self) -> EmbeddedSet:
        """The training set."""
        return self.synthetic.training

    @property
    def flagged(self) -> Share:
        """Share of the synthetic images that is flagged, of those that are like the training set; images of one volume count as far as they differ."""
        return self._share_of_like([one.finding is not None for one in self.images])

    @property
    def showing(self) -> Share:
        """Share that shows a patient, of those that are like the training set."""
        return self._share_of_like([one.shows_patient for one in self.images])

    def _share_of_like(self, hits: Sequence[bool]) -> Share:
        like = [(hit, one.record.volume) for hit, one in zip(hits, self.images, strict=True) if not one.unlike]
        return clustered_share([hit for hit, _ in like], [volume for _, volume in like])

    @property
    def unlike(self) -> int | None:
        """Number of synthetic images of another domain than the training set; None where nobody looked."""
        looked = [one.unlike for one in self.images if one.unlike is not None]
        return sum(looked) if looked else None

    @property
    def flagged_control(self) -> Share:
        """Share of the control images that is as close; images of one patient count as far as they differ."""
        return clustered_share(self.control_as_close, self.control_set.patients)

    @property
    def kinds(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        return _count_of(one.finding for one in self.images)


def decide(
    synthetic: ScoredSet,
    control: ScoredControl,
    near_duplicates: Sequence[NearDuplicate],
    identical: Sequence[IdenticalImage | None],
    unlike: Sequence[bool] | np.ndarray | None,
    same_kind: TwoSampleResult | None,
    rules: Rules,
    seed: int = 0,
    left_out: int = 0,
) -> Decision:
    """Calibrate on the control, flag, name the kind of each finding, and conclude.

    Args:
        synthetic: the synthetic set.
        control: scored as the synthetic set is.
        near_duplicates: of the training set; those of the control are added.
        identical: the training image of the same pixels, or None, of each synthetic image.
        unlike: of each synthetic image, whether it is of another domain than the training set; None where nobody looked.
        same_kind: training against holdout, or None.
        rules: thresholds.
        seed: of the order of ties.
        left_out: synthetic files that could not be read or compared.
    """
    synthetic = with_rivals(synthetic, near_duplicates, rules)
    scored = _held(synthetic, identical, rules)
    synthetic = replace(synthetic, scored=scored)
    strangers, patients = control.scored, control.patients
    explained = synthetic.explained(rules.close_pair)
    judged = ScoredSet(control.images, strangers, synthetic.reference)
    told, where = judged.explained(rules.close_pair), judged.positions
    calibrations = calibrated(strangers, patients, told, control.ratio, rules, seed, where)
    said_by = [one.flags(scored, explained, synthetic.positions) for one in calibrations]
    null = calibrations[0].null
    flags = [
        said if same is None else replace(said, reason=Reason(Rule.PIXELS, same.correlation, same.limit, 0.0, same.told))
        for said, same in zip(widest(said_by), identical, strict=True)
    ]
    same_patient = same_patient_control(control, synthetic.reference, rules, seed)
    findings = findings_of(synthetic, flags, same_patient, rules)
    flags, findings = _accused_by_rate(synthetic, flags, findings, calibrations, explained, identical)
    apart = None if unlike is None else [bool(away) and finding is None for away, finding in zip(unlike, findings, strict=True)]
    of = unit_of(synthetic.images.records)
    conclusion = conclude(
        Evidence(
            p_values=np.array([f.p_value for f in flags]),
            unlike=sum(apart or ()),
            identical=sum(one is not None for one in identical),
            flagged=np.array([f.reason is not None for f in flags]),
            close=np.array([s.verified >= rules.close_pair for s in scored]),
            highest=np.array([s.score > null.highest for s in scored]),
            control_close=np.array([s.verified >= rules.close_pair for s in strangers], dtype=bool),
            training_patients=len(set(synthetic.training.patients)),
            control_patients=len(set(patients)),
            training_named=not synthetic.training.unnamed,
            control_named=not control.unnamed,
            smallest=null.counted,
            findings=_count_of(findings),
            by_rule=_count_of_rules(flags, rules, of),
            same_kind=same_kind,
            of=of,
            left_out=left_out,
        ),
        rules,
    )
    p, _ = calibrations[0].p_values(strangers, where)
    among = [Flag(float(value), float("nan")) for value in p]
    return Decision(
        synthetic=synthetic,
        control_set=control,
        images=_audited(synthetic.images, synthetic.training, scored, flags, findings, apart),
        control=_audited(control.images, synthetic.training, strangers, among, [None] * len(strangers), None),
        calibrations=calibrations,
        control_as_close=control_as_close(scored, _accusing(flags, findings), strangers, rules),
        look_alikes=len(control.look_alikes(rules)),
        flagged_without=sum(said.reason is not None or same is not None for said, same in zip(said_by[-1], identical, strict=True)),
        near_duplicates=_each_once([*control.doubles, *near_duplicates]),
        same_kind=same_kind,
        conclusion=conclusion,
        same_patient=same_patient,
    )


def _accused_by_rate(
    synthetic: ScoredSet,
    flags: list[Flag],
    findings: list[Finding | None],
    calibrations: Sequence[Calibration],
    explained: np.ndarray,
    identical: Sequence[IdenticalImage | None],
) -> tuple[list[Flag], list[Finding | None]]:
    """Flags that hold the rate among the images that are said to show a patient.

    Many images of nobody alone, which are rightly rejected, would lower the bar for all: for the others they count as images, not as rejections.
    """
    nobody = np.array([one is not None and not one.of_somebody for one in findings])
    if not nobody.any():
        return flags, findings
    again = widest([one.flags(synthetic.scored, explained, synthetic.positions, nobody) for one in calibrations])
    flags, findings = list(flags), list(findings)
    for i in np.flatnonzero(~nobody).tolist():
        if identical[i] is None:
            flags[i] = again[i]
            findings[i] = findings[i] if again[i].reason is not None else None
    return flags, findings


def _accusing(flags: Sequence[Flag], findings: Sequence[Finding | None]) -> list[Flag]:
    """The flags, without a reason where the image is of nobody alone."""
    return [
        flag if finding is None or finding.of_somebody else replace(flag, reason=None)
        for flag, finding in zip(flags, findings, strict=True)
    ]


def _each_once(pairs: Sequence[NearDuplicate]) -> tuple[NearDuplicate, ...]:
    """Each pair of images once: in folds one is met from both sides."""
    first: dict[frozenset[str], NearDuplicate] = {}
    for pair in pairs:
        first.setdefault(frozenset((pair.first.id, pair.second.id)), pair)
    return tuple(first.values())


def findings_of(
    synthetic: ScoredSet, flags: Sequence[Flag], same_patient: SamePatientControl, rules: Rules
) -> list[Finding | None]:
    """What each flagged one of ``synthetic`` is, None of the others; ``same_patient`` knows strangers' pairs."""
    reasons = [one.reason for one in flags]
    findings = [None if reason is None else _told_by_rule(reason) for reason in reasons]
    whole = [(i, reason) for i, reason in enumerate(reasons) if reason is not None and findings[i] is None]
    scored = [synthetic.scored[i] for i, _ in whole]
    evidence = same_patient.told(synthetic, scored, explain(scored, synthetic, rules))
    for (i, reason), found in zip(whole, evidence, strict=True):
        findings[i] = kind_of(found, reason, rules)
    return findings


def _told_by_rule(reason: Reason) -> Finding | None:
    """The kind that the rule itself tells, or None where the pair has to be looked at."""
    if reason.rule is Rule.PIXELS:
        return Finding("copy", reason, 1.0)
    return Finding("part", reason) if reason.rule.of_region else None


def _held(synthetic: ScoredSet, identical: Sequence[IdenticalImage | None], rules: Rules) -> tuple[ScoredImage, ...]:
    """The images; one of the same pixels with that training image as its match: what was measured of another pair does not hold."""
    held = list(synthetic.scored)
    others = {}
    for i, (one, same) in enumerate(zip(synthetic.scored, identical, strict=True)):
        if same is None:
            continue
        if one.match == same.row and one.pose.number == same.pose and one.ssim >= same.correlation:
            held[i] = one.posed_as(same)
            continue
        others[i] = same
        held[i] = one.with_pixels_of(same)
    if not others:
        return tuple(held)
    rows = [synthetic.scored[i].row for i in others]
    deepssim, embedding = synthetic.similarities(rows, [same.row for same in others.values()])
    for place, i in enumerate(others):
        found = replace(held[i], deepssim=float(deepssim[place]), embedding=float(embedding[place]))
        held[i] = replace(found, score=max(synthetic.scored[i].score, ranking_score(found, rules.score)))
    return tuple(held)


def _count_of_rules(flags: Sequence[Flag], rules: Rules, of: str) -> dict[str, int]:
    """How many images each rule flags, in the words of the conclusion."""
    words = {
        Rule.PIXELS: f"the {values_of(of)} of a training {of}",
        Rule.RATE: f"a false discovery rate of {rules.fdr:g}",
        Rule.PLAIN: f"being the same {of}, registered",
        Rule.REGION_RATE: f"a region, at the false discovery rate of {rules.fdr:g}",
        Rule.REGION_BEYOND: f"a region far beyond every control {of}",
    }
    found = [flag.reason.rule for flag in flags if flag.reason is not None]
    return {told: found.count(rule) for rule, told in words.items()}


def _count_of(findings) -> dict[str, int]:
    kinds = [one.kind for one in findings if one is not None]
    return {kind: kinds.count(kind) for kind in KINDS}


def _audited(
    images: EmbeddedSet,
    training: EmbeddedSet,
    scored: Sequence[ScoredImage],
    flags: Sequence[Flag],
    findings: Sequence[Finding | None],
    apart: Sequence[bool] | None,
) -> tuple[AuditedImage, ...]:
    shapes = images.native_shapes([s.row for s in scored]) if scored else np.zeros((0, 2), int)
    looked: Sequence[bool | None] = [None] * len(scored) if apart is None else apart
    return tuple(
        AuditedImage(
            record=images.records[one.row],
            shape=tuple(map(int, shape)),
            scored=one,
            match=training.records[one.match],
            part_match=training.records[one.part_match] if one.part_match >= 0 else None,
            flag=said,
            finding=finding,
            second_match=None if finding is None or finding.second_match is None else training.records[finding.second_match],
            unlike=away,
        )
        for one, shape, said, finding, away in zip(scored, shapes, flags, findings, looked, strict=True)
    )
