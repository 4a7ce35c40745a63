"""The mi_scorer bundle's engines: fit the Memorization Index on a training set, score a set against it."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.transforms import Compose, RandAffined

from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import SkippedImage
from doppelscan.memorization import ALGORITHM as MEMORIZATION
from doppelscan.memorization import MemorizationIndex, MemorizationScorer, MemorizationScores, spread_over_patients
from doppelscan.report import to_csv, to_json, write_atomic
from doppelscan.search import EmbeddedSet, EmbeddingStore, StoredFeatures, fingerprint
from doppelscan.verify import Pose
from doppelscan.workflows.embed import EmbeddingEvaluator, PoseInferer, RecordDataset

__all__ = ["IndexFitter", "IndexScoreWriter", "index_fingerprint", "reference_file"]

COLUMNS = (
    "image", "patient", "match", "match_patient", "pose", "similarity", "distance", "mi", "oni", "null_p", "consensus", "margin"
)  # fmt: skip
SCORED_AT_ONCE = 1024
SIDES = ("query", "reference")
NETWORK_ROWS = 20_000  # more reference rows than this make no network; they are searched from the reference file
logger = logging.getLogger(__name__)


def index_fingerprint(dataset: RecordDataset, network: Any, weights: str | os.PathLike) -> str:
    """What a fitted reference is bound to: weights' sha256, network, preprocessing, and what the rooms behind them compute."""
    return fingerprint("index", IMAGES, DEEPSSIM, MEMORIZATION, file_sha256(weights), network, dataset.transform)


def reference_file(reference: str | os.PathLike) -> Path:
    """The file of a fitted reference: ``reference`` itself, or reference.safetensors in the folder that train wrote to.

    Raises:
        InputError: there is none.
    """
    path = Path(reference)
    path = path / "reference.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"The 'reference' parameter must be a file that train wrote. Got {str(reference)!r}; run train on the training set first."
        )
    return path


