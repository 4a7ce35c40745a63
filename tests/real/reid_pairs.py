"""Pairs of images for two questions: is this a copy of that image, and is it of the same patient in another slice or visit.

The two tasks are those of LCMem (arXiv 2512.14421). Images of a source are :class:`Shown`; a pair is a row of the pool and a query.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from doppelscan.images import COPY_TRANSFORMS, plant_copy, read_pixels, whole_squares
from doppelscan.images.transforms import take_slice, window
from split import trains

__all__ = [
    "DISTANCES",
    "NEIGHBOUR",
    "Pair",
    "Shown",
    "copy_pairs",
    "load_slices",
    "load_volumes",
    "people_of",
    "rows_of",
    "same_patient_pairs",
    "seen_in",
    "thumbnails",
]

# Millimetres between two slices of one volume that are asked about.
DISTANCES = (3.0, 12.0, 24.0)
# A copy's hardest negative: the image of the same patient that is nearest to it.
NEIGHBOUR = "same patient"
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
# Negatives of each positive and kind.
NEGATIVES, NEAREST = 2, 6
SMALL = 16


@dataclass(frozen=True)
class Shown:
    """An image of a source.

    Attributes:
        patient: of whom.
        place: volume plane or series; only images of one place are slices of one another's neighbourhood.
        position: mm along the axis of the slices, from the middle of the anatomy, so that two patients can be compared; NaN where nothing says it.
        pixels: float32 [H, W] in [0, 1].
    """

    patient: str
    place: str
    position: float
    pixels: np.ndarray


@dataclass(frozen=True)
class Pair:
    """A query and an image of the pool.

    Attributes:
        task: ``copy`` or ``same patient``.
        case: the transform, or how far apart the slices are.
        positive: the query is a copy of the image, or of its patient.
        against: of a negative, what makes it hard; empty for a positive.
        reference: row of the pool.
        query: row of the queries.
        patient: whose query it is, by which intervals count.
    """

    task: str
    case: str
    positive: bool
    against: str
    reference: int
    query: int
    patient: str


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Rows of manifest.csv; a source that has no column is the folder of its files."""
    with open(folder / "manifest.csv", newline="") as file:
        return [{"source": Path(row["path"]).parts[0], "plane": "", "slice": "", **row} for row in csv.DictReader(file)]


def people_of(folder: Path, source: str, plane: str, train: bool | None, most: int | None = None) -> list[str]:
    """People of a source, at most so many; those of several images first.

    Args:
        folder: with manifest.csv.
        source: of it; "volumes" are the people of ds002748_t1.
        plane: of the images that count; empty counts all.
        train: those that trained the encoder (tests/real/split.py), or the others; None takes all.
        most: people.
    """
    named = "ds002748_t1" if source == "volumes" else source
    rows = [
        row for row in rows_of(folder) if source == "volumes" or (row["source"] == source and (not plane or row["plane"] == plane))
    ]
    images = Counter(row["subject"] for row in rows)
    found = [one for one in images if train is None or trains(named, one) == train]
    return sorted(found, key=lambda one: (images[one] == 1, one))[:most]


