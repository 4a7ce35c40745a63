"""A benchmark with known truth out of any image set: planted copies of its training part, novel images through the same transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.errors import InputError
from doppelscan.images.copies import plant_copy

__all__ = ["PlantedCopies", "PlantedQueries"]


@dataclass(frozen=True)
class PlantedQueries:
    """Queries of one transform.

    Attributes:
        pixels: float32 [H, W] in [0, 1] of each, the copies first.
        patients: of each.
        sources: int64, the training row that each is a copy of, or -1 for a novel image.
    """

    pixels: list[np.ndarray]
    patients: list[str]
    sources: np.ndarray


class PlantedCopies:
    """Split patients into training and novel, and plant copies of training images.

    Novel images go through the same transform as the copies, so that the transform itself gives nothing away.

    Args:
        images: (patient, pixels float32 [H, W] in [0, 1]) of each image.
        copies: training images that are copied, and novel images, at most, a transform.
        training_share: share of the patients that are training.
        seed: of the split and the transforms.

    Attributes:
        training: the (patient, pixels) of the training part; rows of :attr:`PlantedQueries.sources` count in it.
        novel: the others.

    Raises:
        InputError: fewer than 5 patients.
    """

    def __init__(
        self, images: Sequence[tuple[str, np.ndarray]], copies: int = 40, training_share: float = 0.6, seed: int = 0
    ) -> None:
        patients = sorted({patient for patient, _ in images})
        if len(patients) < 5:
            raise InputError(
                f"Planted copies need images of at least 5 patients, to split them into training and novel. Got {len(patients)}; "
                "pass --patient_pattern, or more data."
            )
        self.rng = np.random.default_rng(seed)
        self.rng.shuffle(patients)
        inside = set(patients[: round(len(patients) * training_share)])
        self.training = [i for i in images if i[0] in inside]
        self.novel = [i for i in images if i[0] not in inside]
        self.copied = sorted(self.rng.permutation(len(self.training))[:copies].tolist())
        self.chosen = sorted(self.rng.permutation(len(self.novel))[:copies].tolist())

    def queries(self, transform: str) -> PlantedQueries:
        """Copies and novel images through ``transform``, a name of ``COPY_TRANSFORMS``; a blend's partner is a novel image."""
        pixels, patients = [], []
        for patient, image in [self.training[i] for i in self.copied] + [self.novel[i] for i in self.chosen]:
            partner = self.novel[int(self.rng.integers(len(self.novel)))][1]
            pixels.append(plant_copy(image, transform, self.rng, partner))
            patients.append(patient)
        return PlantedQueries(pixels, patients, np.array([*self.copied, *[-1] * len(self.chosen)], np.int64))
