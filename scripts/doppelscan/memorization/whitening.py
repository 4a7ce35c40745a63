"""Whitening on a cohort: it removes what all its members share, and leaves what tells them apart."""

from __future__ import annotations

import numpy as np

from doppelscan.errors import InputError
from doppelscan.memorization.moments import FeatureMoments

__all__ = ["LeftOut", "Whitening", "unit_length"]

ESTIMATORS = ("ledoit_wolf", "oas", "zca")


def unit_length(features: np.ndarray) -> np.ndarray:
    """``features`` [..., C] divided by their length; a zero stays zero."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


class Whitening:
    """Symmetric (ZCA) whitening followed by L2 normalisation: W = Cov^(-1/2) (arXiv 2602.13066, section on whitening).

    With the differences between views of one image, the covariance is that of the views plus :attr:`COHORT_SHARE` of the
    cohort's, each at its own scale (within-class covariance normalisation, Hatch et al. 2006). Whitening on the cohort alone
    lifts whatever varies little among its members, and that is noise as often as identity; the views say which directions a
    rotation, crop or bias field moves, and these are muted.

    Args:
        estimator: ``ledoit_wolf`` (default) or ``oas`` shrink the covariance, so that fewer images than features are no
            harm; ``zca`` is the paper's empirical covariance plus ``eps``, in float64 throughout.
        eps: added to the eigenvalues; for the shrunk estimators a share of the mean eigenvalue, so that the scale of the features
            does not matter.

    Attributes:
        mean: float32 [C] (``zca``: float64).
        matrix: float32 [C, C], symmetric (``zca``: float64).
        shrinkage: share of the identity in the covariance, 0 to 1.
        cohort_weight: of the cohort's empirical covariance in the covariance that W is the inverse root of.
    """

    COHORT_SHARE = 0.2

    def __init__(self, estimator: str = "ledoit_wolf", eps: float = 1e-6) -> None:
        if estimator not in ESTIMATORS:
            raise InputError(
                f"The 'estimator' parameter of Whitening must be one of {', '.join(ESTIMATORS)}. Got {estimator!r} instead."
            )
        self.estimator, self.eps = estimator, eps
        self.dtype = np.float64 if estimator == "zca" else np.float32
        self.mean = np.zeros(0, self.dtype)
        self.matrix = np.zeros((0, 0), self.dtype)
        self.shrinkage, self.cohort_weight = 0.0, 1.0

    def fit(self, features: np.ndarray, view_differences: np.ndarray | None = None) -> Whitening:
        """Fit on ``features`` float [N, C], N >= 2, and ``view_differences`` float [V, C] of some of them or of like images."""
        features = np.asarray(features)
        if features.ndim != 2 or len(features) < 2:
            raise InputError(
                f"Whitening needs features of shape [N, C] with N >= 2. Got {features.shape}; give more training images."
            )
        views = FeatureMoments.of_differences(view_differences)
        return self.fit_moments(FeatureMoments(features[0]).add(features), views)

    def fit_moments(self, cohort: FeatureMoments, views: FeatureMoments | None = None) -> Whitening:
        """Fit on moments of at least 2 features, and of view differences; None whitens on the cohort alone."""
        covariance = self._covariance(cohort, views)
        floor = self.eps if self.estimator == "zca" else self.eps * max(np.trace(covariance) / len(covariance), 1e-12)
        values, directions = np.linalg.eigh(covariance)
        matrix = (directions / np.sqrt(values.clip(0) + floor)) @ directions.T
        self.mean, self.matrix = cohort.mean.astype(self.dtype), np.ascontiguousarray(matrix, dtype=self.dtype)
        return self

    def _covariance(self, cohort: FeatureMoments, views: FeatureMoments | None) -> np.ndarray:
        if self.estimator == "zca":
            return cohort.covariance(ddof=1)
        covariance, self.shrinkage = cohort.shrunk_covariance(self.estimator)
        self.cohort_weight = 1 - self.shrinkage
        if views is None:
            return covariance
        within, self.shrinkage = views.shrunk_covariance(self.estimator)
        size = len(covariance)
        share = self.COHORT_SHARE / max(np.trace(covariance) / size, 1e-12)
        self.cohort_weight *= share
        return within / max(np.trace(within) / size, 1e-12) + share * covariance

    def whiten(self, features: np.ndarray) -> np.ndarray:
        """float [..., C] -> W (feature - mean), in :attr:`matrix`'s dtype."""
        return (np.asarray(features, dtype=self.dtype) - self.mean) @ self.matrix  # type: ignore[operator]

    def transform(self, features: np.ndarray) -> np.ndarray:
        """float [..., C] -> whitened, of unit length; a feature equal to the mean stays zero."""
        return unit_length(self.whiten(features))


class LeftOut:
    """What whitened features would be if some of the cohort had not been there when the whitening was fitted.

    Leaving k of n features out takes a matrix of rank k + 1 from the covariance, so its inverse root is that of the whole cohort with
    k + 1 directions stretched: twenty folds cost less than one more whitening. The parts of the covariance that do not come from
    the cohort keep their weight, and so weigh n / (n - k) times as much beside it, as a shrinkage that falls with n would.

    Args:
        left_out: float [k, C], whitened (not of unit length) features that are left out.
        count: n, of the whole cohort.
        cohort_weight: see :class:`Whitening`.
    """

    def __init__(self, left_out: np.ndarray, count: int, cohort_weight: float) -> None:
        rows = np.asarray(left_out, dtype=np.float64)
        left = count - len(rows)
        shift = -rows.mean(0) * len(rows) / left
        taken = np.concatenate([np.sqrt(cohort_weight / count) * rows, np.sqrt(cohort_weight * left / count) * shift[None]])
        if len(taken) > taken.shape[1]:
            squares, directions = np.linalg.eigh(taken.T @ taken)
            lengths, directions = np.sqrt(squares.clip(0)), directions.T
        else:
            _, lengths, directions = np.linalg.svd(taken, full_matrices=False)
        self.shift, self.directions = shift.astype(np.float32), directions.astype(np.float32)
        self.stretch = (1 / np.sqrt(np.maximum(1 - lengths**2, 1e-6)) - 1).astype(np.float32)

    def transform(self, whitened: np.ndarray) -> np.ndarray:
        """float [..., C], whitened by the whole cohort -> of unit length, whitened by the rest of it."""
        moved = whitened - self.shift
        return unit_length(moved + ((moved @ self.directions.T) * self.stretch) @ self.directions)
