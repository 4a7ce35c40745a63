"""The registered SSIM of synthetic and training images as the pair head predicts it: all pairs, the highest of each synthetic image in a table."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from doppelscan.deepssim import PAIR_OUTPUTS, PairSSIM, pair_columns, predicted_ssim, verdict
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import ImageRecord
from doppelscan.search import EmbeddedSet, EmbeddingStore
from doppelscan.wording import counted
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset

__all__ = ["PredictedSSIMTable"]

logger = logging.getLogger(__name__)


class PredictedSSIMTable:
    """Writes ``ssim.csv`` (image, match, ssim, verdict: of each synthetic image the ``nearest`` training images of highest predicted SSIM) and
    ``skipped.csv`` (image, reason).

    Args:
        evaluator: embeds; its network gives the outputs :data:`~doppelscan.deepssim.PAIR_OUTPUTS`.
        training: the training set, embedded as it is.
        synthetic: the synthetic set, in 8 poses.
        head: predicts.
        output_dir: of the tables, and of the embeddings, which are not computed again.
        nearest: rows of a synthetic image.

    Raises (of :meth:`run`):
        InputError: no readable image in a set, ``nearest`` below 1, or an encoder without these outputs.
    """

    def __init__(
        self,
        evaluator: EmbeddingEvaluator,
        training: RecordDataset,
        synthetic: RecordDataset,
        head: PairSSIM,
        output_dir: str | os.PathLike,
        nearest: int = 5,
    ) -> None:
        if not isinstance(nearest, int) or isinstance(nearest, bool) or nearest < 1:
            raise InputError(f"The 'nearest' parameter must be a whole number from 1 on. Got {nearest!r} instead.")
        self.evaluator, self.training, self.synthetic = evaluator, training, synthetic
        self.head, self.output_dir, self.nearest = head, Path(output_dir), nearest

    def run(self) -> None:
        """Embed what is not embedded yet, predict and write."""
        pair_columns(self.evaluator.output_slices)
        training, first = self._embedded(self.training, 1)
        synthetic, second = self._embedded(self.synthetic, 8)
        ssim = predicted_ssim(self.head, first[:, 0], second)
        rows: list[dict[str, Any]] = []
        for column, record in enumerate(synthetic):
            values, order = ssim[:, column].sort(descending=True, stable=True)
            for value, row in zip(values[: self.nearest].tolist(), order.tolist(), strict=False):
                rows.append({"image": record.id, "match": training[row].id, "ssim": f"{value:.4f}", "verdict": verdict(value)})
        write_atomic(self.output_dir / "ssim.csv", to_csv(("image", "match", "ssim", "verdict"), rows))
        skipped = [
            {"image": one.path, "reason": one.reason} for data in (self.training, self.synthetic) for one in data.image_set.skipped
        ]
        write_atomic(self.output_dir / "skipped.csv", to_csv(("image", "reason"), skipped))
        left = f"; {len(skipped)} could not be used, see {self.output_dir / 'skipped.csv'}" if skipped else ""
        logger.info(
            f"The predicted SSIM of {counted(len(synthetic), 'synthetic image')} and the {self.nearest} nearest of "
            f"{counted(len(training), 'training image')} is in {self.output_dir / 'ssim.csv'}{left}."
        )

    def _embedded(self, dataset: RecordDataset, poses: int) -> tuple[list[ImageRecord], torch.Tensor]:
        dataset.require()
        store = EmbeddingStore(self.output_dir / "embeddings" / f"poses-{poses}", self.evaluator.fingerprint(dataset, poses))
        records, keys = self.evaluator.embed(dataset, store, poses, dataset.image_set.name)
        if not records:
            raise dataset.image_set.unreadable()
        features = EmbeddedSet(records, keys, store, self.evaluator.output_slices).features(names=PAIR_OUTPUTS)
        return records, torch.cat([torch.from_numpy(features[name]) for name in PAIR_OUTPUTS], 2)
