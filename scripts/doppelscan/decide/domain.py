"""Which images are of another domain than the training set: another modality, skull, plane, or noise. They are counted and said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from doppelscan.decide.reference import FittedReference
from doppelscan.decide.rules import Rules
from doppelscan.memorization import nearest_rows, spread_over_patients
from doppelscan.search import EmbeddedSet

__all__ = ["nearest_distances", "unlike_limit", "unlike_training"]

Held = TypeVar("Held", bound=EmbeddedSet)

# Early layers see texture, contrast and coarse shape; the last one is trained to tell people apart.
LAYERS = ("layer2", "layer3")
NEIGHBOURS = 3
QUERIES = 1024
# Training images that stand for all: what is usual among them is known from so many, and each is compared with all of them.
MOST = 8192


def unlike_training(
    images: EmbeddedSet, reference: FittedReference, rules: Rules, holdout: EmbeddedSet | None = None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Which images lie further from the training set than its own patients lie from each other.

    The distance is that to the nearest three training images in whitened early features; the scale is the distance of training images to those of other
    people, and of the holdout's, which were not whitened on. Of many training images some of every person stand for all.

    Args:
        images: what is asked about.
        reference: the training set and what was fitted on it.
        rules: ``unlike`` is the factor.
        holdout: other real images of the same kind, or None.

    Returns:
        bool [M], and what must be noted; None where the training set or the encoder is too poor to tell, and that is noted.
    """
    training, index = reference.training, reference.search.index
    layers = [name for name in LAYERS if index is not None and name in index.whiteners]
    if not layers or index is None or len(training) < rules.unlike_images:
        why = f"fewer than {rules.unlike_images} training images do" if layers else "an encoder without early features does"
        note = f"Whether synthetic images are of another domain (modality, plane, preparation) was not looked at: {why} not tell."
        return None, (note,)

    def whitened(one: EmbeddedSet) -> np.ndarray:
        parts = []
        for rows in one.blocks(QUERIES):
            features = one.features(rows, layers)
            white = [index.whiteners[name].whiten(features[name][:, 0]) / np.sqrt(features[name].shape[-1]) for name in layers]
            parts.append(np.concatenate(white, 1).astype(np.float32))
        return np.concatenate(parts)

    if len(training) > MOST:
        training = training.subset(spread_over_patients(training.patients, MOST, 0))
    own = whitened(training)
    people = np.unique(training.patients, return_inverse=True)[1].reshape(-1)
    return nearest_distances(whitened(images), own) > unlike_limit(own, people, holdout, whitened, rules), ()


def unlike_limit(
    own: np.ndarray, people: np.ndarray, holdout: Held | None, features: Callable[[Held], np.ndarray], rules: Rules
) -> float:
    """The distance from which on something is unlike a training set: by a factor more than its people lie from each other, or than the holdout lies from it.

    Args:
        own: float32 [N, C], features of the training set.
        people: int [N], who each is of.
        holdout: other real images of the same kind, or None.
        features: gives the features of a set.
        rules: the factor, and what is usual.
    """
    limit = rules.unlike * float(np.quantile(nearest_distances(own, own, (people, people)), rules.unlike_usual))
    if holdout is not None and len(holdout) >= rules.unlike_holdout:
        limit = max(limit, float(np.quantile(nearest_distances(features(holdout), own), rules.unlike_usual)))
    return limit


def nearest_distances(
    queries: np.ndarray, reference: np.ndarray, groups: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """float64 [M], mean distance to the nearest rows; as the largest inner product of rows that are longer by half their squared length."""
    longer = np.concatenate([reference, -0.5 * (reference**2).sum(1, keepdims=True)], 1)
    asked = np.concatenate([queries, np.ones((len(queries), 1), queries.dtype)], 1)
    found = nearest_rows(asked, longer, NEIGHBOURS, groups=groups).similarity.astype(np.float64)
    squared = (queries.astype(np.float64) ** 2).sum(1, keepdims=True) - 2 * found
    return np.sqrt(np.maximum(np.where(np.isfinite(squared), squared, np.nan), 0)).mean(1, where=np.isfinite(squared))


def other_modalities(images: EmbeddedSet, training: EmbeddedSet) -> Sequence[str]:
    """What is said of DICOM files whose modality no training file has."""
    known = {record.modality for record in training.records if record.modality}
    other = [record.modality for record in images.records if record.modality and record.modality not in known]
    if not known or not other:
        return []
    counts = ", ".join(f"{other.count(name)} {name}" for name in sorted(set(other)))
    return [
        f"{len(other)} of {len(images)} synthetic images are DICOM files of another modality than the training set ({counts}; training: "
        f"{', '.join(sorted(known))})."
    ]
