"""``doppelscan benchmark``: how well copies are found on a user's own data, by the whole audit and by every rival."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from doppelscan.arguments import Count, Existing, Folder, Source, Whole, checked
from doppelscan.benchmark.cases import Experiment, planted_experiment, sample_experiment
from doppelscan.benchmark.label_page import label_page
from doppelscan.benchmark.labels import TRUTHS, LabelTable, SampleLabel, label_samples, read_labels, required_samples, write_labels
from doppelscan.benchmark.measures import measure
from doppelscan.benchmark.same_patient import SAME_PATIENT, SamePatientRanking
from doppelscan.benchmark.scorers import OURS, Asked, Scorer, audit_scores, rival_scores
from doppelscan.benchmark.sets import PreparedImages, prepare
from doppelscan.benchmark.tables import BenchmarkResult, write_result
from doppelscan.errors import InputError
from doppelscan.files import write_atomic
from doppelscan.images import SliceChoice
from doppelscan.progress import OTHER, RunProgress, Work
from doppelscan.rivals import Rival, rivals
from doppelscan.threads import team

__all__ = ["benchmark", "named_rivals"]

# They need no file and take seconds.
DEFAULT_RIVALS = ("ncc", "ssim", "phash", "calibrated")

# Seconds a query that our audit and a rival are expected to take, until the run knows better.
AUDITED, RANKED = 0.1, 0.05


def named_rivals(asked: str | Sequence[str | Rival] | None) -> list[Rival]:
    """Rivals by what ``--rival`` says: NAME or NAME:FILE, several with commas between; None for those that need no file and no training.

    Args:
        asked: names, and rivals as they are.

    Raises:
        InputError: one is not known, see :func:`doppelscan.rivals.rivals`.
    """
    given: Sequence[str | Rival] = DEFAULT_RIVALS if asked is None else asked.split(",") if isinstance(asked, str) else asked
    names = [one.strip() for one in given if isinstance(one, str) and one.strip() not in ("", "none")]
    made = rivals([one for one in names if ":" not in one], [one for one in names if ":" in one])
    return made + [one for one in given if not isinstance(one, str)]


def benchmark(
    *,
    training: str | os.PathLike,
    holdout: str | os.PathLike,
    output: str | os.PathLike,
    samples: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    rival: str | Sequence[str | Rival] | None = None,
    images: int = 20,
    transforms: Sequence[str] | str | None = None,
    spatial_size: int = 128,
    patient_pattern: str | None = None,
    slices: SliceChoice | None = None,
    seed: int = 0,
    **settings: Any,
) -> BenchmarkResult:
    """Ask the audit and its rivals about planted copies, hard negatives and a generator's samples, and write one table.

    Args:
        training: folder, .csv or .json of real images; with ``samples``, those that the generator was trained on.
        holdout: real images of other patients of the same kind, at least 6.
        output: folder of ``benchmark.html``, ``.csv`` and ``.json``, ``queries.csv``, the images, and with ``samples`` ``labels.html`` and
            ``labels.csv``. It holds patient data. Without ``labels``, what a person has set in a ``labels.csv`` that lies there is kept.
        samples: what a generator made of ``training``; None asks about what is made here alone.
        labels: .csv of labels that a person has set, see :func:`~doppelscan.benchmark.read_labels`; they go before those by pixels.
        rival: see :func:`named_rivals`, or rivals themselves.
        images: of each case and side, at most.
        transforms: of planted copies, names of ``COPY_TRANSFORMS``, as text with semicolons between; None for all.
        spatial_size: side of the images that every scorer sees, in pixels.
        patient_pattern: what in the name of a file is its patient.
        slices: which slices of volumes.
        seed: of every draw.
        settings: of our audit, see :class:`~doppelscan.settings.AuditSettings`.

    Raises:
        InputError: a set or a setting cannot be used; one line.
    """
    folder = Path(checked("output", Folder, output))
    sources = {"training": checked("training", Source, training), "holdout": checked("holdout", Source, holdout)}
    samples, labels = checked("samples", Source | None, samples), checked("labels", Existing | None, labels)
    images, seed = checked("images", Count, images), checked("seed", Whole, seed)
    if labels is not None and samples is None:
        raise InputError(f"The 'labels' parameter must come with --samples. Got {str(labels)!r} alone; pass --samples DIR.")
    if isinstance(transforms, str):
        transforms = [one.strip() for one in transforms.split(";") if one.strip()]
    given = named_rivals(rival)
    table, kept = _hand_labels(labels, folder, samples is not None)
    # Seconds as on two cores; what the audit and a rival have in them is known once the sets are.
    expected = {"prepare": 5.0, OURS: 60.0, SAME_PATIENT: 5.0, **{one.name: 20.0 for one in given}, "measure": 5.0}
    clock = RunProgress({stage: {OTHER: Work(1, seconds)} for stage, seconds in expected.items()})
    with team(settings.get("threads")), clock.shown():
        with clock.stage("prepare"):
            sets = {name: prepare(source, name, spatial_size, patient_pattern, slices) for name, source in sources.items()}
            _require_apart(sets)
            experiments: list[Experiment] = [planted_experiment(sets["training"], sets["holdout"], images, transforms, seed)]
        folder.mkdir(parents=True, exist_ok=True)
        counted: dict[str, int] = {}
        if samples is not None:
            with clock.stage("label"):
                made = prepare(samples, "synthetic", spatial_size, None, slices)
                found = _labelled(made, sets, table, folder)
            counted = {truth: Counter(one.truth for one in found)[truth] for truth in TRUTHS}
            experiments.append(
                sample_experiment(
                    sets["training"], sets["holdout"], made, [one.truth for one in found], [one.source for one in found]
                )
            )
        with clock.stage("write"):
            asked = [Asked.write(one, folder / one.name, spatial_size) for one in experiments]
        queries = sum(len(one.experiment.queries) for one in asked)
        for stage, seconds in ((OURS, AUDITED), (SAME_PATIENT, RANKED), *((one.name, RANKED) for one in given)):
            clock.plan[stage] = {OTHER: Work(queries, seconds)}
        scorers: list[Scorer] = []
        with clock.stage(OURS):
            scorers.append(audit_scores(asked, folder, {**settings, "seed": seed}))
        for one in (SamePatientRanking(), *given):
            with clock.stage(one.name):
                scorers.append(rival_scores(one, asked))
        with clock.stage("measure"):
            measured = measure(asked, scorers, seed=seed)
    told = {
        "training": str(training), "holdout": str(holdout), "samples": None if samples is None else str(samples),
        "labels": None if labels is None else str(labels), "rivals": [one.name for one in given], "images": images,
        "transforms": transforms, "spatial_size": spatial_size, "seed": seed, **{name: str(value) for name, value in settings.items()},
    }  # fmt: skip
    result = BenchmarkResult(
        tuple(asked),
        tuple(scorers),
        tuple(measured),
        counted,
        told,
        clock.seconds,
        (*kept, *_notes(sets, experiments, counted)),
        folder,
    )
    write_result(result)
    return result


def _require_apart(sets: dict[str, PreparedImages]) -> None:
    both = set(sets["training"].patients) & set(sets["holdout"].patients)
    if both:
        raise InputError(
            f"The 'holdout' parameter must name images of other patients than training. Got {len(both)} patients of training, such as "
            f"{sorted(both)[0]!r}; leave them out, or pass --patient-pattern."
        )


def _hand_labels(labels: str | os.PathLike | None, folder: Path, sampled: bool) -> tuple[LabelTable | None, list[str]]:
    """What a person has set, of ``labels`` or of an earlier run in the same folder, with a note of the latter: an hour's work is not written over."""
    if labels is not None:
        return LabelTable.read(labels).by_person, []
    earlier = folder / "labels.csv"
    if not sampled or not earlier.is_file():
        return None, []
    table = LabelTable.read(earlier)
    set_by_hand = LabelTable(table.path, tuple(row for row in table.rows if row.get("by") == "person"))
    count = len(set_by_hand.rows)
    return set_by_hand, [f"{count} labels that a person has set were taken from {earlier}."] if count else []