def load_slices(folder: Path, source: str, plane: str = "", people: Collection[str] | None = None) -> list[Shown]:
    """The 2D images of a source, or the middle slices of its volumes, of some people or all; the position is the number of the slice where that is one of millimetres."""
    found = []
    numbered = source.startswith(("ds002748", "spider"))
    for row in rows_of(folder):
        if row["source"] == source and (not plane or row["plane"] == plane) and (people is None or row["subject"] in people):
            pixels = read_pixels([str(folder / row["path"])])
            pixels = window(take_slice(pixels, 2, pixels.shape[2] // 2) if pixels.ndim == 3 else pixels)
            position = float(row["slice"]) if numbered and row["slice"].isdecimal() else float("nan")
            found.append(Shown(row["subject"], row["plane"], position, pixels))
    return _centred(found) if numbered else found


def load_volumes(
    folder: Path,
    plane: str,
    millimetres: float,
    share: tuple[float, float] = (0.3, 0.75),
    people: Collection[str] | None = None,
) -> list[Shown]:
    """Slices of whole volumes of some people or all, ``millimetres`` apart, between two shares of the anatomy along the axis of ``plane``."""
    import nibabel as nib

    axis, found = AXES[plane], []
    for row in rows_of(folder):
        if people is not None and row["subject"] not in people:
            continue
        path = str(folder / row["path"])
        volume = read_pixels([path])
        pitch = float(nib.as_closest_canonical(nib.load(path)).header.get_zooms()[axis])
        other = tuple(a for a in range(3) if a != axis)
        held = np.flatnonzero((volume > 0.1 * volume.max()).mean(other) > 0.01)
        low, high = int(held[0]), int(held[-1])
        step = max(1, round(millimetres / pitch))
        for index in range(round(low + share[0] * (high - low)), round(low + share[1] * (high - low)), step):
            position = (index - (low + high) / 2) * pitch
            found.append(Shown(row["subject"], plane, position, window(take_slice(volume, axis, index))))
    return found


def _centred(images: Sequence[Shown]) -> list[Shown]:
    """Positions from the middle of each patient's slices: another patient's slice 100 need not show the same."""
    of: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in images:
        of[one.patient, one.place].append(one.position)
    return [Shown(o.patient, o.place, o.position - float(np.mean(of[o.patient, o.place])), o.pixels) for o in images]


def thumbnails(images: Sequence[np.ndarray], size: int = 128) -> torch.Tensor:
    """uint8 [N, 1, size, size] of images float [H, W], padded to squares as in an audit."""
    squares = [whole_squares(torch.from_numpy(np.ascontiguousarray(one))[None, None], size)[0] for one in images]
    return (torch.stack(squares).clamp(0, 1) * 255).round().to(torch.uint8)


class _Others:
    """The images of other patients that are nearest in position; where nothing says it, those that look alike at 16 pixels."""

    def __init__(self, pool: Sequence[Shown], rng: np.random.Generator) -> None:
        self.pool, self.rng = pool, rng
        self.codes = np.unique([one.patient for one in pool], return_inverse=True)[1].reshape(-1)
        self.places = np.unique([one.place for one in pool], return_inverse=True)[1].reshape(-1)
        self.positions = np.array([one.position for one in pool])
        small = thumbnails([one.pixels for one in pool], SMALL).float().flatten(1)
        small = small - small.mean(1, keepdim=True)
        self.small = torch.nn.functional.normalize(small, dim=1).numpy()

    def near(self, row: int, count: int) -> list[int]:
        """``count`` images of ``count`` other patients near to what ``row`` shows, drawn of the :data:`NEAREST` ones."""
        placed = not np.isnan(self.positions[row])
        away = np.abs(self.positions - self.positions[row]) if placed else -self.small @ self.small[row]
        others = (self.codes != self.codes[row]) & (self.places == self.places[row])
        nearest: dict[int, int] = {}
        for candidate in np.argsort(np.where(others, away, np.inf) + 1e-9 * self.rng.random(len(away))).tolist():
            if not others[candidate] or len(nearest) == max(NEAREST, count):
                break
            nearest.setdefault(int(self.codes[candidate]), candidate)
        chosen = list(nearest.values())
        return [chosen[i] for i in sorted(self.rng.permutation(len(chosen))[:count].tolist())]

    def own(self, row: int) -> list[int]:
        """The other images of the patient, of the same place, the nearest first."""
        rows = [i for i in np.flatnonzero((self.codes == self.codes[row]) & (self.places == self.places[row])).tolist() if i != row]
        return rows if np.isnan(self.positions[row]) else sorted(rows, key=lambda i: abs(self.positions[i] - self.positions[row]))


def same_patient_pairs(pool: Sequence[Shown], distances: Sequence[float] = (), each: int = 1, seed: int = 0) -> list[Pair]:
    """Pairs of one patient in another slice or visit, and of other patients.

    Each positive has 2 negatives whose image is as near in position to the *query* as any of another patient (what an audit would name in its place), and 2 as
    near to the *image*, so as far from the query as the positive is: with these alone position tells nothing.

    Args:
        pool: images; queries are the images themselves, rows of the pool.
        distances: mm between the two; empty takes any other image of the patient, where it is of another visit or nobody numbers slices.
        each: queries of a patient and distance.
        seed: of every draw.
    """
    rng = np.random.default_rng(seed)
    others = _Others(pool, rng)
    of: dict[str, list[int]] = defaultdict(list)
    for row, one in enumerate(pool):
        of[one.patient].append(row)
    pairs: list[Pair] = []
    for distance in distances or (float("nan"),):
        case = "another image" if np.isnan(distance) else f"{distance:g} mm"
        patients = [p for p in sorted(of) if len(of[p]) > 1]
        for patient in patients:
            fitting = [(a, b) for a in of[patient] for b in others.own(a) if _apart(others.positions, a, b, distance)]
            for place in rng.permutation(len(fitting))[:each]:
                query, reference = fitting[place]
                pairs.append(Pair("same patient", case, True, "", reference, query, patient))
                for against, at in (("at the query", query), ("at the image", reference)):
                    pairs += [Pair("same patient", case, False, against, i, query, patient) for i in others.near(at, NEGATIVES)]
    return pairs


def seen_in(pool: Sequence[Shown], pairs: Sequence[Pair]) -> tuple[list[Shown], list[Pair]]:
    """The images of the pool that pairs of the pool ask about, and the pairs with their rows in these."""
    rows = sorted({row for pair in pairs for row in (pair.reference, pair.query)})
    place = {row: i for i, row in enumerate(rows)}
    moved = [replace(pair, reference=place[pair.reference], query=place[pair.query]) for pair in pairs]
    return [pool[row] for row in rows], moved


def _apart(positions: np.ndarray, first: int, second: int, distance: float) -> bool:
    """Whether two slices are ``distance`` apart, within a fifth of it and half a millimetre."""
    if np.isnan(distance):
        return True
    return bool(abs(abs(positions[first] - positions[second]) - distance) <= max(0.5, distance / 5))


def copy_pairs(
    pool: Sequence[Shown], each: int = 3, transforms: Sequence[str] = tuple(COPY_TRANSFORMS), seed: int = 0
) -> tuple[list[Pair], list[np.ndarray]]:
    """Planted copies, and negatives that went through the same transform: of the patient's nearest other image, where anybody has one, and of another
    patient's.

    Returns:
        the pairs and the pixels of their queries, float32 [H, W] each.
    """
    rng = np.random.default_rng(seed)
    others = _Others(pool, rng)
    with_more = [row for row in range(len(pool)) if others.own(row)] or list(range(len(pool)))
    pairs: list[Pair] = []
    queries: list[np.ndarray] = []
    for name in transforms:
        for row in rng.permutation(with_more)[:each].tolist():
            stranger = others.near(row, 1)[0]
            neighbour = [(NEIGHBOUR, one) for one in others.own(row)[:1]]
            for against, shown in (("", row), *neighbour, ("other patient", stranger)):
                # What is blended in is of nobody who is asked about.
                free = [i for i in range(len(pool)) if pool[i].patient not in (pool[row].patient, pool[shown].patient)]
                partner = pool[int(rng.choice(free))].pixels
                pairs.append(Pair("copy", name, not against, against, row, len(queries), pool[row].patient))
                queries.append(plant_copy(pool[shown].pixels, name, rng, partner))
    return pairs, queries