class IndexFitter(Trainer):
    """MONAI trainer of one epoch in three steps: embed the training set, embed the null's queries, fit and write.

    Features go to embedding stores as they come, so a killed run goes on where it was, and under ``torchrun`` every process embeds its
    share; the first process then fits in blocks, so that memory does not grow with the training set.

    Args:
        device: of the network.
        dataset: the training set.
        network: image -> layer features, with ``output_slices``.
        inferer: with 8 poses every score is the best of 8 poses, on the side that ``pose_side`` says.
        index: fitted at the end.
        output: path of the reference file; images.csv and, when the reference is small, the network ``model.pt`` are written beside it.
        weights: path of the network's weights, whose sha256 the reference is bound to.
        pose_side: ``query`` embeds each query in all poses; ``reference`` each training image, which makes scoring cheap and the
            reference large.
        null_images: training images that the null is drawn with, spread over patients.
        view_images: training images whose augmented views the whitening mutes; 0 whitens on the cohort alone.
        jitter: the null's queries are turned by up to so many degrees, and scaled and shifted by up to as many per cent, as a
            mildly moved image of another patient would be; 0 takes them as they are.
        store: folder of the embeddings; None is ``features`` beside the output.
        seed: of the null's images and their jitter.
        batch_size: images at a time.
        num_workers: processes that read images.
        max_epochs: 1.
        train_handlers: further ignite handlers.
    """

    steps = ("embed training", "embed null", "fit")

    def __init__(
        self,
        device: str | torch.device,
        dataset: RecordDataset,
        network: Any,
        inferer: PoseInferer,
        index: MemorizationIndex,
        output: str | os.PathLike,
        weights: str | os.PathLike,
        pose_side: str = "query",
        null_images: int = 500,
        view_images: int = 300,
        jitter: float = 0.0,
        store: str | os.PathLike | None = None,
        seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
        max_epochs: int = 1,
        train_handlers: Sequence | None = None,
    ) -> None:
        if pose_side not in SIDES:
            raise InputError(f"The 'pose_side' parameter must be 'query' or 'reference'. Got {pose_side!r} instead.")
        if null_images < MemorizationIndex.smallest_images or jitter < 0:
            raise InputError(
                f"The 'null_images' parameter must be at least {MemorizationIndex.smallest_images} and 'jitter' at least 0. "
                f"Got {null_images!r} and {jitter!r} instead."
            )
        super().__init__(
            device, max_epochs, list(self.steps), iteration_update=self._step, handlers=train_handlers, decollate=False
        )
        self.dataset, self.network, self.index, self.seed = dataset, network, index, seed
        self.reference_poses, self.query_poses = (1, inferer.poses) if pose_side == "query" else (inferer.poses, 1)
        self.null_images, self.view_images, self.jitter = null_images, view_images, float(jitter)
        self.output, self.weights = Path(output), weights
        self.store = Path(store) if store else self.output.parent / "features"
        self.evaluator = EmbeddingEvaluator(device, network, dataset, inferer, batch_size, num_workers)
        self.fitted_on: list = []

    def run(self) -> None:  # type: ignore[override]
        """Embed the training set and fit."""
        self.dataset.require()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        super().run()

    @cached_property
    def made_by(self) -> str:
        """See :func:`index_fingerprint`; it reads the whole weights file."""
        return index_fingerprint(self.dataset, self.network, self.weights)

    def _step(self, engine: Engine, step: str) -> dict:
        if step == self.steps[0]:
            self.training = self._embed(self.dataset, self.reference_poses, "training")
        elif step == self.steps[1]:
            rows = spread_over_patients(self.training.patients, self.null_images, self.seed)
            self.null = self._embed_null([self.training.records[i] for i in rows])
            place = {record.id: i for i, record in enumerate(self.training.records)}
            self.null_rows = np.array([place[record.id] for record in self.null.records], np.int64)
        elif idist.get_rank() == 0:
            self._fit()
        idist.barrier()
        return {}

    def _embed_null(self, records: list) -> EmbeddedSet:
        if not self.jitter and self.query_poses == self.reference_poses:
            keys = dict(zip((r.id for r in self.training.records), self.training.keys, strict=True))
            return EmbeddedSet(records, [keys[r.id] for r in records], self.training.store, self.training.outputs)
        dataset = self.dataset.with_records(records, self._jittered() if self.jitter else None)
        return self._embed(dataset, self.query_poses, "null", self.jitter, self.seed if self.jitter else 0)

    def _jittered(self) -> Compose:
        share, size = self.jitter / 100, self.dataset.foreground_size
        move = RandAffined(
            "image",
            prob=1.0,
            rotate_range=math.radians(self.jitter),
            scale_range=(share, share),
            translate_range=(share * size, share * size),
            padding_mode="border",
        )
        both = Compose([self.dataset.transform, move])
        both.set_random_state(self.seed)  # after Compose, which draws a seed of its own
        return both

    def _embed(self, dataset: RecordDataset, poses: int, label: str, *drawn: float) -> EmbeddedSet:
        made = fingerprint(self.made_by, poses, *drawn)
        store = EmbeddingStore(self.store / f"{label}-{made[:8]}", made)
        idist.barrier()  # a store clears away what a killed run left: not what another process is writing
        records, keys = self.evaluator.embed(dataset, store, poses, label)
        if not records:
            raise dataset.image_set.unreadable()
        return EmbeddedSet(records, keys, store, self.network.output_slices)

    def _fit(self) -> None:
        training = StoredFeatures.of(self.training)
        null = {name: value[:, : self.query_poses] for name, value in self.null.features().items()}
        self.index.fit(training, self.training.patients, null, self.null_rows, view_differences=self._view_differences())
        self.index.save(self.output, self.made_by)
        rows = [{"image": record.id, "patient": record.patient} for record in self.training.records]
        write_atomic(self.output.with_name("images.csv"), to_csv(("image", "patient"), rows))
        skipped = [{"image": s.path, "reason": s.reason} for s in self.dataset.image_set.skipped]
        write_atomic(self.output.with_name("skipped.csv"), to_csv(("image", "reason"), skipped))
        self._write_network()
        logger.info(
            f"Fitted on {len(self.training)} images of {len(set(self.training.patients))} patients, {len(skipped)} skipped; "
            f"null {self.index.null_mean:.3f} +- {self.index.null_std:.3f}, "
            f"{self.index.clipped_in_null} of its layer cosines were below 0 and clipped."
        )

    def _view_differences(self) -> dict[str, np.ndarray] | None:
        if not self.view_images or self.index.calibration == "paper":
            return None
        rows = spread_over_patients(self.training.patients, self.view_images, self.seed)
        return self.evaluator.view_differences(self.training.thumbnails(rows), self.seed)

    def _write_network(self) -> None:
        """The whole scorer as one state dict, for ckpt_export and onnx_export; a large reference is left to the search."""
        path = self.output.with_name("model.pt")
        if len(self.training) * self.reference_poses > NETWORK_ROWS:
            path.unlink(missing_ok=True)
            return
        scorer = MemorizationScorer(self.network, self.query_poses).fill(self.index)
        temporary = path.with_suffix(".tmp")
        torch.save(scorer.state_dict(), temporary)
        os.replace(temporary, path)


