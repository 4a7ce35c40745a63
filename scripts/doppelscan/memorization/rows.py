"""Features that may be larger than memory: read by slices, transformed as they are read, written a block at a time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import safe_open

from doppelscan.memorization.whitening import unit_length

__all__ = [
    "BLOCK_VALUES",
    "KEPT_VALUES",
    "FirstPose",
    "HalfRows",
    "Rows",
    "TransformedRows",
    "blocks_of",
    "content_groups",
    "kept",
    "read_safetensors",
    "repeated",
    "write_safetensors",
]

BLOCK_VALUES = 2**23  # float32 values held at a time, 32 MB
KEPT_VALUES = 2**24  # values that are kept as they are, 64 MB
HALF_VALUES = 2**29  # values that are kept at half precision, 1 GB
DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64"}


class Rows(Protocol):
    """What features may be: anything of shape [N, C] or [N, P, C] that gives rows by slices, such as an array or ``np.memmap``."""

    shape: Any

    def __getitem__(self, rows: Any) -> Any: ...

    def __len__(self) -> int: ...


class TransformedRows:
    """Rows that are transformed when they are read."""

    def __init__(self, rows: Rows, transform: Callable[[np.ndarray], np.ndarray]) -> None:
        self.rows, self.transform, self.shape = rows, transform, tuple(rows.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.transform(np.asarray(self.rows[rows]))


class FirstPose:
    """Of rows [N, P, C] the first pose [N, C]; rows [N, C] as they are."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.shape = rows, (len(rows), rows.shape[-1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        found = np.asarray(self.rows[rows])
        return found if found.ndim == 2 else found[:, 0]


class HalfRows:
    """Rows of unit length, or zeros, kept at half precision; given as float32 of unit length again.

    A cosine changes by up to 1e-4 so, but not that of a row with itself, which stays 1 to 1e-6.

    Args:
        rows: float [N, C] or [N, P, C], read once in blocks.
    """

    def __init__(self, rows: Rows) -> None:
        self.values = np.empty(tuple(rows.shape), np.float16)
        self.shape = self.values.shape
        for block in blocks_of(rows):
            self.values[block] = rows[block]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        return unit_length(self.values[rows].astype(np.float32))


def kept(rows: Rows, unit: bool = False) -> Rows:
    """``rows`` in memory when they are few, of ``unit`` length at half precision when they are many, else read as they are asked for."""
    size = int(np.prod(rows.shape))
    if size <= KEPT_VALUES:
        return np.ascontiguousarray(rows[:])
    return HalfRows(rows) if unit and size <= HALF_VALUES else rows


def blocks_of(rows: Rows, values: int = BLOCK_VALUES) -> Iterator[slice]:
    """Slices that cover ``rows``, each of about ``values`` values."""
    step = max(1, values // int(np.prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        yield slice(start, min(start + step, len(rows)))


def content_groups(features: Iterable[Rows], keys: Sequence | np.ndarray | None = None) -> np.ndarray:
    """Which of N images are the same: int64 [N], one number for each content.

    Args:
        features: rows of the images, which are the same when they are equal in all of these, bit by bit.
        keys: content of each image in place of its features, such as its :func:`~doppelscan.images.content_hash`.
    """
    if keys is None:
        images = zip(*(_each(rows) for rows in features), strict=True)
        keys = [hashlib.blake2b(b"".join(row.tobytes() for row in image), digest_size=16).digest() for image in images]
    return np.unique(np.asarray(keys), return_inverse=True)[1].astype(np.int64)


def _each(rows: Rows) -> Iterator[np.ndarray]:
    for block in blocks_of(rows):
        yield from np.asarray(rows[block])


def repeated(groups: np.ndarray, left_out: np.ndarray | None = None) -> np.ndarray:
    """Rows that do not take part in a search: bool [N], what is ``left_out``, and what repeats an earlier row that is not.

    One image that is there twice is one row, named by the first; else rounding decides which is the nearest, and its margin is 0.

    Args:
        groups: int64 [N], see :func:`content_groups`.
        left_out: bool [N].
    """
    taking_part = np.arange(len(groups)) if left_out is None else np.flatnonzero(~np.asarray(left_out))
    out = np.ones(len(groups), bool)
    out[taking_part[np.unique(groups[taking_part], return_index=True)[1]]] = False
    return out


class SavedRows:
    """A tensor of a safetensors file whose rows are read when they are asked for."""

    def __init__(self, path: str | os.PathLike, name: str) -> None:
        self.path, self.name = os.fspath(path), name
        with safe_open(self.path, "numpy") as file:
            self.shape = tuple(file.get_slice(name).get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        with safe_open(self.path, "numpy") as file:
            return file.get_slice(self.name)[rows]


def write_safetensors(path: str | os.PathLike, tensors: Mapping[str, Rows], metadata: Mapping[str, str]) -> None:
    """Write ``tensors`` as one safetensors file; ``safetensors`` itself would hold all of them in memory at once.

    The format: length of the header (8 bytes, little endian), the header (JSON: dtype, shape and place of each tensor), the values.
    A file that was cut short is never left under ``path``.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    place = 0
    for name, rows in tensors.items():
        sample = np.asarray(rows[:1])
        size = int(np.prod(rows.shape)) * sample.dtype.itemsize
        header[name] = {"dtype": DTYPES[str(sample.dtype)], "shape": list(rows.shape), "data_offsets": [place, place + size]}
        place += size
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    temporary = Path(f"{os.fspath(path)}.tmp")
    with open(temporary, "wb") as file:
        file.write(len(words).to_bytes(8, "little") + words)
        for rows in tensors.values():
            for block in blocks_of(rows):
                file.write(np.ascontiguousarray(rows[block]).tobytes())
    os.replace(temporary, path)


def read_safetensors(path: str | os.PathLike, most: int) -> tuple[dict[str, Rows], dict[str, str]]:
    """Tensors and metadata of a file; a tensor of more than ``most`` values is read by slices later."""
    tensors: dict[str, Rows] = {}
    with safe_open(os.fspath(path), "numpy") as file:
        metadata = file.metadata() or {}
        for name in file.keys():  # noqa: SIM118
            large = int(np.prod(file.get_slice(name).get_shape())) > most
            tensors[name] = SavedRows(path, name) if large else file.get_tensor(name)
    return tensors, metadata
