"""What an audit of a generator says, in the numbers of the field, each with its 95 % interval; read from the files of the audit."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

from doppelscan.calibrate import Difference, Share, clustered_share, difference, duplication_trend, wilson
from doppelscan.decide import KINDS
from doppelscan.errors import InputError
from doppelscan.images import ImageRecord, find_images
from doppelscan.scores import source_of

__all__ = ["COPIED", "Mean", "SampleNumbers", "changes", "read_audit", "sample_rows"]

# Findings that count as a copy: the image shows a training image, whole, mixed with another or in a region. One of whom the audit only says that
# it may be the same patient does not.
COPIED = ("copy", "blend", "part")


@dataclass(frozen=True)
class Mean:
    """Mean of a measure of single samples with the 95 % interval of Student's t; NaN where it is not defined."""

    value: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Mean:
        """Of the finite ones of ``values``."""
        known = np.asarray(values, float)
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(math.nan, math.nan, math.nan)
        centre = float(known.mean())
        half = float(t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
        return cls(centre, centre - half, centre + half)


@dataclass(frozen=True)
class SampleNumbers:
    """One audit of one generator's samples.

    Attributes:
        folder: of the audit.
        step: training steps behind the samples.
        conclusion: the words of the audit.
        samples, unlike: how many, and those that are no images of the kind yet, of which no share speaks; None where nobody looked.
        flagged: share of the samples that is flagged.
        copies: N_copies of arXiv 2402.01054 by the audit's flags: share of the samples that is a copy, a blend or a part of a training image.
        memorized: N_mem likewise: share of the training images that such samples show; its interval knows that slices of a patient are alike.
        patients: share of the training patients whose images these are.
        kinds: share of the samples of each kind of finding.
        control: share of the control images that is as close as what is flagged.
        mi, deepssim: means over samples.
        owed: share of the samples that is owed to the training set as a whole, by competition with other people, see
            :class:`~doppelscan.calibrate.Competition`; ``count`` of ``total`` were won by training images; None without one.
        owed_p_value: of no such competition advantage; None likewise.
        trend: ``memorized`` by how often a record was shown, see :func:`~doppelscan.calibrate.duplication_trend`; None where all were alike.
    """

    folder: str
    step: int
    conclusion: str
    samples: int
    unlike: int | None
    flagged: Share
    copies: Share
    memorized: Share
    patients: Share
    kinds: Mapping[str, Share]
    control: Share
    mi: Mean
    deepssim: Mean
    owed: Share | None
    owed_p_value: float | None
    trend: Mapping[str, Any] | None

    @property
    def shares(self) -> dict[str, Share]:
        """Every share under its name in the tables."""
        kinds = {f"finding: {kind}": share for kind, share in self.kinds.items()}
        own = {name: getattr(self, name) for name in ("flagged", "copies", "memorized", "patients", "control")}
        owed = {} if self.owed is None else {"owed to training": self.owed}
        unlike = {} if self.unlike is None else {"unlike": wilson(self.unlike, self.samples)}
        return {**own, **kinds, **owed, **unlike}

    @property
    def means(self) -> dict[str, Mean]:
        """Every mean under its name in the tables."""
        return {"mi": self.mi, "deepssim": self.deepssim}


def sample_rows(folder: Path, name: str = "scores") -> list[dict[str, str]]:
    """Rows of the audit's scores.csv, or of its control.csv."""
    with open(folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_audit(folder: Path, training: Path, step: int) -> SampleNumbers:
    """The numbers of the audit in ``folder``.

    Args:
        folder: that an audit wrote.
        training: the training set that it was given.
        step: training steps behind the samples.

    Raises:
        InputError: a finding names an image that is not in ``training``.
    """
    summary = json.loads((folder / "summary.json").read_text())
    rows = [row for row in sample_rows(folder) if row["unlike"] != "true"]
    total = len(rows)
    records = {record.id: record for record in find_images(training, name="training").records}
    shown = {source for row in rows if row["finding"] in COPIED for source in _sources(row)}
    if not shown <= records.keys():
        raise InputError(
            f"The audit in {str(folder)!r} must be of the training set {str(training)!r}. Got {min(shown - records.keys())!r}, which is not in it; "
            "remove that folder, and start again."
        )
    hits = [name in shown for name in records]
    patients = [record.patient for record in records.values()]
    exposed = {records[name].patient for name in shown}
    return SampleNumbers(
        folder=str(folder),
        step=step,
        conclusion=summary["conclusion"],
        samples=total + (summary["images"]["unlike"] or 0),
        unlike=summary["images"]["unlike"],
        flagged=Share(**summary["flagged"]),
        copies=wilson(sum(row["finding"] in COPIED for row in rows), total),
        memorized=clustered_share(hits, patients),
        patients=wilson(len(exposed), len(set(patients))),
        kinds={kind: wilson(sum(row["finding"] == kind for row in rows), total) for kind in KINDS},
        control=Share(**summary["flagged_control"]),
        mi=Mean.of([float(row["mi"]) for row in rows]),
        deepssim=Mean.of([float(row["deepssim"]) for row in rows]),
        owed=_owed(summary["competition"]),
        owed_p_value=None if summary["competition"] is None else summary["competition"]["p_value"],
        trend=_trend(list(records.values()), hits),
    )


def _owed(competition: Mapping[str, float] | None) -> Share | None:
    if competition is None:
        return None
    won, images = int(competition["won_by_training"]), int(competition["images"])
    return Share(won, images, competition["owed"], competition["owed_lower"], competition["owed_upper"])


def _sources(row: Mapping[str, str]) -> list[str]:
    """Training images that a copy shows."""
    return [source_of(row), *([row["second_match"]] if row["finding"] == "blend" and row["second_match"] else [])]


def _trend(records: Sequence[ImageRecord], hits: Sequence[bool]) -> Mapping[str, Any] | None:
    return duplication_trend(np.array([record.repeats for record in records]), np.array(hits))


def changes(before: SampleNumbers, after: SampleNumbers) -> dict[str, Difference]:
    """What is less after a remedy: share -> ``after`` minus ``before``, of independent samples.

    Shares of training images and patients are compared of one training set only: of twice as many the same number of samples shows a smaller share.
    """
    names = ["flagged", "copies"]
    if (before.memorized.total, before.patients.total) == (after.memorized.total, after.patients.total):
        names += ["memorized", "patients"]
    return {name: difference(getattr(after, name), getattr(before, name)) for name in names}