class IndexScoreWriter:
    """ignite handler of an evaluator: score its predictions against a fitted reference; writes a table and a summary.

    Features are scored a thousand at a time and forgotten.

    Args:
        dataset: what the evaluator runs over.
        network: with ``output_slices``.
        reference: file of a fitted index or the folder it lies in; the images.csv beside it names the matches.
        weights: path of the network's weights.
        output: path of the CSV: image, patient, match, match_patient, pose, similarity, distance, mi, oni, null_p, consensus, margin, and the
            match and margin of each layer. ``summary.json`` is written beside it.
        inferer: its poses are set to those that the null was drawn with; other ones would shift every MI.
        device: where cosines are computed.
    """

    def __init__(
        self,
        dataset: RecordDataset,
        network: Any,
        reference: str | os.PathLike,
        weights: str | os.PathLike,
        output: str | os.PathLike,
        inferer: PoseInferer | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.dataset, self.network, self.reference, self.weights = dataset, network, reference, weights
        self.output, self.inferer, self.device = Path(output), inferer, device

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        """Load the reference."""
        path = reference_file(self.reference)
        self.index = MemorizationIndex.load(path, index_fingerprint(self.dataset, self.network, self.weights), self.device)
        with open(path.with_name("images.csv"), newline="", encoding="utf-8") as file:
            self.training = list(csv.DictReader(file))
        self.reference_holds_poses = any(len(value.shape) == 3 for value in self.index.reference.values())
        if self.inferer is not None:
            self.inferer.poses = self.index.null_poses
        self.waiting: list[tuple[list[int], np.ndarray]] = []
        self.rows: list[dict] = []
        self.mi: list[float] = []
        self.clipped = 0

    def iteration_completed(self, engine: Engine) -> None:
        """Keep the batch; score when enough wait."""
        state: Any = engine.state
        image_set = self.dataset.image_set
        for index, reason in state.batch["errors"]:
            image_set.skipped.append(SkippedImage(image_set.records[index].id, reason))
        if "index" in state.batch:
            self.waiting.append((state.batch["index"].tolist(), state.output["pred"].cpu().numpy().astype(np.float32)))
        if sum(len(rows) for rows, _ in self.waiting) >= SCORED_AT_ONCE:
            self._score()

    def completed(self, engine: Engine) -> None:
        """Score the rest and write."""
        self._score()
        if not self.rows:
            raise self.dataset.image_set.unreadable()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        layers = [f"{kind}_{name}" for name in self.index.reference for kind in ("match", "margin")]
        write_atomic(self.output, to_csv((*COLUMNS, *layers), self.rows))
        write_atomic(self.output.with_name("summary.json"), to_json(self._summary()))

    def _score(self) -> None:
        if not self.waiting:
            return
        indices = [index for rows, _ in self.waiting for index in rows]
        stacked = np.concatenate([features for _, features in self.waiting])
        self.waiting = []
        features = {name: stacked[..., part] for name, part in self.network.output_slices.items()}
        scores = self.index.score(features)
        null_p = self.index.p_values(scores)
        records = self.dataset.image_set.records
        self.mi += scores.mi.tolist()
        self.clipped += scores.clipped
        self.rows += [self._row(records[index], scores, i, null_p[i]) for i, index in enumerate(indices)]

    def _row(self, record: Any, scores: MemorizationScores, i: int, null_p: float) -> dict:
        match = self.training[int(scores.match[i])]
        row = {
            "image": record.id, "patient": record.patient, "match": match["image"], "match_patient": match["patient"],
            "pose": self._pose(int(scores.pose[i])).words(0), "similarity": scores.similarity[i], "distance": scores.distance[i],
            "mi": scores.mi[i], "oni": scores.oni[i], "null_p": null_p, "consensus": int(scores.consensus[i]),
            "margin": scores.margin[i].min(),
        }  # fmt: skip
        for k, name in enumerate(self.index.reference):
            row[f"match_{name}"] = self.training[int(scores.neighbour[i, k])]["image"]
            row[f"margin_{name}"] = scores.margin[i, k]
        return row

    def _pose(self, number: int) -> Pose:
        """What maps the match on the image: the reference's pose, or the inverse of the query's."""
        flip, turns = number >= 4, number % 4
        return Pose(flip, turns if flip or self.reference_holds_poses else (4 - turns) % 4)

    def _summary(self) -> dict[str, Any]:
        mi = np.array(self.mi)
        return {
            "images": len(mi),
            "skipped": [{"image": s.path, "reason": s.reason} for s in self.dataset.image_set.skipped],
            "training_images": len(self.training),
            "mean_mi": float(mi.mean()),
            "mean_oni": float(-np.tanh(mi).mean()),
            "memorized_share": self.index.memorized_share(mi),
            "copy_threshold_mi": self.index.copy_threshold,
            "clipped_cosines": self.clipped,
            "null": {"mean": self.index.null_mean, "std": self.index.null_std, "images": len(self.index.null)},
            "calibration": self.index.calibration,
            "weights_sha256": file_sha256(self.weights),
        }
