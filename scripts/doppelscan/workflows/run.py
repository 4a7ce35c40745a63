"""``doppelscan.audit``: the Python face of configs/audit.json. It runs that config and nothing else."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from doppelscan.errors import InputError
from doppelscan.workflows.audit import AuditResult
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.locations import audit_root

__all__ = ["audit", "audit_workflow"]

SHORT = {"store": "store_dir", "encoder": "ckpt_path"}


def audit_workflow(**overrides: Any) -> ConfigWorkflow:
    """MONAI workflow of configs/audit.json with ``overrides`` of its keys."""
    configs = Path(audit_root()) / "configs"
    # MONAI logs every override, and these hold the paths of patients' images.
    for name in ("monai.bundle.workflows", "monai.bundle.scripts", "ignite.engine.engine.EmbeddingEvaluator"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ConfigWorkflow(
        config_file=str(configs / "audit.json"),
        meta_file=str(configs.parent / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        **overrides,
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
        settings: any other key of configs/audit.json, such as ``patient_pattern``, ``fdr``, ``redact``; ``encoder`` is short for
            ``ckpt_path``, ``store`` for ``store_dir``.

    Returns:
        conclusion, summary, rows of scores.csv and the exit status.

    Raises:
        InputError, WeightsError, StoreError, ReportError: a mistake in what was passed, in one line.
    """
    settings = {SHORT.get(key, key): value for key, value in settings.items()}
    known = json.loads((Path(audit_root()) / "configs" / "audit.json").read_text())
    unknown = [key for key in settings if re.split("::|#", key)[0] not in known]
    if unknown:
        choices = ", ".join(
            key for key, value in known.items() if not isinstance(value, dict) and key not in ("imports", "run", "bundle_root")
        )
        raise InputError(f"The settings of an audit must be among {choices}. Got {', '.join(unknown)} instead.")
    workflow = audit_workflow(
        training_dir=_path(training),
        synthetic_dir=_path(synthetic),
        holdout_dir=None if holdout is None else _path(holdout),
        output_dir=_path(output),
        **settings,
    )
    with told_in_one_line():
        workflow.initialize()
        return workflow.run()[-1]


def _path(path: str | os.PathLike) -> str:
    return os.path.expanduser(os.fspath(path))
