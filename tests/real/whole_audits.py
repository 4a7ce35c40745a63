"""Whole audits in which the truth is known: real scores of generators that are clean, and of the same when they memorize.

``python tests/real/whole_audits.py pool POOL.npz --cohort T1 --data DIR`` embeds, registers and scores once, see ``audit_pools.py``;
``python tests/real/whole_audits.py audits POOL.npz ...`` draws audits of these scores, decides them by the package's own rule, and prints one
table a setting. ``python tests/real/whole_audits.py table AUDITS.csv ...`` sums up what they wrote. Exact 95 % intervals over audits stand in brackets. With ``--training``, ``--strangers`` and ``--samples`` in place of ``--data`` a pool also has
what a real generator made of these training images, labelled by pixels, see ``labelled_samples.py``.

A pool is one population. Control and synthetic set are drawn of it by patient, with replacement, with all images of a patient, and smoothed
(Silverman; half of the variance is the patient's; of a region the logarithm of what it lacks of perfect agreement), so that 100,000 strangers are not 200 that come again; beyond the highest stranger of a pool
there is thus a normal tail and, where they are asked for, look-alikes. A look-alike patient has scores from 0.05 below to 0.1 above the highest
stranger, and three times as many images in the control. Copies, and what the self-test plants, are drawn as they are, with replacement.
Competition against the holdout is left out: it only takes "no memorization found" back.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from doppelscan.calibrate import TwoSampleResult, clopper_pearson
from doppelscan.calibrate.intervals import exact_limits
from doppelscan.decide import (
    KINDS,
    Decision,
    Evidence,
    Flag,
    PlantedResult,
    Rules,
    Verdict,
    combined_score,
    conclude,
    control_as_close,
    sign,
)
from doppelscan.decide.findings import OF_NOBODY
from doppelscan.decide.flags import calibrated, widest
from doppelscan.decide.signing import JudgedCopies, bounded
from doppelscan.workflows.selftest import size_of

COLUMNS = ("generator", "made", "patient", "score", "verified", "margin", "part", "part_share", "explained", "unlike", "called")
# What the self-test plants, as the pool calls it; of "spectrum" each generator has its own.
TESTED = (
    "rotation 10",
    "flip, rotation, noise",
    "shift 6 %",
    "crop 15 %",
    "gamma 1.5",
    "blend",
    "noise 0.1",
    "blur 2",
    "half resolution",
    "PCA 40",
)
# Which of these speaks for a generator; for a real one what is given its sharpness and noise.
SPEAKS = {"PCA": "PCA 40", "blur": "blur 2", "noise": "noise 0.1", "diffusion": "spectrum"}
RATE, HELD = 0.05, 0.95
FOUND = 0.9


class Images(NamedTuple):
    """Scored images, as far as the rule looks at them: float64 [n] each, ``unlike`` bool [n], ``called`` str [n], ``patients`` int [n]."""

    score: np.ndarray
    verified: np.ndarray
    margin: np.ndarray
    part: np.ndarray
    part_share: np.ndarray
    explained: np.ndarray
    unlike: np.ndarray
    called: np.ndarray
    patients: np.ndarray

    def told(self, rules: Rules) -> np.ndarray:
        """What :meth:`~doppelscan.decide.ScoredSet.explained` tells: NaN where the pair does not agree as a copy's does."""
        return np.where(self.verified >= rules.close_pair, self.explained, np.nan)

    def rows(self) -> list[Row]:
        """One an image, with the names of a :class:`~doppelscan.decide.ScoredImage`."""
        return [Row(*values) for values in zip(*(column.tolist() for column in self[: len(Row._fields)]), strict=True)]

    def at(self, rows: np.ndarray) -> Images:
        return Images(*(column[rows] for column in self))

    def kinds(self, flags: Sequence[Flag]) -> np.ndarray:
        """The kind of each that is flagged, "" of the others: str [n]; of a region the rule tells it."""
        reasons = [one.reason for one in flags]
        return np.array(
            ["" if r is None else "part" if r.rule.of_region else str(kind) for r, kind in zip(reasons, self.called, strict=True)]
        )

    @classmethod
    def joined(cls, parts: Sequence[Images]) -> Images:
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Row(NamedTuple):
    score: float
    verified: float
    margin: float
    part: float
    part_share: float


