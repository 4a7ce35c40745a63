"""The protocol of the Memorization Index paper: test sets with more and more training images in them, clean and augmented."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from doppelscan.deepssim import view_differences
from doppelscan.errors import InputError
from doppelscan.images import COPY_TRANSFORMS, PAPER_TRANSFORMS, evenly_chosen, plant_copy
from doppelscan.memorization import MemorizationIndex, MemorizationScores, set_metrics
from doppelscan.progress import progress
from doppelscan.search import PoseEmbedder
from doppelscan.workflows.evaluate import EvaluationImages

__all__ = ["ContaminationProtocol", "IndexVariant"]

LEVELS = (0.05, 0.15, 0.30, 0.45)


@dataclass
class IndexVariant:
    """One way to run the index.

    Attributes:
        index: its settings; it is fitted again on each data set.
        poses: 1 or 8, of the query.
        views: mute in the whitening what augmented views change.
    """

    index: MemorizationIndex
    poses: int = 8
    views: bool = True


@dataclass
class Parts:
    """Who is what in one data set: lists of (patient, pixels); no patient is in two of them, but for ``other_slices``."""

    training: list
    novel: list
    held_out: list
    other_slices: list


class ContaminationProtocol:
    """Sample-level and set-level scores of contaminated test sets, of several data sets.

    The patients of each data set are split in two; a share of the second half's images is replaced by images of the first half, which the
    index was fitted on, and these copies are augmented as in the paper. A fifth of the second half's patients is kept as held-out set of the
    CT score. One image of each training patient with more than two is left out of training: a real image of a training patient, but no copy.

    Args:
        images: the data sets.
        embedder: of images, with a network that has ``output_slices``.
        variants: name -> :class:`IndexVariant`; the first is compared with the published figures.
        levels: shares of the test set that are replaced.
        transforms: names of ``PAPER_TRANSFORMS`` or ``COPY_TRANSFORMS``; None for the paper's eight.
        repeats: draws of the replaced images at each level; averaged.
        comparisons: compute the set-level scores of others too.
        view_images: training images whose views are looked at; 0 whitens every variant on the cohort alone.
        spatial_size: side of the square images.
        seed: of splits and draws.

    Attributes:
        samples: data set -> variant -> transform -> ``auc``, ``ap`` over the largest level's copies and all novel images, and the copies' mean
            and lowest MI beside the novel images' highest.
        sets: data set -> transform -> level -> score name -> value; the scores of a variant are called ``variant: score``.
        null: data set -> variant -> mean and standard deviation of the novel images' MI, share above the threshold, counts, and the null's
            own mean and standard deviation, as similarities.
    """

    def __init__(
        self,
        images: EvaluationImages,
        embedder: PoseEmbedder,
        variants: Mapping[str, IndexVariant],
        levels: Sequence[float] = LEVELS,
        transforms: Sequence[str] | None = None,
        repeats: int = 5,
        comparisons: bool = True,
        view_images: int = 300,
        spatial_size: int = 256,
        seed: int = 0,
    ) -> None:
        known = {**PAPER_TRANSFORMS, **COPY_TRANSFORMS}
        self.transforms = list(transforms or PAPER_TRANSFORMS)
        unknown = [name for name in self.transforms if name not in known]
        if unknown:
            raise InputError(f"The 'transforms' parameter must be among {', '.join(known)}. Got {', '.join(unknown)} instead.")
        if not levels or not all(0 < level < 1 for level in levels):
            raise InputError(f"The 'levels' parameter must hold shares between 0 and 1. Got {list(levels)!r} instead.")
        self.images, self.embedder, self.variants = images, embedder, dict(variants)
        self.levels, self.repeats, self.comparisons = sorted(levels), repeats, comparisons
        self.view_images, self.spatial_size, self.seed = view_images, spatial_size, seed
        self.poses = max(variant.poses for variant in self.variants.values())
        self.slices: dict[str, slice] = dict(getattr(embedder.network, "output_slices"))  # noqa: B009
        self.samples: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        self.sets: dict[str, dict[str, dict[float, dict[str, float]]]] = {}
        self.null: dict[str, dict[str, dict[str, float]]] = {}

    @property
    def features(self) -> str:
        """What the index is taken on: the network and its layers with their values."""
        layers = ", ".join(f"{name} ({part.stop - part.start})" for name, part in self.slices.items())
        return f"{type(self.embedder.network).__name__}: {layers}"

    def run(self) -> None:
        """Measure; fills the attributes."""
        self.images.require()
        with progress(None, "contamination", "test set", total=len(self.images.cohorts) * len(self.transforms)) as bar:
            for source, images in self.images.cohorts.items():
                self._run_source(source, images, bar)

    def split(self, images: Sequence[tuple[str, np.ndarray]]) -> Parts:
        """Split by patient.

        Raises:
            InputError: fewer than 10 patients, or fewer than 8 training images.
        """
        patients = sorted({patient for patient, _ in images})
        if len(patients) < 10:
            raise InputError(
                f"The contamination protocol needs at least 10 patients, to split them. Got {len(patients)}; pass --patient_pattern or more data."
            )
        np.random.default_rng(self.seed).shuffle(patients)
        half = len(patients) // 2
        first, kept = set(patients[:half]), set(patients[half : half + max(1, (len(patients) - half) // 5)])
        count: dict[str, int] = {}
        parts = Parts([], [], [], [])
        for patient, pixels in images:
            count[patient] = count.get(patient, 0) + 1
            if patient not in first:
                (parts.held_out if patient in kept else parts.novel).append((patient, pixels))
            else:
                (parts.other_slices if count[patient] == 3 else parts.training).append((patient, pixels))
        return parts

    def _run_source(self, source: str, images: Sequence[tuple[str, np.ndarray]], bar: Any) -> None:
        parts, rng = self.split(images), np.random.default_rng(self.seed + 1)
        squares = self._squares([pixels for _, pixels in parts.training])
        training = self._features(squares, self.poses)
        novel = self._features(self._squares([p for _, p in parts.novel]), self.poses)
        differences = self._differences(squares)
        others = self._features(self._squares([p for _, p in parts.other_slices]), self.poses) if parts.other_slices else None
        fitted: dict[str, MemorizationIndex] = {}
        novel_scores: dict[str, MemorizationScores] = {}
        self.null[source], self.samples[source], self.sets[source] = {}, {name: {} for name in self.variants}, {}
        for name, variant in self.variants.items():
            index = fitted[name] = self._fit(variant, training, [patient for patient, _ in parts.training], differences)
            scores = novel_scores[name] = index.score(_posed(novel, variant.poses))
            self.null[source][name] = {
                "mean": float(scores.mi.mean()), "std": float(scores.mi.std()), "share": index.memorized_share(scores.mi),
                "training": len(parts.training), "novel": len(scores.mi),
                "null mean": index.null_mean, "null std": index.null_std, "null clipped": index.clipped_in_null,
            }  # fmt: skip
            if others is not None:
                found = index.score(_posed(others, variant.poses))
                self.null[source][name] |= {
                    "other slices": len(found.mi), "other slices mean": float(found.mi.mean()),
                    "other slices share": index.memorized_share(found.mi),
                }  # fmt: skip
        flat = {"training": self._flat(training), "novel": self._flat(novel)}
        flat["held_out"] = self._flat(self._features(self._squares([p for _, p in parts.held_out]), 1))
        draws = self._draws(len(parts.novel), len(parts.training), rng)
        for transform in self.transforms:
            copied = sorted({row for places in draws.values() for _, rows in places for row in rows})
            where = {row: i for i, row in enumerate(copied)}
            pixels = [self._copy(parts.training[row][1], transform, rng, parts.novel) for row in copied]
            copies = self._features(self._squares(pixels), self.poses)
            scored = {name: fitted[name].score(_posed(copies, v.poses)) for name, v in self.variants.items()}
            for name in self.variants:
                self.samples[source][name][transform] = _sample_metrics(scored[name].mi, novel_scores[name].mi)
            self.sets[source][transform] = {
                level: self._set_scores(fitted, novel_scores, scored, where, places, flat, self._flat(copies))
                for level, places in draws.items()
            }
            bar.update(1)

    def _fit(
        self, variant: IndexVariant, training: Mapping[str, np.ndarray], patients: list[str], differences
    ) -> MemorizationIndex:
        index = copy.copy(variant.index)  # fit replaces what was fitted and leaves the variant's own as it is
        single = {name: value[:, 0] for name, value in training.items()}
        return index.fit(single, patients, _posed(training, variant.poses), view_differences=differences if variant.views else None)

    def _draws(self, novel: int, training: int, rng: np.random.Generator) -> dict[float, list[tuple[np.ndarray, np.ndarray]]]:
        """Of each level and repeat: which novel images stay, and which training images are copied.

        Sets hold a multiple of 20 images where there are as many, so that 5, 15, 30 and 45 % are whole numbers in data sets of any size.
        """
        size = novel // 20 * 20 or novel
        return {
            level: [
                (rng.permutation(novel)[: size - count], rng.permutation(training)[:count])
                for _ in range(self.repeats)
                for count in [max(1, min(round(level * size), training))]
            ]
            for level in self.levels
        }

    def _set_scores(self, fitted, novel_scores, scored, where, places, flat, copies) -> dict[str, float]:
        found: list[dict[str, float]] = []
        for kept, rows in places:
            chosen = [where[row] for row in rows]
            one: dict[str, float] = {}
            for name, index in fitted.items():
                mi = np.concatenate([novel_scores[name].mi[kept], scored[name].mi[chosen]])
                one[f"{name}: share"] = index.memorized_share(mi)
                one[f"{name}: mean_mi"], one[f"{name}: mean_oni"] = float(mi.mean()), float(-np.tanh(mi).mean())
            if self.comparisons:
                one |= set_metrics(flat["training"], flat["held_out"], np.concatenate([flat["novel"][kept], copies[chosen]]))
            found.append(one)
        return {name: defined_mean([one[name] for one in found]) for name in found[0]}

    def _copy(self, pixels: np.ndarray, transform: str, rng: np.random.Generator, novel: list) -> np.ndarray:
        return plant_copy(pixels, transform, rng, novel[int(rng.integers(len(novel)))][1])

    def _squares(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        return self.images.squares(pixels, self.spatial_size)

    def _features(self, squares: torch.Tensor, poses: int) -> dict[str, np.ndarray]:
        """Layer -> float32 [N, poses, C]."""
        vectors = self.embedder(squares, poses).permute(1, 0, 2).numpy()
        return {name: np.ascontiguousarray(vectors[..., part]) for name, part in self.slices.items()}

    def _differences(self, squares: torch.Tensor) -> dict[str, np.ndarray] | None:
        if self.view_images < 1 or not any(variant.views for variant in self.variants.values()):
            return None
        some = squares[evenly_chosen(len(squares), self.view_images)]
        found = view_differences(self.embedder.forward, some, self.embedder.spatial_size, seed=self.seed).numpy()
        return {name: found[:, part] for name, part in self.slices.items()}

    def _flat(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """The last layer as it is, averaged over its grid: what set-level scores are taken on."""
        last = features[list(self.slices)[-1]][:, 0]
        cells = int(getattr(self.embedder.network, "feature_grid", 1)) ** 2
        return last.reshape(len(last), -1, cells).mean(2)


def defined_mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined; NaN when none is."""
    kept = [value for value in values if not np.isnan(value)]
    return float(np.mean(kept)) if kept else float("nan")


def _posed(features: Mapping[str, np.ndarray], poses: int) -> dict[str, np.ndarray]:
    return {name: value[:, :poses] for name, value in features.items()}


def _sample_metrics(copies: np.ndarray, novel: np.ndarray) -> dict[str, float]:
    truth, score = np.r_[np.ones(len(copies)), np.zeros(len(novel))], np.r_[copies, novel]
    return {
        "auc": float(roc_auc_score(truth, score)),
        "ap": float(average_precision_score(truth, score)),
        "mean copy": float(copies.mean()),
        "lowest copy": float(copies.min()),
        "highest novel": float(novel.max()),
    }
