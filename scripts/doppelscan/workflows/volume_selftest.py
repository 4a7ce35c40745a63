"""The self-test of volumes: copies of training volumes, changed as transforms and generators change them, go through the audit; :mod:`selftest` in 3D."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from doppelscan.decide import Planted, Reference
from doppelscan.errors import ImageError
from doppelscan.images import ImageRecord, evenly_chosen, plant_volume
from doppelscan.memorization import spread_over_patients
from doppelscan.search import EmbeddedVolumes, EmbeddingStore
from doppelscan.workers import THIS_PROCESS, Workers
from doppelscan.workflows.selftest import change_of
from doppelscan.workflows.volume_embed import CutVolume, VolumeEmbedder, VolumeMaker, read_voxels

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
Made = list[tuple[str, VolumeMaker]]


@dataclass(frozen=True)
class _Changed:
    """A volume as a transform changes it, with the volume ``other`` where it is mixed with one."""

    volumes: EmbeddedVolumes
    row: int
    other: int
    transform: str
    seed: int
    place: int

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume:
        rng = np.random.default_rng([self.seed, self.place])
        pixels, spacing, _ = read_voxels(self.volumes.records[self.row])
        if self.transform == "noise":
            noised = (pixels + NOISE * rng.standard_normal(pixels.shape)).clip(0, 1).astype(np.float32)
            return embedder.cut((noised, spacing, pixels.shape))
        mixed = self.transform in ("blend 75/25", "half replaced")
        partner = read_voxels(self.volumes.records[self.other])[:2] if mixed else None
        planted = plant_volume(pixels, spacing, self.transform, rng, partner)
        return embedder.cut((planted.pixels, planted.spacing, planted.pixels.shape))


@dataclass(frozen=True)
class _Mean:
    """The mean of the cubes of some volumes."""

    volumes: EmbeddedVolumes
    rows: Sequence[int]

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume:
        mean = self.volumes.thumbnails(self.rows).float().mean(0)[0].numpy() / 255
        voxel = float(np.mean([frame.voxel for frame in self.volumes.frames(self.rows)]))
        return embedder.cut((mean, (voxel, voxel, voxel), mean.shape))


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
        workers: who makes and embeds them.
    """

    def __init__(
        self,
        embedder: VolumeEmbedder,
        training: EmbeddedVolumes,
        strangers: EmbeddedVolumes | None,
        size: int,
        seed: int = 0,
        declared: Collection[str] | None = None,
        workers: Workers = THIS_PROCESS,
    ) -> None:
        self.workers = workers
        self.embedder, self.training, self.strangers, self.seed, self.declared = embedder, training, strangers, seed, declared
        self.rows = spread_over_patients(training.patients, min(size, len(set(training.patients))), seed)
        self.negatives = max(FEWEST_NEGATIVES, size // 5)

    def scored(self, reference: Reference, store: EmbeddingStore) -> list[Planted]:
        """Plant, embed into ``store`` (of 48 poses), so that nothing is planted twice, and score."""
        groups = list(self._groups())
        planted = [one for group in groups for one in group.made]
        keys, made = [key for key, _ in planted], [maker for _, maker in planted]
        failed = self.embedder.fill(store, keys, made, self.embedder.inferer.known, "plant copies", self.workers)
        if failed:  # a training volume that was there when the audit began
            raise ImageError(next(iter(failed.values())))
        names = [(f"self-test {group.name} {place}", patient) for group in groups for place, patient in enumerate(group.patients)]
        records = [ImageRecord(name, (), name, patient, whole=True) for name, patient in names]
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

    def _changed(self, volumes: EmbeddedVolumes, rows: Sequence[int], transform: str) -> Made:
        made: Made = []
        for place, row in enumerate(rows):
            # A blend is of two people: nobody is mixed with himself.
            other = rows[(place + 1) % len(rows)]
            named = repr((volumes.keys[row], volumes.keys[other], transform, NOISE, self.seed, place))
            key = hashlib.sha256(named.encode()).hexdigest()
            made.append((key, _Changed(volumes, row, other, transform, self.seed, place)))
        return made

    def _means(self, rows: Sequence[int], count: int) -> Made:
        """Means of the cubes of the people who are most alike: as a generator that averages would make them."""
        training = self.training
        small = np.stack([training.thumbnails([row])[0, 0, ::4, ::4, ::4].numpy().astype(np.float32).ravel() for row in rows])
        made: Made = []
        for place in evenly_chosen(len(rows), count).tolist():
            near = np.argsort(((small - small[place]) ** 2).mean(1), kind="stable")[:NEAREST]
            alike = [rows[i] for i in near.tolist()]
            key = hashlib.sha256(repr(("mean", [training.keys[row] for row in alike])).encode()).hexdigest()
            made.append((key, _Mean(training, alike)))
        return made
