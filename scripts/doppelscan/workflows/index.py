"""The mi_scorer bundle's engines: fit the Memorization Index on a training set, score a set against it."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import Trainer
from torch.utils.data import DataLoader

from doppelscan.deepssim import file_sha256
from doppelscan.images import InputError, SkippedImage
from doppelscan.memorization import MemorizationIndex
from doppelscan.report import to_csv, write_atomic
from doppelscan.search import fingerprint
from doppelscan.workflows.embed import PoseInferer, RecordDataset, collate_readable

__all__ = ["FeatureCollector", "IndexFitter", "IndexScoreWriter"]

COLUMNS = ("image", "patient", "match", "similarity", "distance", "mi", "oni", "consensus", "pose")


class FeatureCollector:
    """Gathers an engine's features, float32 [n, P, D], with the rows they belong to.

    Args:
        dataset: what the engine runs over.
        network: tells which slice of D is which layer (``output_slices``).
    """

    def __init__(self, dataset: RecordDataset, network: Any) -> None:
        self.dataset, self.slices = dataset, network.output_slices
        self.rows: list[int] = []
        self.parts: list[np.ndarray] = []

    def add(self, batch: dict, predictions: torch.Tensor) -> None:
        records = self.dataset.image_set.records
        for index, reason in batch["errors"]:
            self.dataset.image_set.skipped.append(SkippedImage(records[index].id, reason))
        if "index" in batch:
            self.rows += batch["index"].tolist()
            self.parts.append(predictions.cpu().numpy().astype(np.float32))

    def features(self) -> dict[str, np.ndarray]:
        """Layer -> float32 [n, P, C]."""
        if not self.parts:
            raise self.dataset.image_set.unreadable()
        stacked = np.concatenate(self.parts)
        return {name: stacked[..., part] for name, part in self.slices.items()}


def index_fingerprint(dataset: RecordDataset, network: Any, weights: str | os.PathLike) -> str:
    """What a fitted reference is bound to: weights, layers and preprocessing."""
    layers = {name: [part.start, part.stop] for name, part in network.output_slices.items()}
    return fingerprint(file_sha256(weights), layers, dataset.transform_settings())


class IndexFitter(Trainer):
    """MONAI trainer whose one epoch passes over the training set and then fits the index; there is nothing to iterate.

    Args:
        device: of the network.
        dataset: the training set.
        network: image -> layer features, with ``output_slices``.
        inferer: poses; with 8 the null takes its maximum over as many poses as a score does.
        index: fitted at the end.
        output: path of the reference file; images.csv is written beside it.
        weights: path of the network's weights, whose sha256 the reference is bound to.
        batch_size: images at a time.
        max_epochs: 1.
        train_handlers: further ignite handlers.
    """

    def __init__(
        self,
        device: str | torch.device,
        dataset: RecordDataset,
        network: Any,
        inferer: PoseInferer,
        index: MemorizationIndex,
        output: str | os.PathLike,
        weights: str | os.PathLike,
        batch_size: int = 16,
        max_epochs: int = 1,
        train_handlers: Sequence | None = None,
    ) -> None:
        loader = DataLoader(dataset, batch_size, collate_fn=collate_readable)
        super().__init__(device, max_epochs, loader, iteration_update=self._collect, handlers=train_handlers, decollate=False)
        self.dataset, self.network, self.inferer, self.index = dataset, network, inferer, index
        self.output, self.weights = Path(output), weights
        self.collector = FeatureCollector(dataset, network)
        self.add_event_handler(Events.COMPLETED, self._fit)

    def run(self) -> None:  # type: ignore[override]
        """Pass over the training set and fit."""
        self.dataset.require()
        super().run()

    def _collect(self, engine: Engine, batch: dict) -> dict:
        with torch.no_grad():
            predictions = self.inferer(batch["image"].to(self.state.device), self.network)
        self.collector.add(batch, predictions)
        return {"pred": predictions}

    def _fit(self, engine: Engine) -> None:
        posed = self.collector.features()
        records = [self.dataset.image_set.records[i] for i in self.collector.rows]
        single = {name: value[:, 0] for name, value in posed.items()}
        self.index.fit(single, [r.patient for r in records], posed)
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.index.save(self.output, index_fingerprint(self.dataset, self.network, self.weights))
        rows = [{"image": r.id, "patient": r.patient} for r in records]
        write_atomic(self.output.with_name("images.csv"), to_csv(("image", "patient"), rows))


class IndexScoreWriter:
    """ignite handler of an evaluator: score its predictions against a fitted reference and write a table.

    Args:
        dataset: what the evaluator runs over.
        network: with ``output_slices``.
        reference: file of a fitted index; the images.csv beside it names the matches.
        weights: path of the network's weights.
        output: path of the CSV: image, patient, match, similarity, distance, mi, oni, consensus, pose.
    """

    def __init__(
        self,
        dataset: RecordDataset,
        network: Any,
        reference: str | os.PathLike,
        weights: str | os.PathLike,
        output: str | os.PathLike,
    ) -> None:
        self.dataset, self.network, self.reference, self.weights = dataset, network, reference, weights
        self.collector = FeatureCollector(dataset, network)
        self.output = Path(output)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self.collector.add(e.state.batch, e.state.output["pred"]))
        engine.add_event_handler(Events.COMPLETED, self.completed)

    def started(self, engine: Engine) -> None:
        if not Path(self.reference).is_file():
            raise InputError(
                f"The 'reference' parameter must be a file that train wrote. Got {str(self.reference)!r}; run train on the training set first."
            )
        try:
            self.index = MemorizationIndex.load(self.reference, index_fingerprint(self.dataset, self.network, self.weights))
        except ValueError as error:
            raise InputError(str(error)) from error
        with open(Path(self.reference).with_name("images.csv"), newline="", encoding="utf-8") as file:
            self.names = [row["image"] for row in csv.DictReader(file)]

    def completed(self, engine: Engine) -> None:
        scores = self.index.score(self.collector.features())
        records = [self.collector.dataset.image_set.records[i] for i in self.collector.rows]
        rows = [
            {
                "image": record.id,
                "patient": record.patient,
                "match": self.names[int(scores.candidates[i, 0])],
                "similarity": scores.similarity[i],
                "distance": scores.distance[i],
                "mi": scores.mi[i],
                "oni": scores.oni[i],
                "consensus": int(scores.consensus[i]),
                "pose": int(scores.pose[i]),
            }
            for i, record in enumerate(records)
        ]
        self.output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.output, to_csv(COLUMNS, rows))
