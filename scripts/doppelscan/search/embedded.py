"""Embedded sets: a set's records beside their rows in the store, whole or read as they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from doppelscan.images import ImageRecord
from doppelscan.memorization import Rows
from doppelscan.search.store import EmbeddingStore

__all__ = ["EmbeddedSet", "StoredFeatures", "StoredThumbnails"]

BLOCK = 4096


@dataclass(frozen=True)
class EmbeddedSet:
    """A set whose embeddings are in a store.

    Attributes:
        records: the readable images.
        keys: their keys in ``store``.
        store: holds ``embedding`` [P, D], ``thumbnail`` [1, S, S] and ``native_shape`` [2].
        outputs: which slice of D is which output of the network.
    """

    records: list[ImageRecord]
    keys: list[str]
    store: EmbeddingStore
    outputs: Mapping[str, slice]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def patients(self) -> list[str]:
        return [record.patient for record in self.records]

    def subset(self, rows: Sequence[int]) -> EmbeddedSet:
        return EmbeddedSet([self.records[i] for i in rows], [self.keys[i] for i in rows], self.store, self.outputs)

    @cached_property
    def contents(self) -> list[str]:
        """Of each image a name of its pixels: the same for two files that hold the same image in different bytes."""
        names = []
        for start in range(0, len(self), BLOCK):
            rows = range(start, min(start + BLOCK, len(self)))
            for pixels, shape in zip(self.thumbnails(rows).numpy(), self.native_shapes(rows), strict=True):
                names.append(hashlib.sha256(pixels.tobytes() + shape.tobytes()).hexdigest())
        return names

    def features(self, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, P, C]."""
        keys = self.keys if rows is None else [self.keys[i] for i in rows]
        vectors = self.store.read(keys, ["embedding"])["embedding"]
        return {name: np.ascontiguousarray(vectors[..., part]) for name, part in self.outputs.items()}

    def single_pose(self) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, C], of the images as they are."""
        return {name: value[:, 0] for name, value in self.features().items()}

    def thumbnails(self, rows: Sequence[int]) -> torch.Tensor:
        """uint8 [n, 1, S, S]."""
        return torch.from_numpy(self.store.read([self.keys[i] for i in rows], ["thumbnail"], keep=True)["thumbnail"])

    def native_shapes(self, rows: Sequence[int]) -> np.ndarray:
        """int32 [n, 2], heights and widths of the images as they are on disk."""
        return self.store.read([self.keys[i] for i in rows], ["native_shape"], keep=True)["native_shape"]


class StoredThumbnails:
    """The thumbnails of a set, uint8 [n, 1, S, S] a slice, read from its store when they are asked for."""

    def __init__(self, embedded: EmbeddedSet) -> None:
        self.embedded = embedded

    def __len__(self) -> int:
        return len(self.embedded)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.embedded.thumbnails(range(*rows.indices(len(self))))


class StoredFeatures:
    """One output of an embedded set as rows that are read from its store when they are asked for.

    Args:
        embedded: the set.
        part: which columns of its embeddings.
        poses: of each image.
    """

    def __init__(self, embedded: EmbeddedSet, part: slice, poses: int) -> None:
        self.embedded, self.part = embedded, part
        size = part.stop - part.start
        self.shape = (len(embedded), size) if poses == 1 else (len(embedded), poses, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        values = self.embedded.store.read(self.embedded.keys[rows], ["embedding"])["embedding"][..., self.part]
        return np.ascontiguousarray(values.reshape(-1, *self.shape[1:]))

    @classmethod
    def of(cls, embedded: EmbeddedSet, most: int = 2**25) -> dict[str, Rows]:
        """Output name -> features [n, C], or [n, P, C] in poses; in memory up to ``most`` values, else rows of the store."""
        poses = next(iter(embedded.features([0]).values())).shape[1]
        rows = {name: cls(embedded, part, poses) for name, part in embedded.outputs.items()}
        if sum(int(np.prod(value.shape)) for value in rows.values()) > most:
            return dict(rows)
        return {name: value.reshape(rows[name].shape) for name, value in embedded.features().items()}
