"""Numbers of the table: by the definition, by patient, and no winner that the intervals do not name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from doppelscan.benchmark.cases import Experiment, Query
from doppelscan.benchmark.measures import ALL, measure, questions
from doppelscan.benchmark.scorers import TASKS, Asked, Scored, Scorer
from made_sets import made_set

NOTHING = np.zeros((8, 8), np.float32)


@pytest.fixture
def experiment(cohort) -> Experiment:
    """20 copies of 20 patients, 5 neighbours of others, 20 strangers, 12 averages."""
    training = made_set(cohort[:30], [f"t{i}" for i in range(30)])
    queries = [Query("planted copies", "exact", "copy", i, f"t{i}", NOTHING) for i in range(20)]
    queries += [Query("planted copies", "exact", "novel", -1, f"h{i}", NOTHING) for i in range(20)]
    queries += [Query("neighbouring slice", "neighbouring slice", "same patient", -1, f"t{20 + i}", NOTHING) for i in range(5)]
    queries += [Query("strangers", "as they are", "novel", -1, f"h{i}", NOTHING) for i in range(20)]
    queries += [Query("averages", "of 3", "novel", -1, f"average {i}", NOTHING) for i in range(12)]
    return Experiment("planted", training, training, tuple(queries))


def scorer(name: str, experiment: Experiment, copy: float, same: float, noise: float, threshold: float | None = None) -> Scorer:
    rng = np.random.default_rng(len(name))
    level = {"copy": copy, "same patient": same}
    score = np.array([level.get(one.truth, 0.0) for one in experiment.queries]) + noise * rng.normal(size=len(experiment.queries))
    names = experiment.training.patients
    match = np.array(
        [one.source if one.source >= 0 else names.index(one.patient) if one.patient in names else 0 for one in experiment.queries]
    )
    called = {} if threshold is None else dict.fromkeys(TASKS, score > threshold)
    return Scorer(name, {"planted": Scored(score, match, called, "")}, {})


def asked(experiment: Experiment) -> list[Asked]:
    return [Asked(experiment, None, None, None)]  # type: ignore[arg-type]


def test_two_tasks_are_asked_of_the_same_images(experiment):
    found = {(one.task, one.family, one.case): one for one in questions(experiment)}
    copies, same = (found[task, ALL, ALL] for task in TASKS)
    assert (len(copies.positive), len(copies.negative)) == (20, 57), "a neighbour is no copy"
    assert (len(same.positive), len(same.negative)) == (25, 52), "but it shows the patient"
    averages = found[TASKS[0], "averages", ALL]
    assert (len(averages.positive), len(averages.negative)) == (20, 12)
    assert (TASKS[1], "averages", ALL) not in found, "an average is nobody's image"
    assert len(found[TASKS[1], "neighbouring slice", ALL].negative) == 20


def test_recall_precision_and_source_are_what_they_say(experiment):
    (first, *_) = measure(asked(experiment), [scorer("ours", experiment, 1, 0.5, 0, threshold=0.4)], draws=20)
    assert first.area.share == 1 and first.recall_at[0].share == 1 and first.source.share == 1
    assert first.recall.share == 1 and first.false.count == 5, "the neighbours"
    assert first.precision.count == 20 and first.precision.total == 25
    assert first.mark == "", "alone, nobody is first"


def test_nobody_is_first_whose_interval_does_not_say_so(experiment):
    made = [
        scorer(*one)
        for one in (("ours", experiment, 4, 2, 0.3), ("equal", experiment, 4, 2, 0.3), ("bad", experiment, 0.5, 0.2, 1.0))
    ]
    marks = {
        one.scorer: one.mark
        for one in measure(asked(experiment), made, draws=200)
        if one.question.family == ALL and one.question.task == TASKS[1]
    }
    assert marks == {"ours": "level", "equal": "level", "bad": ""}
    marks = {one.scorer: one.mark for one in measure(asked(experiment), made[::2], draws=200) if one.question.family == ALL}
    assert marks == {"ours": "first", "bad": ""}


def test_of_few_patients_nobody_is_first(experiment):
    made = [scorer(*one) for one in (("ours", experiment, 4, 8, 0.1), ("bad", experiment, 0, 0, 1.0))]
    found = [one for one in measure(asked(experiment), made, draws=100) if one.question.family == "neighbouring slice"]
    assert {one.mark for one in found} == {"level"}


def test_a_wrong_match_is_no_right_source(experiment):
    said = scorer("ours", experiment, 1, 0.5, 0)
    wrong = Scorer("ours", {"planted": Scored(said.scored["planted"].score, np.full(len(experiment.queries), 29), {}, "")}, {})
    assert measure(asked(experiment), [wrong], draws=10)[0].source.share == 0


def test_a_copy_whose_source_nobody_knows_is_left_out_of_the_right_source_alone(experiment):
    unknown = {0: replace(experiment.queries[0], source=-1, patient="sample 0")}
    some = replace(experiment, queries=tuple(unknown.get(i, one) for i, one in enumerate(experiment.queries)))
    said = scorer("ours", some, 1, 0.5, 0)
    found = measure(asked(some), [said], draws=10)[0]
    assert len(found.question.positive) == 20 and (found.source.count, found.source.total) == (19, 19)
    nobody = [replace(one, source=-1, patient=f"sample {i}") if one.truth == "copy" else one for i, one in enumerate(some.queries)]
    assert measure(asked(replace(some, queries=tuple(nobody))), [said], draws=10)[0].source is None
