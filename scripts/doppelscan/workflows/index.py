"""The mi_scorer bundle's engines: fit the Memorization Index on a training set, score a set against it."""

from __future__ import annotations

import csv
import logging
import math
import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandAffined

from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError
from doppelscan.files import to_csv, to_json, write_atomic
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import SkippedImage
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.memorization import ALGORITHM as MEMORIZATION
from doppelscan.memorization import MemorizationIndex, MemorizationScorer, MemorizationScores, spread_over_patients
from doppelscan.search import EmbeddedSet, EmbeddingStore, StoredFeatures, fingerprint, part_of
from doppelscan.verify import Pose, VolumePose
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset

__all__ = ["IndexFitter", "IndexScoreWriter", "index_fingerprint", "reference_file", "reference_poses"]

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


def reference_poses(reference: str | os.PathLike, most: int = 8) -> int:
    """Poses that the queries of a fitted reference have to come in, 1 or ``most`` (48 of volumes); ``most`` where train has written none yet.

    A config can so be built, checked and exported before its reference is there; :class:`IndexScoreWriter` refuses to score without one.
    """
    try:
        return MemorizationIndex.saved_poses(reference_file(reference))
    except InputError:
        return most


class IndexFitter:
    """What the train workflow runs: embed the training set, embed the null's queries, fit the index and write it.

    Features go to embedding stores as they come, so a killed run goes on where it was, and under ``torchrun`` every process embeds its
    share; the first process then fits in blocks, so that memory does not grow with the training set.

    Args:
        evaluator: embeds images; its dataset is the training set, its network has ``output_slices``.
        index: fitted at the end.
        output: path of the reference file; images.csv, skipped.csv and, when the reference is small, the network ``model.pt`` are written
            beside it.
        weights: path of the network's weights, whose sha256 the reference is bound to.
        poses: with 8 every score is the best of 8 poses, on the side that ``pose_side`` says.
        pose_side: ``query`` embeds each query in all poses; ``reference`` each training image, which makes scoring cheap and the
            reference large.
        null_images: training images that the null is drawn with, spread over patients.
        view_images: training images whose augmented views the whitening mutes; 0 whitens on the cohort alone.
        jitter: the null's queries are turned by up to so many degrees, and scaled and shifted by up to as many per cent, as a
            mildly moved image of another patient would be; 0 takes them as they are.
        store: folder of the embeddings; None is ``features`` beside the output.
        seed: of the null's images and their jitter.
        max_epochs: what MONAI asks of every trainer; the training set is passed over once, so 1.

    Raises:
        InputError: a setting that cannot work.
    """

    def __init__(
        self,
        evaluator: EmbeddingEvaluator,
        index: MemorizationIndex,
        output: str | os.PathLike,
        weights: str | os.PathLike,
        poses: int = 8,
        pose_side: str = "query",
        null_images: int = 500,
        view_images: int = 300,
        jitter: float = 0.0,
        store: str | os.PathLike | None = None,
        seed: int = 0,
        max_epochs: int = 1,
    ) -> None:
        if pose_side not in SIDES:
            raise InputError(f"The 'pose_side' parameter must be 'query' or 'reference'. Got {pose_side!r} instead.")
        if null_images < MemorizationIndex.smallest_images or jitter < 0:
            raise InputError(
                f"The 'null_images' parameter must be at least {MemorizationIndex.smallest_images} and 'jitter' at least 0. "
                f"Got {null_images!r} and {jitter!r} instead."
            )
        if max_epochs != 1:
            raise InputError(f"The 'max_epochs' parameter of IndexFitter must be 1: a fit is one pass. Got {max_epochs!r} instead.")
        self.evaluator, self.dataset, self.index, self.seed = evaluator, evaluator.dataset, index, seed
        self.reference_poses, self.query_poses = (1, poses) if pose_side == "query" else (poses, 1)
        self.null_images, self.view_images, self.jitter = null_images, view_images, float(jitter)
        self.output, self.weights = Path(output), weights
        self.store = store or self.output.parent / "features"

    def run(self) -> None:
        """Embed, fit and write."""
        self.dataset.require()
        self.output.parent.mkdir(parents=True, exist_ok=True)
        made_by = index_fingerprint(self.dataset, self.evaluator.network, self.weights)
        training = self._embed(self.dataset, self.reference_poses, "training", made_by)
        null = self._embed_null(training, made_by)
        if idist.get_rank() == 0:
            self._fit(training, null)
            self._write(training, made_by)
        idist.barrier()

    def _embed(self, dataset: RecordDataset, poses: int, label: str, made_by: str, *drawn: float) -> EmbeddedSet:
        made = fingerprint(made_by, poses, *drawn)
        store = EmbeddingStore(part_of(self.store, f"{label}-{made[:8]}"), made)
        idist.barrier()  # a store clears away what a killed run left: not what another process is writing
        records, keys = self.evaluator.embed(dataset, store, poses, label)
        if not records:
            raise dataset.image_set.unreadable()
        return EmbeddedSet(records, keys, store, self.evaluator.output_slices)

    def _embed_null(self, training: EmbeddedSet, made_by: str) -> EmbeddedSet:
        rows = spread_over_patients(training.patients, self.null_images, self.seed)
        records = [training.records[i] for i in rows]
        if not self.jitter and self.query_poses == self.reference_poses:
            return EmbeddedSet(records, [training.keys[i] for i in rows], training.store, training.outputs)
        dataset = self.dataset.with_records(records, self._jittered() if self.jitter else None)
        return self._embed(dataset, self.query_poses, "null", made_by, self.jitter, self.seed if self.jitter else 0)

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

    def _fit(self, training: EmbeddedSet, null: EmbeddedSet) -> None:
        queries = {name: value[:, : self.query_poses] for name, value in null.features().items()}
        place = {record.id: i for i, record in enumerate(training.records)}
        own = np.array([place[record.id] for record in null.records], np.int64)
        differences = None
        if self.view_images and self.index.calibration != "paper":
            rows = spread_over_patients(training.patients, self.view_images, self.seed)
            differences = self.evaluator.view_differences(training.thumbnails(rows), self.seed)
        self.index.fit(StoredFeatures.of(training), training.patients, queries, own, view_differences=differences)

    def _write(self, training: EmbeddedSet, made_by: str) -> None:
        self.index.save(self.output, made_by)
        rows = [{"image": record.id, "patient": record.patient} for record in training.records]
        write_atomic(self.output.with_name("images.csv"), to_csv(("image", "patient"), rows))
        skipped = [{"image": s.path, "reason": s.reason} for s in self.dataset.image_set.skipped]
        write_atomic(self.output.with_name("skipped.csv"), to_csv(("image", "reason"), skipped))
        self._write_network(len(training) * self.reference_poses)
        logger.info(
            f"Fitted on {len(training)} images of {len(set(training.patients))} patients, {len(skipped)} skipped; "
            f"null {self.index.null_mean:.3f} +- {self.index.null_std:.3f}, "
            f"{self.index.clipped_in_null} of its layer cosines were below 0 and clipped."
        )

    def _write_network(self, rows: int) -> None:
        """The whole scorer as one state dict, for ckpt_export and onnx_export; a large reference is left to the search."""
        path = self.output.with_name("model.pt")
        if rows > NETWORK_ROWS:
            path.unlink(missing_ok=True)
            return
        scorer = MemorizationScorer(self.evaluator.network, self.query_poses).fill(self.index)
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
        device: where cosines are computed.
    """

    def __init__(
        self,
        dataset: RecordDataset,
        network: Any,
        reference: str | os.PathLike,
        weights: str | os.PathLike,
        output: str | os.PathLike,
        device: str | torch.device = "cpu",
    ) -> None:
        self.dataset, self.network, self.reference, self.weights = dataset, network, reference, weights
        self.output, self.device = Path(output), device

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
        self.volumes = self.dataset.image_set.whole_volumes
        self.reference_holds_poses = any(len(value.shape) == 3 for value in self.index.reference.values())
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
            features = state.output["pred"].cpu().numpy().astype(np.float32)
            if features.shape[1] != self.index.null_poses:  # another number would shift every MI
                raise InputError(
                    f"The 'poses' parameter must be {self.index.null_poses}, as the reference was fitted with. Got {features.shape[1]} "
                    "instead; leave it out."
                )
            self.waiting.append((state.batch["index"].tolist(), features))
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
            "pose": self._pose_words(int(scores.pose[i])), "similarity": scores.similarity[i], "distance": scores.distance[i],
            "mi": scores.mi[i], "oni": scores.oni[i], "null_p": null_p, "consensus": int(scores.consensus[i]),
            "margin": scores.margin[i].min(),
        }  # fmt: skip
        for k, name in enumerate(self.index.reference):
            row[f"match_{name}"] = self.training[int(scores.neighbour[i, k])]["image"]
            row[f"margin_{name}"] = scores.margin[i, k]
        return row

    def _pose_words(self, number: int) -> str:
        """What maps the match on the image: the reference's pose, or the inverse of the query's."""
        if self.volumes:
            return VolumePose(number if self.reference_holds_poses else inverse_axis_pose(number)).words()
        flip, turns = number >= 4, number % 4
        return Pose(flip, turns if flip or self.reference_holds_poses else (4 - turns) % 4).words(0)

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
