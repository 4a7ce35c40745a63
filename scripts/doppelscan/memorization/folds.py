"""Patients: folds that keep one together, and rows spread over many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["patient_folds", "spread_over_patients"]


def patient_folds(patients: Sequence, folds: int, seed: int) -> np.ndarray:
    """Fold number of each image, int64 [N]; all images of a patient share one, and folds hold about as many patients."""
    names = sorted(set(map(str, patients)))
    order = np.random.default_rng(seed).permutation(len(names))
    fold = {names[i]: rank % folds for rank, i in enumerate(order)}
    return np.array([fold[str(p)] for p in patients])


def spread_over_patients(patients: Sequence, most: int, seed: int) -> list[int]:
    """At most ``most`` rows, spread over patients: one of each patient first, then a second, ...; rising."""
    seen: dict[str, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for row in np.random.default_rng(seed).permutation(len(patients)).tolist():
        patient = str(patients[row])
        seen[patient] = seen.get(patient, 0) + 1
        ranked.append((seen[patient], len(ranked), row))
    return sorted(row for _, _, row in sorted(ranked)[:most])
