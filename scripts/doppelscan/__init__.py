"""Doppelscan: find memorized training patients among the synthetic images of a generative MRI model."""

from __future__ import annotations

import logging
from typing import Any

from doppelscan.threads import wait_passively
from doppelscan.version import __version__

__all__ = ["__version__", "audit", "compare", "dossier", "duplicates", "leak", "read_project"]

wait_passively()
# At INFO it tells of every build of FAISS that is not there, in the words of an error.
logging.getLogger("faiss.loader").setLevel(logging.WARNING)


def __getattr__(name: str) -> Any:
    """The faces are loaded when they are first used: importing the package alone does not load torch."""
    if name == "audit":
        from doppelscan.workflows.run import audit

        return audit
    if name in ("compare", "dossier"):
        from doppelscan import filing

        return getattr(filing, name)
    if name in ("duplicates", "leak"):
        from doppelscan.workflows import leak

        return getattr(leak, name)
    if name == "read_project":
        from doppelscan.cli import read_project

        return read_project
    raise AttributeError(f"module 'doppelscan' has no attribute {name!r}")
