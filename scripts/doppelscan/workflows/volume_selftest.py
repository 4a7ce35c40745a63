"""The self-test of volumes: copies of training volumes, changed as transforms and generators change them, go through the audit; :mod:`selftest` in 3D."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppelscan.decide import Planted, Reference
from doppelscan.images import ImageRecord, evenly_chosen, plant_volume
from doppelscan.memorization import spread_over_patients
from doppelscan.progress import progress
from doppelscan.search import EmbeddedVolumes, EmbeddingStore
from doppelscan.workflows.selftest import change_of
from doppelscan.workflows.volume_embed import VolumeEmbedder, Voxels, read_voxels

__all__ = ["VolumePlanter", "planted_volumes"]

# One of each kind, since a volume takes about a second: name, as the words of --declared begin, transform and words.
COPIES = {
    "rotation": ("rotation 10 y", "turned by 10 degrees about the axis to the front"),
    "flip": ("flip, rotation, noise", "mirrored, turned by 8 degrees and slightly noisy"),
    "crop": ("crop 15 %", "without the outer 15 % of its field"),
    "gamma": ("gamma 1.5", "of another contrast (gamma 1.5)"),
    "elastic": ("elastic", "bent"),
    "resolution": ("3 mm and back", "of voxels of 3 mm"),
    "noise": ("noise", "with noise of a tenth of the range"),
    "blend": ("blend 75/25", "mixed with a quarter of another patient"),
    "half": ("half replaced", "of which one half is another patient's"),
}
STRANGERS = ("noise", "resolution")
NOISE = 0.1
NEAREST, FEWEST_NEGATIVES = 5, 5


# Key of a planted volume, and what makes it.
Made = Iterator[tuple[str, Callable[[], Voxels]]]


@dataclass(frozen=True)
class _Group:
    """Volumes of one change: name, words, the training row that each is a copy of or -1, who is shown, and the volumes."""

    name: str
    words: str
    sources: Sequence[int]
    patients: Sequence[str]
    made: Made


def planted_volumes(size: int) -> int:
    """About how many volumes a self-test of ``size`` copies a change plants, negatives among them."""
    return size * len(COPIES) + (len(STRANGERS) + 1) * max(FEWEST_NEGATIVES, size // 5)


class VolumePlanter:
    """Plants copies of training volumes, one a patient, and volumes of nobody; one volume is in memory at a time.

    Args:
        embedder: of volumes.
        training: the training set.
        strangers: real volumes of other patients, which the same is done to; None leaves that out.
        size: copies a change, at most; one of each patient.
        seed: of draws.
        declared: changes that a claim of none found is to cover; None is all.
    """

    def __init__(
        self,
        embedder: VolumeEmbedder,
        training: EmbeddedVolumes,
        strangers: EmbeddedVolumes | None,
        size: int,
        seed: int = 0,
        declared: Collection[str] | None = None,
    ) -> None:
        self.embedder, self.training, self.strangers, self.seed, self.declared = embedder, training, strangers, seed, declared
        self.rows = spread_over_patients(training.patients, min(size, len(set(training.patients))), seed)
        self.negatives = max(FEWEST_NEGATIVES, size // 5)

    def scored(self, reference: Reference, store: EmbeddingStore) -> list[Planted]:
        """Plant, embed into ``store`` (of 48 poses), so that nothing is planted twice, and score."""
        groups = list(self._groups())
        records: list[ImageRecord] = []
        keys: list[str] = []
        store.refresh()
        for group in groups:
            total = len(group.sources)
            for place, (key, voxels) in enumerate(progress(group.made, f"plant {group.name}", "volume", total=total)):
                if key not in store:
                    self.embedder.add(store, key, voxels(), self.embedder.inferer.known)
                name = f"self-test {group.name} {place}"
                records.append(ImageRecord(name, (), name, group.patients[place], whole=True))
                keys.append(key)
        store.flush()
        scored = reference.scored(EmbeddedVolumes(records, keys, store, self.training.outputs), "self-test")
        result, start = [], 0
        for group in groups:
            own = replace(scored, scored=scored.scored[start : start + len(group.sources)])
            declared = self.declared is None or change_of(group.name) in self.declared
            sources = np.array(group.sources, np.int64)
            result.append(Planted(group.name, group.words, own, sources, tuple(group.patients), declared))
            start += len(group.sources)
        return result

    def _groups(self) -> Iterator[_Group]:
        training, rows = self.training, self.rows
        for name, (transform, words) in COPIES.items():
            yield _Group(name, words, rows, [training.patients[row] for row in rows], self._changed(training, rows, transform))
        if self.strangers is not None:
            others = self.strangers
            chosen = spread_over_patients(others.patients, min(self.negatives, len(set(others.patients))), self.seed)
            patients = [others.patients[row] for row in chosen]
            for name in STRANGERS:
                transform, words = COPIES[name]
                made = self._changed(others, chosen, transform)
                yield _Group(f"strangers {name}", f"strangers {words}", [-1] * len(chosen), patients, made)
        first = spread_over_patients(training.patients, len(set(training.patients)), 0)
        count = min(self.negatives, len(first))
        words = f"means of {min(NEAREST, len(first))} training volumes that are alike"
        yield _Group("means", words, [-1] * count, [f"mean {i}" for i in range(count)], self._means(first, count))

    def _changed(self, volumes: EmbeddedVolumes, rows: Sequence[int], transform: str) -> Iterator[tuple[str, Callable[[], Voxels]]]:
        for place, row in enumerate(rows):
            # A blend is of two people: nobody is mixed with himself.
            other = rows[(place + 1) % len(rows)]
            named = repr((volumes.keys[row], volumes.keys[other], transform, NOISE, self.seed, place))
            key = hashlib.sha256(named.encode()).hexdigest()

            def made(row: int = row, other: int = other, place: int = place) -> Voxels:
                rng = np.random.default_rng([self.seed, place])
                pixels, spacing, _ = read_voxels(volumes.records[row])
                if transform == "noise":
                    noised = pixels + NOISE * rng.standard_normal(pixels.shape)
                    return noised.clip(0, 1).astype(np.float32), spacing, pixels.shape
                partner = read_voxels(volumes.records[other])[:2] if transform in ("blend 75/25", "half replaced") else None
                planted = plant_volume(pixels, spacing, transform, rng, partner)
                return planted.pixels, planted.spacing, planted.pixels.shape

            yield key, made

    def _means(self, rows: Sequence[int], count: int) -> Made:
        """Means of the cubes of the people who are most alike: as a generator that averages would make them."""
        training = self.training
        small = np.stack([training.thumbnails([row])[0, 0, ::4, ::4, ::4].numpy().astype(np.float32).ravel() for row in rows])
        for place in evenly_chosen(len(rows), count).tolist():
            near = np.argsort(((small - small[place]) ** 2).mean(1), kind="stable")[:NEAREST]
            alike = [rows[i] for i in near.tolist()]
            key = hashlib.sha256(repr(("mean", [training.keys[row] for row in alike])).encode()).hexdigest()

            def made(alike: Sequence[int] = alike) -> Voxels:
                mean = training.thumbnails(alike).float().mean(0)[0].numpy() / 255
                voxel = float(np.mean([frame.voxel for frame in training.frames(alike)]))
                return mean, (voxel, voxel, voxel), mean.shape

            yield key, made
