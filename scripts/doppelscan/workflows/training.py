"""Handlers of the training workflow: say what is looked at, resume after a kill, keep the best weights, stop when nothing improves."""

from __future__ import annotations

import logging
import math
import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver, EarlyStopping
from monai.engines import IterationEvents
from monai.handlers import ValidationHandler
from safetensors.torch import save

from doppelscan.deepssim import CohortDataset, state_digest, unwrapped
from doppelscan.errors import InputError, WeightsError
from doppelscan.files import to_csv, write_atomic
from doppelscan.wording import counted

__all__ = [
    "BestWeights",
    "EarlyStop",
    "EpochSeeds",
    "GradientClip",
    "ListOutput",
    "NamedHandlers",
    "ResumableCheckpoint",
    "TrainingTables",
    "Validation",
    "WeightsTold",
]

logger = logging.getLogger(__name__)


def write_weights(path: Path, item: Any, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict of ``item`` beside ``path`` and rename: a full disk leaves the old file, which is told in one line. A path that ends with
    ``.safetensors`` gets that format, with ``metadata``."""
    state = unwrapped(item).state_dict()

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            try:
                if path.suffix == ".safetensors":
                    values = {name: value.detach().cpu().contiguous() for name, value in state.items()}
                    file.write(save(values, dict(metadata or {})))
                else:
                    torch.save(state, file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    saved(write, path.parent)


def saved(save: Callable[[], Any], folder: str | os.PathLike) -> None:
    """Run ``save``; a disk that is full or not writable is told in one line."""
    try:
        save()
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(folder).free / 2**20 if os.path.isdir(folder) else 0
        reason = (str(error).splitlines() or [""])[0][:160]
        raise InputError(
            f"The folder {str(folder)!r} must be writable and have room. Got {free:.0f} MB free and the error: {reason}; "
            "make room or choose another folder, and start again: training resumes at the last whole checkpoint."
        ) from error


def _key_metric(engine: Engine) -> float:
    state: Any = engine.state  # MONAI adds the name of the key metric
    return float(state.metrics[state.key_metric_name])


class NamedHandlers:
    """Handlers under names, attached in their order: a config refers to one or disables one by its name, which does not change when another
    is put before it.

    Args:
        handlers: name -> ignite handler, or None in the place of one that an override file puts there; MONAI leaves out those that a config disables.
    """

    def __init__(self, handlers: Mapping[str, Any | None]) -> None:
        self.handlers = handlers

    def attach(self, engine: Engine) -> None:
        """Attach each."""
        for handler in self.handlers.values():
            if handler is not None:
                handler.attach(engine)


class TrainingTables:
    """Write ``training_images.csv`` (index, path, cohort), by whose index errors name images, and ``skipped.csv`` (image, reason).

    Args:
        training: what is trained on.
        validation: what is validated on; what was left out of it is listed too.
        folder: where to; made when missing. The first process writes.
        samples: of a generator, that are the second images of pairs; they are counted, and what was left out of them is listed.
    """

    def __init__(
        self, training: CohortDataset, validation: CohortDataset, folder: str | os.PathLike, samples: CohortDataset | None = None
    ) -> None:
        self.training, self.validation, self.folder, self.samples = training, validation, Path(folder), samples

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            saved(self._write, self.folder)

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        training = self.training
        rows = [{"index": i, "path": path, "cohort": int(training.cohorts[i])} for i, path in enumerate(training.paths)]
        write_atomic(self.folder / "training_images.csv", to_csv(("index", "path", "cohort"), rows))
        sets = [training, self.validation, *([] if self.samples is None else [self.samples])]
        skipped = {one.path: one.reason for data in sets for one in data.skipped}
        listed = [{"image": path, "reason": reason} for path, reason in skipped.items()]
        write_atomic(self.folder / "skipped.csv", to_csv(("image", "reason"), listed))
        samples = "" if self.samples is None else f", {counted(len(self.samples.paths), 'sample')}"
        logger.info(
            f"Training on {counted(sum(map(bool, training.paths)), 'image')}{samples} and {training.paths.count('')} generated ones, validating on "
            f"{self._validated_on()}; {len(skipped)} could not be used and are listed with their reasons in {self.folder / 'skipped.csv'}."
        )

    def _validated_on(self) -> str:
        own, real = set(self.training.paths), [path for path in self.validation.paths if path]
        trained = sum(path in own for path in real)
        whose = f"{trained} of them trained on, too" if trained else "none of them trained on"
        return f"{counted(len(real), 'image')} ({whose}) and {self.validation.paths.count('')} generated ones"


class EpochSeeds:
    """Tell samplers and view makers what to draw before each epoch.

    Args:
        seeded: objects with ``set_epoch(epoch)``, epochs from 0.
        epoch: None for the engine's epoch, so that a resumed epoch of training is the one that was interrupted; a number draws the same in
            every run of the engine, so that all validations look at the same batches and views.
    """

    def __init__(self, seeded: Sequence[Any], epoch: int | None = None) -> None:
        self.seeded, self.epoch = seeded, epoch

    def attach(self, engine: Engine) -> None:
        """Register with the engine; the loader is set up before an epoch starts, so STARTED and the last epoch's end count."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for item in self.seeded:
            item.set_epoch(engine.state.epoch if self.epoch is None else self.epoch)


class GradientClip:
    """Clip the norm of the network's gradient before each step; for the trainer.

    Args:
        network: whose gradient.
        max_norm: largest norm (METHODS: 1.0 in arXiv 2509.16582).
    """

    def __init__(self, network: torch.nn.Module, max_norm: float = 1.0) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, between backward pass and step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class Validation(ValidationHandler):
    """MONAI's ``ValidationHandler`` by the epoch, which validates after the last one too: a training shorter than the interval has weights.

    Args:
        validator: MONAI's ``Evaluator``.
        interval: epochs between validations.
        exec_at_start: validate before the first step as well, so that it is seen whether training makes the weights better; the validator's
            ``state.before_training`` is then True.

    Raises:
        InputError: ``interval`` below 1.
    """

    def __init__(self, validator: Any, interval: int, exec_at_start: bool = False) -> None:
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise InputError(f"The 'val_interval' parameter must be a whole number from 1 on. Got {interval!r} instead.")
        super().__init__(interval, validator, epoch_level=True, exec_at_start=exec_at_start)

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""

        def due(trainer: Engine, epoch: int) -> bool:
            return epoch % self.interval == 0 or epoch == trainer.state.max_epochs

        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=due), self)
        if self.exec_at_start:
            engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Validate the weights that training starts from."""
        assert self.validator is not None
        state: Any = self.validator.state
        state.before_training = True
        self.validator.run(1)  # of epoch 0, MONAI's evaluator runs two
        state.before_training = False


class BestWeights:
    """Write the network's state dict when the validation metric improves, and log each; for the evaluator.

    Its own state is part of the training checkpoint, so a resumed training does not overwrite better weights, which MONAI's
    ``CheckpointSaver(save_key_metric=True)`` does with its first validation. Weights that were validated before training are not written: they are there.

    Args:
        path: file to write, a plain state dict as MONAI's exports take it; ``.safetensors`` is written as that.
        network: whose weights; anything that has a state dict.
        better: whether the first of two metrics is better than the second, such as ``operator.lt`` of an error.
        metadata: what a ``.safetensors`` file says of itself.

    Attributes:
        best: the best metric of a trained epoch; infinite while there is none.
        epoch: its epoch, from 1 on.
        before: the metric before training, NaN where that was not asked for.
        name: of the metric.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        network: Any,
        better: Callable[[float, float], bool] = operator.gt,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.network, self.better, self.metadata = Path(path), network, better, metadata
        self.best = float("-inf") if better(1.0, 0.0) else float("inf")
        self.epoch, self.before, self.name = 0, float("nan"), ""

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator, after its metrics are computed."""
        engine.add_event_handler(Events.COMPLETED, self)

    def state_dict(self) -> dict[str, float]:
        """The best metric so far, and its epoch."""
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore :meth:`state_dict`."""
        self.best, self.epoch = float(state["best"]), int(state.get("epoch", 0))

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        metric, self.name = _key_metric(engine), str(state.key_metric_name)
        first = idist.get_rank() == 0
        if getattr(state, "before_training", False):
            self.before = metric
            if first:
                logger.info(f"Before training: {self.name} {metric:.4f}.")
            return
        better = self.better(metric, self.best)
        if first:
            logger.info(f"Epoch {engine.state.epoch}: {self.name} {metric:.4f}{', the best so far' if better else ''}.")
        if not better:
            return
        self.best, self.epoch = metric, engine.state.epoch
        if first:
            write_weights(self.path, self.network, self.metadata)


