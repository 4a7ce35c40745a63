"""Pools of scored images for ``whole_audits.py``: strangers and training images of a real cohort, as they are and through generators.

Each pool is one training set. Its strangers are other patients of the cohort; every generator is given strangers (what it makes of nobody it
was trained on) and training images (what it makes when it memorizes), and all are embedded, registered and scored as an audit does. What the
audit's own self-test plants in front of each generator's images is in the pool, too.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from doppelscan.decide import Rules, same_kind, unlike_training
from doppelscan.images import PrincipalReconstruction, SpectrumMatch, evenly_chosen, plant_copy
from doppelscan.memorization import spread_over_patients
from doppelscan.search import EmbeddedSet
from doppelscan.workflows.run import audit_workflow
from PIL import Image
from scipy import ndimage
from whole_audits import COLUMNS, Pool

# Source and plane of the manifest, people in training, and the most that are strangers.
COHORTS = {
    "T1": ("mri", "ds002748_t1", "axial", 30, 42),
    "T1ce": ("mri", "figshare_t1ce", "axial", 45, 62),
    "chest": ("cxr", "", "", 150, 250),
}
# What the self-test plants beside what its generators make.
GEOMETRIC = ("rotation 10", "flip, rotation, noise", "shift 6 %", "crop 15 %", "gamma 1.5")
RANKS, AVERAGES = (20, 40, 60), (3, 5, 10)

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


def changes(training: np.ndarray, strangers: np.ndarray, rng: np.random.Generator) -> dict[str, Change]:
    """What generators do to a square image, by name."""
    principal = PrincipalReconstruction(training, max(RANKS))
    smooth = principal(strangers, 40)
    # As sharp as 40 components and as noisy as a model that was stopped early.
    spectrum = SpectrumMatch(training, smooth + 0.05 * rng.standard_normal(smooth.shape))
    made: dict[str, Change] = {f"PCA {rank}": partial(_through, principal, rank) for rank in RANKS}
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


def groups(training: EmbeddedSet, strangers: EmbeddedSet, copies: int, clean: int, planted: int, seed: int = 0) -> Iterator[Group]:
    """Everything that is scored beside the strangers as they are."""
    rng = np.random.default_rng(seed)
    own, other = squares(training), squares(strangers)
    rows = spread_over_patients(training.patients, copies, seed)
    away = spread_over_patients(strangers.patients, clean, seed)
    shapes, away_shapes = training.native_shapes(rows), strangers.native_shapes(away)
    who, away_who = [training.patients[row] for row in rows], [strangers.patients[row] for row in away]
    made_clean: dict[str, list[np.ndarray]] = {"plain": [other[row] for row in away]}

    def cut(images: list[np.ndarray], native: np.ndarray) -> list[np.ndarray]:
        return [unpadded(image, shape) for image, shape in zip(images, native, strict=True)]

    for name, change in changes(own, other, rng).items():
        made_clean[name] = [change(other[row]) for row in away]
        yield Group(name, "copy", cut([change(own[row]) for row in rows], shapes), who)
        yield Group(name, "clean", cut(made_clean[name], away_shapes), away_who)
    for name in GEOMETRIC:
        yield Group(name, "copy", [plant_copy(image, name, rng) for image in cut([own[row] for row in rows], shapes)], who)
    for made, images, chosen, native, people in (("copy", own, rows, shapes, who), ("clean", other, away, away_shapes, away_who)):
        partners = np.roll(chosen, len(chosen) // 2)
        mixed = [0.75 * images[i] + 0.25 * images[j] for i, j in zip(chosen, partners, strict=True)]
        if made == "clean":
            made_clean["blend"] = mixed
        yield Group("blend", made, cut(mixed, native), people)
    for count in AVERAGES:
        name = f"mean of {count}"
        made_clean[name] = [mean_of_nearest(own, training.patients, row, count) for row in rows]
        yield Group(name, "clean", cut(made_clean[name], shapes), [f"mean {row}" for row in rows])
    tested = [rows[i] for i in evenly_chosen(len(rows), planted)]
    native = training.native_shapes(tested)
    for name, images_of in made_clean.items():
        spectrum = SpectrumMatch(own, np.stack(images_of))
        pixels = cut([spectrum(own[row][None], rng)[0] for row in tested], native)
        yield Group(name, "test", pixels, [training.patients[row] for row in tested])


def build(data: Path, cohort: str, path: Path, copies: int, clean: int, planted: int) -> None:
    """Make, embed and score the pool of ``cohort`` and write it to ``path``.

    Args:
        data: folder with ``mri`` and ``cxr``, each with its manifest.csv.
        cohort: one of ``COHORTS``.
        path: .npz.
        copies: training images that go through each generator.
        clean: strangers that do.
        planted: training images that are given the spectrum of each generator's images.
    """
    rules = Rules()
    with tempfile.TemporaryDirectory(prefix="doppelscan-pool-") as folder:
        place = Path(folder)
        for name, files in members(data, cohort).items():
            with open(place / f"{name}.csv", "w", newline="") as file:
                csv.writer(file).writerows([("path", "patient"), *((str(p), who) for p, who in files)])
        workflow = audit_workflow(
            training=place / "training.csv", synthetic=place / "strangers.csv", output=place / "audit", threads=1
        )
        workflow.initialize()
        score = workflow.parser.get_parsed_content("audit").scorer()
        strangers = score(place / "strangers.csv")
        training = strangers.training
        kind = same_kind(training, strangers.images)
        scored = [("plain", "clean", strangers, strangers.patients)]
        for number, group in enumerate(groups(training, strangers.images, copies, clean, planted)):
            into = place / f"group{number:03d}"
            into.mkdir()
            for i, image in enumerate(group.pixels):
                Image.fromarray(np.round(image * 255).astype(np.uint8)).save(into / f"{i:05d}.png")
            images = score(into)
            patients = [group.patients[int(Path(record.paths[0]).stem)] for record in images.images.records]
            scored.append((group.generator, group.made, images, patients))
            print(f"{cohort}: {len(images.scored)} {group.made} {group.generator}", flush=True)
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        for generator, made, images, patients in scored:
            apart, _ = unlike_training(images.images, images.reference, rules, strangers.images)
            explained = images.explained(-np.inf)
            for one, share, away in zip(images.scored, explained, apart, strict=True):
                patient = patients[one.row]
                values = (generator, made, patient, one.score, one.verified, one.part, one.part_share, share, away)
                for name, value in zip(COLUMNS, values, strict=True):
                    columns[name].append(value)
        people = len(set(training.patients))
        Pool(cohort, people, kind, **{name: np.array(values) for name, values in columns.items()}).save(path)
