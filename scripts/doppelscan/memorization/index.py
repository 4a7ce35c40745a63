"""Memorization Index and Overfit/Novelty Index (arXiv 2602.13066), in the paper's form and in one that does not break."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from doppelscan.errors import InputError
from doppelscan.memorization.clustered import searched
from doppelscan.memorization.folds import patient_folds
from doppelscan.memorization.moments import FeatureMoments
from doppelscan.memorization.nearest import TIE, Nearest, nearest_rows
from doppelscan.memorization.rows import (
    HALF_VALUES,
    Rows,
    TransformedRows,
    blocks_of,
    content_groups,
    kept,
    read_safetensors,
    repeated,
    write_safetensors,
)
from doppelscan.memorization.scores import EPS, MemorizationScores, geometric_mean, scores_of
from doppelscan.memorization.whitening import LeftOut, Whitening, unit_length

__all__ = ["MemorizationIndex", "moments_of"]

SETTINGS = ("calibration", "estimator", "folds", "draws", "candidates", "seed")
FITTED = ("null_poses", "clipped_in_null")
QUERIES = 1024  # queries whose whitened features are held at a time
# Training images from which the folds of the null share the whitening of the whole set: a twentieth more or less then moves MI by 0.04 (docs/benchmarks.md).
SHARED = 8192


class MemorizationIndex:
    """How much nearer an image lies to the training set than unrelated real images do.

    Args:
        calibration: ``robust`` (default): shrinkage whitening, the null from held-out patients, each against all others;
            ``paper``: ZCA with eps 1e-6 and a null from 10 pairs of disjoint halves, as published, in float64.
        estimator: of the robust whitening, ``ledoit_wolf`` or ``oas``.
        folds: patient folds of the robust null; the null reference holds 1 - 1/folds of the training patients.
        draws: pairs of halves of the paper's null.
        candidates: training images kept for each query.
        seed: of folds and draws.
        device: where cosines are computed.
        clustered: compare with the training images of the nearest clusters alone, see :class:`~doppelscan.memorization.ClusteredRows`; robust only.

    Attributes:
        whiteners: layer -> fitted :class:`Whitening`.
        reference: layer -> whitened training features of unit length, [N, C] or [N, P, C], read by slices.
        groups: int64 [N], one number for each content; of training images that are the same only the first is ever named.
        null: float64 [n], the similarities under the null, rising.
        null_mean, null_std: of them.
        null_poses: poses that the null's queries came in; scores of queries in another number of poses have another null.
        clipped_in_null: layer cosines below 0 among the null's.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> training = {"layer4": rng.normal(size=(60, 8)).astype("float32")}
        >>> index = MemorizationIndex().fit(training, patients=range(60))
        >>> scores = index.score({"layer4": training["layer4"][:2]})
        >>> scores.neighbour[:, 0].tolist()
        [0, 1]
    """

    smallest_patients = 5
    smallest_images = 8

    def __init__(
        self,
        calibration: str = "robust",
        estimator: str = "ledoit_wolf",
        folds: int = 20,
        draws: int = 10,
        candidates: int = 20,
        seed: int = 0,
        device: str | torch.device = "cpu",
        clustered: bool = False,
    ) -> None:
        if calibration not in ("robust", "paper"):
            raise InputError(
                f"The 'calibration' parameter of MemorizationIndex must be 'robust' or 'paper'. Got {calibration!r} instead."
            )
        if folds < 2 or draws < 1 or candidates < 1:
            raise InputError(
                "The parameters of MemorizationIndex must be folds >= 2, draws >= 1 and candidates >= 1. Got "
                f"folds={folds!r}, draws={draws!r}, candidates={candidates!r} instead."
            )
        self.calibration, self.estimator = calibration, estimator
        self.folds, self.draws, self.candidates, self.seed, self.device = folds, draws, candidates, seed, device
        self.clustered = clustered
        self.whiteners: dict[str, Whitening] = {}
        self.reference: dict[str, Rows] = {}
        self.groups = np.zeros(0, np.int64)
        self.left_out: np.ndarray | None = None
        self.null = np.zeros(0)
        self.null_poses, self.clipped_in_null = 1, 0
        self._whitening()  # refuses an unknown estimator now, not after the features were made

    def fit(
        self,
        features: Mapping[str, Rows],
        patients: Sequence | None = None,
        null_features: Mapping[str, Rows] | None = None,
        null_rows: Sequence[int] | np.ndarray | None = None,
        null_of: MemorizationIndex | None = None,
        view_differences: Mapping[str, np.ndarray] | None = None,
        keys: Sequence | np.ndarray | None = None,
    ) -> MemorizationIndex:
        """Fit whitening, reference and null on the training set.

        Features are read by slices in blocks, once for the moments and once for each fold of the null, so a ``np.memmap`` or any
        other :class:`~doppelscan.memorization.Rows` may be larger than memory.

        Args:
            features: layer -> float32 [N, C_k] of the training images, or [N, P, C_k] to search all P poses of the reference.
            patients: patient of each image; without it every image is a patient of its own.
            null_features: layer -> float32 [n, C_k] or [n, P, C_k], what some training images look like as queries: in all
                poses when queries come in poses, since the null must take its maximum over as many poses as the score does, or mildly
                jittered. None takes the training features themselves.
            null_rows: int [n], which training images ``null_features`` are.
            null_of: a fitted index whose null is taken over instead of drawing one.
            view_differences: layer -> float32 [V, C_k], see :func:`doppelscan.deepssim.view_differences`; robust whitening uses them.
            keys: content of each training image, such as :func:`doppelscan.images.content_hash`: images of one key are one row, named
                by the first of them. None compares their features.

        Raises:
            ValueError: too few images or patients for a null, or features that are not finite.
        """
        layers = {name: self._rows(name, value) for name, value in features.items()}
        count = self._same_length(layers, "features")
        patients = list(range(count)) if patients is None else list(patients)
        if len(patients) != count:
            raise InputError(
                f"The 'patients' parameter must name the patient of each of {count} images. Got {len(patients)} names."
            )
        if keys is not None and len(keys) != count:
            raise InputError(f"The 'keys' parameter must hold the content of each of {count} images. Got {len(keys)} keys instead.")
        self._refuse(count, len(set(map(str, patients))))
        fold = np.zeros(count, np.int64)
        if self.calibration == "paper":
            self._warn_where_it_breaks(count, max(value.shape[-1] for value in layers.values()))
            view_differences = None
        elif null_of is None:
            fold = patient_folds(patients, min(self.folds, len(set(map(str, patients)))), self.seed)
        views = {name: FeatureMoments.of_differences((view_differences or {}).get(name)) for name in layers}
        white: dict[str, Rows] = {}
        self.whiteners, self.reference, self.clipped_in_null = {}, {}, 0
        self.groups = content_groups(layers.values(), keys)
        for name, value in layers.items():
            self.whiteners[name] = self._whitening().fit_moments(moments_of(name, value), views.get(name))
            white[name] = kept(TransformedRows(value, self.whiteners[name].whiten))
            unit = TransformedRows(white[name], unit_length)
            self.reference[name] = searched(unit, self.clustered) if self.calibration == "robust" else kept(unit)
        if null_of is not None:
            self.null, self.null_poses = null_of.null, null_of.null_poses
            return self
        self.null_poses = 1
        if self.calibration == "paper":
            null = self._paper_null(count)
        else:
            queries = layers if null_features is None else {n: self._rows(n, null_features[n]) for n in layers}
            rows = np.arange(count) if null_rows is None else np.asarray(null_rows)
            if self._same_length(queries, "null_features") != len(rows):
                raise InputError("The 'null_rows' parameter must name the training image of each of null_features.")
            null = self._robust_null(white, fold, queries, rows)
            self.null_poses = _poses(queries)
        self.null = np.sort(null)
        return self

    @property
    def null_mean(self) -> float:
        return float(self.null.mean()) if len(self.null) else float("nan")

    @property
    def null_std(self) -> float:
        return float(np.sqrt(self.null.var() + 1e-8)) if len(self.null) else float("nan")

    @property
    def copy_threshold(self) -> float:
        """MI above which an image is counted as a copy: one standard deviation above the most similar of the null."""
        return float((self.null[-1] - self.null_mean) / self.null_std) + 1.0

    def p_values(self, scores: MemorizationScores) -> np.ndarray:
        """Share of the null that is at least as similar, ties included, (1 + count) / (1 + n): float64 [M], at least 1 / (1 + n)."""
        below = np.searchsorted(self.null, scores.similarity - TIE, side="left")
        return (1 + len(self.null) - below) / (1 + len(self.null))

    def memorized_share(self, mi: np.ndarray) -> float:
        """Share of images whose ``mi`` float [M] is above :attr:`copy_threshold`: the set-level score, about the share of copies."""
        return float((mi > self.copy_threshold).mean())

    def score(self, features: Mapping[str, Rows]) -> MemorizationScores:
        """Score ``features`` layer -> float32 [M, C_k], or [M, P, C_k] for the best of P poses."""
        if not self.reference:
            raise InputError("MemorizationIndex.score needs a fitted index; call fit(features) with the training features first.")
        missing = [name for name in self.reference if name not in features]
        if missing:
            raise InputError(f"The 'features' of score must have the layers {list(self.reference)}. Got {list(features)} instead.")
        layers = {name: self._rows(name, features[name]) for name in self.reference}
        for name, value in layers.items():
            if value.shape[-1] != len(self.whiteners[name].mean):
                raise InputError(
                    f"The features of layer {name!r} must have {len(self.whiteners[name].mean)} channels as in fit. Got {value.shape[-1]} instead."
                )
        count = self._same_length(layers, "features")
        if _poses(layers) != self.null_poses:
            warnings.warn(
                f"The null was drawn with queries in {self.null_poses} poses and these come in {_poses(layers)}: MI is not comparable. Pass "
                "null_features in as many poses to fit.",
                stacklevel=2,
            )
        if not count:
            raise InputError("The 'features' of score must be of at least one image. Got none.")
        white = {name: TransformedRows(value, self._checked_transform(name)) for name, value in layers.items()}
        found = self._compare(white, self.reference, count, max(2, self.candidates), repeated(self.groups, self.left_out))
        return scores_of(found, self.null_mean, self.null_std, min(self.candidates, len(self.groups)))

    def without(self, rows: np.ndarray) -> MemorizationIndex:
        """The same index in which the training images ``rows`` bool [N] are not found; whitening and null stay."""
        made = copy.copy(self)
        made.left_out = rows
        return made

    def save(self, path: str | os.PathLike, fingerprint: str = "") -> None:
        """Write the fitted index as one safetensors file, a block at a time.

        Args:
            path: of the file.
            fingerprint: of the weights and preprocessing that made the features; :meth:`load` checks it.
        """
        arrays: dict[str, Rows] = {"null": self.null, "groups": self.groups}
        arrays |= {f"reference.{name}": value for name, value in self.reference.items()}
        for name, whitening in self.whiteners.items():
            arrays |= {f"mean.{name}": whitening.mean, f"matrix.{name}": whitening.matrix}
        settings = {name: getattr(self, name) for name in (*SETTINGS, *FITTED)}
        metadata = {"settings": json.dumps(settings), "layers": json.dumps(list(self.reference)), "fingerprint": fingerprint}
        write_safetensors(path, arrays, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike, fingerprint: str | None = None, device: str | torch.device = "cpu") -> MemorizationIndex:
        """Read what :meth:`save` wrote; a reference that is larger than memory allows is read as it is searched.

        Args:
            path: of the file.
            fingerprint: the file's must be this one; None takes any.
            device: where cosines are computed.

        Raises:
            ValueError: no such file, not a reference, or one of other weights or preprocessing.
        """
        try:
            arrays, metadata = read_safetensors(path, HALF_VALUES)
            settings, layers = json.loads(metadata["settings"]), json.loads(metadata["layers"])
            index = cls(**{name: settings[name] for name in SETTINGS}, device=device)
            index.null, index.groups = np.asarray(arrays["null"][:]), np.asarray(arrays["groups"][:])
            for name in FITTED:
                setattr(index, name, settings[name])
            for name in layers:
                whitening = index._whitening()
                whitening.mean, whitening.matrix = np.asarray(arrays[f"mean.{name}"][:]), np.asarray(arrays[f"matrix.{name}"][:])
                index.whiteners[name], index.reference[name] = whitening, arrays[f"reference.{name}"]
        except (OSError, KeyError, SafetensorError) as error:
            raise _not_a_reference(path) from error
        if fingerprint is not None and metadata["fingerprint"] != fingerprint:
            raise InputError(
                f"The reference {os.fspath(path)!r} was fitted with other weights or preprocessing ({metadata['fingerprint'][:12]}, not "
                f"{fingerprint[:12]}); fit it again."
            )
        return index

    @staticmethod
    def saved_poses(path: str | os.PathLike) -> int:
        """:attr:`null_poses` of a file that :meth:`save` wrote; nothing but its header is read. Raises as :meth:`load`."""
        try:
            with safe_open(os.fspath(path), "numpy") as file:
                return int(json.loads((file.metadata() or {})["settings"])["null_poses"])
        except (OSError, KeyError, SafetensorError) as error:
            raise _not_a_reference(path) from error

    def _whitening(self) -> Whitening:
        return Whitening("zca" if self.calibration == "paper" else self.estimator, EPS)

    def _checked_transform(self, name: str):
        return lambda block: self.whiteners[name].transform(_finite(name, block))

    def _refuse(self, count: int, patients: int) -> None:
        if count < self.smallest_images or patients < self.smallest_patients:
            raise InputError(
                f"The Memorization Index needs at least {self.smallest_images} images of {self.smallest_patients} patients for its null. "
                f"Got {count} images of {patients} patients; add training patients."
            )

    @staticmethod
    def _warn_where_it_breaks(count: int, widest: int) -> None:
        if count < 4 * widest:
            warnings.warn(
                f"calibration='paper' with {count} training images and {widest} features: its covariance is (nearly) singular and "
                f"novel images score as memorized; use calibration='robust' below {4 * widest} images.",
                stacklevel=3,
            )

    @staticmethod
    def _rows(name: str, value: Rows) -> Rows:
        if not hasattr(value, "shape"):
            value = np.asarray(value, dtype=np.float32)
        if len(value.shape) not in (2, 3):
            raise InputError(
                f"The features of layer {name!r} must have shape [N, C] or [N, P, C]. Got {tuple(value.shape)} instead."
            )
        return value

    @staticmethod
    def _same_length(layers: Mapping[str, Rows], parameter: str) -> int:
        lengths = {name: value.shape[0] for name, value in layers.items()}
        if len(set(lengths.values())) != 1:
            raise InputError(
                f"The '{parameter}' parameter must have one or more layers of as many images each. Got {lengths} instead."
            )
        return next(iter(lengths.values()))

    def _paper_null(self, count: int) -> np.ndarray:
        """Eq. 4: disjoint halves of the training set scored against each other, whitened as they are."""
        generator = np.random.default_rng(self.seed)
        similarities = []
        for _ in range(self.draws):
            order = generator.permutation(count)
            queries, others = np.sort(order[: count // 2]), np.ones(count, bool)
            others[order[count // 2 : 2 * (count // 2)]] = False
            halves = {name: _chosen(value, queries) for name, value in self.reference.items()}
            out = repeated(self.groups, others)
            similarities.append(self._null_similarity(self._compare(halves, self.reference, len(queries), 1, out)))
        return np.concatenate(similarities)

    def _robust_null(
        self, white: Mapping[str, Rows], fold: np.ndarray, queries: Mapping[str, Rows], rows: np.ndarray
    ) -> np.ndarray:
        """Each patient fold against the others, with whitening fitted on the others: as a new patient meets the training set.

        Of many training images the folds share the whitening of all, and what is searched.
        """
        similarities = []
        for number in range(int(fold.max()) + 1):
            inside = fold == number
            chosen = np.flatnonzero(inside[rows])
            if not len(chosen) or (~inside).sum() < 2:
                continue
            held_out: dict[str, Rows] = {}
            reference: dict[str, Rows] = {}
            for name, value in white.items():
                asked = self.whiteners[name].whiten(_finite(name, _chosen(queries[name], chosen)))
                if len(inside) >= SHARED:
                    held_out[name], reference[name] = unit_length(asked), self.reference[name]
                    continue
                left_out = _chosen(value, np.flatnonzero(inside))
                count = int(np.prod(value.shape[:-1]))
                without = LeftOut(left_out.reshape(-1, left_out.shape[-1]), count, self.whiteners[name].cohort_weight)
                held_out[name] = without.transform(asked)
                reference[name] = TransformedRows(value, without.transform)
            out = repeated(self.groups, inside)
            similarities.append(self._null_similarity(self._compare(held_out, reference, len(chosen), 1, out)))
        return np.concatenate(similarities)

    def _null_similarity(self, found: Sequence[Nearest]) -> np.ndarray:
        similarity, _, clipped = geometric_mean(found)
        self.clipped_in_null += clipped
        return similarity

    def _compare(self, queries, reference, count: int, kept: int, left_out: np.ndarray) -> list[Nearest]:
        """Eq. 2: the nearest of whitened queries in each layer, a block of queries at a time."""
        result = []
        for name, value in queries.items():
            parts = [
                nearest_rows(value[start : start + QUERIES], reference[name], kept, left_out=left_out, device=self.device)
                for start in range(0, count, QUERIES)
            ]
            result.append(Nearest.joined(parts))
        return result


def _not_a_reference(path: str | os.PathLike) -> InputError:
    return InputError(
        f"The reference {os.fspath(path)!r} must be a file that the train workflow of mi_scorer wrote. Got one that cannot be read; "
        "run train on the training set first."
    )


def _poses(layers: Mapping[str, Rows]) -> int:
    shape = next(iter(layers.values())).shape
    return 1 if len(shape) == 2 else shape[1]


def moments_of(name: str, features: Rows) -> FeatureMoments:
    """In one pass over the features."""
    moments = None
    for block in blocks_of(features):
        part = _finite(name, features[block])
        part = part.reshape(-1, part.shape[-1])
        moments = (FeatureMoments(part[0]) if moments is None else moments).add(part)
    assert moments is not None
    return moments


def _finite(name: str, value) -> np.ndarray:
    value = np.asarray(value)
    if not np.isfinite(value).all():
        raise InputError(f"The features of layer {name!r} must be finite. Got NaN or Inf; check the encoder and its input.")
    return value


def _chosen(rows: Rows, which: np.ndarray) -> np.ndarray:
    """Some rows in memory, read in blocks."""
    parts = []
    for block in blocks_of(rows):
        inside = which[(which >= block.start) & (which < block.stop)] - block.start
        if len(inside):
            parts.append(np.asarray(rows[block])[inside])
    return np.concatenate(parts)
