"""The control: real images of strangers, scored as the synthetic ones are. A holdout, training images in patient-wise folds, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppelscan.calibrate import TwoSampleResult, classifier_two_sample_test
from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.reference import Reference, ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage
from doppelscan.images import evenly_chosen, unit_of
from doppelscan.memorization import patient_folds, spread_over_patients
from doppelscan.search import EmbeddedSet
from doppelscan.verify import IdenticalImage
from doppelscan.wording import counted

__all__ = ["ControlScorer", "ScoredControl", "same_kind", "without_leaks"]

FOLDS = 5
SCANNER_FEATURES, SCANNER_IMAGES = "layer2", 400


@dataclass(frozen=True)
class ScoredControl:
    """The control and its scores.

    Attributes:
        images: what was scored.
        scored: one entry an image; ``row`` is its row in ``images``, ``match`` one of the training set.
        ratio: how much larger on average the training set is than what these images were scored against.
        words: what it is made of.
        notes: what the reader of the audit must know of it.
        doubles: its images that agree with a training image of another patient as copies do.
        first_training: row of the first of its images that is of the training set, those of the holdout stand before it; None where all are of the holdout.
    """

    images: EmbeddedSet
    scored: tuple[ScoredImage, ...]
    ratio: float
    words: str = "holdout"
    notes: tuple[str, ...] = ()
    doubles: tuple[NearDuplicate, ...] = ()
    first_training: int | None = None

    @property
    def from_training(self) -> int:
        """How many of ``scored`` are of the training set."""
        return 0 if self.first_training is None else sum(s.row >= self.first_training for s in self.scored)

    @property
    def patients(self) -> list[str]:
        """Of each entry of ``scored``."""
        return [self.images.patients[s.row] for s in self.scored]

    @property
    def unnamed(self) -> int:
        """Of how many of ``scored`` nothing names the patient."""
        return sum(not self.images.records[s.row].patient_known for s in self.scored)

    def look_alikes(self, rules: Rules) -> tuple[ScoredImage, ...]:
        """Its images that agree with a training image of another patient as copies do."""
        return tuple(s for s in self.scored if s.verified >= rules.close_pair)

    def with_doubles_merged(self, reference: Reference, rules: Rules) -> ScoredControl:
        """The control without images that are of a training person, which no name told.

        Only those are left out whose fine structure a training image explains as slices of one person do. Others that agree so are
        look-alikes: they are the tail that p-values need, and stay. Of more than a few the images themselves are to be doubted: all
        stay, and the conclusion refuses.
        """
        close = self.look_alikes(rules)
        explained = ScoredSet(self.images, close, reference).fine_explained(rules.close_pair)
        doubles = tuple(
            NearDuplicate(True, self.images.records[s.row], reference.training.records[s.match], s.verified)
            for s in sorted(close, key=lambda s: -s.verified)
        )
        one_person = [s.row for s, share in zip(close, explained, strict=True) if share >= rules.same_person]
        kept = replace(self, doubles=doubles)
        if not one_person or len(close) > rules.close_share * len(self.scored):
            return kept
        of, single = unit_of(self.images.records), len(one_person) == 1
        note = (
            f"{counted(len(one_person), f'control {of}')} {'is' if single else 'are'} of people of the training set, as registration shows: left out of the control, and "
            "listed under near duplicates."
        )
        return replace(kept, scored=tuple(s for s in self.scored if s.row not in one_person), notes=(*self.notes, note))


@dataclass(frozen=True)
class ControlScorer:
    """Scores the control against the training set as synthetic images are scored.

    Attributes:
        reference: the fitted training set.
        patients_known: whether its patients are; else files of one person would be taken for strangers.
        size: images that a control from the training set, or a holdout with what it is topped up with, holds at most.
        seed: of folds and draws.
    """

    reference: Reference
    patients_known: bool
    size: int
    seed: int

    def __call__(self, holdout: EmbeddedSet | None) -> ScoredControl:
        """Score the control.

        A holdout below ``size`` is topped up with training images, each against the patients of the other folds; only where patients are
        known.

        Args:
            holdout: real images of other patients in 8 poses, or None.
        """
        posed = self.reference.posed
        of = f"{unit_of(posed.records)}s"
        if holdout is None:
            own, ratio = self._in_folds(posed)
            folds = self._folds
            note = (
                f"The control is {len(own)} training {of}, each scored against the training patients of the other {folds - 1} of {folds} folds; "
                "p-values are corrected for the smaller reference. A holdout folder of other patients is the better control."
            )
            return ScoredControl(posed, tuple(own), ratio, "training patients, patient-wise folds", (note,), first_training=0)
        found = self.reference.scored(holdout, "control").scored
        if len(holdout) >= self.size or not self.patients_known or len(set(self.reference.training.patients)) < FOLDS:
            return ScoredControl(holdout, found, 1.0)
        posed = posed.subset(spread_over_patients(posed.patients, self.size - len(holdout), self.seed))
        extra, ratio = self._in_folds(posed)
        note = (
            f"The holdout holds {len(holdout)} {of}; the control was topped up with {len(extra)} training {of}, each scored against the training "
            f"patients of the other {self._folds - 1} of {self._folds} folds, and p-values are corrected for the smaller reference of these."
        )
        start = len(holdout)
        posed.store.refresh()
        both = replace(posed, records=holdout.records + posed.records, keys=holdout.keys + posed.keys)
        scored = (*found, *(replace(s, row=start + s.row) for s in extra))
        words = f"holdout, topped up with {len(extra)} training {of}" if extra else "holdout"
        return ScoredControl(both, scored, (start + ratio * len(extra)) / len(scored), words, (note,), first_training=start)

    @property
    def _folds(self) -> int:
        return min(FOLDS, len(set(self.reference.training.patients)))

    def _in_folds(self, posed: EmbeddedSet) -> tuple[list[ScoredImage], float]:
        """Training images against the patients of the other folds, and how much larger the training set is than their reference."""
        patients = self.reference.training.patients
        if len(set(patients)) < 2:
            return [], 1.0
        folds = self._folds
        fold_of = dict(zip(patients, patient_folds(patients, folds, self.seed), strict=True))
        results: list[ScoredImage] = []
        for number in range(folds):
            inside = [i for i, p in enumerate(posed.patients) if fold_of[p] == number]
            if not inside:
                continue
            fold, rows = self.reference.without(np.array([fold_of[p] == number for p in patients]))
            scored = fold.scored(posed.subset(inside), f"control {number + 1}/{folds}").scored
            results += [
                replace(
                    s,
                    row=inside[s.row],
                    match=int(rows[s.match]),
                    part_match=int(rows[s.part_match]) if s.part_match >= 0 else -1,
                    runner_up_match=int(rows[s.runner_up_match]) if s.runner_up_match >= 0 else -1,
                )
                for s in scored
            ]
        return sorted(results, key=lambda s: s.row), folds / (folds - 1)


def without_leaks(
    control: EmbeddedSet, training: EmbeddedSet, identical: Sequence[IdenticalImage | None]
) -> tuple[list[int], list[int]]:
    """Rows of ``control`` that are a control, and rows that are training images, by their bytes or pixels, or of training patients."""
    same_bytes, patients = set(training.keys), set(training.patients)
    leaks = [
        i
        for i, (key, patient, same) in enumerate(zip(control.keys, control.patients, identical, strict=True))
        if key in same_bytes or patient in patients or same is not None
    ]
    return sorted(set(range(len(control))) - set(leaks)), leaks


def same_kind(training: EmbeddedSet, control: EmbeddedSet) -> TwoSampleResult:
    """Training against a holdout by the encoder's early features, which see texture and contrast."""
    name = SCANNER_FEATURES if SCANNER_FEATURES in training.outputs else "embedding"
    first, second = (one.subset(evenly_chosen(len(one), SCANNER_IMAGES).tolist()) for one in (training, control))
    return classifier_two_sample_test(
        first.single_pose([name])[name], first.patients, second.single_pose([name])[name], second.patients
    )
