"""Whitening on a cohort: it removes what all its members share, and leaves what tells them apart."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import ledoit_wolf, oas

__all__ = ["Whitening"]

ESTIMATORS = ("ledoit_wolf", "oas", "zca")


class Whitening:
    """Symmetric (ZCA) whitening followed by L2 normalisation: W = Cov^(-1/2) (arXiv 2602.13066, section on whitening).

    With the differences between views of one image, the covariance is that of the views plus :attr:`COHORT_SHARE` of the
    cohort's, each at its own scale (within-class covariance normalisation, Hatch et al. 2006). Whitening on the cohort alone
    lifts whatever varies little among its members, and that is noise as often as identity; the views say which directions a
    rotation, crop or bias field moves, and these are muted.

    Args:
        estimator: ``ledoit_wolf`` (default) or ``oas`` shrink the covariance, so that fewer images than features are no
            harm; ``zca`` is the paper's empirical covariance plus ``eps``.
        eps: added to the eigenvalues.

    Attributes:
        mean: float32 [C].
        matrix: float32 [C, C], symmetric.
        shrinkage: share of the identity in the covariance, 0 to 1.
    """

    COHORT_SHARE = 0.2

    def __init__(self, estimator: str = "ledoit_wolf", eps: float = 1e-6) -> None:
        if estimator not in ESTIMATORS:
            raise ValueError(
                f"The 'estimator' parameter of Whitening must be one of {', '.join(ESTIMATORS)}. Got {estimator!r} instead."
            )
        self.estimator, self.eps = estimator, eps
        self.mean = np.zeros(0, np.float32)
        self.matrix = np.zeros((0, 0), np.float32)
        self.shrinkage = 0.0

    def fit(self, features: np.ndarray, view_differences: np.ndarray | None = None) -> Whitening:
        """Fit on ``features`` float [N, C], N >= 2, and ``view_differences`` float [V, C] of some of them or of like images."""
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"Whitening needs features of shape [N, C] with N >= 2. Got {features.shape}; give more training images."
            )
        mean = features.mean(0)
        centred = features - mean
        count, size = centred.shape
        if view_differences is not None and len(view_differences) > 1:
            return self._fit_on_views(mean, centred, np.asarray(view_differences, dtype=np.float64))
        # Thin SVD: the directions that the images span. With fewer images than features the others all have one variance, which
        # saves the eigenvectors of the large covariance.
        _, singular, directions = np.linalg.svd(centred, full_matrices=False)
        if self.estimator == "zca":
            spanned, rest, self.shrinkage = singular**2 / (count - 1), 0.0, 0.0
        else:
            shrink = ledoit_wolf if self.estimator == "ledoit_wolf" else oas
            self.shrinkage = float(shrink(centred, assume_centered=True)[1])
            rest = self.shrinkage * (singular**2).sum() / count / size
            spanned = (1 - self.shrinkage) * singular**2 / count + rest
        floor = 1 / np.sqrt(rest + self.eps)
        matrix = (directions.T * (1 / np.sqrt(spanned + self.eps) - floor)) @ directions
        matrix[np.diag_indices(size)] += floor
        self.mean, self.matrix = mean.astype(np.float32), matrix.astype(np.float32)
        return self

    def _fit_on_views(self, mean: np.ndarray, centred: np.ndarray, differences: np.ndarray) -> Whitening:
        shrink = oas if self.estimator == "oas" else ledoit_wolf
        within, self.shrinkage = shrink(differences)
        cohort, _ = shrink(centred, assume_centered=True)
        size = centred.shape[1]
        total = within / max(np.trace(within) / size, 1e-12) + self.COHORT_SHARE * cohort / max(np.trace(cohort) / size, 1e-12)
        values, directions = np.linalg.eigh(total)
        matrix = (directions / np.sqrt(values.clip(0) + self.eps)) @ directions.T
        self.mean, self.matrix = mean.astype(np.float32), matrix.astype(np.float32)
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        """float32 [..., C] -> whitened, of unit length; a feature equal to the mean stays zero."""
        white = (np.asarray(features, dtype=np.float32) - self.mean) @ self.matrix
        return white / np.maximum(np.linalg.norm(white, axis=-1, keepdims=True), 1e-12)
