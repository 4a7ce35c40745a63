"""Where the bundles and configs lie, and what an audit writes: in the repository, in an installed wheel, or round a packed copy of the package."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "NOT_FINISHED",
    "OVERLAP_FILES",
    "REPORT_FILES",
    "SPLIT_COLUMNS",
    "VOLUMES_READ",
    "audit_root",
    "bundle_id",
    "bundle_root",
    "encoder_weights",
    "is_finished",
    "is_url",
]

PACKAGE = Path(__file__).resolve().parent
ENCODER = "deepssim_encoder"
# Of an audit, in its output folder.
REPORT_FILES = (
    "scores.csv",
    "control.csv",
    "volumes.csv",
    "patients.csv",
    "exposure.csv",
    "remove.csv",
    "summary.json",
    "report.html",
)
# Which is there where volumes were read.
VOLUMES_READ = "volumes_read.csv"
# Of a search for what is there twice, likewise.
OVERLAP_FILES = ("groups.csv", "pairs.csv", "remove.csv", "summary.json", "report.html")
# Columns of the table that --split writes: by them an earlier one is known.
SPLIT_COLUMNS = ("path", "set", "patient", "person", "part")
# What an audit says in the place of a conclusion until it has one.
NOT_FINISHED = "not finished"


def is_finished(output: Path) -> bool:
    """Whether the report in ``output`` is that of an audit that ended: its page, which is written last, is there and is no preliminary one."""
    try:
        with open(output / "report.html", encoding="utf-8") as page:
            return f"<title>Doppelscan: {NOT_FINISHED}</title>" not in page.read(1000)
    except OSError:
        return False


def audit_root() -> str:
    """The folder that holds ``configs/audit.json``."""
    for place in (PACKAGE.parents[1], PACKAGE / "bundle"):
        if (place / "configs" / "audit.json").is_file():
            return str(place)
    raise FileNotFoundError(
        "configs/audit.json is not beside the doppelscan package; install it again: pip install . in the checkout"
    )


def bundle_id(folder: Path) -> str | None:
    """The name of the bundle in ``folder`` as its metadata has it, in the form of a folder's name; None when it is no bundle."""
    try:
        name = json.loads((folder / "configs" / "metadata.json").read_text())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(name).lower().replace(" ", "_")


def _bundle_folders(name: str) -> Iterator[Path]:
    # MONAI puts the root of the bundle that it runs on sys.path: that one is meant, also beside an installed doppelscan or when two
    # packed bundles share a process and one's copy of the package serves both.
    for place in (*map(Path, sys.path), PACKAGE.parent):
        if bundle_id(place) == name:
            yield place
    known = Path(audit_root()) / "bundles" / name
    if known.is_dir():
        yield known


def bundle_root(name: str) -> str:
    """The folder of the bundle ``name``, such as ``deepssim_encoder``: the one that runs, the one round the package, or the installed one."""
    for place in _bundle_folders(name):
        return str(place.resolve())
    raise FileNotFoundError(
        f"The 'name' parameter of bundle_root must be a bundle beside the doppelscan package. Got {name!r}, which is not there: "
        "pass --bundle_root DIR."
    )


def encoder_weights() -> str:
    """The weights that audits and the Memorization Index use: ``deepssim_encoder``'s, or the copy that a packed ``mi_scorer`` carries."""
    for place in _bundle_folders("mi_scorer"):
        if (place / "models" / "encoder.pt").is_file():
            return str(place.resolve() / "models" / "encoder.pt")
    return bundle_root(ENCODER) + "/models/model.pt"


def is_url(place: Any) -> bool:
    """Whether ``place`` is a URL, such as s3://bucket/folder, and not a path of this machine."""
    return "://" in str(place)
