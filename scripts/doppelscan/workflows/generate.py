"""Handlers that train a generator: MONAI's engines with the autoencoder's KL, a moving average, files that can be sampled, and a bar with an end time."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from monai.utils import AdversarialIterationEvents, AdversarialKeys
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from doppelscan.deepssim import unwrapped
from doppelscan.errors import InputError, NotFiniteError, WeightsError
from doppelscan.files import to_csv, write_atomic
from doppelscan.generate import Condition, TrainingImages, kl_divergence
from doppelscan.generate.conditioning import as_text
from doppelscan.generate.files import encode_pixels, file_ending
from doppelscan.progress import progress
from doppelscan.workflows.training import saved, write_weights

__all__ = [
    "EpochRandomness",
    "FiniteLoss",
    "KLPenalty",
    "LatestWeights",
    "MovingAverage",
    "SameTraining",
    "TrainingProgress",
    "TrainingSetFiles",
]

logger = logging.getLogger(__name__)
SET_COLUMNS = ("path", "patient", "repeats", "index", "source", "condition")


def _require_finite(engine: Engine, loss: torch.Tensor) -> None:
    if not torch.isfinite(loss):
        state: Any = engine.state
        images = state.batch["index"].tolist() if "index" in state.batch else []
        raise NotFiniteError(
            f"The loss is {float(loss.detach())} at step {state.iteration} on the batch of images {images} of training_images.csv in the output "
            "folder; look at these images, or lower 'learning_rate' and train anew (--resume False or another --output_dir). What was written before "
            "is whole."
        )


class FiniteLoss:
    """Stop a ``SupervisedTrainer`` before a loss that is not finite reaches the weights.

    Raises (while training):
        NotFiniteError: with the step and the images of the batch.
    """

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, between loss and backward pass."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        _require_finite(engine, state.output["loss"])


class KLPenalty:
    """Let MONAI's ``AdversarialTrainer`` train an ``AutoencoderKL``, whose forward pass gives reconstruction, mean and sigma.

    The reconstruction alone goes to the discriminator and to the losses; ``weight`` * KL is added to the reconstruction loss, and their sum with the
    adversarial one is put under ``loss``, where handlers look for it.

    Args:
        weight: of the KL divergence (METHODS: 1e-6 in arXiv 2509.16582).

    Raises (while training):
        NotFiniteError: the loss is not finite; the weights are as they were.
    """

    def __init__(self, weight: float = 1e-6) -> None:
        self.weight = weight

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, which itself registers its events after its handlers."""
        engine.register_events(*AdversarialIterationEvents)
        engine.add_event_handler(AdversarialIterationEvents.GENERATOR_FORWARD_COMPLETED, self.split)
        engine.add_event_handler(AdversarialIterationEvents.RECONSTRUCTION_LOSS_COMPLETED, self.penalize)
        engine.add_event_handler(AdversarialIterationEvents.GENERATOR_LOSS_COMPLETED, self.total)

    @staticmethod
    def split(engine: Engine) -> None:
        """Keep the reconstruction where the trainer looks for it."""
        output: Any = engine.state.output
        reconstruction, mean, sigma = output[AdversarialKeys.FAKES]
        output.update({AdversarialKeys.FAKES: reconstruction, "pred": reconstruction, "kl": kl_divergence(mean, sigma)})

    def penalize(self, engine: Engine) -> None:
        """Add the KL term."""
        output: Any = engine.state.output
        output[AdversarialKeys.RECONSTRUCTION_LOSS] = output[AdversarialKeys.RECONSTRUCTION_LOSS] + self.weight * output["kl"]

    @staticmethod
    def total(engine: Engine) -> None:
        """Put the sum under ``loss``."""
        output: Any = engine.state.output
        output["loss"] = output[AdversarialKeys.RECONSTRUCTION_LOSS] + output[AdversarialKeys.GENERATOR_LOSS]
        _require_finite(engine, output["loss"])


class MovingAverage:
    """Update an average of the network's weights after each step.

    Its own state, with the number of steps, is part of the training checkpoint.

    Args:
        average: of :func:`~doppelscan.generate.moving_average`.
        network: what is trained.
    """

    def __init__(self, average: AveragedModel, network: torch.nn.Module) -> None:
        self.average, self.network = average, network

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.average.update_parameters(unwrapped(self.network))

    def state_dict(self) -> dict[str, Any]:
        """Of the average."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.average.load_state_dict(state)


class EpochRandomness:
    """Seed PyTorch before each epoch, so that a resumed one draws what the interrupted one would have drawn.

    Args:
        seed: with the epoch and the process, decides the draws.
        epoch: None for the engine's own; a number draws the same in every run, so that all validations draw alike.
    """

    def __init__(self, seed: int = 0, epoch: int | None = None) -> None:
        self.seed, self.epoch = seed, epoch

    def attach(self, engine: Engine) -> None:
        """Register with the engine."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch if self.epoch is None else self.epoch
        torch.manual_seed((self.seed * 1009 + epoch) * 1009 + idist.get_rank())