class WeightsTold:
    """Say at the end of training where the best weights are and how good, and warn of what trained nothing; for the trainer.

    Args:
        best: writes them.
        network: that is trained.
    """

    def __init__(self, best: BestWeights, network: torch.nn.Module) -> None:
        self.best, self.network = best, network
        self.first = ""

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, before what restores a checkpoint."""
        engine.add_event_handler(Events.STARTED, self.remember)
        engine.add_event_handler(Events.COMPLETED, self)

    def remember(self, engine: Engine) -> None:
        """Remember the weights that training starts from."""
        self.first = state_digest(unwrapped(self.network))

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        best = self.best
        if not math.isfinite(best.best):
            logger.warning(f"No weights were written to {best.path}: no validation had a finite {best.name or 'metric'}.")
            return
        when = f" (epoch {best.epoch} of {engine.state.max_epochs})" if best.epoch else ""
        name = best.name or "metric"
        before = f", {best.before:.4f} before training" if math.isfinite(best.before) else ""
        logger.info(f"The best weights{when} are in {best.path}: {name} {best.best:.4f}{before}.")
        if state_digest(unwrapped(self.network)) == self.first:
            logger.warning(
                "Training changed no weight: they are those it started from. The learning rate is 0, or all parts are frozen."
            )
        elif math.isfinite(best.before) and not best.better(best.best, best.before):
            logger.warning(
                f"No epoch was better than the weights that training started from ({name} {best.before:.4f}): keep those, or train on more, or longer."
            )


class ListOutput:
    """Give the trainer's output the form that MONAI's own handlers read the loss from, a list of dictionaries; the first handler.

    The batches are not decollated, since the targets belong to groups; without this, what ``--tracking mlflow`` adds fails.
    """

    def attach(self, engine: Engine) -> None:
        """Register with the trainer, before what reads its output."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state: Any = engine.state
        state.output = [state.output]


