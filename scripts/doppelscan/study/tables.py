"""study.json and the tables of a case study: every number with its 95 % interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from doppelscan.calibrate import Difference
from doppelscan.files import to_csv, to_json, write_atomic
from doppelscan.study.conditions import FILTERED, Remedy, StudySizes
from doppelscan.study.measures import SampleNumbers, changes, sample_rows
from doppelscan.study.sets import StudySets
from doppelscan.study.stages import ConditionResult
from doppelscan.version import __version__

__all__ = ["RemedyResult", "StudyResult", "remedy_results", "write_tables"]

NUMBERS = ("condition", "stage", "step", "measure", "count", "total", "value", "lower", "upper")
REMEDIES = ("remedy", "before", "after", "measure", "before_value", "after_value", "change", "lower", "upper")
SAMPLES = ("condition", "stage", "image", "match", "score", "mi", "deepssim", "finding", "p_value")
CHANGED = ("flagged", "copies", "memorized", "patients")


@dataclass(frozen=True)
class RemedyResult:
    """What a remedy did.

    Attributes:
        remedy: which.
        before, after: the audits that are compared.
        kept: share of the samples that is left, 1 where nothing is filtered.
        changes: share -> difference, see :func:`~doppelscan.study.measures.changes`; None where ``after`` is a part of ``before``, so that the two are
            not independent.
    """

    remedy: Remedy
    before: SampleNumbers
    after: SampleNumbers
    kept: float
    changes: dict[str, Difference] | None


@dataclass(frozen=True)
class StudyResult:
    """A case study as far as it is done.

    Attributes:
        sets: the images.
        sizes: of trainings, samples and audits.
        conditions: those that are done.
        remedies: those whose conditions are done.
        left_out: conditions without a result -> why.
    """

    sets: StudySets
    sizes: StudySizes
    conditions: tuple[ConditionResult, ...]
    remedies: tuple[RemedyResult, ...]
    left_out: dict[str, str]


def remedy_results(remedies: Sequence[Remedy], conditions: Sequence[ConditionResult]) -> tuple[RemedyResult, ...]:
    """The remedies whose two conditions are there."""
    done = {one.condition.name: one for one in conditions}
    found = []
    for remedy in remedies:
        before = done.get(remedy.before)
        if before is None:
            continue
        if remedy.after == FILTERED:
            if before.filtered is not None:
                left = before.filtered.samples / before.audit.samples
                found.append(RemedyResult(remedy, before.audit, before.filtered, left, None))
        elif remedy.after in done:
            after = done[remedy.after].audit
            found.append(RemedyResult(remedy, before.audit, after, 1.0, changes(before.audit, after)))
    return tuple(found)


def _audits(study: StudyResult) -> Iterator[tuple[str, str, SampleNumbers]]:
    """Condition, stage and numbers of every audit."""
    for one in study.conditions:
        name = one.condition.name
        yield from ((name, "training", numbers) for numbers in one.curve)
        yield name, "finished", one.audit
        if one.filtered is not None:
            yield name, FILTERED, one.filtered


def _number_rows(study: StudyResult) -> Iterator[dict[str, object]]:
    for condition, stage, numbers in _audits(study):
        row = {"condition": condition, "stage": stage, "step": numbers.step}
        for measure, share in numbers.shares.items():
            interval = {"value": share.share, "lower": share.lower, "upper": share.upper}
            yield {**row, "measure": measure, "count": share.count, "total": share.total, **interval}
        for measure, mean in numbers.means.items():
            yield {
                **row,
                "measure": f"mean {measure}",
                "count": "",
                "total": numbers.samples - (numbers.unlike or 0),
                **asdict(mean),
            }
        for group in (numbers.trend or {}).get("groups", ()):
            interval = {"value": group["share"], "lower": group["lower"], "upper": group["upper"]}
            measure = f"memorized, shown {group['repeats']} times"
            yield {**row, "measure": measure, "count": group["leaked"], "total": group["images"], **interval}


def _remedy_rows(study: StudyResult) -> Iterator[dict[str, object]]:
    for one in study.remedies:
        for measure in CHANGED:
            change = None if one.changes is None else one.changes.get(measure)
            yield {
                "remedy": one.remedy.name,
                "before": one.remedy.before,
                "after": one.remedy.after,
                "measure": measure,
                "before_value": one.before.shares[measure].share,
                "after_value": one.after.shares[measure].share,
                "change": "" if change is None else change.value,
                "lower": "" if change is None else change.lower,
                "upper": "" if change is None else change.upper,
            }


def _sample_rows(study: StudyResult) -> Iterator[dict[str, object]]:
    for condition, stage, numbers in _audits(study):
        if stage != "training":
            for row in sample_rows(Path(numbers.folder)):
                yield {**{name: row[name] for name in SAMPLES[2:]}, "condition": condition, "stage": stage}


def write_tables(study: StudyResult, folder: Path) -> None:
    """Write ``study.json`` (everything), ``numbers.csv``, ``remedies.csv`` and ``samples.csv`` (one row a sample of a finished generator)."""
    write_atomic(folder / "study.json", to_json({"doppelscan": __version__, **_plain(asdict(study))}))
    write_atomic(folder / "numbers.csv", to_csv(NUMBERS, _number_rows(study)))
    write_atomic(folder / "remedies.csv", to_csv(REMEDIES, _remedy_rows(study)))
    write_atomic(folder / "samples.csv", to_csv(SAMPLES, _sample_rows(study)))


def _plain(value: object) -> dict:
    """Paths as text: JSON has none."""

    def plain(part: object) -> object:
        if isinstance(part, dict):
            return {str(key): plain(one) for key, one in part.items()}
        if isinstance(part, (list, tuple)):
            return [plain(one) for one in part]
        return str(part) if isinstance(part, Path) else part

    made = plain(value)
    assert isinstance(made, dict)
    return made
