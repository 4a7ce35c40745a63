"""What is measured of each scorer, task and case, each with its 95 % interval by patient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppelscan.benchmark.cases import FAMILIES, Experiment, Query
from doppelscan.benchmark.labels import COPIED
from doppelscan.benchmark.scorers import TASKS, Asked, Scored, Scorer
from doppelscan.calibrate import Difference, Share, area_difference, area_under_curve, clopper_pearson

__all__ = ["ALL", "Measured", "Question", "measure", "questions"]

ALL = "all of them"
RATES = (0.01, 0.05)
# A bootstrap of fewer patients says nothing, so nobody is called first by it.
FEWEST_MARKED = 10


@dataclass(frozen=True)
class Question:
    """Which queries of an experiment are to be told from which.

    Attributes:
        experiment: its name.
        task: one of ``TASKS``.
        family: of ``FAMILIES``, or :data:`ALL` for all of an experiment.
        case: within the family, or :data:`ALL`.
        positive, negative: int64, rows of the queries.
    """

    experiment: str
    task: str
    family: str
    case: str
    positive: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True)
class Measured:
    """What a scorer reaches on a question.

    Attributes:
        question: which.
        scorer: its name.
        area: area under the ROC curve, see :func:`~doppelscan.calibrate.area_under_curve`.
        recall_at: share of the positives above all but 1 % and 5 % of the negatives; with fewer than 100 or 20 negatives, above all of them.
        source: share of the positives whose match is the image that they copy, or one of the patient they show; of those of which that is known, None
            where it is of none.
        recall, false, precision: of the scorer's own rule, None without one; precision holds at this benchmark's share of positives.
        behind: best area of the question minus this one, on the same images; None for the best.
        mark: ``first`` where every other scorer's interval of that difference lies above 0, ``level`` where a scorer is not told from the best.
    """

    question: Question
    scorer: str
    area: Share
    recall_at: tuple[Share, ...]
    source: Share | None
    recall: Share | None
    false: Share | None
    precision: Share | None
    behind: Difference | None = None
    mark: str = ""


def questions(experiment: Experiment) -> list[Question]:
    """What is asked of an experiment; a question without positives or negatives is left out."""
    return [one for one in _all_questions(experiment) if len(one.positive) and len(one.negative)]


def _all_questions(experiment: Experiment) -> Iterator[Question]:
    queries = experiment.queries
    copied, same = experiment.copied, np.array([one.truth == "same patient" for one in queries], bool)
    novel = np.array([one.truth == "novel" for one in queries], bool)
    family = np.array([one.family for one in queries])
    case = np.array([one.case for one in queries])

    def question(task: int, of: str, name: str, positive: np.ndarray, negative: np.ndarray) -> Question:
        return Question(experiment.name, TASKS[task], of, name, np.flatnonzero(positive), np.flatnonzero(negative))

    whole = "samples" if experiment.name == "samples" else ALL
    yield question(0, whole, ALL, copied, novel | same)
    yield question(1, whole, ALL, copied | same, novel)
    if experiment.name == "samples":
        return
    stranger = novel & (family != "averages")
    for name in FAMILIES:
        own = family == name
        if not own.any():
            continue
        if name in ("planted copies", "reconstructions"):
            yield question(0, name, ALL, copied & own, novel & own)
            for one in sorted(set(case[own].tolist())):
                yield question(0, name, one, copied & own & (case == one), novel & own & (case == one))
        elif same[own].any():
            yield question(0, name, ALL, copied & (family == "planted copies"), own)
            yield question(1, name, ALL, own, family == "strangers")
        else:
            yield question(0, name, ALL, copied & (family == "planted copies"), own)
            yield question(1, name, ALL, copied & (family == "planted copies"), own & stranger)


def measure(asked: Sequence[Asked], scorers: Sequence[Scorer], draws: int = 1000, seed: int = 0) -> list[Measured]:
    """Every scorer on every question, the first scorer's row first."""
    found: list[Measured] = []
    for one in asked:
        for question in questions(one.experiment):
            said = {scorer.name: scorer.scored[one.experiment.name] for scorer in scorers if one.experiment.name in scorer.scored}
            rows = [_measured(question, name, scored, one.experiment) for name, scored in said.items()]
            found += _marked(rows, question, said, one.experiment.queries, draws, seed)
    return found


def _measured(question: Question, name: str, scored: Scored, experiment: Experiment) -> Measured:
    queries, positive, negative = experiment.queries, question.positive, question.negative
    rows = np.concatenate([positive, negative])
    truth = np.arange(len(rows)) < len(positive)
    who = [queries[i].patient for i in rows]
    area = area_under_curve(scored.score[rows], truth, who)
    shown, others = who[: len(positive)], who[len(positive) :]
    recalls = []
    for rate in RATES:
        threshold = np.quantile(scored.score[negative], 1 - rate, method="higher")
        recalls.append(clopper_pearson(scored.score[positive] > threshold, shown))
    people = set(experiment.training.patients)
    known = [i for i in positive if queries[i].source >= 0 or queries[i].patient in people]
    right = [_is_right(queries[i], int(scored.match[i]), experiment) for i in known]
    source = clopper_pearson(right, [queries[i].patient for i in known]) if known else None
    recall, false, precision = None, None, None
    if question.task in scored.called:
        called = scored.called[question.task]
        hit = np.flatnonzero(called[rows])
        recall, false = clopper_pearson(called[positive], shown), clopper_pearson(called[negative], others)
        precision = clopper_pearson(truth[hit], [who[i] for i in hit]) if len(hit) else None
    return Measured(question, name, area, tuple(recalls), source, recall, false, precision)


def _is_right(query: Query, match: int, experiment: Experiment) -> bool:
    if query.truth in COPIED:
        return match == query.source
    return experiment.training.patients[match] == query.patient


def _marked(
    rows: list[Measured], question: Question, said: dict[str, Scored], queries: Sequence[Query], draws: int, seed: int
) -> list[Measured]:
    """Rows with what each is behind the best, and with marks; a row alone has none."""
    if len(rows) < 2 or any(math.isnan(one.area.share) for one in rows):
        return rows
    fewest = min(len({queries[i].patient for i in side}) for side in (question.positive, question.negative))
    best = max(rows, key=lambda one: one.area.share)
    asked = np.concatenate([question.positive, question.negative])
    truth, who = np.arange(len(asked)) < len(question.positive), [queries[i].patient for i in asked]
    behind = {
        one.scorer: area_difference(said[best.scorer].score[asked], said[one.scorer].score[asked], truth, who, draws, seed)
        for one in rows
        if one is not best
    }
    level = [name for name, one in behind.items() if one.lower <= 0 or fewest < FEWEST_MARKED]
    marks = dict.fromkeys(level, "level") | {best.scorer: "level" if level else "first"}
    return [replace(one, behind=behind.get(one.scorer), mark=marks.get(one.scorer, "")) for one in rows]