@dataclass(frozen=True)
class Pool:
    """Scored images of a cohort.

    Attributes:
        name: of the cohort.
        people: number of training patients.
        kind: strangers against training.
        generator, made, patient, score, verified, margin, part, part_share, explained, unlike, called: of each image; ``made`` is "clean" of
            strangers and averages, "copy" of training images, "test" of what the self-test plants beside a generator's images; ``called`` is what
            it would be called if it were flagged.
    """

    name: str
    people: int
    kind: TwoSampleResult
    generator: np.ndarray
    made: np.ndarray
    patient: np.ndarray
    score: np.ndarray
    verified: np.ndarray
    margin: np.ndarray
    part: np.ndarray
    part_share: np.ndarray
    explained: np.ndarray
    unlike: np.ndarray
    called: np.ndarray

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = {name: getattr(self, name) for name in COLUMNS}
        np.savez_compressed(path, name=self.name, people=self.people, kind=np.array(astuple(self.kind)), **held)

    @classmethod
    def load(cls, path: Path) -> Pool:
        with np.load(path) as held:
            kind = TwoSampleResult(*held["kind"].tolist())
            return cls(str(held["name"]), int(held["people"]), kind, **{name: held[name] for name in COLUMNS})

    def images(self, generator: str, made: str) -> Images:
        """Those of one generator; raises KeyError where there are none."""
        which = np.flatnonzero((self.generator == generator) & (self.made == made))
        if not len(which):
            raise KeyError(f"{self.name} has no {made} {generator}")
        columns = [getattr(self, name)[which] for name in Images._fields[:-1]]
        return Images(*columns, np.unique(self.patient[which], return_inverse=True)[1].reshape(-1))

    @property
    def generators(self) -> list[str]:
        """Names of those that make clean images."""
        return list(dict.fromkeys(self.generator[self.made == "clean"].tolist()))

    def copies(self, generator: str) -> bool:
        """It has images of this generator that are copies."""
        return bool(((self.generator == generator) & (self.made == "copy")).any())


