"""The scorers of the table: our whole audit, and rivals, on the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doppelscan.benchmark.cases import Experiment
from doppelscan.benchmark.sets import PreparedImages, WrittenSet, write_set
from doppelscan.errors import DoppelscanError, InputError
from doppelscan.report.tables import EXPOSING
from doppelscan.rivals import Ranking, Rival
from doppelscan.scores import source_of
from doppelscan.study.measures import COPIED as COPY_FINDINGS
from doppelscan.workflows import audit

__all__ = ["OURS", "TASKS", "Asked", "Scored", "Scorer", "audit_scores", "rival_scores"]

# Two tasks in one table, as LCMem (arXiv 2512.14421) has them.
TASKS = ("copy of the image", "same patient")
OURS = "doppelscan"


@dataclass(frozen=True)
class Asked:
    """An experiment on disk.

    Attributes:
        experiment: what is asked.
        training, control, queries: its sets as they were written.
    """

    experiment: Experiment
    training: WrittenSet
    control: WrittenSet
    queries: WrittenSet

    @classmethod
    def write(cls, experiment: Experiment, folder: Path, spatial_size: int) -> Asked:
        """Write the sets to ``folder``."""

        def written(name: str, images: PreparedImages) -> WrittenSet:
            return write_set(folder / name, [images.pixels(i) for i in range(len(images.records))], images.patients, spatial_size)

        # The names of queries say nothing of who they are.
        nobody = [f"query {i}" for i in range(len(experiment.queries))]
        queries = write_set(folder / "queries", [one.pixels for one in experiment.queries], nobody, spatial_size)
        return cls(experiment, written("training", experiment.training), written("control", experiment.control), queries)


@dataclass(frozen=True)
class Scored:
    """What a scorer says of the queries of an experiment.

    Attributes:
        score: float64 [M], higher is more of a copy.
        match: int64 [M], row of the training image.
        called: task -> bool [M], what the scorer's own rule says; empty where it has none.
        rule: that rule in words.
    """

    score: np.ndarray
    match: np.ndarray
    called: Mapping[str, np.ndarray]
    rule: str


@dataclass(frozen=True)
class Scorer:
    """A scorer with what it says of each experiment; ``failed`` says why, where it could not be asked.

    Attributes:
        name: in the table.
        scored: name of the experiment -> what it says.
        failed: name of the experiment -> reason.
    """

    name: str
    scored: Mapping[str, Scored]
    failed: Mapping[str, str]


def audit_scores(asked: Sequence[Asked], folder: Path, settings: Mapping[str, Any]) -> Scorer:
    """Our whole audit of the queries of each experiment, as one synthetic set; reports lie in ``folder``."""
    scored = {}
    for one in asked:
        name = one.experiment.name
        result = audit(
            training=one.training.table, synthetic=one.queries.table, holdout=one.control.table, output=folder / name / "audit",
            **{"self_test": False, **settings},
        )  # fmt: skip
        scored[name] = _of_rows(result.scores, one)
    return Scorer(OURS, scored, {})


def _of_rows(rows: Sequence[Mapping[str, Any]], asked: Asked) -> Scored:
    """The rows of scores.csv, in the order of the queries."""
    ordered = sorted(rows, key=lambda row: asked.queries.row(row["image"]))
    kinds = [str(row["finding"]) for row in ordered]
    called = {
        TASKS[0]: np.array([kind in COPY_FINDINGS for kind in kinds]),
        TASKS[1]: np.array([kind in EXPOSING for kind in kinds]),
    }
    return Scored(
        np.array([float(row["score"]) for row in ordered]),
        np.array([asked.training.row(source_of(row)) for row in ordered], np.int64),
        called,
        "flagged; as copy, blend or part for a copy",
    )


def rival_scores(rival: Rival, asked: Sequence[Asked]) -> Scorer:
    """A rival on the same pixels. Its one threshold, where it has one, is its rule for both tasks.

    What it raises, and a ranking that is none of the queries, is its reason in ``failed``, in one line.
    """
    scored, failed = {}, {}
    for one in asked:
        try:
            found = rival.rank(one.training.images, one.queries.images, one.control.images)
            _require_usable(rival.name, found, one)
        except Exception as error:  # whatever one rival raises, the others and our audit are not lost with it
            words = " ".join(str(error).split())
            failed[one.experiment.name] = words if isinstance(error, DoppelscanError) else f"{type(error).__name__}: {words}"
            continue
        called, rule = {}, "none published"
        if found.threshold is not None:
            called, rule = dict.fromkeys(TASKS, found.score > found.threshold), f"score above {found.threshold:.4g}"
        scored[one.experiment.name] = Scored(np.asarray(found.score, np.float64), np.asarray(found.match), called, rule)
    return Scorer(rival.name, scored, failed)


def _require_usable(name: str, ranking: Ranking, asked: Asked) -> None:
    """Raise ``InputError`` where a ranking is none of the queries."""
    score, match, count = np.asarray(ranking.score, np.float64), np.asarray(ranking.match), len(asked.queries.images)
    wrong = None
    if score.shape != (count,) or match.shape != (count,):
        wrong = f"scores {list(score.shape)} and matches {list(match.shape)}"
    elif not np.isfinite(score).all():
        wrong = f"{int((~np.isfinite(score)).sum())} scores that are not finite"
    elif match.dtype.kind not in "iu" or match.min() < 0 or match.max() >= len(asked.training.images):
        wrong = f"matches ({match.dtype}) from {match.min()} to {match.max()}"
    if wrong is not None:
        raise InputError(
            f"The ranking of the rival {name!r} must be a finite score and a row of the {len(asked.training.images)} training images for each of {count} "
            f"queries. Got {wrong}; leave it out of --rival."
        )
