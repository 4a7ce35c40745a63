"""What a scorer is asked: planted copies, what looks like one and is none, and what shows a training patient in another image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.benchmark.labels import COPIED, Truth
from doppelscan.benchmark.sets import PreparedImages
from doppelscan.errors import InputError
from doppelscan.images import COPY_TRANSFORMS, PrincipalReconstruction, plant_copy, unpadded
from doppelscan.memorization import spread_over_patients

__all__ = ["FAMILIES", "Experiment", "Query", "planted_experiment", "sample_experiment"]

RANKS, AVERAGES = (20, 40, 60), (3, 5, 10)
NEIGHBOUR, SLICE, VISIT = "neighbouring slice", "another slice", "another image"
# Families of cases, in the order of the table.
FAMILIES = ("planted copies", "reconstructions", "averages", NEIGHBOUR, SLICE, VISIT, "strangers", "samples")
# Columns of a table whose values have slices of their own: slice 12 of one visit is no neighbour of slice 13 of another.
NUMBERED_APART = ("volume", "session", "visit", "source", "modality", "plane")
# A split of the holdout: half of its patients stay a control, as each method needs one.
NEGATIVE_SHARE, FEWEST = 0.5, 3


@dataclass(frozen=True)
class Query:
    """One image that is asked about.

    Attributes:
        family: one of ``FAMILIES``.
        case: within the family, such as a transform.
        truth: what it is.
        source: row of the training image that it copies, -1 where it copies none, or nobody says which.
        patient: who it shows: the training patient, or another one; what intervals count by.
        pixels: float32 [H, W] in [0, 1].
    """

    family: str
    case: str
    truth: Truth
    source: int
    patient: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Experiment:
    """A training set, a control of other patients, and images that are asked about.

    Attributes:
        name: ``planted`` or ``samples``.
        training: what a generator was, or could have been, trained on.
        control: images of patients who are neither in training nor among the queries.
        queries: in an order that says nothing.
    """

    name: str
    training: PreparedImages
    control: PreparedImages
    queries: tuple[Query, ...]

    @property
    def copied(self) -> np.ndarray:
        """bool [M], which queries show a training image."""
        return np.array([one.truth in COPIED for one in self.queries], bool)


def planted_experiment(
    training: PreparedImages, holdout: PreparedImages, count: int, transforms: Sequence[str] | None = None, seed: int = 0
) -> Experiment:
    """Draw all cases whose truth is known because they are made here.

    - *planted copies*: training images through each of the transforms, and images of strangers through the same ones.
    - *reconstructions*: both through the first 20, 40 and 60 principal components of the training set (half of its images at most).
    - *averages*: of a training image and the 2, 4 and 9 nearest ones of other people; they copy nobody.
    - *neighbouring slice*, *another slice*, *another image*: of a training patient, taken out of the training set: the same patient, no copy.
      Slices are told apart by their number in a volume, or in a column ``slice`` among rows that agree in ``NUMBERED_APART``.
    - *strangers*, as they are.

    Args:
        training: of which some images are taken out.
        holdout: other patients; half of them are the strangers, half the control.
        count: images of a case and side, at most; drawn over patients.
        transforms: names of ``COPY_TRANSFORMS``; None for all.
        seed: of every draw.

    Raises:
        InputError: an unknown transform, or too few patients.
    """
    names = list(COPY_TRANSFORMS) if transforms is None else list(transforms)
    unknown = [name for name in names if name not in COPY_TRANSFORMS]
    if unknown:
        raise InputError(f"The 'transforms' parameter must name {'; '.join(COPY_TRANSFORMS)}. Got {unknown[0]!r} instead.")
    rng = np.random.default_rng(seed)
    strangers, control = _halves(holdout, rng)
    own, same = _taken_out(training, count, rng)
    queries = [*_planted(own, strangers, names, count, rng, seed), *_reconstructed(own, strangers, count, seed)]
    queries += [*_averaged(own, count, seed), *same]
    for row in spread_over_patients(strangers.patients, 2 * count, seed):
        queries.append(Query("strangers", "as they are", "novel", -1, strangers.patients[row], strangers.pixels(row)))
    order = rng.permutation(len(queries))
    return Experiment("planted", own, control, tuple(queries[i] for i in order))


def sample_experiment(
    training: PreparedImages, holdout: PreparedImages, samples: PreparedImages, truths: Sequence[Truth], sources: Sequence[int]
) -> Experiment:
    """A generator's samples against all of its training images; those that are unsure are asked about, and counted nowhere.

    Args:
        training: what the generator was trained on.
        holdout: other patients, all of them the control.
        samples: of the generator.
        truths: of each sample.
        sources: of each, the row of the training image that it shows or is nearest to; -1 where nobody says, and then it counts as somebody of its own.
    """
    queries = []
    for i, (truth, source) in enumerate(zip(truths, sources, strict=True)):
        # Samples of one source are alike; novel ones are each somebody.
        shown = source >= 0 and (truth in COPIED or truth == "same patient")
        patient = training.patients[source] if shown else f"sample {i}"
        queries.append(Query("samples", "samples", truth, source if shown else -1, patient, samples.pixels(i)))
    return Experiment("samples", training, holdout, tuple(queries))


def _halves(holdout: PreparedImages, rng: np.random.Generator) -> tuple[PreparedImages, PreparedImages]:
    names = sorted(set(holdout.patients))
    rng.shuffle(names)
    first = set(names[: round(NEGATIVE_SHARE * len(names))])
    if min(len(first), len(names) - len(first)) < FEWEST:
        raise InputError(
            f"The 'holdout' parameter must name images of at least {2 * FEWEST} patients, half of them for a control. Got {len(names)}; name more."
        )
    rows = range(len(holdout.records))
    inside = [row for row in rows if holdout.patients[row] in first]
    return holdout.at(inside), holdout.at([row for row in rows if holdout.patients[row] not in first])


def _taken_out(training: PreparedImages, count: int, rng: np.random.Generator) -> tuple[PreparedImages, list[Query]]:
    """Training without one image of some patients, and these images as queries; nobody is left out as a whole."""
    of: dict[str, list[int]] = {}
    for row, patient in enumerate(training.patients):
        of.setdefault(patient, []).append(row)
    out: dict[int, str] = {}
    drawn = dict.fromkeys((NEIGHBOUR, SLICE, VISIT), 0)
    several = sorted(patient for patient, rows in of.items() if len(rows) > 1)
    # Neighbours first: few patients have them, and all that have them have other slices too.
    for kind in drawn:
        for patient in rng.permutation(several).tolist():
            rows = of[patient]
            if drawn[kind] < count and not out.keys() & set(rows):
                fitting = [row for row in rows if _kind(training, row, [other for other in rows if other != row]) == kind]
                if fitting:
                    out[int(rng.choice(fitting))] = kind
                    drawn[kind] += 1
    kept = [row for row in range(len(training.records)) if row not in out]
    if len({training.patients[row] for row in kept}) < FEWEST:
        raise InputError(f"The 'training' parameter must name images of at least {FEWEST} patients. Got {len(of)}; name more.")
    queries = []
    for row, kind in out.items():
        queries.append(Query(kind, kind, "same patient", -1, training.patients[row], training.pixels(row)))
    return training.at(kept), queries


def _kind(images: PreparedImages, row: int, others: Sequence[int]) -> str:
    """What an image of a patient is to the others of the same patient."""
    distances = [_slices_apart(images, row, other) for other in others]
    known = [one for one in distances if one is not None]
    return VISIT if not known else NEIGHBOUR if min(known) <= 1 else SLICE


def _slices_apart(images: PreparedImages, row: int, other: int) -> int | None:
    """Slices between two images of one volume, or of one patient whose table numbers them; None where nothing says so.

    Images of the same number are no neighbours, but of two series or planes: other images of the patient.
    """
    first, second = images.records[row], images.records[other]
    if first.slice is not None and second.slice is not None:
        return abs(first.slice - second.slice) or None if first.volume == second.volume else None
    one, two = ({name.strip().lower(): text for name, text in images.values[i].items()} for i in (row, other))
    if any(one.get(name, "") != two.get(name, "") for name in NUMBERED_APART):
        return None
    told = [values.get("slice", "").strip() for values in (one, two)]
    return abs(int(told[0]) - int(told[1])) or None if all(number.isdecimal() for number in told) else None


def _planted(
    training: PreparedImages, strangers: PreparedImages, names: Sequence[str], count: int, rng: np.random.Generator, seed: int
) -> Iterator[Query]:
    for name in names:
        # Of each transform other images, but the same ones whatever other transforms are asked for.
        own_seed = seed + int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
        partners = spread_over_patients(strangers.patients, len(strangers.records), own_seed + 1)
        for images, truth in ((training, "copy"), (strangers, "novel")):
            for row in spread_over_patients(images.patients, count, own_seed):
                partner = strangers.pixels(int(rng.choice([p for p in partners if strangers.patients[p] != images.patients[row]])))
                pixels = plant_copy(images.pixels(row), name, rng, partner)
                source, made = (row, "blend" if name.startswith("blend") else "copy") if truth == "copy" else (-1, "novel")
                yield Query("planted copies", name, made, source, images.patients[row], pixels)  # type: ignore[arg-type]


def _reconstructed(training: PreparedImages, strangers: PreparedImages, count: int, seed: int) -> Iterator[Query]:
    most = max(1, len(training.squares) // 2)
    ranks = sorted({min(rank, most) for rank in RANKS})
    principal = PrincipalReconstruction(training.squares, max(ranks), seed)
    for rank in ranks:
        for images, truth in ((training, "copy"), (strangers, "novel")):
            for row in spread_over_patients(images.patients, count, seed + rank):
                pixels = unpadded(
                    principal(images.squares[row : row + 1], min(rank, principal.components))[0], images.shapes[row]
                ).clip(0, 1)
                source = row if truth == "copy" else -1
                yield Query("reconstructions", f"{rank} components", truth, source, images.patients[row], pixels)  # type: ignore[arg-type]


def _averaged(training: PreparedImages, count: int, seed: int) -> Iterator[Query]:
    people = len(set(training.patients))
    for number in AVERAGES:
        if number > people // 2:
            continue
        for row in spread_over_patients(training.patients, count, seed + number):
            kept: dict[str, int] = {}
            for other in np.argsort(((training.squares - training.squares[row]) ** 2).mean((1, 2)), kind="stable").tolist():
                kept.setdefault(training.patients[other], other)
            mean = training.squares[list(kept.values())[:number]].mean(0)
            yield Query(
                "averages",
                f"of {number}",
                "novel",
                -1,
                f"average about {training.patients[row]}",
                unpadded(mean, training.shapes[row]),
            )
