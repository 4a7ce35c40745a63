"""The control: real images of strangers, scored as the synthetic ones are. A holdout, training images in patient-wise folds, or both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from doppelscan.calibrate import TwoSampleResult, classifier_two_sample_test
from doppelscan.decide.findings import NearDuplicate
from doppelscan.decide.scoring import CLOSE_PAIR, ScoredImage, score_images
from doppelscan.images import evenly_chosen
from doppelscan.memorization import patient_folds, spread_over_patients
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, StoredThumbnails
from doppelscan.verify import Registration

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
        notes: what the reader of the audit must know of it.
    """

    images: EmbeddedSet
    scored: list[ScoredImage]
    ratio: float
    notes: list[str] = field(default_factory=list)

    def without_near_duplicates(self) -> tuple[ScoredControl, list[NearDuplicate]]:
        """The control without the few that agree with a training image as copies do: a person who is in both spoils the calibration.

        They are left out when they are at most 5 %; more of them are the rule in these images, and the conclusion refuses.
        """
        close = [NearDuplicate(True, s.row, s.match, s.verified) for s in self.scored if s.verified >= CLOSE_PAIR]
        kept = self
        if close and 20 * len(close) <= len(self.scored):
            rows = {n.row for n in close}
            note = (
                f"{len(close)} control images agree with a training image of another patient as copies do, as when one person is in both; they were "
                "left out of the control. They are listed under near duplicates."
            )
            kept = replace(self, scored=[s for s in self.scored if s.row not in rows], notes=[*self.notes, note])
        return kept, sorted(close, key=lambda n: -n.score)


@dataclass(frozen=True)
class ControlScorer:
    """Scores the control against the training set as synthetic images are scored.

    Attributes:
        training: the training set in one pose.
        patients_known: whether its patients are; else files of one person would be taken for strangers.
        search: fitted on the training set.
        view_differences: what ``search`` was fitted with.
        registration: of the pairs.
        verified: where registered pairs are stored.
        score: see :class:`~doppelscan.workflows.Audit`.
        size: images that a control from the training set, or a holdout with what it is topped up with, holds at most.
        seed: of folds and draws.
    """

    training: EmbeddedSet
    patients_known: bool
    search: CandidateSearch
    view_differences: Any
    registration: Registration
    verified: EmbeddingStore
    score: str
    size: int
    seed: int

    def __call__(self, holdout: EmbeddedSet | None, posed: EmbeddedSet) -> ScoredControl:
        """Score the control.

        A holdout below ``size`` is topped up with training images, each against the patients of the other folds; only where patients are
        known.

        Args:
            holdout: real images of other patients in 8 poses, or None.
            posed: some training images in 8 poses.
        """
        if holdout is None:
            scored, ratio = self._in_folds(posed)
            note = (
                f"The control is {len(scored)} training images, each scored against the training patients of the other {FOLDS - 1} of {FOLDS} folds; "
                "p-values are corrected for the smaller reference. A holdout folder of other patients is the better control."
            )
            return ScoredControl(posed, scored, ratio, [note])
        scored = self._against(holdout, self.training, self.search, "control")
        if len(holdout) >= self.size or not self.patients_known or len(set(self.training.patients)) < FOLDS:
            return ScoredControl(holdout, scored, 1.0)
        posed = posed.subset(spread_over_patients(posed.patients, self.size - len(holdout), self.seed))
        extra, ratio = self._in_folds(posed)
        note = (
            f"The holdout holds {len(holdout)} images; the control was topped up with {len(extra)} training images, each scored against the training "
            f"patients of the other {FOLDS - 1} of {FOLDS} folds, and p-values are corrected for the smaller reference of these."
        )
        start = len(holdout)
        posed.store.refresh()
        both = EmbeddedSet(holdout.records + posed.records, holdout.keys + posed.keys, posed.store, posed.outputs)
        scored = scored + [replace(s, row=start + s.row) for s in extra]
        return ScoredControl(both, scored, (start + ratio * len(extra)) / len(scored), [note])

    def _in_folds(self, posed: EmbeddedSet) -> tuple[list[ScoredImage], float]:
        """Training images against the patients of the other folds, and how much larger the training set is than their reference."""
        patients = self.training.patients
        if len(set(patients)) < 2:
            return [], 1.0
        folds = min(FOLDS, len(set(patients)))
        fold_of = dict(zip(patients, patient_folds(patients, folds, self.seed), strict=True))
        results: list[ScoredImage] = []
        for number in range(folds):
            outside = [i for i, p in enumerate(patients) if fold_of[p] != number]
            inside = [i for i, p in enumerate(posed.patients) if fold_of[p] == number]
            if not inside:
                continue
            reference = self.training.subset(outside)
            search = CandidateSearch(self.search.candidates, self.seed, self.registration.device).fit(
                reference.single_pose(),
                reference.patients,
                null_of=self.search.index,
                view_differences=self.view_differences,
                thumbnails=StoredThumbnails(reference),
            )
            scored = self._against(posed.subset(inside), reference, search, f"control {number + 1}/{folds}")
            results += [replace(s, row=inside[s.row], match=outside[s.match], part_match=outside[s.part_match]) for s in scored]
        return sorted(results, key=lambda s: s.row), folds / (folds - 1)

    def _against(self, images: EmbeddedSet, reference: EmbeddedSet, search: CandidateSearch, label: str) -> list[ScoredImage]:
        return score_images(images, reference, search, self.registration, self.verified, label, self.score)


def without_leaks(control: EmbeddedSet, training: EmbeddedSet, patients_known: bool) -> tuple[list[int], list[int]]:
    """Rows of ``control`` that are a control, and rows that are training images or of training patients."""
    same_bytes = set(training.keys)
    known = set(training.patients) if patients_known else set()
    leaks = [i for i, key in enumerate(control.keys) if key in same_bytes or control.patients[i] in known]
    return sorted(set(range(len(control))) - set(leaks)), leaks


def same_kind(training: EmbeddedSet, control: EmbeddedSet) -> TwoSampleResult:
    """Training against a holdout by the encoder's early features, which see texture and contrast."""
    name = SCANNER_FEATURES if SCANNER_FEATURES in training.outputs else "embedding"
    first, second = (one.subset(evenly_chosen(len(one), SCANNER_IMAGES).tolist()) for one in (training, control))
    return classifier_two_sample_test(first.single_pose()[name], first.patients, second.single_pose()[name], second.patients)
