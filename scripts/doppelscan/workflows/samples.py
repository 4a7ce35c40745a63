"""An audit of a generator's samples while it trains: an ignite handler for any trainer, MONAI's generative ones too."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.engine.deterministic import keep_random_state

from doppelscan.arguments import Count, Flag, Folder, Rate, Source, checked
from doppelscan.errors import InputError
from doppelscan.settings import audit_settings
from doppelscan.workflows.audit import GATE_STATUS, AuditResult
from doppelscan.workflows.run import audit

__all__ = ["AuditOfSamples", "SampleAudit"]

PACKAGE = Path(__file__).resolve().parents[1]
FOUND = "memorization found"
METRICS = tuple(f"memorization/{name}" for name in ("flagged_share", "flagged_lower", "flagged_upper", "mean_mi", "max_mi"))
NOT_AUDITED = torch.zeros(2 + len(METRICS), dtype=torch.float64)
logger = logging.getLogger(__name__)


class SampleAudit:
    """ignite handler: every ``every`` epochs audit the generator's current samples and log what was found.

    The audit runs in a process of its own, so that neither random numbers, threads nor the distributed state of the training change, and one
    that cannot be made (samples that are still flat, say) is a warning and not the end of the training. The training images are embedded once.

    In distributed training the handler is attached in every process: the first one samples and audits, the others wait for what it found, so that
    all of them log the same metrics and stop at the same epoch. The process group's ``timeout`` has to be longer than an audit.

    Args:
        training: folder, .csv or .json of the images that the generator is trained on.
        samples: called with the engine; gives the current samples, float or integer [N, 1, H, W] or [N, H, W], or [N, 1, X, Y, Z] for volumes,
            as a tensor or array in any range. What it draws is not missing in the training: the generators of PyTorch, NumPy and Python are set back. In
            distributed training only the first process calls it: sample from the ``module`` of DistributedDataParallel, not from the wrapper.
        output: folder; each audit is written to ``epoch_0010`` and so on, with its samples and its report (in ``report`` where it is redacted). Holds
            patient data.
        holdout: real images of other patients, the control.
        every: epochs between audits.
        log_dir: folder of a TensorBoard log; None writes none.
        tracking_uri: of MLflow, such as ``sqlite:///mlruns.db``; the run that is active is used, else one is started. None logs nothing there.
        stop: terminate the training when memorization is found.
        stop_when: terminate it when something is flagged and the upper 95 % bound of the flagged share is above this, between 0 and 1: a few
            samples bound little, so a bound alone, of none flagged, stops nothing.
        settings: as of :func:`doppelscan.audit`, such as ``fdr`` or ``device``.

    Logged, and put into ``engine.state.metrics``: ``memorization/flagged_share`` with ``memorization/flagged_lower`` and
    ``memorization/flagged_upper`` (Wilson 95 %), ``memorization/mean_mi`` and ``memorization/max_mi``.

    Raises:
        InputError: ``every`` below 1, a setting that an audit does not have or a value that it cannot be, or samples of another shape.
    """

    def __init__(
        self,
        training: str | os.PathLike,
        samples: Callable[[Engine], torch.Tensor | np.ndarray],
        output: str | os.PathLike,
        holdout: str | os.PathLike | None = None,
        every: int = 10,
        log_dir: str | os.PathLike | None = None,
        tracking_uri: str | None = None,
        stop: bool = False,
        stop_when: float | None = None,
        **settings: Any,
    ) -> None:
        self.every, self.stop = checked("every", Count, every), checked("stop", Flag, stop)
        self.stop_when = checked("stop_when", Rate | None, stop_when)
        # What every audit of a training would find is the same: a self-test in each would cost more than it tells.
        kept = {"self_test": False, "training": training, "holdout": holdout, "store": Path(output) / "store"}
        self.settings = audit_settings({**kept, **settings})
        self.samples, self.output = samples, Path(output)
        self.log_dir, self.tracking_uri = log_dir, tracking_uri

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.every), self)

    def __call__(self, engine: Engine) -> None:
        found = self._found(engine) if idist.get_rank() == 0 else NOT_AUDITED.clone()
        # Metrics that only one process had, or a stop of one, would leave the others waiting in their next collective call.
        audited, stop, *values = torch.as_tensor(idist.broadcast(found, src=0)).tolist()
        if audited:
            engine.state.metrics.update(zip(METRICS, values, strict=True))
        if stop:
            engine.terminate()

    def _found(self, engine: Engine) -> torch.Tensor:
        """float64: whether an audit was made, whether to stop, and the values of ``METRICS``."""
        epoch = engine.state.epoch
        folder = self.output / f"epoch_{epoch:04d}"
        self._sample(engine, folder / "samples")
        # A redacted report is handed on as a folder: the samples are not in it.
        report = folder / "report" if self.settings.get("redact") else folder
        summary = self._audit(folder, report)
        if summary is None:
            return NOT_AUDITED.clone()
        mi = summary["set_mi"] or {"mean": float("nan"), "max": float("nan")}
        flagged = summary["flagged"]
        values = [flagged["share"], flagged["lower"], flagged["upper"], mi["mean"], mi["max"]]
        self._log(dict(zip(METRICS, values, strict=True)), epoch)
        logger.info(
            "Samples of epoch %d: %s (%.1f %% flagged); %s",
            epoch,
            summary["conclusion"],
            100 * flagged["share"],
            report / "report.html",
        )
        return torch.tensor([1.0, self._is_enough(summary), *values], dtype=torch.float64)

    def _is_enough(self, summary: dict[str, Any]) -> bool:
        flagged = summary["flagged"]
        above = self.stop_when is not None and flagged["count"] > 0 and flagged["upper"] > self.stop_when
        return above or (self.stop and summary["conclusion"] == FOUND)

    @keep_random_state
    def _sample(self, engine: Engine, folder: Path) -> None:
        # ignite keeps the generators of PyTorch's CPU, NumPy and Python; what is drawn on this process's GPU is kept here.
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices), torch.no_grad():
            self._write(self.samples(engine), folder)

    @staticmethod
    def _write(samples: torch.Tensor | np.ndarray, folder: Path) -> None:
        made = (
            samples.detach().cpu().float().numpy() if isinstance(samples, torch.Tensor) else np.asarray(samples, dtype=np.float32)
        )
        if made.ndim in (4, 5) and made.shape[1] == 1:
            made = made[:, 0]
        if made.ndim not in (3, 4):
            raise InputError(
                f"The 'samples' function must give [N, 1, H, W], [N, H, W] or [N, 1, X, Y, Z]. Got an array of shape {list(made.shape)}."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(made):
            np.save(folder / f"sample{number:05d}.npy", one)

    def _audit(self, folder: Path, report: Path) -> dict[str, Any] | None:
        values = {**self.settings, "synthetic": str(folder / "samples"), "output": str(report)}
        arguments = [f"--{name}={value if isinstance(value, str) else repr(value)}" for name, value in values.items()]
        alone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
        environment = {key: value for key, value in os.environ.items() if key not in alone}
        environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, [environment.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "doppelscan.cli", "audit", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, *GATE_STATUS.values()):
            lines = done.stderr.strip().splitlines() or ["no message"]
            logger.warning("The samples could not be audited, the training goes on: %s", lines[-1])
            return None
        return json.loads((report / "summary.json").read_text())

    def _log(self, values: dict[str, float], epoch: int) -> None:
        if self.log_dir is not None:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(self.log_dir)) as writer:
                for name, value in values.items():
                    writer.add_scalar(name, value, epoch)
        if self.tracking_uri is not None:
            import mlflow

            mlflow.set_tracking_uri(self.tracking_uri)
            if mlflow.active_run() is None:
                mlflow.start_run()
            mlflow.log_metrics({name: value for name, value in values.items() if np.isfinite(value)}, step=epoch)


class AuditOfSamples:
    """The audit that follows a sampling in one command, see configs/zoo/audited.json. What it is asked is checked before anything is sampled.

    Args:
        training: folder, .csv or .json of the images that the generator was trained on.
        output: folder of the report. Holds patient data.
        holdout: real images of other patients, the control.
        settings: as of :func:`doppelscan.audit`, such as ``fdr``, ``channel`` or ``slice_axis``.

    Raises:
        InputError: a set that is not there, or a setting that an audit does not have.
    """

    def __init__(
        self,
        training: str | os.PathLike | None,
        output: str | os.PathLike,
        holdout: str | os.PathLike | None = None,
        **settings: Any,
    ) -> None:
        sets = {"training": checked("training_dir", Source, training), "holdout": checked("holdout_dir", Source | None, holdout)}
        self.settings = audit_settings({**sets, "output": checked("audit_dir", Folder, output), **settings})

    def __call__(self, synthetic: str | os.PathLike) -> AuditResult:
        """Audit the set ``synthetic``: :func:`doppelscan.audit`."""
        return audit(synthetic=synthetic, **self.settings)
