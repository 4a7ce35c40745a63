"""The audit: which synthetic images are copies, of whom, in which pose, how sure, and may the set be released."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from doppelscan.arguments import IMAGE_CHANGES, Index
from doppelscan.decide import (
    AuditSummary,
    Conclusion,
    ControlScorer,
    Decision,
    FittedReference,
    LeftOut,
    People,
    Planted,
    Preliminary,
    PreliminarySummary,
    Reference,
    Rules,
    ScoredImage,
    ScoredSet,
    Verdict,
    decide,
    find_people,
    foreseen,
    nearest_by_encoder,
    of_sample,
    other_modalities,
    owed_to_training,
    people_at_most,
    person_pairs,
    ranked_so_far,
    read_reviews,
    same_kind,
    self_tested,
    sign,
    summarize,
    summarize_preliminary,
    unlike_training,
    without_leaks,
)
from doppelscan.decide.owed import FEWEST
from doppelscan.deepssim import encoder_file, file_sha256
from doppelscan.errors import InputError
from doppelscan.images import ImageSet, SkippedImage, unit_of, volume_table
from doppelscan.locations import REPORT_FILES, VOLUMES_READ, is_url
from doppelscan.memorization import spread_over_patients
from doppelscan.progress import RunProgress, Work, is_shown
from doppelscan.report import ResultTable, audit_facts, closing_lines, write_report
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, StoredFeatures, StoredThumbnails
from doppelscan.settings import AuditSettings
from doppelscan.threads import team
from doppelscan.verify import FullSizePair, IdenticalImage, IdenticalPixels, Registration
from doppelscan.wording import counted
from doppelscan.workers import Workers
from doppelscan.workflows.early import EarlyReport, expected_work
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset
from doppelscan.workflows.full_size import full_size_images
from doppelscan.workflows.options import called_by, on_command_line
from doppelscan.workflows.selftest import CopyPlanter, planted_images, planted_scores, size_of
from doppelscan.workflows.stored import (
    chosen_workers,
    embedding_store,
    made_folder,
    missing_in,
    stored_registration,
    stored_set,
    stored_view_differences,
    versions,
)

__all__ = ["GATE_STATUS", "Audit", "AuditResult", "in_clusters"]

# Training images that --index auto compares with one by one: of more, an exact search would take most of the time (docs/benchmarks.md).
EXACT = 8192
GATE_STATUS = {"memorization found": 3, "cannot conclude": 4, "no memorization found": 0}


def in_clusters(index: str, images: int) -> bool:
    """Whether ``images`` are searched in clusters, by what ``--index`` says: exact, ivf or auto."""
    return index == "ivf" or (index == "auto" and images > EXACT)


class SamePixels(Protocol):
    """What finds the training images of the same pixels."""

    def find(self, images: Any) -> list[IdenticalImage | None]: ...


@dataclass(frozen=True, repr=False)
class AuditResult(ResultTable):
    """What an audit returns; a notebook shows its conclusion, its numbers and the images of the highest risk.

    Attributes:
        conclusion: the words and the reason.
        summary: what summary.json holds.
        scores: one dictionary a synthetic image, the rows of scores.csv, the highest risk first.
        output: the folder of the files.
        exit_status: 0; with ``gate`` 3 when memorization was found, 4 when it cannot conclude.
        store: the folder of the embeddings.
    """

    shown: ClassVar[Mapping[str, str]] = {
        "image": "synthetic image", "finding": "found", "match": "training image", "score": "score", "p_value": "p",
        "pose": "pose", "reason": "reason",
    }  # fmt: skip
    written: ClassVar[tuple[str, ...]] = (*REPORT_FILES, VOLUMES_READ)

    conclusion: Conclusion
    summary: dict[str, Any]
    scores: list[dict[str, Any]]
    output: Path
    exit_status: int
    store: Path | str | None = None

    @property
    def headline(self) -> tuple[str, str]:
        """What was concluded, and why."""
        return self.conclusion.verdict.value, self.conclusion.reason

    @property
    def facts(self) -> Mapping[str, str]:
        """The numbers in words."""
        return audit_facts(self.summary)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """All images, the highest risk first."""
        return self.scores

    @property
    def words(self) -> tuple[str, ...]:
        """What a terminal is told, a line each: the conclusion, who is who, the numbers, what was left out, where everything lies."""
        told = [self.summary.get("extrapolated"), *(self.summary["people"] or [self.summary.get("unnamed")])]
        return closing_lines(self, [one for one in told if one], self.store or self.output / "store")


class Audit:
    """One audit of a synthetic set against its training set.

    Args:
        training: folder, .csv or .json of the training images.
        synthetic: the synthetic set, as the dataset that the evaluator embeds; its transform and choices serve all sets.
        evaluator: embeds a set into a store.
        registration: verifies candidates.
        output: folder of the report; made when missing.
        holdout: real images of other patients, the control; None takes it from the training set, patient-wise, and a small one is topped up so.
        store: folder of the embeddings, shared between audits; None is ``store`` in the output folder.
        weights: path of the encoder's weights, whose sha256 goes into the summary.
        rules: thresholds of the decision, see :class:`~doppelscan.decide.Rules`.
        candidates: training images that are verified for each image.
        index: ``exact``, ``ivf`` (see :class:`~doppelscan.search.CandidateSearch`), or ``auto``: exact up to 8,192 training images.
        control_size: images that a control from the training set, or a holdout with what it is topped up with, holds at most.
        redact: leave pictures, paths and patients out of everything that is written to ``output``; the store then lies elsewhere, by default
            beside it.
        key: file outside of ``output`` that says which pseudonym of a redacted report stands for what; None keeps none.
        gate: let :attr:`AuditResult.exit_status` tell the conclusion.
        self_test: plant copies in this cohort and say which of them would have been found; without it no set is called clean.
        reconstruct: TorchScript autoencoder through which copies are planted, too.
        declared: changes that a claim of none found is to cover; None is all that are planted.
        decisions: .csv of what reviewers decided of synthetic images, counted beside the flags.
        seed: of folds and draws.
        threads: that compute; None takes as many as this process may use.
        workers: processes that embed and score, see :meth:`~doppelscan.workers.Workers.chosen`; a GPU is asked by this one alone.
        ray: Ray cluster that does so instead, see :class:`~doppelscan.workers.Workers`.

    Attributes:
        poses: in which what is looked for is embedded.
        weight: images that take as long as one of what is compared.
    """

    poses: ClassVar[int] = 8
    weight: ClassVar[int] = 1
    planted: ClassVar[tuple[str, ...]] = IMAGE_CHANGES

    def __init__(
        self,
        *,
        training: str | os.PathLike | None,
        synthetic: RecordDataset,
        evaluator: EmbeddingEvaluator,
        registration: Registration,
        output: str | os.PathLike,
        holdout: str | os.PathLike | None = None,
        store: str | os.PathLike | None = None,
        weights: str | os.PathLike | None = None,
        rules: Rules | None = None,
        candidates: int = 20,
        index: Index = "auto",
        control_size: int = 300,
        redact: bool = False,
        key: str | os.PathLike | None = None,
        gate: bool = False,
        self_test: bool = True,
        reconstruct: str | os.PathLike | None = None,
        declared: Sequence[str] | str | None = None,
        decisions: str | os.PathLike | None = None,
        seed: int = 0,
        threads: int | None = None,
        workers: int | None = None,
        ray: str | None = None,
    ) -> None:
        # On MONAI's command line all of them are strings.
        own = AuditSettings(
            output=output, store=store, candidates=candidates, index=index, control_size=control_size, redact=redact, key=key, gate=gate,
            self_test=self_test, reconstruct=reconstruct, declared=declared, decisions=decisions, seed=seed, threads=threads,
            workers=workers, ray=ray,
        )  # fmt: skip
        own.require_private()
        own.require_place()
        synthetic.require()
        if training is None:
            raise InputError("The 'training' parameter must be a folder, .csv or .json. Got nothing; pass --training DIR.")
        self.synthetic, self.evaluator, self.registration = synthetic, evaluator, registration
        self.training = self._like_synthetic(training, "training")
        self.holdout = None if holdout is None else self._like_synthetic(holdout, "holdout")
        self.output = Path(own.output)
        named = encoder_file(weights)
        self.weights_sha256 = "none" if named is None else file_sha256(named)
        self.rules, self.candidates, self.control_size = rules or Rules(), own.candidates, own.control_size
        self.index = own.index
        self.redact, self.gate, self.seed, self.threads = own.redact, own.gate, own.seed, own.threads
        self.self_test, self.reconstruct, self.declared = own.self_test, own.reconstruct, own.declared
        unknown = [one for one in own.declared or () if one not in self.planted]
        if unknown and self.self_test:
            raise InputError(
                f"The 'declared' parameter must name changes that are planted in these sets: {', '.join(self.planted)}. Got {', '.join(unknown)}; "
                f"leave {'it' if len(unknown) == 1 else 'them'} out."
            )
        self.reviews = read_reviews(own.decisions, [one.id for one in self.synthetic.image_set.records])
        self.key = None if own.key is None else Path(own.key)
        self.store = own.store_folder
        self.called = ""
        self.workers = self._workers(own)
        made_folder(self.output)

    def _like_synthetic(self, source: str | os.PathLike, name: str) -> RecordDataset:
        """The other sets are read with the choices of the synthetic one, so that all three are prepared alike."""
        return self.synthetic.with_source(source, name)

    def _workers(self, own: AuditSettings) -> Workers:
        sets = [self.synthetic] if self.holdout is None else [self.synthetic, self.holdout]
        # A training image is embedded in few views and not scored.
        images = sum(len(one.image_set.records) for one in sets) + len(self.training.image_set.records) // 8
        return chosen_workers(self.weight * images, self.evaluator.state.device, own.workers, own.threads, own.ray)

    def run(self) -> AuditResult:
        """Run every stage and write the report; of a long audit a preliminary one first."""
        self._refuse_same_set()
        self._tell_what_is_foreseen()
        clock = RunProgress(self._expected())
        early = EarlyReport(self.output, self.redact, self.key, clock, lambda found: self._so_far(found, clock))
        clock.between = early.write_if_due
        with team(self.threads), clock.shown():
            result = self._run(clock, early)
        if on_command_line():
            print(*result.words, sep="\n")
        return result

    def _tell_what_is_foreseen(self) -> None:
        """That no finding could change the conclusion is worth more before the run than after it."""
        training, holdout = self.training.image_set.records, None if self.holdout is None else self.holdout.image_set.records
        told = foreseen(training, holdout, self.control_size, self.self_test, self.rules)
        if told and not is_shown():
            print(f"Before this starts: {'; '.join(told)}.", file=sys.stderr, flush=True)

    def _run(self, clock: RunProgress, early: EarlyReport) -> AuditResult:
        with clock.stage("embed training"):
            self._expect_stored(clock)
            training = self.embed(self.training, 1, "training")
        with clock.stage("embed synthetic"):
            images = self.embed(self.synthetic, self.poses, "synthetic")
        with clock.stage("embed control"):
            holdout = None if self.holdout is None else self.embed(self.holdout, self.poses, "holdout")
        with clock.stage("identical pixels"):
            same = self._identical(training)
            identical = same.find(images)
        self._know_nearest(early, images, training, identical)
        with clock.stage("fit"):
            reference, people = self._fit(training, holdout)
            holdout, leaks = self._without_leaks(people, same)
        with clock.stage("score synthetic"):
            synthetic = reference.scored(images, "synthetic")
        early.know(lambda: ranked_so_far(synthetic, identical))
        with clock.stage("score control"):
            control = ControlScorer(reference, people.known, self.control_size, self.seed)(holdout)
            control = control.with_doubles_merged(reference, self.rules)
        with clock.stage("decide"):
            alike = None if holdout is None else same_kind(reference.training, holdout)
            apart, domain = self._unlike(images, reference, holdout)
            left_out = len(self.synthetic.image_set.skipped)
            decision = decide(synthetic, control, people.doubles, identical, apart, alike, self.rules, self.seed, left_out)
        with clock.stage("self-test"):
            planted = self._planted(decision, holdout) if self.self_test else []
            test = self_tested(decision, planted, self.rules) if self.self_test else None
        with clock.stage("competition"):
            owed = owed_to_training(images, reference, holdout, self.seed)
        decision = of_sample(sign(decision, test, owed, self.rules), self.synthetic.image_set.sample, self.rules)
        notes = [
            *leaks,
            *self._search_notes(reference, planted),
            *control.notes,
            *domain,
            *self._surround_notes(images),
            *other_modalities(images, training),
        ]
        summary = self._summary(decision, people, [*notes, *self._set_notes(), *self._pattern_notes()], clock)
        with clock.stage("report"):
            written = write_report(
                self.output,
                decision,
                summary,
                self.redact,
                synthetic.pair,
                self.key,
                self._read(people),
                self.reviews,
                self._full_size(synthetic, decision.training),
            )
        return AuditResult(decision.conclusion, summary.as_dict(), written, self.output, self._status(decision), self.store)

    def _expect_stored(self, clock: RunProgress) -> None:
        """What an earlier run stored is not to come, which the end that is shown is to know from the beginning."""
        stages = (
            ("embed training", self.training, 1), ("embed synthetic", self.synthetic, self.poses), ("embed control", self.holdout, self.poses),
        )  # fmt: skip
        missing = {
            stage: missing_in(self._store_of(dataset, poses), dataset.image_set)
            for stage, dataset, poses in stages
            if dataset is not None
        }
        for stage, count in missing.items():
            clock.expect(stage, "embed", count)
        if not any(missing.values()) and self._holds_pairs():
            clock.expect_stored()

    def _store_of(self, dataset: RecordDataset, poses: int) -> EmbeddingStore:
        """Where the embeddings of ``dataset`` lie."""
        return embedding_store(self.evaluator, dataset, self.store, poses)

    def _holds_pairs(self) -> bool:
        """Whether an earlier run came so far that pairs were registered."""
        return len(stored_registration(self.registration, self.synthetic, self.store).verified) > 0

    def _full_size(self, scored: ScoredSet, training: EmbeddedSet) -> Callable[[ScoredImage], FullSizePair | None]:
        """What gives a pair at the resolution of its files."""
        return full_size_images(scored, training, self.synthetic.transform)

    def _status(self, decision: Decision) -> int:
        """Of a gate; a sample releases nothing, whatever it bounds."""
        status = GATE_STATUS[decision.conclusion.verdict.value]
        sampled = decision.sample is not None and decision.conclusion.verdict is Verdict.NOT_FOUND
        return (GATE_STATUS["cannot conclude"] if sampled else status) if self.gate else 0

    def embed_sets(self) -> None:
        """Fill the store with what :meth:`run` will look for, and do nothing else: under ``torchrun`` every process embeds its share."""
        with team(self.threads):
            training = self.embed(self.training, 1, "training")
            self.embed(self.synthetic, self.poses, "synthetic")
            if self.holdout is not None:
                self.embed(self.holdout, self.poses, "holdout")
            self._posed_training(training, self._control_rows(training))

    def scorer(self) -> Callable[[str | os.PathLike], ScoredSet]:
        """The training set embedded and fitted, as a function that scores further images against it: a source -> its images' scores.

        Without a control, so without p-values and flags: those come from :meth:`run`.
        """
        with team(self.threads):
            reference, _ = self._fit(self.embed(self.training, 1, "training"), None)

        def score(source: str | os.PathLike) -> ScoredSet:
            with team(self.threads):
                return reference.scored(self.embed(self._like_synthetic(source, "image"), self.poses, "image"), "image")

        return score

    def _planted(self, decision: Decision, holdout: EmbeddedSet | None) -> list[Planted]:
        """Copies that are planted in this cohort, scored as synthetic images are: what would the audit have found of them?"""
        reference = decision.synthetic.reference
        size = size_of(len(decision.images) + len(decision.control))
        planter = CopyPlanter(
            decision.training, decision.synthetic.images, holdout, size, self.seed, self.reconstruct, self.declared
        )

        def embed(place: str) -> EmbeddedSet:
            return self.embed(self.synthetic.with_source(place, "synthetic"), self.poses, "self-test")

        # Beside the embeddings, where patients may be; a URL is no place for files of a moment.
        return planted_scores(planter, reference, embed, self.output if is_url(self.store) else Path(self.store))

    def _identical(self, training: EmbeddedSet) -> SamePixels:
        """What finds the training images of the same pixels."""
        return IdenticalPixels(training, self.rules.identical, self.rules.identical_small)

    def _know_nearest(
        self, early: EarlyReport, images: EmbeddedSet, training: EmbeddedSet, identical: Sequence[IdenticalImage | None]
    ) -> None:
        """From now on the nearest training images are known."""
        early.know(lambda: nearest_by_encoder(images, training, identical))

    def _unlike(
        self, images: EmbeddedSet, reference: Reference, holdout: EmbeddedSet | None
    ) -> tuple[np.ndarray | None, Sequence[str]]:
        """Which images are of another domain, None where that cannot be told, and what must be noted."""
        assert isinstance(reference, FittedReference)
        return unlike_training(images, reference, self.rules, holdout)

    def _search_notes(self, reference: Reference, planted: Sequence[Planted]) -> list[str]:
        assert isinstance(reference, FittedReference)
        return self._index_notes(reference.search, planted)

    def _read(self, people: People) -> list[dict[str, Any]]:
        """What was read of volumes whose geometry is known, whole or cut into slices, and what was left out: rows of volumes_read.csv, one a volume."""
        sets = ((self.training, people.training), (self.synthetic, None), (self.holdout, people.holdout))
        rows = []
        for one, found in sets:
            if one is not None:
                rows += _read_of(one.image_set, {} if found is None else {r.volume: r.patient for r in found.records})
        return rows

    def _search_settings(self) -> dict[str, Any]:
        """How the search is made, for the summary."""
        rotations, training = list(self.evaluator.pose_inferer.rotations), self.training.image_set
        unread = {one.path for one in training.skipped}
        clustered = in_clusters(self.index, sum(record.id not in unread for record in training.records))
        return {"candidates": self.candidates, "index": "ivf" if clustered else "exact", "rotations": rotations}

    def _preparation(self) -> list:
        """How images are prepared, for the summary."""
        return self.synthetic.transform_settings()

    def _fit(self, training: EmbeddedSet, holdout: EmbeddedSet | None) -> tuple[Reference, People]:
        """The search that is fitted on the training set, and who is who in it and in the holdout."""
        rows = self._control_rows(training)
        posed = self._posed_training(training, rows)
        search = CandidateSearch(self.candidates, self.seed, self.registration.device, in_clusters(self.index, len(training)))
        differences = stored_view_differences(self.evaluator, self.training, posed, self.store, self.seed)
        features = StoredFeatures.searched(training)
        search.fit(features, view_differences=differences, thumbnails=StoredThumbnails(training), keys=training.contents)
        registration = stored_registration(self.registration, self.synthetic, self.store)
        pairs, nearest = person_pairs(training, holdout, search, registration, self.rules)
        people = find_people(training, holdout, pairs, nearest, self.training.image_set.patient_source, self.rules)
        search.fit_index(features, people.training.patients, posed.features(), np.array(rows), view_differences=differences)
        if search.index is None and self.rules.score == "mi":
            raise InputError(
                f"The 'score' parameter cannot be mi for this training set: {search.index_reason} Pass another --score."
            )
        posed = replace(posed, records=[people.training.records[row] for row in rows])
        reference = FittedReference(people.training, posed, search, differences, registration, self.rules.score, self.workers)
        return reference, people

    @staticmethod
    def _index_notes(search: CandidateSearch, planted: Sequence[Planted]) -> list[str]:
        notes = [f"No Memorization Index: {search.index_reason}"] if search.index is None else []
        if not search.clustered:
            return notes
        copies = [one.images.images.subset([s.row for s in one.images.scored]) for one in planted if (one.sources >= 0).all()]
        counts = (
            np.array([search.recall(images.features(names=["embedding"])["embedding"]) for images in copies]).reshape(-1, 2).sum(0)
        )
        told = f"of {counts[1]} planted copies it proposes the image that an exact search names first for {counts[0]}"
        words = told if counts[1] else "what it misses was not measured, as there was no self-test"
        return [*notes, f"Training images were searched in clusters (--index exact compares with every one): {words}."]

    def _refuse_same_set(self) -> None:
        sets = [d.image_set for d in (self.training, self.synthetic, self.holdout) if d is not None]
        for i, first in enumerate(sets):
            paths = {os.path.realpath(p) for r in first.records for p in r.paths}
            for second in sets[i + 1 :]:
                others = {os.path.realpath(p) for r in second.records for p in r.paths}
                if paths == others or (second.sample and others <= paths) or (first.sample and paths <= others):
                    raise InputError(
                        f"The '{first.name}' and '{second.name}' parameters must be different sets. Got the same {min(len(paths), len(others))} "
                        "files twice."
                    )

    def embed(self, dataset: RecordDataset, poses: int, label: str) -> EmbeddedSet:
        """``dataset`` in the store, in 1 or 8 poses.

        Raises:
            InputError: no image of it can be read, or the encoder lacks a head.
        """
        return stored_set(self.evaluator, dataset, self.store, poses, label, self.workers)

    def _control_rows(self, training: EmbeddedSet) -> list[int]:
        return spread_over_patients(training.patients, self.control_size, self.seed)

    def _posed_training(self, training: EmbeddedSet, rows: Sequence[int]) -> EmbeddedSet:
        """Some training images in all poses: the null of the index, and the control when there is no holdout."""
        chosen = training.subset(rows)
        image_set = ImageSet("training", chosen.records)
        return self.embed(self.training.with_source(image_set, "training"), self.poses, "training poses")

    def _without_leaks(self, people: People, same: SamePixels) -> tuple[EmbeddedSet | None, list[str]]:
        """The holdout, and what is to be noted of it: images that are training images, or of training patients, are no control."""
        control = people.holdout
        if control is None or self.holdout is None:
            return None, []
        kept, leaks = without_leaks(control, people.training, same.find(control))
        if not leaks:
            return control, []
        if not kept:
            raise InputError(
                "The 'holdout' parameter must name images of other patients than training. Got none; every one is in the training set."
            )
        for i in leaks:
            self.holdout.image_set.skipped.append(
                SkippedImage(control.records[i].id, "in the training set too, or of a training patient")
            )
        of, single = unit_of(control.records), len(leaks) == 1
        told = f"{'is' if single else 'are'} in the training set too, or of its patients"
        note = f"{counted(len(leaks), f'holdout {of}')} {told}; {'it was' if single else 'they were'} left out of the control."
        return control.subset(kept), [note]

    def _summary(self, decision: Decision, people: People, notes: list[str], clock: RunProgress) -> AuditSummary:
        return summarize(
            decision,
            self.rules,
            patient_source=people.source,
            people=people.notes,
            notes=notes,
            command=self.called or called_by(self.redact),
            finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            reviews=self.reviews,
            **self._made_with(clock),
        )

    def _made_with(self, clock: RunProgress) -> dict[str, Any]:
        """What a summary says of the run, whether it is finished or not."""
        sets = [self.training, self.synthetic] + ([self.holdout] if self.holdout else [])
        return {
            # Run again, an audit meets them again.
            "skipped": list(dict.fromkeys(LeftOut(d.image_set.name, s.path, s.reason) for d in sets for s in d.image_set.skipped)),
            "settings": {
                **self._search_settings(),
                "control_size": self.control_size,
                "seed": self.seed,
                "redact": self.redact,
                "preprocessing": self._preparation(),
                "device": str(self.evaluator.state.device),
                "runtime": getattr(self.evaluator.network, "runtime", f"torch {torch.__version__}"),
                "workers": str(self.workers),
            },
            "weights_sha256": self.weights_sha256,
            "versions": versions(),
            "seconds": clock.seconds,
        }

    def _so_far(self, found: Preliminary, clock: RunProgress) -> PreliminarySummary:
        day, sample = "%Y-%m-%d %H:%M", self.synthetic.image_set.sample
        now, ends = time.strftime(day), time.strftime(day, time.localtime(time.time() + clock.remaining))
        return summarize_preliminary(
            found, written=now, ends=ends, to_come=clock.to_come(), sample=sample, **self._made_with(clock)
        )

    def _expected(self) -> dict[str, dict[str, Work]]:
        """The stages and what each is expected to take."""
        training, synthetic, holdout = (
            0 if one is None else len(one.image_set.records) for one in (self.training, self.synthetic, self.holdout)
        )
        control, rotations = max(holdout, min(self.control_size, training)), len(self.evaluator.pose_inferer.rotations)
        planted = planted_images(self._copies(synthetic + control)) if self.self_test else 0
        return expected_work(training, synthetic, holdout, self.control_size, rotations, planted, self._competes())

    def _copies(self, images: int) -> int:
        """Copies a change that a self-test beside ``images`` will plant: one a patient."""
        return min(size_of(images), people_at_most(self.training.image_set.records)[0])

    def _competes(self) -> bool:
        """Whether training and holdout hold people enough for a competition."""
        sets = [one.image_set.records for one in (self.training, self.holdout) if one is not None]
        return len(sets) == 2 and all(people_at_most(records)[0] >= FEWEST for records in sets)

    def _set_notes(self) -> list[str]:
        """What is to be told of how volumes were read."""
        sets = (one.image_set for one in (self.training, self.synthetic, self.holdout) if one is not None)
        return [f"{note}." for one in sets for note in one.notes]

    @staticmethod
    def _surround_notes(images: EmbeddedSet) -> list[str]:
        changed = images.changed_surrounds()
        if not changed:
            return []
        return [
            f"A light page, bars or background was taken off {counted(changed, 'synthetic image')} before the comparison; the same pixels were looked for in the "
            "files as they are."
        ]

    def _pattern_notes(self) -> list[str]:
        return [
            f"The patient pattern does not match {counted(one.unmatched, 'name')} of the {one.name} set: each counts as a patient of its own, but for those "
            "that were found to be of one person."
            for one in (dataset.image_set for dataset in (self.training, self.holdout) if dataset is not None)
            if one.unmatched
        ]


def _read_of(image_set: ImageSet, patients: Mapping[str, str]) -> list[dict[str, Any]]:
    """Of a set that holds volumes; ``patients`` are those that the audit counts, where it found who is who."""
    volumes = {
        one.volume: replace(one, whole=True, patient=patients.get(one.volume, one.patient))
        for one in image_set.records
        if one.geometry is not None
    }
    if not volumes:
        return []
    volume_of = {one.id: one.volume for one in image_set.records}
    left_out: dict[str, list[str]] = {}
    for skipped in image_set.skipped:
        reasons = left_out.setdefault(volume_of.get(skipped.path, skipped.path), [])
        reasons += [] if skipped.reason in reasons else [skipped.reason]
    rows = []
    for row in volume_table(list(volumes.values())):
        told = {name: "" if value is None else value for name, value in row.items()}
        path = str(told.pop("path"))
        rows.append({"set": image_set.name, "volume": path, **told, "left_out": "; ".join(left_out.pop(path, []))})
    empty = dict.fromkeys(rows[0], "")
    return rows + [
        {**empty, "set": image_set.name, "volume": path, "left_out": "; ".join(reasons)} for path, reasons in left_out.items()
    ]
