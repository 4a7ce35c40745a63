"""Memorization Index and Overfit/Novelty Index (arXiv 2602.13066), in the paper's form and in one that does not break."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from doppelscan.memorization.whitening import Whitening

__all__ = ["MemorizationIndex", "MemorizationScores", "patient_folds"]

EPS = 1e-6
BLOCK = 2**25  # cosines held at a time, 128 MB


@dataclass(frozen=True)
class MemorizationScores:
    """Scores of M images over K layers.

    Attributes:
        similarity: float32 [M], geometric mean over layers of the nearest training cosine, 0 to 1 (eq. 3).
        distance: float32 [M], 1 - similarity.
        mi: float32 [M], (similarity - null mean) / null standard deviation (eq. 5).
        oni: float32 [M], -tanh(mi): -1 memorized, +1 novel (eq. 6).
        consensus: int64 [M], largest number of layers that name the same neighbour, 1 to K.
        neighbour: int64 [M, K], row of the nearest training image in each layer.
        layer_similarity: float32 [M, K], its cosine, clipped to [0, 1].
        margin: float32 [M, K], cosine of the nearest minus that of the second nearest.
        pose: int64 [M], pose (view) of the query at the layers' most common neighbour (0 when the query has one pose).
        candidates: int64 [M, k], training rows by falling best layer cosine.
        clipped: number of layer cosines below 0 that were set to 0.
    """

    similarity: np.ndarray
    distance: np.ndarray
    mi: np.ndarray
    oni: np.ndarray
    consensus: np.ndarray
    neighbour: np.ndarray
    layer_similarity: np.ndarray
    margin: np.ndarray
    pose: np.ndarray
    candidates: np.ndarray
    clipped: int


def patient_folds(patients: Sequence, folds: int, seed: int) -> np.ndarray:
    """Fold number of each image, int64 [N]; all images of a patient share one, and folds hold about as many patients."""
    names = sorted(set(map(str, patients)))
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[i]: rank % folds for rank, i in enumerate(order)}
    return np.array([fold[str(p)] for p in patients])


class MemorizationIndex:
    """How much nearer an image lies to the training set than unrelated real images do.

    Args:
        calibration: ``robust`` (default): shrinkage whitening, the null from held-out patients, each against all others;
            ``paper``: ZCA with eps 1e-6 and a null from 10 pairs of disjoint halves, as published.
        estimator: of the robust whitening, ``ledoit_wolf`` or ``oas``.
        folds: patient folds of the robust null; the null reference holds 1 - 1/folds of the training patients.
        draws: pairs of halves of the paper's null.
        candidates: training images kept for each query.
        seed: of folds and draws.

    Example:
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
        folds: int = 10,
        draws: int = 10,
        candidates: int = 20,
        seed: int = 0,
    ) -> None:
        if calibration not in ("robust", "paper"):
            raise ValueError(
                f"The 'calibration' parameter of MemorizationIndex must be 'robust' or 'paper'. Got {calibration!r} instead."
            )
        self.calibration, self.estimator = calibration, estimator
        self.folds, self.draws, self.candidates, self.seed = folds, draws, candidates, seed
        self.whiteners: dict[str, Whitening] = {}
        self.reference: dict[str, np.ndarray] = {}
        self.null_mean, self.null_std = float("nan"), float("nan")

    def fit(
        self,
        features: Mapping[str, np.ndarray],
        patients: Sequence | None = None,
        posed: Mapping[str, np.ndarray] | None = None,
        posed_rows: np.ndarray | None = None,
        null_of: MemorizationIndex | None = None,
    ) -> MemorizationIndex:
        """Fit whitening, reference and null on the training set.

        Args:
            features: layer -> float32 [N, C_k] of the training images.
            patients: patient of each image; without it every image is a patient of its own.
            posed: layer -> float32 [n, P, C_k] of some training images in all poses, when queries come in poses: the null
                must take its maximum over as many poses as the score does.
            posed_rows: int [n], which training images ``posed`` are.
            null_of: a fitted index whose null is taken over instead of drawing one.

        Raises:
            ValueError: too few images or patients for a null, or features that are not finite.
        """
        layers = {name: self._checked(name, value) for name, value in features.items()}
        count = len(next(iter(layers.values())))
        patients = list(range(count)) if patients is None else list(patients)
        self._refuse(count, len(set(map(str, patients))))
        estimator = "zca" if self.calibration == "paper" else self.estimator
        if self.calibration == "paper":
            widest = max(value.shape[1] for value in layers.values())
            if count < 4 * widest:
                warnings.warn(
                    f"calibration='paper' with {count} training images and {widest} features: its covariance is (nearly) singular and "
                    f"novel images score as memorized; use calibration='robust' below {4 * widest} images.",
                    stacklevel=2,
                )
        self.whiteners = {name: Whitening(estimator, EPS).fit(value) for name, value in layers.items()}
        self.reference = {name: self.whiteners[name].transform(value) for name, value in layers.items()}
        if null_of is not None:
            self.null_mean, self.null_std = null_of.null_mean, null_of.null_std
            return self
        null = self._paper_null() if self.calibration == "paper" else self._robust_null(layers, patients, posed, posed_rows)
        self.null_mean = float(null.mean())
        self.null_std = float(np.sqrt(null.var() + 1e-8))
        return self

    def score(self, features: Mapping[str, np.ndarray]) -> MemorizationScores:
        """Score ``features`` layer -> float32 [M, C_k], or [M, P, C_k] for the best of P poses."""
        if not self.reference:
            raise ValueError("MemorizationIndex.score needs a fitted index; call fit(features) with the training features first.")
        missing = [name for name in self.reference if name not in features]
        if missing:
            raise ValueError(f"The 'features' of score must have the layers {list(self.reference)}. Got {list(features)} instead.")
        return self._compare(
            {n: self.whiteners[n].transform(self._checked(n, features[n])) for n in self.reference}, self.reference
        )

    def save(self, path: str | os.PathLike, fingerprint: str = "") -> None:
        """Write the fitted index as one safetensors file.

        Args:
            path: of the file.
            fingerprint: of the weights and preprocessing that made the features; :meth:`load` checks it.
        """
        arrays = {f"reference.{name}": value for name, value in self.reference.items()}
        for name, whitening in self.whiteners.items():
            arrays |= {f"mean.{name}": whitening.mean, f"matrix.{name}": whitening.matrix}
        settings = {
            k: getattr(self, k)
            for k in ("calibration", "estimator", "folds", "draws", "candidates", "seed", "null_mean", "null_std")
        }
        metadata = {"settings": json.dumps(settings), "layers": json.dumps(list(self.reference)), "fingerprint": fingerprint}
        temporary = f"{os.fspath(path)}.tmp"
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, metadata)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike, fingerprint: str = "") -> MemorizationIndex:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: no such file, not a reference, or one of other weights or preprocessing.
        """
        try:
            with safe_open(os.fspath(path), "numpy") as file:
                metadata = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            settings, layers = json.loads(metadata["settings"]), json.loads(metadata["layers"])
        except (OSError, KeyError, SafetensorError) as error:
            raise ValueError(
                f"The reference {os.fspath(path)!r} must be a file that the train workflow of mi_scorer wrote. Got one that cannot be read; "
                "run train on the training set first."
            ) from error
        if metadata["fingerprint"] != fingerprint:
            raise ValueError(
                f"The reference {os.fspath(path)!r} was fitted with other weights or preprocessing ({metadata['fingerprint'][:12]}, not "
                f"{fingerprint[:12]}); fit it again."
            )
        index = cls(**{k: settings[k] for k in ("calibration", "estimator", "folds", "draws", "candidates", "seed")})
        index.null_mean, index.null_std = settings["null_mean"], settings["null_std"]
        for name in layers:
            whitening = Whitening("zca" if index.calibration == "paper" else index.estimator, EPS)
            whitening.mean, whitening.matrix = arrays[f"mean.{name}"], arrays[f"matrix.{name}"]
            index.whiteners[name], index.reference[name] = whitening, arrays[f"reference.{name}"]
        return index

    def _refuse(self, count: int, patients: int) -> None:
        if count < self.smallest_images or patients < self.smallest_patients:
            raise ValueError(
                f"The Memorization Index needs at least {self.smallest_images} images of {self.smallest_patients} patients for its null. "
                f"Got {count} images of {patients} patients; add training patients."
            )

    @staticmethod
    def _checked(name: str, value: np.ndarray) -> np.ndarray:
        value = np.asarray(value, dtype=np.float32)
        if value.ndim not in (2, 3):
            raise ValueError(f"The features of layer {name!r} must have shape [N, C] or [N, P, C]. Got {value.shape} instead.")
        if not np.isfinite(value).all():
            raise ValueError(f"The features of layer {name!r} must be finite. Got NaN or Inf; check the encoder and its input.")
        return value

    def _paper_null(self) -> np.ndarray:
        """Eq. 4: disjoint halves of the training set scored against each other, whitened as they are."""
        generator = np.random.default_rng(self.seed)
        count = len(next(iter(self.reference.values())))
        scores = []
        for _ in range(self.draws):
            order = generator.permutation(count)
            a, b = order[: count // 2], order[count // 2 : 2 * (count // 2)]
            halves = self._compare({n: v[a] for n, v in self.reference.items()}, {n: v[b] for n, v in self.reference.items()})
            scores.append(halves.similarity)
        return np.concatenate(scores)

    def _robust_null(self, layers, patients, posed, posed_rows) -> np.ndarray:
        """Each patient fold against the others, with whitening fitted on the others: as a new patient meets the training set."""
        folds = min(self.folds, len(set(map(str, patients))))
        fold = patient_folds(patients, folds, self.seed)
        rows = np.arange(len(fold)) if posed_rows is None else np.asarray(posed_rows)
        queries = layers if posed is None else {n: self._checked(n, v) for n, v in posed.items()}
        scores = []
        for number in range(folds):
            inside, outside = fold[rows] == number, fold != number
            if not inside.any() or outside.sum() < 2:
                continue
            whiteners = {n: Whitening(self.estimator, EPS).fit(v[outside]) for n, v in layers.items()}
            reference = {n: w.transform(layers[n][outside]) for n, w in whiteners.items()}
            held_out = {n: w.transform(queries[n][inside]) for n, w in whiteners.items()}
            scores.append(self._compare(held_out, reference).similarity)
        return np.concatenate(scores)

    def _compare(self, queries: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]) -> MemorizationScores:
        """Eq. 2-6 of whitened, normalised queries [M, (P,) C] against whitened references [N, C]."""
        cosines, neighbours, margins, poses, tops = [], [], [], [], []
        for name, value in queries.items():
            best, rows, margin, pose, top = self._nearest(value if value.ndim == 3 else value[:, None], reference[name])
            cosines.append(best)
            neighbours.append(rows)
            margins.append(margin)
            poses.append(pose)
            tops.append(top)
        raw = np.stack(cosines, 1)
        clipped = int((raw < 0).sum())
        layer_similarity = np.clip(raw, 0, 1)
        similarity = np.exp(np.log(layer_similarity + EPS).mean(1)).astype(np.float32)
        mi = ((similarity - self.null_mean) / self.null_std).astype(np.float32)
        neighbour, pose = np.stack(neighbours, 1), np.stack(poses, 1)
        agree = (neighbour[:, :, None] == neighbour[:, None]).sum(2)
        speaker = agree.argmax(1)
        return MemorizationScores(
            similarity,
            1 - similarity,
            mi,
            -np.tanh(mi),
            agree.max(1),
            neighbour,
            layer_similarity.astype(np.float32),
            np.stack(margins, 1).astype(np.float32),
            pose[np.arange(len(pose)), speaker],
            _interleave(tops, self.candidates),
            clipped,
        )

    def _nearest(self, queries: np.ndarray, reference: np.ndarray):
        """Best cosine over poses with its row, margin, pose and the first candidates, in blocks of queries."""
        count, poses, _ = queries.shape
        block = max(1, BLOCK // (poses * len(reference)))
        kept = min(self.candidates, len(reference))
        out = []
        for start in range(0, count, block):
            part = queries[start : start + block]
            cosine = (part.reshape(-1, part.shape[-1]) @ reference.T).reshape(len(part), poses, -1)
            pose = cosine.argmax(1)
            cosine = cosine.max(1)
            # A stable sort breaks ties by the row, so that duplicated training images name the same neighbour in each layer.
            order = np.argsort(-cosine, axis=1, kind="stable")[:, :kept]
            rows = np.arange(len(part))
            best = cosine[rows, order[:, 0]]
            second = cosine[rows, order[:, 1]] if kept > 1 else np.zeros_like(best)
            out.append((best, order[:, 0], best - second, pose[rows, order[:, 0]], order))
        return tuple(np.concatenate(column) for column in zip(*out, strict=True))


def _interleave(tops: list[np.ndarray], kept: int) -> np.ndarray:
    """First of each layer, then second of each layer, ...: [M, k]; repeated rows are filled with the last new one."""
    mixed = np.stack(tops, 2).reshape(len(tops[0]), -1)
    result = np.empty((len(mixed), min(kept, mixed.shape[1])), np.int64)
    for i, row in enumerate(mixed):
        unique = list(dict.fromkeys(row.tolist()))[: result.shape[1]]
        result[i] = unique + [unique[-1]] * (result.shape[1] - len(unique))
    return result
