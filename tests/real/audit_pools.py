"""Pools of scored images for ``whole_audits.py``: strangers and training images of a real cohort, as they are and through generators.

Each pool is one training set. Its strangers are other patients of the cohort; every generator is given strangers (what it makes of nobody it
was trained on) and training images (what it makes when it memorizes), and all are embedded, registered and scored as an audit does. What the
audit's own self-test plants in front of each generator's images is in the pool, too. Of what a real generator made, see
``labelled_samples.py``, a pool has what is plainly a copy or plainly none.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from doppelscan.decide import Flag, Reason, Rule, Rules, ScoredSet, same_kind, unlike_training
from doppelscan.decide.decision import findings_of
from doppelscan.images import PrincipalReconstruction, SpectrumMatch, SquareImages, evenly_chosen, plant_copy
from doppelscan.memorization import spread_over_patients
from doppelscan.search import EmbeddedSet
from doppelscan.workflows.run import audit_workflow
from labelled_samples import labelled
from PIL import Image
from scipy import ndimage
from whole_audits import COLUMNS, TESTED, Pool

# Source and plane of the manifest, people in training, and the most that are strangers.
COHORTS = {
    "T1": ("mri", "ds002748_t1", "axial", 30, 42),
    "T1ce": ("mri", "figshare_t1ce", "axial", 45, 62),
    "chest": ("cxr", "", "", 150, 250),
}
# What the self-test plants beside what its generators make.
GEOMETRIC = ("rotation 10", "flip, rotation, noise", "shift 6 %", "crop 15 %", "gamma 1.5")
RANKS, AVERAGES = (20, 40, 60), (3, 5, 10)
SAMPLED = "diffusion"

Change = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Group:
    """Images of one generator.

    Attributes:
        generator: its name.
        made: "clean" of strangers, "copy" of training images, "test" what the self-test plants before a synthetic set of this generator.
        pixels: float32 [H, W] in [0, 1] of each.
        patients: who each shows.
    """

    generator: str
    made: str
    pixels: list[np.ndarray]
    patients: list[str]


def members(data: Path, cohort: str, seed: int = 0) -> dict[str, list[tuple[Path, str]]]:
    """Files and patients of ``training`` and ``strangers``: no patient is in both."""
    folder, source, plane, own, others = COHORTS[cohort]
    with open(data / folder / "manifest.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if not source or (r["source"], r["plane"]) == (source, plane)]
    patients = sorted({row["subject"] for row in rows})
    np.random.default_rng(seed).shuffle(patients)
    parts = {"training": set(patients[:own]), "strangers": set(patients[own : own + others])}
    return {name: [(data / folder / r["path"], r["subject"]) for r in rows if r["subject"] in who] for name, who in parts.items()}


def squares(images: EmbeddedSet) -> np.ndarray:
    """Thumbnails as registration sees them: float32 [N, S, S] in [0, 1]."""
    return images.thumbnails(range(len(images)))[:, 0].numpy().astype(np.float32) / 255


def unpadded(square: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """What of a thumbnail is image: float32 [H, W]."""
    height, width = np.maximum(8, np.round(len(square) * shape / shape.max())).astype(int)
    top, left = (len(square) - height) // 2, (len(square) - width) // 2
    return np.clip(square[top : top + height, left : left + width], 0, 1)


def mean_of_nearest(images: np.ndarray, patients: list[str], row: int, count: int) -> np.ndarray:
    """Mean of an image and those most like it, one a patient: float32 [S, S]."""
    kept: dict[str, int] = {}
    for other in np.argsort(((images - images[row]) ** 2).mean((1, 2)), kind="stable").tolist():
        kept.setdefault(patients[other], other)
    return images[list(kept.values())[:count]].mean(0)


def changes(training: EmbeddedSet, strangers: EmbeddedSet, rng: np.random.Generator) -> dict[str, Change]:
    """What generators do to a square image, by name."""
    own = squares(training)
    principal = PrincipalReconstruction(own, max(RANKS))
    smooth = principal(squares(strangers), min(40, len(own) // 2))
    # As sharp as 40 components and as noisy as a model that was stopped early.
    noisy = np.clip(smooth + 0.05 * rng.standard_normal(smooth.shape), 0, 1)
    shapes, away = (one.native_shapes(range(len(one))) for one in (training, strangers))
    spectrum = SpectrumMatch(SquareImages(own, shapes, training.patients), SquareImages(noisy, away, strangers.patients))
    # Of few training images the self-test keeps half as many components.
    made: dict[str, Change] = {f"PCA {rank}": partial(_through, principal, min(rank, len(own) // 2)) for rank in RANKS}
    made |= {f"blur {sigma:g}": partial(_blurred, sigma) for sigma in (2.0, 4.0)}
    made |= {f"noise {sigma:g}": partial(_noisy, sigma, rng) for sigma in (0.1, 0.2)}
    made["half resolution"] = lambda image: plant_copy(image, "down-up", rng)
    made["spectrum"] = lambda image: spectrum(image[None], rng)[0]
    return made


def _through(principal: PrincipalReconstruction, rank: int, image: np.ndarray) -> np.ndarray:
    return principal(image[None], rank)[0]


def _blurred(sigma: float, image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, sigma * len(image) / 128)


def _noisy(sigma: float, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    return np.clip(image + sigma * rng.standard_normal(image.shape), 0, 1).astype(np.float32)


def groups(
    training: EmbeddedSet, strangers: EmbeddedSet, copies: int, clean: int, planted: int, only: Sequence[str] = (), seed: int = 0
) -> Iterator[Group]:
    """Everything that is scored beside the strangers as they are; of ``only`` these generators, and the copies that every self-test plants."""
    rng = np.random.default_rng(seed)
    own, other = squares(training), squares(strangers)
    rows = spread_over_patients(training.patients, copies, seed)
    away = spread_over_patients(strangers.patients, clean, seed)
    shapes, away_shapes = training.native_shapes(rows), strangers.native_shapes(away)
    who, away_who = [training.patients[row] for row in rows], [strangers.patients[row] for row in away]
    made_clean: dict[str, list[np.ndarray]] = {"plain": [other[row] for row in away]}
    all_shapes = training.native_shapes(range(len(training)))

    def wanted(name: str) -> bool:
        return not only or name in only

    def cut(images: list[np.ndarray], native: np.ndarray) -> list[np.ndarray]:
        return [unpadded(image, shape) for image, shape in zip(images, native, strict=True)]

    for name, change in changes(training, strangers, rng).items():
        made_clean[name] = [change(other[row]) for row in away]
        if wanted(name) or name in TESTED:
            yield Group(name, "copy", cut([change(own[row]) for row in rows], shapes), who)
        if wanted(name):
            yield Group(name, "clean", cut(made_clean[name], away_shapes), away_who)
    for name in GEOMETRIC:
        yield Group(name, "copy", [plant_copy(image, name, rng) for image in cut([own[row] for row in rows], shapes)], who)
    for made, images, chosen, native, people in (("copy", own, rows, shapes, who), ("clean", other, away, away_shapes, away_who)):
        partners = np.roll(chosen, len(chosen) // 2)
        mixed = [0.75 * images[i] + 0.25 * images[j] for i, j in zip(chosen, partners, strict=True)]
        if made == "clean":
            made_clean["blend"] = mixed
        if made == "copy" or wanted("blend"):
            yield Group("blend", made, cut(mixed, native), people)
    for count in AVERAGES:
        name = f"mean of {count}"
        made_clean[name] = [mean_of_nearest(own, training.patients, row, count) for row in rows]
        if wanted(name):
            yield Group(name, "clean", cut(made_clean[name], shapes), [f"mean {row}" for row in rows])
    tested = [rows[i] for i in evenly_chosen(len(rows), planted)]
    native, real = training.native_shapes(tested), SquareImages(own, all_shapes, training.patients)
    for name, images_of in made_clean.items():
        if not wanted(name):
            continue
        # Means are of training images, all else of strangers.
        shown = shapes if name.startswith("mean") else away_shapes
        spectrum = SpectrumMatch(real, SquareImages(np.stack(images_of), shown))
        pixels = cut([spectrum(own[row][None], rng)[0] for row in tested], native)
        yield Group(name, "test", pixels, [training.patients[row] for row in tested])


def sampled(
    samples: list[Path], training: EmbeddedSet, strangers: EmbeddedSet, copies: int, planted: int, seed: int = 0
) -> Iterator[Group]:
    """What a real generator made, with what the self-test plants before its images; see :func:`labelled_samples.labelled`."""
    own, other, rng = squares(training), squares(strangers), np.random.default_rng(seed)
    files = [path for folder in samples for path in sorted(folder.glob("*.png"))]
    made = np.stack([np.asarray(Image.open(path).convert("L"), np.float32) / 255 for path in files])
    labels = labelled(made, own, training.patients, other)
    print(f"{len(files)} samples: {', '.join(f'{labels.count(one)} {one}' for one in sorted(set(labels)))}", flush=True)
    for label in ("copy", "clean"):
        which = [i for i, one in enumerate(labels) if one == label]
        yield Group(SAMPLED, label, [made[i] for i in which], [f"sample {i}" for i in which])
    size = own.shape[-1]
    seen = np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in made])
    rows = spread_over_patients(training.patients, copies, seed)
    tested = [rows[i] for i in evenly_chosen(len(rows), planted)]
    native, real = (
        training.native_shapes(tested),
        SquareImages(own, training.native_shapes(range(len(training))), training.patients),
    )
    spectrum = SpectrumMatch(real, SquareImages(seen))
    pixels = [unpadded(spectrum(own[row][None], rng)[0], shape) for row, shape in zip(tested, native, strict=True)]
    yield Group(SAMPLED, "test", pixels, [training.patients[row] for row in tested])


def kinds(images: ScoredSet, rules: Rules) -> list[str]:
    """What each image would be called if it were flagged by its whole."""
    flags = [Flag(0.0, 0.0, reason=Reason(Rule.RATE, 0.0, rules.fdr))] * len(images.scored)
    return [one.kind for one in findings_of(images, flags, rules) if one is not None]


def build(
    tables: dict[str, Path],
    name: str,
    path: Path,
    copies: int,
    clean: int,
    planted: int,
    samples: list[Path],
    only: Sequence[str] = (),
) -> None:
    """Make, embed and score a pool and write it to ``path``.

    Args:
        tables: CSV files (path, patient) of ``training`` and ``strangers``.
        name: of the pool.
        path: .npz.
        copies: training images that go through each generator.
        clean: strangers that do.
        planted: training images that are given the spectrum of each generator's images.
        samples: folders of what a generator made that was trained on ``training``; may be none.
        only: generators, all of them without.
    """
    rules = Rules()
    with tempfile.TemporaryDirectory(prefix="doppelscan-pool-") as folder:
        place = Path(folder)
        workflow = audit_workflow(training=tables["training"], synthetic=tables["strangers"], output=place / "audit", threads=1)
        workflow.initialize()
        score = workflow.parser.get_parsed_content("audit").scorer()
        strangers = score(tables["strangers"])
        training = strangers.training
        kind = same_kind(training, strangers.images)
        scored = [("plain", "clean", strangers, strangers.patients)]
        made = groups(training, strangers.images, copies, clean, planted, only)
        real = () if not samples else sampled(samples, training, strangers.images, copies, planted)
        for number, group in enumerate(chain(made, real)):
            if not group.pixels:
                continue
            into = place / f"group{number:03d}"
            into.mkdir()
            for i, image in enumerate(group.pixels):
                Image.fromarray(np.round(image * 255).astype(np.uint8)).save(into / f"{i:05d}.png")
            images = score(into)
            patients = [group.patients[int(Path(record.paths[0]).stem)] for record in images.images.records]
            scored.append((group.generator, group.made, images, patients))
            print(f"{name}: {len(images.scored)} {group.made} {group.generator}", flush=True)
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        for generator, how, images, patients in scored:
            apart, _ = unlike_training(images.images, images.reference, rules, strangers.images)
            away_of = np.zeros(len(images.scored), bool) if apart is None else apart
            told = zip(images.scored, images.explained(-np.inf), away_of, kinds(images, rules), strict=True)
            for one, share, away, called in told:
                values = (
                    generator, how, patients[one.row], one.score, one.verified, one.margin, one.part, one.part_share, share, away, called
                )  # fmt: skip
                for column, value in zip(COLUMNS, values, strict=True):
                    columns[column].append(value)
        people = len(set(training.patients))
        Pool(name, people, kind, **{name: np.array(values) for name, values in columns.items()}).save(path)


def build_cohort(data: Path, cohort: str, path: Path, copies: int, clean: int, planted: int, only: Sequence[str] = ()) -> None:
    """The pool of one of ``COHORTS`` in ``data``, a folder with ``mri`` and ``cxr``, each with its manifest.csv; see :func:`build`."""
    folder = Path(tempfile.mkdtemp(prefix="doppelscan-tables-"))
    try:
        tables = {}
        for name, files in members(data, cohort).items():
            tables[name] = folder / f"{name}.csv"
            with open(tables[name], "w", newline="") as file:
                csv.writer(file).writerows([("path", "patient"), *((str(p), who) for p, who in files)])
        build(tables, cohort, path, copies, clean, planted, [], only)
    finally:
        shutil.rmtree(folder)
