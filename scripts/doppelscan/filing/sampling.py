"""Which generator made the synthetic images, and how, as the sampler's manifest tells it."""

from __future__ import annotations

import csv
import hashlib
import os
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from doppelscan.digests import file_sha256
from doppelscan.errors import InputError
from doppelscan.filing.audits import FinishedAudit

__all__ = ["Sampling", "read_manifest"]

MANIFEST = "manifest.csv"
COLUMNS = ("path", "seed", "condition", "checkpoint", "step", "sampling_steps")


@dataclass(frozen=True)
class Sampling:
    """What a sampler's manifest says.

    Attributes:
        manifest_sha256: of the file.
        samples: how many it lists.
        checkpoints: sha256 of the generator's weights, each.
        steps: training steps behind them, as told.
        sampling_steps: of the scheduler, as told.
        first_seed, last_seed: of the samples.
        conditions: how many different ones, 0 for an unconditional generator.
        same_images: the images that it lists are those that were audited; None where that was not looked at.
    """

    manifest_sha256: str
    samples: int
    checkpoints: tuple[str, ...]
    steps: tuple[str, ...]
    sampling_steps: tuple[str, ...]
    first_seed: str
    last_seed: str
    conditions: int
    same_images: bool | None


def read_manifest(path: str | os.PathLike | None, audit: FinishedAudit) -> Sampling | None:
    """Read the manifest that ``path`` names, or that of the synthetic set of ``audit``'s command where it is still there; None where there is none.

    Raises:
        InputError: ``path`` is no manifest of a sampler.
    """
    found = _of_command(audit.summary["command"]) if path is None else Path(path)
    if found is None:
        return None
    try:
        with open(found, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        if path is None:
            return None
        raise InputError(
            f"The 'manifest' parameter must be a sampler's manifest.csv. Got {str(path)!r}, which cannot be read; pass another."
        ) from error
    if missing or not rows:
        if path is None:  # a table of another kind
            return None
        lacks = f"which has no {missing[0]!r}" if missing else "which lists nothing"
        raise InputError(f"The 'manifest' parameter must be a sampler's manifest.csv. Got {str(path)!r}, {lacks}; pass another.")

    def told(name: str) -> tuple[str, ...]:
        return tuple(sorted({row[name] for row in rows if row[name]}))

    seeds = sorted((row["seed"] for row in rows if row["seed"]), key=lambda seed: (len(seed), seed))
    return Sampling(
        file_sha256(found), len(rows), tuple(sorted({one for names in told("checkpoint") for one in names.split()})), told("step"), told("sampling_steps"),
        seeds[0] if seeds else "", seeds[-1] if seeds else "", len(told("condition")), _same_images(found, audit),
    )  # fmt: skip


def _of_command(command: str) -> Path | None:
    """The manifest that the audit's synthetic set is, or that lies in its folder."""
    words = shlex.split(command)
    options = dict(pairwise(words))
    source = options.get("--synthetic") or options.get("--synthetic_dir")
    if source is None:
        return None
    place = Path(source)
    found = place if place.name == MANIFEST else place / MANIFEST
    return found if found.is_file() else None


def _same_images(manifest: Path, audit: FinishedAudit) -> bool | None:
    """Whether the files that are listed now give the hash of the audited set. Of volumes, whose slices were audited, that is not looked at."""
    from doppelscan.images import content_hash, find_images

    known = audit.summary["sets"]["synthetic"]
    if any("#slice=" in row["image"] for row in audit.scores) or audit.summary.get("sample"):
        return None
    try:
        records = find_images(manifest, name="synthetic").records
        if any(record.slice is not None for record in records):
            return None
        keys = sorted(content_hash(record) for record in records)
    except (OSError, ValueError):
        return None
    return hashlib.sha256("\n".join(keys).encode()).hexdigest() == known["sha256"]