class TrainingProgress:
    """A bar over all steps of a training, with the loss, the rate and the end time; the first process shows it. After :class:`ListOutput`.

    Args:
        label: before the bar.
    """

    def __init__(self, label: str = "train") -> None:
        self.label = label
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after what resumes it."""
        if idist.get_rank() > 0:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.close)

    def step(self, engine: Engine) -> None:
        """One more; the bar of a resumed training goes on where it was."""
        state: Any = engine.state
        if self.bar is None:
            total = state.max_epochs * state.epoch_length
            self.bar = progress(None, self.label, "step", total=total, done=state.iteration - 1)
        self.bar.set_postfix_str(f"loss {float(state.output[0]['loss'].detach()):.4f}", refresh=False)
        self.bar.update()

    def close(self, engine: Engine, error: BaseException | None = None) -> None:
        """At the end, or before an error is told."""
        if self.bar is not None:
            self.bar.close()
        if error is not None:
            raise error


class TrainingSetFiles:
    """Write what a generator is trained on, as it sees it: ``training_images/`` (PNG, of volumes NIfTI), ``training_images.csv`` and ``skipped.csv``.

    The table is a set that an audit takes: path, patient, repeats (how often each image is shown), index (by which errors name images), source
    (the file and slice it came from), condition. It holds patient data.

    Args:
        training: the images.
        condition: what each is shown with.
        folder: where to; made when missing. The first process writes.
    """

    def __init__(self, training: TrainingImages, condition: Condition, folder: str | os.PathLike) -> None:
        self.training, self.condition, self.folder = training, condition, Path(folder)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after what resumes it: what another training wrote is not written over before that was refused."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            saved(self._write, self.folder)

    def _write(self) -> None:
        images = self.folder / "training_images"
        images.mkdir(parents=True, exist_ok=True)
        rows = []
        training = self.training
        for index, (record, pixels) in enumerate(zip(training.records, training.images, strict=True)):
            name = f"{index:06d}{file_ending(pixels.ndim - 1)}"
            write_atomic(images / name, encode_pixels(pixels[0].numpy(), training.voxel_size or 1.0))
            shown_with = self.condition.of(training.values[index])
            rows.append(
                {
                    "path": f"training_images/{name}",
                    "patient": record.patient,
                    "repeats": training.repeats[index],
                    "index": index,
                    "source": record.id,
                    "condition": as_text(shown_with),
                }
            )
        write_atomic(self.folder / "training_images.csv", to_csv(SET_COLUMNS, rows))
        skipped = [{"image": one.path, "reason": one.reason} for one in training.skipped]
        write_atomic(self.folder / "skipped.csv", to_csv(("image", "reason"), skipped))
        logger.info(
            f"Training on {len(rows)} images of {len({row['patient'] for row in rows})} patients, shown {min(training.repeats)} to "
            f"{max(training.repeats)} times a pass of {sum(training.repeats)}; {len(skipped)} could not be used and are listed with their reasons in "
            f"{self.folder / 'skipped.csv'}."
        )


class LatestWeights:
    """Write a file that can be used every ``interval`` epochs and at the end; for the trainer.

    Args:
        path: of the file.
        item: what has a state dict, such as a :class:`~doppelscan.generate.Generator`.
        interval: epochs between files.
        snapshots: every so many epochs a copy is kept as ``NAME_0010.pt``, by the epoch, so that a curve over the training can be drawn; None
            keeps none.
        metadata: what a ``.safetensors`` file says of itself.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        item: Any,
        interval: int = 1,
        snapshots: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        for name, value in (("interval", interval), ("snapshots", snapshots)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"The '{name}' parameter must be an integer >= 1. Got {value!r} instead.")
        self.path, self.item, self.interval, self.snapshots, self.metadata = Path(path), item, interval, snapshots, metadata

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, after the moving average."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        if engine.state.epoch % self.interval == 0:
            write_weights(self.path, self.item, self.metadata)
        if self.snapshots is not None and engine.state.epoch % self.snapshots == 0:
            write_weights(self.path.with_stem(f"{self.path.stem}_{engine.state.epoch:04d}"), self.item, self.metadata)

    def finish(self, engine: Engine) -> None:
        """Write the file after a last epoch that is none of the intervals."""
        if idist.get_rank() == 0 and engine.state.epoch % self.interval:
            write_weights(self.path, self.item, self.metadata)


class SameTraining:
    """Refuse to resume a training with other sizes, images or settings than it was started with; the first of what is resumed.

    Args:
        settings: plain values under names.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def state_dict(self) -> dict[str, Any]:
        """The settings."""
        return self.settings

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Compare with the settings of a checkpoint.

        Raises:
            WeightsError: one differs.
        """
        found = _difference(state, self.settings)
        if found:
            raise WeightsError(f"a training with {found}")


def _difference(before: Any, now: Any, name: str = "") -> str | None:
    """The first value that differs, in words, with where it lies; None when all are the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        parts = (_difference(before.get(key), now.get(key), f"{name} {key}".strip()) for key in {**now, **before})
        return next((part for part in parts if part), None)
    # A measured scale is rounded otherwise by other threads or devices.
    alike = math.isclose(before, now, rel_tol=1e-4) if isinstance(before, float) and isinstance(now, float) else before == now
    return None if alike else f"{name} {_short(before)}, not {_short(now)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:12]}..."
