"""Embedded sets: a set's records beside their rows in the store, whole or read as they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from doppelscan.images import CubeFrame, ImageRecord
from doppelscan.memorization import Rows
from doppelscan.search.store import EmbeddingStore

__all__ = ["EmbeddedSet", "EmbeddedVolumes", "StoredFeatures", "StoredThumbnails", "content_of", "output_columns", "rounded"]

BLOCK = 4096
# Binary digits after the first that features are kept with, of the 23 of float32. Two runs whose features differ in the last digit, as those of
# two batch sizes do, agree to 5e-6 in the whitened cosines of the retrieval head and to 2e-5 in those of the layers. With 10, as half precision has, they
# agree to 2e-4 and 4e-4 alone, in two thirds of the room.
DIGITS = 16
FLOAT32_DIGITS = 23


def content_of(thumbnail: np.ndarray, native_shape: np.ndarray) -> np.ndarray:
    """What names the pixels of an image, the same for two files that hold the same image in different bytes: sha256, uint8 [32].

    Args:
        thumbnail: uint8 [1, S, S].
        native_shape: int32 [2].
    """
    return np.frombuffer(hashlib.sha256(thumbnail.tobytes() + native_shape.tobytes()).digest(), np.uint8)


def rounded(features: np.ndarray) -> np.ndarray:
    """float32 of any shape, each value rounded to :data:`DIGITS`, half to even: what the store compresses, whatever the scale."""
    dropped = FLOAT32_DIGITS - DIGITS
    bits = np.ascontiguousarray(features, np.float32).view(np.uint32)
    # Signs lie apart, and what is carried over goes to the exponent.
    nearest = bits + np.uint32((1 << dropped - 1) - 1) + (bits >> np.uint32(dropped) & np.uint32(1))
    kept = (nearest >> np.uint32(dropped) << np.uint32(dropped)).view(np.float32)
    return np.where(np.isfinite(features), kept, features).astype(np.float32)


def output_columns(outputs: Mapping[str, slice]) -> dict[str, str]:
    """Output name -> column of the store; outputs that lie on the same place share the first one's."""
    first: dict[tuple[int, int], str] = {}
    return {name: first.setdefault((part.start, part.stop), name) for name, part in outputs.items()}