def _labelled(
    samples: PreparedImages, sets: dict[str, PreparedImages], table: LabelTable | None, folder: Path
) -> list[SampleLabel]:
    """Labels of the samples, with the page on which they are set and the table."""
    training = sets["training"]
    if table is not None:
        required_samples(table, samples.records)  # a mistake in it is told before minutes of registration
    found = label_samples(samples.squares, training.squares, training.patients, sets["holdout"].squares)
    if table is not None:
        found = read_labels(table, found, samples.records, training.records)
    write_labels(folder / "labels.csv", found, samples.records, training.records)
    write_atomic(folder / "labels.html", label_page(found, samples, training))
    return found


def _notes(sets: dict[str, PreparedImages], experiments: Sequence[Experiment], counted: dict[str, int]) -> list[str]:
    notes = [
        f"{len(one.skipped)} {name} images could not be prepared and were left out." for name, one in sets.items() if one.skipped
    ]
    for name, one in sets.items():
        unknown = sum(not record.patient_known for record in one.records)
        if unknown:
            notes.append(
                f"Nothing names the patient of {unknown} {name} images: each counts as one of its own; pass --patient-pattern, or a table."
            )
    kinds = {query.family for query in experiments[0].queries}
    if not kinds & {"neighbouring slice", "another slice", "another image"}:
        notes.append("No training patient has two images: nothing is said of the same patient in another image.")
    if counted:
        told = ", ".join(f"{count} {truth}" for truth, count in counted.items() if count)
        notes.append(f"Samples: {told}; label them by hand on labels.html.")
    return notes
