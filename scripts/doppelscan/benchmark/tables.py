"""benchmark.csv, benchmark.json and benchmark.html: every number with its interval, our row first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppelscan.benchmark.cases import FAMILIES
from doppelscan.benchmark.labels import TRUTHS
from doppelscan.benchmark.measures import ALL, Measured, Question
from doppelscan.benchmark.same_patient import SAME_PATIENT
from doppelscan.benchmark.scorers import OURS, TASKS, Asked, Scorer
from doppelscan.calibrate import Share
from doppelscan.files import to_csv, to_json, write_atomic
from doppelscan.pages import page_templates
from doppelscan.report.tables import Row
from doppelscan.version import __version__

__all__ = ["BenchmarkResult", "write_result"]

SHARES = ("auc", "recall_at_1pc", "recall_at_5pc", "right_source", "recall", "false_positives", "precision")
COLUMNS = (
    "experiment", "task", "family", "case", "scorer", "mark", "positives", "negatives", "rule",
    *(f"{name}{end}" for name in SHARES for end in ("", "_lower", "_upper")),
    "behind", "behind_lower", "behind_upper",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkResult:
    """What a benchmark measured.

    Attributes:
        asked: the experiments.
        scorers: ours first: the audit, and the same-patient score.
        measured: every scorer on every question.
        labels: truth -> number of samples; empty without samples.
        settings: of the run.
        seconds: scorer -> seconds.
        notes: what was left out, in sentences.
        folder: of the files.
    """

    asked: tuple[Asked, ...]
    scorers: tuple[Scorer, ...]
    measured: tuple[Measured, ...]
    labels: Mapping[str, int]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    notes: tuple[str, ...]
    folder: Path

    def of(self, experiment: str, task: str, family: str, case: str = ALL) -> list[Measured]:
        """The rows of one question, in the order of the scorers."""
        key = (experiment, task, family, case)
        return [one for one in self.measured if _key(one.question) == key]

    @property
    def words(self) -> tuple[str, ...]:
        """What a terminal is told, a line each."""
        lines = []
        for one in self.measured:
            if one.scorer == OURS and one.question.case == ALL and one.question.family in (ALL, "samples"):
                rivals = [
                    m for m in self.measured if _key(m.question) == _key(one.question) and m.scorer not in (OURS, SAME_PATIENT)
                ]
                best = max(rivals, key=lambda m: m.area.share, default=None)
                beside = "" if best is None else f"; the best rival, {best.scorer}: {best.area.share:.3f}"
                lines.append(
                    f"{one.question.experiment}, {one.question.task}: AUC {one.area.share:.3f} ({one.area.lower:.3f} to {one.area.upper:.3f}){beside}."
                )
        for scorer in self.scorers:
            lines += [f"{scorer.name} could not be asked about {name}: {reason}" for name, reason in scorer.failed.items()]
        return (*lines, *self.notes, f"Page: {self.folder / 'benchmark.html'}")


def _key(question: Question) -> tuple[str, str, str, str]:
    return question.experiment, question.task, question.family, question.case


def _shares(one: Measured) -> dict[str, Share | None]:
    found = (one.area, *one.recall_at, one.source, one.recall, one.false, one.precision)
    return dict(zip(SHARES, found, strict=True))


def _rows(result: BenchmarkResult) -> list[Row]:
    rules = {(s.name, name): said.rule for s in result.scorers for name, said in s.scored.items()}
    rows: list[Row] = []
    for one in result.measured:
        row: Row = {
            "experiment": one.question.experiment, "task": one.question.task, "family": one.question.family, "case": one.question.case,
            "scorer": one.scorer, "mark": one.mark, "positives": len(one.question.positive), "negatives": len(one.question.negative),
            "rule": rules[one.scorer, one.question.experiment],
        }  # fmt: skip
        for name, share in _shares(one).items():
            values = (math.nan,) * 3 if share is None else (share.share, share.lower, share.upper)
            row |= dict(zip((name, f"{name}_lower", f"{name}_upper"), values, strict=True))
        difference = (math.nan,) * 3 if one.behind is None else (one.behind.value, one.behind.lower, one.behind.upper)
        row |= dict(zip(("behind", "behind_lower", "behind_upper"), difference, strict=True))
        rows.append(row)
    return rows


def write_result(result: BenchmarkResult) -> None:
    """Write ``benchmark.csv``, ``benchmark.json``, ``queries.csv`` (what each query is, and what each scorer says of it) and ``benchmark.html``."""
    rows = _rows(result)
    write_atomic(result.folder / "benchmark.csv", to_csv(COLUMNS, rows))
    write_atomic(result.folder / "queries.csv", _queries_csv(result))
    content = {
        "doppelscan": __version__,
        "settings": dict(result.settings),
        "experiments": {one.experiment.name: _sizes(one) for one in result.asked},
        "labels": dict(result.labels),
        "notes": list(result.notes),
        "failed": {one.name: dict(one.failed) for one in result.scorers if one.failed},
        "seconds": dict(result.seconds),
        "rows": rows,
    }
    write_atomic(result.folder / "benchmark.json", to_json(content))
    write_atomic(result.folder / "benchmark.html", _page(result))


def _queries_csv(result: BenchmarkResult) -> str:
    rows: list[Row] = []
    for asked in result.asked:
        name = asked.experiment.name
        for i, query in enumerate(asked.experiment.queries):
            row: Row = {
                "experiment": name, "image": f"{name}/queries/{i:05d}.png", "family": query.family, "case": query.case, "truth": query.truth,
                "patient": query.patient, "source": "" if query.source < 0 else f"{name}/training/{query.source:05d}.png",
            }  # fmt: skip
            for scorer in result.scorers:
                said = scorer.scored.get(name)
                row[f"{scorer.name} score"] = math.nan if said is None else float(said.score[i])
                row[f"{scorer.name} match"] = "" if said is None else f"{name}/training/{int(said.match[i]):05d}.png"
            rows.append(row)
    return to_csv(rows[0], rows)


def _sizes(asked: Asked) -> dict[str, Any]:
    queries = asked.experiment.queries
    return {
        "training": len(asked.training.patients),
        "training_patients": len(set(asked.training.patients)),
        "control": len(asked.control.patients),
        "control_patients": len(set(asked.control.patients)),
        "queries": len(queries),
        "truths": {truth: sum(one.truth == truth for one in queries) for truth in TRUTHS},
    }


def _page(result: BenchmarkResult) -> str:
    whole, detail = [], []
    for task in TASKS:
        for experiment in ("samples", "planted"):
            for family in (ALL, *FAMILIES):
                rows = result.of(experiment, task, family)
                if rows:
                    whole.append({"experiment": experiment, "task": task, "family": family, "rows": [_shown(one) for one in rows]})
    names = [one.name for one in result.scorers]
    for family in FAMILIES:
        cases = list(
            dict.fromkeys(m.question.case for m in result.measured if m.question.family == family and m.question.case != ALL)
        )
        if cases:
            cells = [
                [{m.scorer: m for m in result.of("planted", TASKS[0], family, case)}.get(name) for name in names] for case in cases
            ]
            detail.append({"family": family, "rows": list(zip(cases, cells, strict=True))})
    return page_templates("benchmark").get_template("benchmark.html").render(
        result=result, whole=whole, detail=detail, names=names, ours=(OURS, SAME_PATIENT), sizes={a.experiment.name: _sizes(a) for a in result.asked},
        rules={s.name: next((said.rule for said in s.scored.values()), "") for s in result.scorers}, failed={s.name: s.failed for s in result.scorers if s.failed},
        version=__version__, colour="clear",
    )  # fmt: skip


def _shown(one: Measured) -> dict[str, Any]:
    return {
        "scorer": one.scorer,
        "mark": one.mark,
        "shares": _shares(one),
        "sizes": (len(one.question.positive), len(one.question.negative)),
    }
