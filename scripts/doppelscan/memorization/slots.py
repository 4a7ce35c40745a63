"""Whitening of rows that hold several embeddings side by side: slices of a volume."""

from __future__ import annotations

import numpy as np

from doppelscan.errors import InputError
from doppelscan.memorization.whitening import Whitening, unit_length

__all__ = ["SlotWhitening"]


class SlotWhitening:
    """:class:`Whitening` of each slot of a row: every slot has its own mean, all have one covariance.

    A cohort of 30 people with 9 slices each so gives 270 embeddings for one covariance of 256 features; whitened as one row of 2,304 they would
    be 30, and retrieval is then worse than without whitening (docs of the encoder bundle).

    Args:
        slots: K, embeddings in a row.
        estimator: see :class:`Whitening`.
        eps: see :class:`Whitening`.

    Attributes:
        mean: float32 [K, C].
        whitening: of what a slot differs from its mean by.
    """

    def __init__(self, slots: int, estimator: str = "ledoit_wolf", eps: float = 1e-6) -> None:
        self.slots = slots
        self.whitening = Whitening(estimator, eps)
        self.mean = np.zeros((slots, 0), np.float32)

    def fit(self, features: np.ndarray, view_differences: np.ndarray | None = None) -> SlotWhitening:
        """Fit on ``features`` float [N, K * C], N >= 2, and ``view_differences`` float [V, K * C] of some of them or of like volumes.

        Raises:
            InputError: another shape.
        """
        features = np.asarray(features)
        if features.ndim != 2 or len(features) < 2 or features.shape[1] % self.slots:
            raise InputError(
                f"Whitening of {self.slots} slots needs features [N, {self.slots} * C] with N >= 2. Got {features.shape}; give more volumes."
            )
        slotted = self._slotted(features)
        self.mean = slotted.mean(0).astype(np.float32)
        differences = (
            None if view_differences is None else self._slotted(np.asarray(view_differences)).reshape(-1, self.mean.shape[1])
        )
        self.whitening.fit((slotted - self.mean).reshape(-1, self.mean.shape[1]), differences)
        return self

    def _slotted(self, features: np.ndarray) -> np.ndarray:
        return features.reshape(*features.shape[:-1], self.slots, -1)

    def transform(self, features: np.ndarray) -> np.ndarray:
        """float [..., K * C] -> float32, whitened; each slot of length 1 / sqrt(K), so that products are the mean of the slots' cosines."""
        white = unit_length(self.whitening.whiten(self._slotted(np.asarray(features, np.float32)) - self.mean))
        return (white / np.sqrt(self.slots)).reshape(features.shape).astype(np.float32)
