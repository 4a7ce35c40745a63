"""Moments of features in one pass: what a covariance and its shrinkage need, without holding the features."""

from __future__ import annotations

import numpy as np

__all__ = ["FeatureMoments"]


class FeatureMoments:
    """Count, mean, covariance and fourth moment of features that are added batch by batch.

    scikit-learn's shrinkage estimators want all features at once; these are the same estimators on sums, so that memory does not
    grow with the number of images.

    Args:
        origin: float [C], subtracted from everything first, so that the sums do not cancel; any typical feature will do.

    Attributes:
        count: features added.
    """

    def __init__(self, origin: np.ndarray) -> None:
        self.origin = np.asarray(origin, dtype=np.float64)
        size = len(self.origin)
        self.count = 0
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))
        # Of the squared norm q: sum of q, of q squared, and of q times the feature.
        self._norm, self._norm_squared, self._norm_times = 0.0, 0.0, np.zeros(size)

    @classmethod
    def of_differences(cls, differences: np.ndarray | None) -> FeatureMoments | None:
        """Moments about 0 of ``differences`` float [V, C] between views of one image; None of fewer than two."""
        if differences is None or len(differences) < 2:
            return None
        return cls(np.zeros(differences.shape[1])).add(differences)

    def add(self, features: np.ndarray) -> FeatureMoments:
        """Add ``features`` float [N, C]."""
        moved = np.asarray(features, dtype=np.float64) - self.origin
        norms = np.einsum("nc,nc->n", moved, moved)
        self.count += len(moved)
        self._sum += moved.sum(0)
        self._products += moved.T @ moved
        self._norm += norms.sum()
        self._norm_squared += norms @ norms
        self._norm_times += norms @ moved
        return self

    @property
    def mean(self) -> np.ndarray:
        """float64 [C]."""
        return self.origin + self._sum / self.count

    def covariance(self, ddof: int = 0) -> np.ndarray:
        """float64 [C, C], the sum of products over ``count - ddof``."""
        moved = self._sum / self.count
        return (self._products - self.count * np.outer(moved, moved)) / (self.count - ddof)

    def shrunk_covariance(self, estimator: str) -> tuple[np.ndarray, float]:
        """Covariance float64 [C, C] shrunk towards a multiple of the identity, and the share of the identity.

        Args:
            estimator: ``ledoit_wolf`` (Ledoit and Wolf 2004) or ``oas`` (Chen et al. 2010), as scikit-learn defines them.
        """
        covariance = self.covariance()
        size = len(covariance)
        scale = float(np.trace(covariance)) / size
        shrink = self._ledoit_wolf if estimator == "ledoit_wolf" else self._oas
        shrinkage = shrink(covariance, scale)
        covariance *= 1 - shrinkage
        covariance[np.diag_indices(size)] += shrinkage * scale
        return covariance, shrinkage

    def _ledoit_wolf(self, covariance: np.ndarray, scale: float) -> float:
        size, squares = len(covariance), float((covariance**2).sum())
        # Sum of |x - mean|^4, expanded so that it needs sums only.
        mean = self._sum / self.count
        length = float(mean @ mean)
        fourth = self._norm_squared + 4 * float(mean @ self._products @ mean) - 3 * self.count * length**2
        fourth += 2 * length * self._norm - 4 * float(mean @ self._norm_times)
        distance: float = (squares - size * scale**2) / size
        noise: float = (fourth / self.count - squares) / (size * self.count)
        return float(min(max(noise, 0.0), distance) / distance) if distance > 0 and noise > 0 else 0.0

    def _oas(self, covariance: np.ndarray, scale: float) -> float:
        squares = float((covariance**2).mean())
        spread = (self.count + 1) * (squares - scale**2 / len(covariance))
        return 1.0 if spread <= 0 else float(min((squares + scale**2) / spread, 1.0))
