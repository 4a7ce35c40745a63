"""A workflow of MONAI that looks at a command line before MONAI does."""

from __future__ import annotations

import warnings
from typing import Any

from monai.bundle import ConfigWorkflow

from doppelscan.workflows.errors import one_line_errors
from doppelscan.workflows.options import runs_own_configs
from doppelscan.workflows.run import quiet

__all__ = ["CheckedWorkflow"]

# MONAI asks whether the author of a config is trusted once it has loaded this class: of configs that came with this package, who runs it has answered.
if runs_own_configs():
    warnings.filterwarnings("ignore", "parsing config_file ")


class CheckedWorkflow(ConfigWorkflow):
    """``ConfigWorkflow`` for ``python -m monai.bundle run --workflow_name doppelscan.workflows.CheckedWorkflow``.

    MONAI reads the config files before anything in them is run. With this class also a file that is not there, such as that of a bundle that
    was not downloaded, is told in one line, and configs that lie in several folders are no warning. Nor is
    a config of this package, whose ``_target_`` MONAI warns of; of any other, such as that of a bundle that was downloaded, it still does.

    Args:
        settings: of ``ConfigWorkflow``.

    Raises:
        InputError: such a mistake on the command line.
    """

    def __init__(self, **settings: Any) -> None:
        one_line_errors()
        with quiet():
            super().__init__(**settings)