@dataclass(frozen=True)
class EmbeddedSet:
    """A set whose embeddings are in a store.

    Attributes:
        records: the readable images.
        keys: their keys in ``store``.
        store: holds a column float [V, C] of each output, ``thumbnail`` [1, S, S], ``native_shape`` [2], ``content`` [32], ``as_read`` [1, 64, 64],
            ``read_shape`` [2] and ``surround`` [1].
        outputs: which slice of the prediction is which output of the network.
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

    @property
    def unnamed(self) -> int:
        """Of how many images nothing names the patient."""
        return sum(not record.patient_known for record in self.records)

    def subset(self, rows: Sequence[int]) -> EmbeddedSet:
        return replace(self, records=[self.records[i] for i in rows], keys=[self.keys[i] for i in rows])

    @cached_property
    def contents(self) -> list[str]:
        """Of each image a name of its pixels, see :func:`content_of`."""
        return [one.tobytes().hex() for one in self.store.read(self.keys, ["content"]).get("content", ())]

    def features(self, rows: Sequence[int] | None = None, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, V, C], of some rows or of all, at once; see :class:`StoredFeatures` for rows in blocks.

        Args:
            rows: of the set.
            names: of outputs; the others are not read.
        """
        columns = output_columns(self.outputs)
        wanted = {name: columns[name] for name in (self.outputs if names is None else names)}
        keys = self.keys if rows is None else [self.keys[i] for i in rows]
        found = self.store.read(keys, list(dict.fromkeys(wanted.values())))
        return {name: found[column] for name, column in wanted.items()}

    def single_pose(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, C], of the images as they are; other views are read by the block and forgotten."""
        blocks = [{name: value[:, 0].copy() for name, value in self.features(rows, names).items()} for rows in self.blocks()]
        return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}

    def blocks(self, size: int = BLOCK) -> Iterator[range]:
        """Rows in order, ``size`` at a time."""
        return (range(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def thumbnails(self, rows: Sequence[int]) -> torch.Tensor:
        """uint8 [n, 1, S, S]."""
        return torch.from_numpy(self.store.read([self.keys[i] for i in rows], ["thumbnail"], keep=True)["thumbnail"])

    def native_shapes(self, rows: Sequence[int]) -> np.ndarray:
        """int32 [n, 2], heights and widths of the images as they are on disk, or of the pictures that were cut out of them."""
        return self.store.read([self.keys[i] for i in rows], ["native_shape"], keep=True)["native_shape"]

    def as_read(self, rows: Sequence[int]) -> tuple[torch.Tensor, np.ndarray]:
        """uint8 [n, 1, 64, 64] and int32 [n, 2]: images as their files have them, each on a square of its own, with their heights and widths."""
        found = self.store.read([self.keys[i] for i in rows], ["as_read", "read_shape"], keep=True)
        return torch.from_numpy(found["as_read"]), found["read_shape"]

    def changed_surrounds(self) -> int:
        """Images that are compared without a light surround that their files have, see :class:`~doppelscan.images.DarkSurroundd`."""
        return int(self.store.read(self.keys, ["surround"])["surround"].sum())


# Numbers that a frame is stored as: centre, side, voxels a side, shape and spacing.
FRAME = 11


def frame_row(frame: CubeFrame) -> np.ndarray:
    """float64 [11], a frame as it is stored."""
    return np.array([*frame.centre, frame.side, frame.size, *frame.shape, *frame.spacing], np.float64)


def _frame(row: Sequence[float]) -> CubeFrame:
    x, y, z, side, size, i, j, k, a, b, c = map(float, row)
    return CubeFrame((x, y, z), side, int(size), (int(i), int(j), int(k)), (a, b, c))


@dataclass(frozen=True)
class EmbeddedVolumes(EmbeddedSet):
    """A set of volumes: thumbnails are the cubes around their anatomy, uint8 [1, S, S, S], native shapes [3]; ``store`` also holds ``frame`` [11] and ``stored``
    [1, 16, 16, 16]."""

    def changed_surrounds(self) -> int:
        """None: volumes are compared as they are."""
        return 0

    def frames(self, rows: Sequence[int]) -> list[CubeFrame]:
        """Where the cubes lie in their volumes."""
        found = self.store.read([self.keys[i] for i in rows], ["frame"], keep=True).get("frame", ())
        return [_frame(row) for row in found]

    def stored_cubes(self, rows: Sequence[int]) -> torch.Tensor:
        """uint8 [n, 1, 16, 16, 16], the volumes as they are stored, whatever their headers say of their voxels."""
        return torch.from_numpy(self.store.read([self.keys[i] for i in rows], ["stored"], keep=True)["stored"])


class StoredThumbnails:
    """The thumbnails of a set, uint8 [n, 1, S, S] a slice or a list of rows, read from its store when they are asked for."""

    def __init__(self, embedded: EmbeddedSet) -> None:
        self.embedded = embedded

    def __len__(self) -> int:
        return len(self.embedded)

    def __getitem__(self, rows: Any) -> torch.Tensor:
        return self.embedded.thumbnails(np.arange(len(self))[rows].tolist())


class StoredFeatures:
    """One output of an embedded set as rows that are read from its store when they are asked for, and no other output with them.

    Args:
        embedded: the set.
        name: of the output.
        views: of each image that are given, the first ones.
        size: of a view.
    """

    def __init__(self, embedded: EmbeddedSet, name: str, views: int, size: int) -> None:
        self.embedded, self.name, self.views = embedded, name, views
        self.shape = (len(embedded), size) if views == 1 else (len(embedded), views, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """float32 rows of a slice, of any list of rows, or of a mask."""
        chosen = np.arange(len(self))[rows]
        if not len(chosen):
            return np.empty((0, *self.shape[1:]), np.float32)
        found = self.embedded.features(chosen.tolist(), [self.name])[self.name][:, : self.views]
        return np.ascontiguousarray(found.reshape(-1, *self.shape[1:]))

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """All rows in order, ``size`` at a time."""
        return (self[rows.start : rows.stop] for rows in self.embedded.blocks(size))

    @classmethod
    def of(
        cls,
        embedded: EmbeddedSet,
        most: int = 2**25,
        as_they_are: Collection[str] = (),
        names: Sequence[str] | None = None,
    ) -> dict[str, Rows]:
        """Output name -> features [n, C], or [n, V, C] in views; in memory up to ``most`` values, else rows of the store.

        Args:
            embedded: the set.
            most: values.
            as_they_are: outputs of which the first view alone is given, of the images as they are.
            names: of outputs; None is all.
        """
        sizes = {name: value.shape[1:] for name, value in embedded.features([0], names).items()}
        rows = {name: cls(embedded, name, 1 if name in as_they_are else views, size) for name, (views, size) in sizes.items()}
        if sum(int(np.prod(value.shape)) for value in rows.values()) > most:
            return dict(rows)
        return {name: np.concatenate(list(value.blocks())) for name, value in rows.items()}

    @classmethod
    def searched(cls, embedded: EmbeddedSet) -> dict[str, Rows]:
        """:meth:`of` a training set that is searched: heads in all views, layers, which the Memorization Index compares, of the images as they are."""
        return cls.of(embedded, as_they_are=[name for name in embedded.outputs if name.startswith("layer")])