def by_patient(
    rng: np.random.Generator, images: Images, count: int, alike: float, times: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of patients who are drawn one after the other, with all their images, until there are ``count``.

    Args:
        rng: of draws.
        images: of whom.
        count: rows that are wanted.
        alike: share of the patients who are look-alikes.
        times: by how much more images look-alikes have.

    Returns:
        rows int [count], which drawn patient each is of int [count], who is a look-alike bool [count].
    """
    order = np.argsort(images.patients, kind="stable")
    sizes = np.bincount(images.patients)
    starts = np.cumsum(sizes) - sizes
    who = rng.integers(0, len(sizes), count)
    high = rng.random(count) < alike
    number = sizes[who] * np.where(high, times, 1)
    last = int(np.searchsorted(np.cumsum(number), count)) + 1
    who, high, number = who[:last], high[:last], number[:last]
    place = np.repeat(np.arange(last), number)[:count]
    within = (np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number))[:count]
    return order[starts[who[place]] + within % sizes[who[place]]], place, high[place]


def strangers(rng: np.random.Generator, images: Images, count: int, alike: float, top: float, times: int = 1) -> Images:
    """``count`` images of drawn patients, smoothed; ``top`` is the highest score of a stranger, where look-alikes begin."""
    rows, place, high = by_patient(rng, images, count, alike, times)
    drawn = images.at(rows)
    people, width = int(place[-1]) + 1, 1.06 * len(np.unique(images.patients)) ** -0.2

    def noise() -> np.ndarray:
        return np.sqrt(0.5) * (rng.normal(size=people)[place] + rng.normal(size=count))

    # The score follows the verified agreement by its weight.
    weight = combined_score(1.0, 1.0, 0.0, 0.0)
    moved = width * float(images.verified.std()) * noise()
    raised = top + rng.uniform(-0.05, 0.1, people)[place] + 0.02 * rng.normal(size=count) - drawn.score
    moved = np.where(high, raised / weight, moved)
    # A region is judged by what is left to perfect agreement: moved by a difference, 0.93 would become 0.98, which no stranger reached.
    left = np.maximum(1 - images.part, 1e-6)
    factor = np.exp(width * float(np.log(left).std()) * noise())
    part = np.where(high, drawn.part, 1 - (1 - drawn.part) * factor)
    return drawn._replace(
        score=np.minimum(drawn.score + weight * moved, 1.0),
        verified=np.minimum(drawn.verified + moved, 1.0),
        # A look-alike is like one training patient: nobody else comes nearer with him.
        margin=drawn.margin + np.where(high, np.maximum(moved, 0), 0),
        part=part,
        called=np.where(high, "same patient?", drawn.called),
        patients=place,
    )


def planted(rng: np.random.Generator, pool: Pool, generator: str, people: int) -> Iterator[tuple[str, Images]]:
    """What the self-test plants: of each transform one copy each of ``people`` drawn training patients."""
    for name in (*TESTED, "spectrum"):
        images = pool.images(*((generator, "test") if name == "spectrum" else (name, "copy")))
        rows, place, _ = by_patient(rng, images, people * int(np.bincount(images.patients).max()), 0.0, 1)
        one_each = rows[np.unique(place, return_index=True)[1]][:people]
        yield name, images.at(one_each)._replace(patients=np.arange(len(one_each)))


@dataclass(frozen=True)
class Setting:
    """Of simulated audits: how many images are copies by which generator, how many images the control holds, how many patients look alike."""

    generator: str
    images: int
    share: float
    control: int
    alike: float


@dataclass(frozen=True)
class Outcome:
    """What one audit said, beside the truth.

    Attributes:
        verdict: its words.
        flagged: number of images.
        false: number of these that are no copies; of averages, that are not said to be of nobody alone.
        found: share of the copies that is flagged as somebody's; NaN without copies.
        truth: share of the images that is memorized.
        bound: upper bound of it.
        lower, upper: interval of its estimate.
        told: the audit says that copies of this kind cannot be excluded.
        derived: flagged images that are said to be of nobody alone.
        plain: images that are flagged as the same image, or for a region alone: no rate holds them.
    """

    verdict: Verdict
    flagged: int
    false: int
    found: float
    truth: float
    bound: float
    lower: float
    upper: float
    told: bool
    derived: int
    plain: int

    @property
    def false_share(self) -> float:
        return self.false / max(1, self.flagged)


def audited(rng: np.random.Generator, pool: Pool, setting: Setting, rules: Rules, seed: int) -> Outcome:
    """One audit, decided by the package's rule."""
    real = pool.images("plain", "clean")
    top, number = float(real.score.max()), round(setting.share * setting.images)
    control = strangers(rng, real, setting.control, setting.alike, top, 3)
    made = strangers(rng, pool.images(setting.generator, "clean"), setting.images - number, setting.alike, top)
    if number:
        copies = pool.images(setting.generator, "copy")
        made = Images.joined([copies.at(rng.integers(0, len(copies.score), number)), made])
    scored, others = made.rows(), control.rows()
    rules_of = calibrated(others, control.patients.tolist(), control.told(rules), 1.0, rules, seed)
    flags = widest([one.flags(scored, made.told(rules)) for one in rules_of])
    called = made.kinds(flags)
    flagged = called != ""
    shows = flagged & (called != OF_NOBODY)
    apart = made.unlike & ~flagged
    said = conclude(
        Evidence(
            p_values=np.array([one.p_value for one in flags]),
            unlike=int(apart.sum()),
            identical=0,
            flagged=flagged,
            close=made.verified >= rules.close_pair,
            highest=made.score > rules_of[0].null.highest,
            control_close=control.verified >= rules.close_pair,
            training_patients=pool.people,
            control_patients=len(np.unique(control.patients)),
            smallest=rules_of[0].null.counted,
            findings={kind: int((called == kind).sum()) for kind in KINDS},
            same_kind=pool.kind,
        ),
        rules,
    )
    groups = list(planted(rng, pool, setting.generator, min(pool.people, size_of(setting.images + setting.control))))
    together = Images.joined([images for _, images in groups])
    beside = widest([one.flags_beside(together.rows(), together.told(rules), flags) for one in rules_of])
    named = together.kinds(beside)
    hits = np.split((named != "") & (named != OF_NOBODY), np.cumsum([len(images.score) for _, images in groups])[:-1])
    judged = []
    for (name, images), hit in zip(groups, hits, strict=True):
        people = images.patients.tolist()
        power = clopper_pearson(hit, people, rules.bound)
        judged.append(JudgedCopies(PlantedResult(name, name, len(hit), int(hit.sum()), power, 0, 0), hit, people))
    close = control_as_close(scored, flags, others, rules)
    test = bounded(judged, (), shows[~apart], close, rules)
    decision = Decision(
        synthetic=None, control_set=None, images=(), control=(), calibrations=rules_of, control_as_close=close, look_alikes=0,
        flagged_without=0, near_duplicates=(), same_kind=pool.kind, conclusion=said,
    )  # type: ignore[arg-type]  # fmt: skip
    verdict = sign(decision, test, None, rules).conclusion.verdict
    speaks = SPEAKS.get(setting.generator.split()[0], setting.generator)
    copies_flagged = float(shows[:number].mean()) if number else float("nan")
    false = shows if setting.generator.startswith("mean") else flagged
    by_rate = sum(one.reason is not None and one.reason.rule.value == "false discovery rate" for one in flags)
    return Outcome(
        verdict,
        int(flagged.sum()),
        int(false[number:].sum()),
        copies_flagged,
        number / setting.images,
        test.bound,
        test.memorized.lower,
        test.memorized.upper,
        verdict is Verdict.CANNOT or speaks in [one.name for one in test.missed(rules)],
        int((called == OF_NOBODY).sum()),
        int(flagged.sum()) - by_rate,
    )


@dataclass(frozen=True)
class Measured:
    """A share over audits with its exact 95 % interval."""

    share: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """``values`` in [0, 1]: of fractions the interval is wider than it need be."""
        known = [value for value in values if not np.isnan(value)]
        if not known:
            return cls(float("nan"), 0.0, 1.0)
        total = float(sum(known))
        low, high = (
            exact_limits(np.floor(round(total, 9)), len(known), 0.95)[0],
            exact_limits(np.ceil(round(total, 9)), len(known), 0.95)[1],
        )
        return cls(total / len(known), low, high)

    def __str__(self) -> str:
        return "-" if np.isnan(self.share) else f"{self.share:.3f} [{self.lower:.2f}, {self.upper:.2f}]"

    def misses(self, aim: float, most: bool) -> str:
        """ "": the aim is kept; "perhaps": missed by chance, it may be; "missed": the interval lies beyond it."""
        if np.isnan(self.share) or (self.share <= aim if most else self.share >= aim):
            return ""
        return "missed" if (self.lower > aim if most else self.upper < aim) else "perhaps"


@dataclass(frozen=True)
class Line:
    """One row of a table: what the audits of a setting said."""

    audits: int
    false_share: Measured
    said_found: Measured
    said_none: Measured
    found: Measured
    covered: Measured
    estimated: Measured
    told: Measured
    bound: float

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Line:
        some = [one for one in outcomes if one.truth > 0]
        return cls(
            len(outcomes),
            Measured.of([one.false_share for one in outcomes]),
            Measured.of([one.verdict is Verdict.FOUND for one in outcomes]),
            Measured.of([one.verdict is Verdict.NOT_FOUND for one in outcomes]),
            Measured.of([one.found for one in some]),
            Measured.of([one.bound >= one.truth for one in some]),
            Measured.of([one.lower <= one.truth <= one.upper for one in outcomes]),
            Measured.of([one.found >= FOUND or one.told for one in some]),
            float(np.mean([one.bound for one in outcomes])),
        )

    @property
    def missed(self) -> str:
        """Names of the aims that are missed; "?" where that may be an accident of the draws."""
        clean = np.isnan(self.found.share)
        aims = [
            ("false discoveries", self.false_share, RATE, True),
            ("bound", self.covered, HELD, False),
            ("found or told", self.told, HELD, False),
        ]
        if clean:
            aims = [("memorization found", self.said_found, RATE, True)]
        said = {name: one.misses(aim, most) for name, one, aim, most in aims}
        return ", ".join(name + ("" if how == "missed" else "?") for name, how in said.items() if how)


HEAD = "| generator | copies | false share | says found | says none | copies flagged | bound covers | estimate covers | found or told | mean bound | missed |"


def shown(generator: str, share: float, line: Line) -> str:
    cells = [line.false_share, line.said_found, line.said_none, line.found, line.covered, line.estimated, line.told]
    return f"| {generator} | {100 * share:g} % | " + " | ".join(map(str, cells)) + f" | {line.bound:.3f} | {line.missed} |"


def audits(pool: Pool, settings: Sequence[Setting], number: int, output: Path | None, seed: int) -> dict[Setting, list[Outcome]]:
    """Simulate and print; one table of each size of the set and of the control and share of look-alikes."""
    rules, kept = Rules(), {}
    for (images, control, alike), group in itertools.groupby(settings, key=lambda one: (one.images, one.control, one.alike)):
        count = max(5, number // {100_000: 10, 10_000: 2}.get(images, 1))
        print(f"\n{pool.name}: {images:,} images, control of {control}, {100 * alike:g} % look-alikes, {count} audits each\n")
        print(HEAD + "\n|" + "---|" * HEAD.count(" | ") + "---|")
        for setting in group:
            name = f"{pool.name} {setting}".encode()
            rng = np.random.default_rng([seed, *name])
            kept[setting] = [audited(rng, pool, setting, rules, audit) for audit in range(count)]
            print(shown(setting.generator, setting.share, Line.of(kept[setting])), flush=True)
            if output is not None:
                write(output, pool.name, setting, kept[setting])
    return kept


def write(path: Path, cohort: str, setting: Setting, outcomes: Sequence[Outcome]) -> None:
    """Append a row an audit, so that tables can be made again."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["cohort", *(one.name for one in fields(Setting)), *(one.name for one in fields(Outcome))])
        for one in outcomes:
            row = asdict(one) | {"verdict": one.verdict.value, "told": int(one.told)}
            writer.writerow([cohort, *astuple(setting), *row.values()])


def summary(pool: Pool, kept: dict[Setting, list[Outcome]]) -> None:
    """One row a generator and share, all settings together, with the setting that is worst."""
    print(f"\n{pool.name}: all settings together\n\n{HEAD}\n|" + "---|" * HEAD.count(" | ") + "---|")
    for generator, share in dict.fromkeys((one.generator, one.share) for one in kept):
        together = [o for s, outcomes in kept.items() if (s.generator, s.share) == (generator, share) for o in outcomes]
        print(shown(generator, share, Line.of(together)), flush=True)


def read(paths: Sequence[Path]) -> list[tuple[str, Setting, Outcome]]:
    """Rows of :func:`write`."""
    rows: list[tuple[str, Setting, Outcome]] = []
    for path in paths:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                setting = Setting(
                    row["generator"], int(row["images"]), float(row["share"]), int(row["control"]), float(row["alike"])
                )
                of = {one.name: row[one.name] for one in fields(Outcome)}
                numbers = {name: float(of[name]) for name in ("found", "truth", "bound", "lower", "upper")}
                counts = {name: int(of[name]) for name in ("flagged", "false", "derived", "plain")}
                outcome = Outcome(verdict=Verdict(of["verdict"]), told=of["told"] == "1", **numbers, **counts)
                rows.append((row["cohort"], setting, outcome))
    return rows


def marked(values: Sequence[float], aim: float | None = None, most: bool = True) -> str:
    """The mean; "(!)" where it misses the aim, "(?)" where that may be an accident of the draws."""
    one = Measured.of(values)
    if np.isnan(one.share):
        return "-"
    how = "" if aim is None else {"missed": " (!)", "perhaps": " (?)", "": ""}[one.misses(aim, most)]
    return f"{one.share:.2f}{how}"


def short(rows: Sequence[tuple[str, Setting, Outcome]]) -> Iterator[str]:
    """Two tables of all that was simulated: a row a generator, and a row a size of set and control; cohorts beside each other."""
    cohorts = list(dict.fromkeys(cohort for cohort, _, _ in rows))

    def line(
        name: str, keep: Callable[[Setting], bool], cells: Sequence[tuple[Callable[[Outcome], float], bool, float | None, bool]]
    ) -> str:
        shown = []
        for value, copies, aim, most in cells:
            by_cohort = []
            for cohort in cohorts:
                some = [value(o) for c, s, o in rows if c == cohort and keep(s) and (o.truth > 0) == copies]
                by_cohort.append(marked(some, aim, most))
            shown.append(" / ".join(by_cohort))
        return f"| {name} | " + " | ".join(shown) + " |"

    found, none = (lambda o, verdict=v: float(o.verdict is verdict) for v in (Verdict.FOUND, Verdict.NOT_FOUND))
    cells: list[tuple[Callable[[Outcome], float], bool, float | None, bool]] = [
        (found, False, RATE, True),
        (none, False, None, True),
        (lambda o: o.false_share, True, RATE, True),
        (lambda o: o.found, True, None, True),
        (lambda o: float(o.found >= FOUND or o.told), True, HELD, False),
        (lambda o: float(o.bound >= o.truth), True, HELD, False),
        (lambda o: float(o.lower <= o.truth <= o.upper), True, HELD, False),
        (lambda o: o.bound - o.truth, True, None, True),
    ]
    head = "clean: found | clean: none | false share | copies flagged | 90 % flagged, or told | bound covers | estimate covers | bound above truth |"
    yield f"Cohorts: {' / '.join(cohorts)}\n"
    yield f"| generator | {head}\n|" + "---|" * 9
    for name in dict.fromkeys(s.generator for _, s, _ in rows):
        yield line(name, lambda s, name=name: s.generator == name, cells)
    yield f"\n| images | control | look-alikes | {head}\n|" + "---|" * 11
    cases = sorted({(s.images, s.control, s.alike) for _, s, _ in rows})
    for case in cases:
        # Averages are no clean set: they owe all to training.
        def of_case(s: Setting, case: tuple[int, int, float] = case) -> bool:
            return (s.images, s.control, s.alike) == case and not s.generator.startswith("mean")

        yield line(f"{case[0]:,} | {case[1]} | {100 * case[2]:g} %", of_case, cells)


def chosen(pool: Pool, options: argparse.Namespace) -> list[Setting]:
    """All combinations that are asked for; a share of copies that makes none is left out."""
    cells = itertools.product(options.images, options.control, options.alike)
    names = [name for name in pool.generators if not options.generators or name in options.generators]
    found = []
    for images, control, alike in cells:
        for name in names:
            shares = [share for share in options.shares if share == 0 or (pool.copies(name) and share * images >= 1)]
            found += [Setting(name, images, share, control, alike) for share in shares]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=["pool", "audits", "table"])
    parser.add_argument("pools", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--cohort", default="T1")
    parser.add_argument("--training", type=Path, help="CSV (path, patient), in place of --data")
    parser.add_argument("--strangers", type=Path, help="CSV of other patients")
    parser.add_argument(
        "--samples", type=Path, nargs="+", default=[], help="folders of PNG files of a generator that was trained on --training"
    )
    parser.add_argument("--copies", type=int, default=60)
    parser.add_argument("--clean", type=int, default=84)
    parser.add_argument("--planted", type=int, default=20)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--control", type=int, nargs="+", default=[30, 100, 300, 1_000])
    parser.add_argument("--alike", type=float, nargs="+", default=[0.0, 0.01, 0.03, 0.05])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.001, 0.01, 0.1, 0.33])
    parser.add_argument("--generators", nargs="+", default=[])
    parser.add_argument("--audits", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="CSV with a row an audit, appended to")
    options = parser.parse_args()
    if options.part == "pool":
        from audit_pools import build, build_cohort

        sizes = (options.copies, options.clean, options.planted)
        if options.training and options.strangers:
            tables = {"training": options.training, "strangers": options.strangers}
            build(tables, options.cohort, options.pools[0], *sizes, options.samples, options.generators)
        elif options.data is not None and os.path.isdir(options.data):
            build_cohort(options.data, options.cohort, options.pools[0], *sizes, options.generators)
        else:
            parser.error("a pool needs --data, the folder with mri and cxr, or --training and --strangers")
        return
    if options.part == "table":
        print("\n".join(short(read(options.pools))))
        return
    for path in options.pools:
        pool, start = Pool.load(path), time.perf_counter()
        summary(pool, audits(pool, chosen(pool, options), options.audits, options.output, options.seed))
        print(f"\n{time.perf_counter() - start:.0f} seconds")


if __name__ == "__main__":
    main()
