"""Embeddings on disk: Parquet shards written as they come, keyed by content, bound to the weights that made them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from doppelscan.errors import StoreError

__all__ = ["EmbeddingStore"]

KEY = "key"
META = b"doppelscan.fingerprint"
KEPT_SHARDS = 64  # of 256 thumbnails of 16 KB: 256 MB at most
LEFT_BEHIND = 3600.0  # seconds after which a shard that is still being written is what a killed run left


class EmbeddingStore:
    """Rows of named arrays under a content key, in Parquet shards that pandas, DuckDB, Spark or Ray read.

    A shard is written to a temporary file and renamed when it is whole, so a killed run loses at most the shard that was being
    filled, and a full disk leaves nothing that could be taken for whole. Shards of another fingerprint are refused. Several threads may
    read at once, and other processes may read and write the same directory.

    Args:
        directory: of the shards; made when missing.
        fingerprint: of what makes the rows, see :func:`~doppelscan.search.fingerprint`.
        shard_size: rows a shard.

    Attributes:
        unreadable: names of shards that are damaged; their images are missing.

    Raises:
        StoreError: the directory holds another fingerprint, or cannot be written.
    """

    def __init__(self, directory: str | os.PathLike, fingerprint: str, shard_size: int = 256) -> None:
        self.directory, self.fingerprint, self.shard_size = Path(directory), fingerprint, shard_size
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store {str(directory)!r} cannot be made: {error.strerror}; pass another output folder."
            ) from error
        self._pending: list[dict[str, Any]] = []
        self._where: dict[str, tuple[Path, int]] = {}
        self._columns: dict[tuple[Path, tuple[str, ...]], list[tuple[str, np.ndarray]]] = {}
        self._reading = threading.Lock()
        self._indexed: set[Path] = set()
        self.unreadable: list[str] = []
        self._clear()
        self.refresh()

    def __reduce__(self) -> tuple:
        """A process that it is sent to opens the directory anew: what is pending stays here."""
        return type(self), (self.directory.absolute(), self.fingerprint, self.shard_size)

    def _clear(self) -> None:
        """Remove what killed runs left, not what another process is writing."""
        for left in self.directory.glob("*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # cleared by another process
                if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                    left.unlink()

    def refresh(self) -> None:
        """Look for shards that other processes wrote."""
        for path in sorted(set(self.directory.glob("*.parquet")) - self._indexed):
            self._index(path)
            self._indexed.add(path)

    def _index(self, path: Path) -> None:
        try:
            file = pq.ParquetFile(path)
            found = (file.schema_arrow.metadata or {}).get(META, b"").decode()
            keys = file.read([KEY])[KEY].to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError):
            # Not ours to guess at: its images are embedded again, into a new shard.
            self.unreadable.append(path.name)
            return
        if found != self.fingerprint:
            raise StoreError(
                f"The store {str(self.directory)!r} was made by other weights, preprocessing or runtime, or in other views "
                f"({found[:12] or 'none'}, not {self.fingerprint[:12]}); remove that folder or write to another one."
            )
        self._where.update({key: (path, row) for row, key in enumerate(keys)})

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def add(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a row, if its key is not there yet; arrays of one name must have one shape and dtype throughout the store."""
        if key in self or any(key == row[KEY] for row in self._pending):
            return
        self._pending.append({KEY: key, **arrays})
        if len(self._pending) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if not self._pending:
            return
        rows, self._pending = self._pending, []
        columns: dict[str, pa.Array] = {KEY: pa.array([row[KEY] for row in rows])}
        shapes: dict[str, tuple[list[int], str]] = {}
        for name in rows[0]:
            if name == KEY:
                continue
            block = np.stack([np.asarray(row[name]) for row in rows])
            shapes[name] = (list(block.shape[1:]), str(block.dtype))
            flat = pa.array(np.ascontiguousarray(block).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(block.shape[1:])))
        metadata = {META: self.fingerprint, b"doppelscan.shapes": json.dumps(shapes)}
        table = pa.table(columns).replace_schema_metadata(metadata)
        number = len(list(self.directory.glob("*.parquet")))
        path = self.directory / f"shard-{number:06d}-{hashlib.sha256(rows[0][KEY].encode()).hexdigest()[:8]}.parquet"
        temporary = path.with_suffix(".tmp")
        try:
            pq.write_table(table, temporary, compression="zstd", compression_level=1)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            reason = error.strerror or str(error)
            raise StoreError(
                f"The store {str(self.directory)!r} cannot be written: {reason}; free space or pass another --store."
            ) from error
        self._where.update({row[KEY]: (path, i) for i, row in enumerate(rows)})
        self._indexed.add(path)

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        """Arrays of ``keys`` in their order: name -> [len(keys), ...]; each shard is read once, one column at a time.

        ``keep`` holds the columns of the last shards in memory: for small columns that are read a few rows at a time.

        Raises:
            StoreError: the rows are not of one shape and dtype.
        """
        result: dict[str, np.ndarray] = {}
        wanted: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(keys):
            path, row = self._where[key]
            wanted.setdefault(path, []).append((position, row))
        for path, pairs in wanted.items():
            positions, rows = map(np.array, zip(*pairs, strict=True))
            for name, block in self._kept(path, tuple(names)) if keep else self._blocks(path, names):
                if name not in result:
                    result[name] = np.empty((len(keys), *block.shape[1:]), block.dtype)
                if block.shape[1:] != result[name].shape[1:] or block.dtype != result[name].dtype:
                    raise StoreError(
                        f"The store {str(self.directory)!r} must hold rows of one shape. Got {name!r} of {list(block.shape[1:])} and "
                        f"{list(result[name].shape[1:])}; remove that folder or write to another one."
                    )
                result[name][positions] = block[rows]
        return result

    def _kept(self, path: Path, names: tuple[str, ...]) -> list[tuple[str, np.ndarray]]:
        place = (path, names)
        with self._reading:
            if place not in self._columns:
                while len(self._columns) >= KEPT_SHARDS:
                    self._columns.pop(next(iter(self._columns)))
                self._columns[place] = list(self._blocks(path, names))
            return self._columns[place]

    def _blocks(self, path: Path, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        file = pq.ParquetFile(path)
        shapes = json.loads(file.schema_arrow.metadata[b"doppelscan.shapes"])
        for name in names:
            shape, dtype = shapes[name]
            column = file.read([name])[name].combine_chunks()
            flat = column.flatten().to_numpy(zero_copy_only=False)
            yield name, flat.reshape(-1, *shape).astype(dtype, copy=False)
