"""The audit: which synthetic images are copies, of whom, in which pose, how sure, and may the set be released."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from doppelscan.calibrate import Control, TwoSampleResult, duplication_trend, residual_risk, wilson
from doppelscan.decide import (
    CLOSE_PAIR,
    KINDS,
    SCORES,
    Conclusion,
    ControlScorer,
    Evidence,
    Finding,
    NearDuplicate,
    ScoredControl,
    ScoredImage,
    conclude,
    explain,
    flag_images,
    near_duplicates,
    same_kind,
    score_images,
    without_leaks,
)
from doppelscan.deepssim import encoder_file, file_sha256, require_heads, verdict
from doppelscan.errors import InputError
from doppelscan.images import ImageSet, SkippedImage
from doppelscan.memorization import spread_over_patients
from doppelscan.report import AuditTables, source_row, write_report
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, StoredThumbnails, fingerprint
from doppelscan.verify import AlignedPair, Registration
from doppelscan.version import __version__
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset

__all__ = ["GATE_STATUS", "Audit", "AuditResult", "ScoredSet"]

GATE_STATUS = {"memorization found": 3, "cannot conclude": 4, "no memorization found": 0}


@dataclass(frozen=True)
class AuditResult:
    """What an audit returns.

    Attributes:
        conclusion: the words and the reason.
        summary: what summary.json holds.
        scores: one dictionary a synthetic image, the rows of scores.csv.
        output: the folder of the files.
        exit_status: 0; with ``gate`` 3 when memorization was found, 4 when it cannot conclude.
    """

    conclusion: Conclusion
    summary: dict[str, Any]
    scores: list[dict[str, Any]]
    output: Path
    exit_status: int


@dataclass(frozen=True)
class ScoredSet:
    """Images scored against a training set, see :meth:`Audit.scorer`.

    Attributes:
        images: what was scored.
        training: what it was scored against.
        scored: one entry an image; ``row`` is its row in ``images``, ``match`` one of ``training``.
        pair: an entry -> the registered pair in full.
    """

    images: EmbeddedSet
    training: EmbeddedSet
    scored: list[ScoredImage]
    pair: Callable[[ScoredImage], AlignedPair]


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
        fdr: false discovery rate of the flags, in (0, 1).
        correction: "bh" (Benjamini-Hochberg) or "by" (Benjamini-Yekutieli).
        score: what ranks and is calibrated: "combined", "verified", "deepssim" or "mi".
        candidates: training images that are verified for each image.
        control_size: images that a control from the training set, or a holdout with what it is topped up with, holds at most.
        redact: leave pictures, paths and patients out of everything that is written.
        gate: let :attr:`AuditResult.exit_status` tell the conclusion.
        seed: of folds and draws.
    """

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
        fdr: float = 0.05,
        correction: str = "bh",
        score: str = "combined",
        candidates: int = 20,
        control_size: int = 300,
        redact: bool = False,
        gate: bool = False,
        seed: int = 0,
    ) -> None:
        if not 0 < fdr < 1:
            raise InputError(f"The 'fdr' parameter must lie between 0 and 1. Got {fdr!r} instead.")
        if candidates < 1:
            raise InputError(f"The 'candidates' parameter must be at least 1. Got {candidates!r} instead.")
        if correction not in ("bh", "by"):
            raise InputError(f"The 'correction' parameter must be bh or by. Got {correction!r} instead.")
        if score not in SCORES:
            raise InputError(f"The 'score' parameter must be one of {', '.join(SCORES)}. Got {score!r} instead.")
        synthetic.require()
        if training is None:
            raise InputError("The 'training' parameter must be a folder, .csv or .json. Got nothing; pass --training DIR.")
        self.synthetic, self.evaluator, self.registration = synthetic, evaluator, registration
        self.training = self._like_synthetic(training, "training")
        self.holdout = None if holdout is None else self._like_synthetic(holdout, "holdout")
        self.output = Path(output)
        self.weights_sha256 = file_sha256(encoder_file(weights)) if weights else "none"
        self.fdr, self.candidates, self.control_size = fdr, candidates, control_size
        self.correction, self.score = correction, score
        self.redact, self.gate, self.seed = redact, gate, seed
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []
        self.store = Path(store) if store else self.output / "store"
        self._make_output()

    def _like_synthetic(self, source: str | os.PathLike, name: str) -> RecordDataset:
        """The other sets are read with the choices of the synthetic one, so that all three are prepared alike."""
        return self.synthetic.with_source(source, name)

    def _make_output(self) -> None:
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            probe = self.output / ".doppelscan-write-test"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"The 'output' parameter must be a folder that can be written. Got {str(self.output)!r}: {error.strerror}."
            ) from error

    @contextmanager
    def _timed(self, stage: str):
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 2)

    def run(self) -> AuditResult:
        """Run every stage and write the report."""
        self._refuse_same_set()
        training = self._embedded_training()
        with self._timed("embed synthetic"):
            synthetic = self.embed(self.synthetic, 8, "synthetic")
        holdout = self._holdout_set(training)
        null, search = self._fit(training)
        verified = self._verified_store()
        with self._timed("score synthetic"):
            scored = score_images(synthetic, training, search, self.registration, verified, "synthetic", self.score)
        with self._timed("score control"):
            score_control = ControlScorer(
                training=training,
                patients_known=self._patients_known,
                search=search,
                view_differences=self.view_differences,
                registration=self.registration,
                verified=verified,
                score=self.score,
                size=self.control_size,
                seed=self.seed,
            )
            control = score_control(holdout, null)
        with self._timed("near duplicates"):
            twice = near_duplicates(training, search, self.registration, verified)
            control, close = control.without_near_duplicates()
        self.notes += control.notes
        with self._timed("calibrate"):
            alike = None if holdout is None else same_kind(training, holdout)
        return self._conclude(training, synthetic, scored, control, search, close + twice, alike)

    def scorer(self) -> Callable[[str | os.PathLike], ScoredSet]:
        """The training set embedded and fitted, as a function that scores further images against it: a source -> its images' scores.

        Without a control, so without p-values and flags: those come from :meth:`run`.
        """
        training = self._embedded_training()
        _, search = self._fit(training)
        verified = self._verified_store()

        def score(source: str | os.PathLike) -> ScoredSet:
            images = self.embed(self._like_synthetic(source, "image"), 8, "image")
            scored = score_images(images, training, search, self.registration, verified, "image", self.score)
            return ScoredSet(images, training, scored, partial(self._pair, images, training, search))

        return score

    def _embedded_training(self) -> EmbeddedSet:
        with self._timed("embed training"):
            return self.embed(self.training, 1, "training")

    def _fit(self, training: EmbeddedSet) -> tuple[EmbeddedSet, CandidateSearch]:
        """Training images in all poses for the null, and the search that is fitted on the training set."""
        with self._timed("fit"):
            null_rows = spread_over_patients(training.patients, self.control_size, self.seed)
            null = self._posed_training(training, null_rows)
            search = CandidateSearch(self.candidates, self.seed, self.registration.device)
            self.view_differences = self.evaluator.view_differences(null.thumbnails(range(len(null))), self.seed)
            search.fit(
                training.single_pose(),
                training.patients,
                null.features(),
                np.array(null_rows),
                view_differences=self.view_differences,
                thumbnails=StoredThumbnails(training),
            )
        if search.index is None:
            if self.score == "mi":
                raise InputError(
                    f"The 'score' parameter cannot be mi for this training set: {search.index_reason} Pass another --score."
                )
            self.notes.append(f"No Memorization Index: {search.index_reason}")
        return null, search

    def _verified_store(self) -> EmbeddingStore:
        return EmbeddingStore(
            self.store / "verified", fingerprint("verified", self.weights_sha256, self.registration.settings()), 512
        )

    def _refuse_same_set(self) -> None:
        sets = [d.image_set for d in (self.training, self.synthetic, self.holdout) if d is not None]
        for i, first in enumerate(sets):
            paths = {os.path.realpath(p) for r in first.records for p in r.paths}
            for second in sets[i + 1 :]:
                if paths == {os.path.realpath(p) for r in second.records for p in r.paths}:
                    raise InputError(
                        f"The '{first.name}' and '{second.name}' parameters must be different sets. Got the same {len(paths)} files twice."
                    )

    def embed(self, dataset: RecordDataset, poses: int, label: str) -> EmbeddedSet:
        """``dataset`` in the store, in 1 or 8 poses.

        Raises:
            InputError: no image of it can be read, or the encoder lacks a head.
        """
        outputs = self.evaluator.output_slices
        require_heads(outputs)
        made_by = self.evaluator.fingerprint(dataset, poses)
        store = EmbeddingStore(self.store / f"poses-{poses}", made_by)
        records, keys = self.evaluator.embed(dataset, store, poses, label)
        if not records:
            raise dataset.image_set.unreadable()
        return EmbeddedSet(records, keys, store, outputs)

    def _posed_training(self, training: EmbeddedSet, rows: Sequence[int]) -> EmbeddedSet:
        """Some training images in all poses: the null of the index, and the control when there is no holdout."""
        chosen = training.subset(rows)
        image_set = ImageSet("training", chosen.records)
        posed = self.embed(self.training.with_source(image_set, "training"), 8, "training poses")
        return posed

    @property
    def _patients_known(self) -> bool:
        """Of the training set; else every file counts as a patient of its own."""
        return self.training.image_set.patient_source != "volume"

    def _holdout_set(self, training: EmbeddedSet) -> EmbeddedSet | None:
        if self.holdout is None:
            return None
        with self._timed("embed control"):
            control = self.embed(self.holdout, 8, "holdout")
        return self._without_leaks(control, training)

    def _without_leaks(self, control: EmbeddedSet, training: EmbeddedSet) -> EmbeddedSet:
        """Holdout images that are training images, or of training patients, are no control: left out and counted."""
        kept, leaks = without_leaks(control, training, self._patients_known)
        if leaks:
            skipped = self.holdout.image_set.skipped if self.holdout else []
            self.notes.append(
                f"{len(leaks)} holdout images are training images or of training patients; they were left out of the control."
            )
            for i in leaks:
                skipped.append(SkippedImage(control.records[i].id, "in the training set too, or of a training patient"))
        if not kept:
            raise InputError(
                "The 'holdout' parameter must name images of other patients than training. Got none; every one is in the training set."
            )
        return control.subset(kept)

    def _conclude(
        self,
        training: EmbeddedSet,
        synthetic: EmbeddedSet,
        scored: list[ScoredImage],
        against: ScoredControl,
        search: CandidateSearch,
        twice: list[NearDuplicate],
        alike: TwoSampleResult | None,
    ) -> AuditResult:
        control = against.scored
        with self._timed("calibrate"):
            patients = [against.images.patients[s.row] for s in control]
            null = Control(np.array([s.score for s in control]), patients, against.ratio, self.seed)
            part_null = Control(np.array([s.part for s in control]), patients, against.ratio, self.seed)
            flags = flag_images(scored, control, null, part_null, self.fdr, self.correction)
        with self._timed("explain findings"):
            findings: list[Finding | None] = [Finding("part") if one else None for one in flags.part]
            rows = np.flatnonzero(flags.whole)
            found = explain([scored[i] for i in rows], synthetic, training, search, self.registration)
            for i, finding in zip(rows, found, strict=True):
                findings[i] = finding
        flagged = flags.whole | flags.part
        kinds = {kind: sum(f is not None and f.kind == kind for f in findings) for kind in KINDS}
        conclusion = conclude(
            Evidence(
                flags.p,
                flagged,
                np.array([s.verified >= CLOSE_PAIR for s in scored]),
                np.array([s.verified >= CLOSE_PAIR for s in control], dtype=bool),
                len(set(training.patients)),
                len(set(patients)),
                self.fdr,
                null.smallest,
                kinds,
                alike,
            )
        )
        shares = wilson(int(flagged.sum()), len(flagged)), wilson(flags.control_as_close, len(control))
        tables = AuditTables(
            training,
            synthetic,
            scored,
            flags.p,
            flags.q,
            flagged,
            against.images,
            control,
            null,
            flags.part_p,
            flags.part_q,
            findings,
            twice,
        )
        summary = self._summary(conclusion, tables, shares, null, kinds, alike)
        with self._timed("report"):
            pair = partial(self._pair, synthetic, training, search)
            written = write_report(self.output, tables, summary, self.redact, pair)
        status = GATE_STATUS[conclusion.verdict.value] if self.gate else 0
        return AuditResult(conclusion, summary, written, self.output, status)

    def _pair(self, synthetic: EmbeddedSet, training: EmbeddedSet, search: CandidateSearch, s: ScoredImage) -> AlignedPair:
        assert search.patches is not None
        return self.registration.pair(
            synthetic.thumbnails([s.row])[0],
            training.thumbnails([s.match])[0],
            s.pose,
            search.patches.descriptor,
            synthetic.native_shapes([s.row])[0],
            training.native_shapes([s.match])[0],
        )

    def _control_words(self, control: list[ScoredImage], control_set: EmbeddedSet) -> str:
        if self.holdout is None:
            return "training patients, patient-wise folds"
        held = {record.id for record in self.holdout.image_set.records}
        extra = sum(control_set.records[s.row].id not in held for s in control)
        return f"holdout, topped up with {extra} training images" if extra else "holdout"

    def _trend(self, tables: AuditTables) -> dict[str, Any] | None:
        """Flagged share of training images by how often they were shown: the column ``repeats``, and files of the same bytes."""
        training = tables.training
        shown: dict[str, int] = {}
        for record, key in zip(training.records, training.keys, strict=True):
            shown[key] = shown.get(key, 0) + record.repeats
        leaked = {
            training.keys[source_row(s, finding)]
            for s, finding in zip(tables.scored, tables.findings, strict=True)
            if finding is not None
        }
        keys = list(shown)
        return duplication_trend(np.array([shown[k] for k in keys]), np.array([k in leaked for k in keys]))

    def _summary(self, conclusion: Conclusion, tables: AuditTables, shares, null: Control, kinds, alike) -> dict[str, Any]:
        synthetic, control = shares
        mi = np.array([s.mi for s in tables.scored])
        sets = [self.training, self.synthetic] + ([self.holdout] if self.holdout else [])
        skipped = [(d.image_set.name, s) for d in sets for s in d.image_set.skipped]
        verdicts = [verdict(s.ssim) for s in tables.scored]
        return {
            "conclusion": conclusion.verdict.value,
            "reason": conclusion.reason,
            "images": {
                "training": len(tables.training),
                "synthetic": len(tables.synthetic),
                "control": len(tables.control),
                "training_patients": len(set(tables.training.patients)),
                "control_patients": len(null.by_patient) if len(tables.control) else 0,
                "skipped": len(skipped),
            },
            "flagged": synthetic.__dict__,
            "flagged_control": control.__dict__,
            "findings": kinds,
            "residual_risk": residual_risk(synthetic, control),
            "verdicts": {name: verdicts.count(name) for name in ("duplicate", "similar", "different")},
            "set_mi": None
            if np.isnan(mi).all()
            else {"mean": float(mi.mean()), "median": float(np.median(mi)), "max": float(mi.max())},
            "duplication_trend": self._trend(tables),
            "near_duplicates": tables.near_duplicate_rows(),
            "fdr": self.fdr,
            "correction": self.correction,
            "score": self.score,
            "smallest_p_value": null.smallest,
            "smallest_patient_p_value": null.smallest_of_patient,
            "effective_control": round(null.effective_size, 1),
            "control": self._control_words(tables.control, tables.control_set),
            "control_against_training": None if alike is None else {"auc": alike.auc, "p_value": alike.p_value},
            "patient_source": self.training.image_set.patient_source,
            "notes": self.notes + self._patient_notes(),
            "skipped": [{"set": name, "path": s.path, "reason": s.reason} for name, s in skipped],
            "settings": {
                "candidates": self.candidates,
                "control_size": self.control_size,
                "seed": self.seed,
                "redact": self.redact,
                "preprocessing": self.synthetic.transform_settings(),
                "device": str(self.evaluator.state.device),
                "runtime": getattr(self.evaluator.network, "runtime", f"torch {torch.__version__}"),
            },
            "weights_sha256": self.weights_sha256,
            "versions": _versions(),
            "seconds": self.seconds,
        }

    def _patient_notes(self) -> list[str]:
        if not self._patients_known:
            return [
                "No patient is known: every file counts as a patient of its own. If several files are of one person, p-values are too small; "
                "pass --patient_pattern or a table with a column 'patient'."
            ]
        return [
            f"The patient pattern does not match {one.unmatched} names of the {one.name} set: each counts as a patient of its own. If several "
            "are of one person, p-values are too small."
            for one in (dataset.image_set for dataset in (self.training, self.holdout) if dataset is not None)
            if one.unmatched
        ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("monai", "pytorch-ignite", "numpy", "faiss-cpu", "pyarrow", "nibabel", "pydicom"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found |= {"doppelscan": __version__, "torch": torch.__version__}
    return found