class ResumableCheckpoint:
    """Save everything that training needs each ``interval`` epochs, and start from the newest such checkpoint if there is one.

    Args:
        folder: where ``training_N.pt`` go; the last two are kept.
        save_dict: objects with a state dict; the trainer's own state is added.
        interval: epochs between checkpoints.
        resume: False starts anew.

    Raises (at the start of training):
        WeightsError: a checkpoint is there but is of another architecture or damaged; the keys are listed.
    """

    def __init__(self, folder: str | os.PathLike, save_dict: Mapping[str, Any], interval: int = 1, resume: bool = True) -> None:
        self.folder, self.interval, self.resume = Path(folder), interval, resume
        self.save_dict = {name: unwrapped(item) for name, item in save_dict.items()}

    def attach(self, engine: Engine) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        self.folder.mkdir(parents=True, exist_ok=True)
        writer = Checkpoint(
            {**self.save_dict, "trainer": engine},
            DiskSaver(str(self.folder), require_empty=False),
            filename_prefix="training",
            filename_pattern="{filename_prefix}_{global_step}.pt",
            global_step_transform=lambda engine, event: engine.state.epoch,
            n_saved=2,
        )
        engine.add_event_handler(
            Events.EPOCH_COMPLETED(every=self.interval) | Events.COMPLETED, lambda e: saved(lambda: writer(e), self.folder)
        )

    def newest(self) -> Path | None:
        """The checkpoint of the latest epoch."""
        found = {
            int(p.stem.rpartition("_")[2]): p for p in self.folder.glob("training_*.pt") if p.stem.rpartition("_")[2].isdigit()
        }
        return found[max(found)] if found else None

    def load(self, engine: Engine) -> None:
        """Restore the newest checkpoint into the objects and the trainer."""
        path = self.newest()
        if path is None or not self.resume:
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for name, item in self.save_dict.items():
                item.load_state_dict(state[name])
            trainer = state["trainer"]
        except Exception as error:
            reason = " ".join(str(error).split())[:400]
            raise WeightsError(
                f"The checkpoint {str(path)!r} must be of this training. Got: {reason}; pass --resume False or another --output_dir."
            ) from error
        epochs = engine.state.max_epochs
        engine.load_state_dict({"epoch_length": trainer["epoch_length"], "max_epochs": epochs, "iteration": trainer["iteration"]})
        logger.info(f"Resumed {path.name} at epoch {engine.state.epoch} of {epochs}.")


class EarlyStop:
    """Stop the trainer when the evaluator's key metric has not risen for ``patience`` validations; for the trainer.

    Args:
        evaluator: that validates.
        patience: validations without improvement.
    """

    def __init__(self, evaluator: Engine, patience: int = 10) -> None:
        self.evaluator, self.patience = evaluator, patience

    def attach(self, engine: Engine) -> None:
        """Register with the trainer; ignite's ``EarlyStopping`` then listens to the evaluator."""
        self.stopping = EarlyStopping(self.patience, _key_metric, engine)
        self.evaluator.add_event_handler(Events.COMPLETED, self.stopping)

    def state_dict(self) -> Mapping[str, float]:
        """Counter and best score of the handler."""
        return self.stopping.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore :meth:`state_dict`."""
        self.stopping.load_state_dict(state)
