"""``doppelscan.audit``: the Python face of configs/audit.json. It runs that config and nothing else."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from doppelscan.locations import audit_root
from doppelscan.progress import starting
from doppelscan.settings import AuditSettings, audit_command, audit_overrides
from doppelscan.workflows.audit import AuditResult
from doppelscan.workflows.errors import told_in_one_line

__all__ = ["audit", "audit_workflow", "quiet"]

LOGGERS = ("monai.bundle.workflows", "monai.bundle.scripts", "ignite.engine.engine.EmbeddingEvaluator")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what MONAI and ignite log of a workflow while it is made and run: it holds the paths of patients' images."""

    def kept(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    for name in LOGGERS:
        logging.getLogger(name).addFilter(kept)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(kept)


def audit_workflow(**settings: Any) -> ConfigWorkflow:
    """MONAI workflow of configs/audit.json with ``settings``, see :func:`~doppelscan.settings.audit_overrides`."""
    configs = Path(audit_root()) / "configs"
    with quiet():
        return ConfigWorkflow(
            config_file=str(configs / "audit.json"),
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            **audit_overrides(settings),
        )


def audit(
    *,
    training: str | os.PathLike,
    synthetic: str | os.PathLike,
    output: str | os.PathLike,
    holdout: str | os.PathLike | None = None,
    **settings: Any,
) -> AuditResult:
    """Find the training patients among synthetic images.

    Args:
        training: folder, .csv or MONAI data list of the images that the generator was trained on.
        synthetic: the images that it made.
        output: folder for scores.csv, control.csv, summary.json and report.html.
        holdout: real images of other patients of the same kind, the control. Without it the control is taken from the training
            set, patient-wise.
        settings: any other of :class:`~doppelscan.settings.AuditSettings`, such as ``patient_pattern``, ``fdr``, ``redact``, and other ids of
            configs/audit.json.

    Returns:
        conclusion, summary, rows of scores.csv and the exit status.

    Raises:
        InputError, WeightsError, StoreError, ReportError: a mistake in what was passed, in one line.
    """
    settings = {"training": training, "synthetic": synthetic, "output": output, "holdout": holdout, **settings}
    AuditSettings(output=output, training=training, synthetic=synthetic, holdout=holdout).require_place()
    with starting(), quiet(), told_in_one_line():
        workflow = audit_workflow(**settings)
        workflow.initialize()
        workflow.parser.get_parsed_content("audit").called = audit_command(settings)
        return workflow.run()[-1]
