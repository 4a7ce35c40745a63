"""Embeddings on disk: Parquet shards written as they come, keyed by content, bound to the weights that made them."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from doppelscan.errors import StoreError
from doppelscan.locations import is_url
from doppelscan.search.shards import shards_at

__all__ = ["EmbeddingStore"]

KEY = "key"
META = b"doppelscan.fingerprint"
FORMAT_META = b"doppelscan.format"
SHAPES = b"doppelscan.shapes"
FORMAT = b"2"  # counts up when shards come to be laid out in another way
GROUP = 32  # rows that are read at a time: a thumbnail alone costs 32 of them, a shard little more than without groups
KEPT_BYTES = 2**28  # of columns that are read a few rows at a time
OPENED_AT_ONCE = 8  # shards whose keys are read: waiting for a disk or a network, not computing
READ_AGAIN = (0.1, 1.0)  # seconds before a shard that could not be read is read again
LISTING_LAG = 3.0  # seconds that a listing on a network file system may be behind
LOOK_AGAIN = 0.25

Columns = dict[str, np.ndarray]


class UnreadableShardError(Exception):
    """A shard that was whole when its keys were read, and is gone, cut short or damaged now."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard


class EmbeddingStore:
    """Rows of named arrays under a content key, in Parquet shards that pandas, DuckDB, Spark or Ray read.

    A shard is written once, under a name that is never used twice, and is there whole or not at all: a killed run loses at most the
    shard that was being filled, and a full disk leaves nothing that could be taken for whole. Shards never change, so any number of
    threads, processes and machines read and write one directory without a lock, and none is left behind by what is killed; of a key that
    two processes add at the same time the row of the shard that was met first is read. Shards of another fingerprint or of another format are refused.

    Bytes (uint8) are stored as they are, other arrays as lists of numbers; what :meth:`read` gives is what was added. Of floats each byte is
    compressed with those of its place, so that last bits that are 0 take no room.

    Args:
        directory: of the shards; a folder, made when missing, or a URL that fsspec knows, such as ``s3://bucket/folder``.
        fingerprint: of what makes the rows, see :func:`~doppelscan.search.fingerprint`.
        shard_size: rows a shard.

    Attributes:
        unreadable: names of shards that are damaged; their images are missing.

    Raises:
        StoreError: the directory holds another fingerprint, or cannot be read or written.
        InputError: a URL of an unknown protocol.
        MissingPackageError: the package that serves the URL's protocol is not installed.
    """

    def __init__(self, directory: str | os.PathLike, fingerprint: str, shard_size: int = 256) -> None:
        self.directory, self.fingerprint, self.shard_size = directory, fingerprint, shard_size
        self.unreadable: list[str] = []
        self._shards = shards_at(directory)
        self._pending: dict[str, Mapping[str, np.ndarray]] = {}
        self._where: dict[str, tuple[str, int]] = {}
        self._indexed: set[str] = set()
        self._given_up: set[str] = set()
        self._kept: dict[tuple[str, int, tuple[str, ...]], Columns] = {}
        self._kept_bytes = 0
        self._reading = threading.RLock()
        try:
            self._shards.make()
        except OSError as error:
            raise StoreError(
                f"The store {self.name!r} cannot be made: {_reason(error)}; pass another output folder or --store."
            ) from error
        self.refresh()

    @property
    def name(self) -> str:
        """The directory, in messages."""
        return os.fspath(self.directory)

    def __reduce__(self) -> tuple:
        """A process that it is sent to opens the directory anew: what is pending stays here."""
        place = self.directory if is_url(self.name) else os.path.abspath(self.directory)
        return type(self), (place, self.fingerprint, self.shard_size)

    def refresh(self, expected: Collection[str] = ()) -> None:
        """Look for shards that other processes wrote; keys that are ``expected`` are waited for while a listing may be behind.

        Raises:
            StoreError: a shard of another fingerprint is there, or the directory cannot be listed.
        """
        until = time.monotonic() + LISTING_LAG
        while True:
            with self._reading:
                self._look()
            if all(key in self._where for key in expected) or time.monotonic() > until:
                return
            time.sleep(LOOK_AGAIN)

    def require(self, written: Collection[str]) -> None:
        """Look for shards that other processes wrote, as :meth:`refresh` does; what they say that they have ``written`` has to be there.

        Raises:
            StoreError: also when keys are still not seen: the processes do not share one folder, or its listing is far behind.
        """
        self.refresh(written)
        missing = sum(key not in self._where for key in written)
        if missing:
            raise StoreError(
                f"The store {self.name!r} must be one folder that all processes share. Got {missing} of {len(written)} images that other processes have "
                "embedded and that are not seen here; give --store a folder that every machine reaches, and the same command again, which goes on from there."
            )

    def _look(self) -> None:
        try:
            names = self._shards.names()
        except OSError as error:
            raise StoreError(f"The store {self.name!r} cannot be read: {_reason(error)}; pass another --store.") from error
        new = [name for name in names if name not in self._indexed and name not in self._given_up]
        if not new:
            return
        unreadable = []
        with ThreadPoolExecutor(min(OPENED_AT_ONCE, len(new))) as pool:
            for name, keys in zip(new, pool.map(self._keys_of, new), strict=True):
                if keys is None:
                    unreadable.append(name)
                    continue
                self._indexed.add(name)
                for row, key in enumerate(keys):
                    self._where.setdefault(key, (name, row))
        self.unreadable = sorted({*unreadable, *self._given_up})

    def _keys_of(self, name: str) -> list[str] | None:
        """Of a shard; None when it cannot be read.

        Such a shard is not ours to guess at: its images are embedded again, into a new shard, and it is looked at again with the next
        refresh, as on a network file system it may just not be there in full yet.
        """
        try:
            with pq.ParquetFile(self._shards.source(name)) as file:
                found = file.metadata.metadata or {}
                keys = file.read([KEY], use_threads=False)[KEY].to_pylist()
        except (pa.ArrowException, OSError, KeyError):
            return None
        made_by, layout = found.get(META, b"").decode(), found.get(FORMAT_META, b"1")
        if made_by != self.fingerprint or layout != FORMAT:
            raise StoreError(
                f"The store {self.name!r} was made by other weights, preprocessing or runtime, in other views or by another release "
                f"({made_by[:12] or 'none'} in format {layout.decode()}, not {self.fingerprint[:12]} in format {FORMAT.decode()}); "
                "remove that folder or write to another one."
            )
        return keys

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __len__(self) -> int:
        return len(self._where)

    def add(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Add a row, if its key is not there yet.

        Args:
            key: of its content.
            arrays: by name; those of one name must have one shape and dtype throughout the store.

        Raises:
            StoreError: the store cannot be written; what was to be written stays pending.
        """
        if key in self or key in self._pending:
            return
        self._pending[key] = arrays
        if len(self._pending) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard, but for what another process has written meanwhile."""
        if not self._pending:
            return
        self.refresh()
        rows = {key: row for key, row in self._pending.items() if key not in self}
        if rows:
            # No number and no content, which two processes could come to at the same time.
            name = f"shard-{uuid.uuid4().hex}.parquet"
            try:
                self._shards.write(name, _shard(rows, self.fingerprint))
            except OSError as error:
                raise StoreError(
                    f"The store {self.name!r} cannot be written: {_reason(error)}; free space or pass another --store."
                ) from error
            self._where.update({key: (name, row) for row, key in enumerate(rows)})
            self._indexed.add(name)
        self._pending = {}

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> Columns:
        """Arrays of ``keys`` in their order: name -> [len(keys), ...]; only these columns are read, of each shard once.

        ``keep`` holds what was read last in memory: for small columns that are read a few rows at a time.

        Raises:
            StoreError: the rows are not of one shape and dtype, or are not there any more.
        """
        failed: Counter[str] = Counter()
        while True:
            self._require(keys)
            try:
                return self._read(keys, names, keep)
            except UnreadableShardError as error:
                shard = error.shard
            failed[shard] += 1
            if failed[shard] <= len(READ_AGAIN):
                time.sleep(READ_AGAIN[failed[shard] - 1])
            else:  # It would be met again by every run; without it its images are embedded again.
                self._shards.set_aside(shard)
                self._given_up.add(shard)
            self._index_again()

    def _require(self, keys: Sequence[str]) -> None:
        missing = [key for key in keys if key not in self]
        if missing:
            self.refresh(missing)
            missing = [key for key in missing if key not in self]
        if missing:
            raise StoreError(
                f"The store {self.name!r} must hold the {len(keys)} images that are read. Got {len(keys) - len(missing)}: files of it were removed or "
                "damaged meanwhile; run the same again, which embeds what is missing."
            )

    def _index_again(self) -> None:
        """Forget where rows are: another shard may hold what one has lost."""
        with self._reading:
            self._where.clear()
            self._indexed.clear()
            self._kept.clear()
            self._kept_bytes = 0
            self._look()

    def _read(self, keys: Sequence[str], names: Sequence[str], keep: bool) -> Columns:
        result: Columns = {}
        wanted: dict[str, list[tuple[int, int]]] = {}
        with self._reading:  # while another thread looks for rows again
            for position, key in enumerate(keys):
                name, row = self._where[key]
                wanted.setdefault(name, []).append((position, row))
        for shard, pairs in wanted.items():
            positions, rows = map(np.array, zip(*pairs, strict=True))
            groups = np.unique(rows // GROUP).tolist()
            for group, columns in self._kept_groups(shard, groups, names) if keep else self._groups(shard, groups, names):
                inside = rows // GROUP == group
                for name, block in columns.items():
                    if name not in result:
                        result[name] = np.empty((len(keys), *block.shape[1:]), block.dtype)
                    if block.shape[1:] != result[name].shape[1:] or block.dtype != result[name].dtype:
                        raise StoreError(
                            f"The store {self.name!r} must hold rows of one shape. Got {name!r} of {list(block.shape[1:])} and "
                            f"{list(result[name].shape[1:])}; remove that folder or write to another one."
                        )
                    result[name][positions[inside]] = block[rows[inside] % GROUP]
        return result

    def _kept_groups(self, shard: str, groups: Sequence[int], names: Sequence[str]) -> list[tuple[int, Columns]]:
        places = [(shard, group, tuple(names)) for group in groups]
        with self._reading:
            missing = [place[1] for place in places if place not in self._kept]
            for group, columns in self._groups(shard, missing, names):
                # A block is a part of all that was read at once, which it would keep in memory.
                own = {name: block.copy() for name, block in columns.items()}
                self._kept[shard, group, tuple(names)] = own
                self._kept_bytes += _bytes(own)
            found = []
            for place in places:
                columns = self._kept.pop(place)
                self._kept[place] = columns  # what was used last is dropped last
                found.append((place[1], columns))
            while self._kept_bytes > KEPT_BYTES and len(self._kept) > len(groups):
                self._kept_bytes -= _bytes(self._kept.pop(next(iter(self._kept))))
        return found

    def _groups(self, shard: str, groups: Sequence[int], names: Sequence[str]) -> Iterator[tuple[int, Columns]]:
        """Columns of some groups of rows of a shard."""
        if not groups:
            return
        try:
            source, remote = self._shards.source(shard), self._shards.remote
            # In this thread alone: Arrow's own would not keep to --threads, and cost more than they gain on columns as short as these.
            with pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=remote) as file:
                shapes = json.loads(file.metadata.metadata[SHAPES])
                table = file.read_row_groups(groups, columns=list(names), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise UnreadableShardError(shard) from error
        columns = {name: _values(table[name], *shapes[name]) for name in names}
        for place, group in enumerate(groups):  # only a last group is smaller than the others
            rows = slice(place * GROUP, (place + 1) * GROUP)
            yield group, {name: block[rows] for name, block in columns.items()}


def _shard(rows: Mapping[str, Mapping[str, np.ndarray]], fingerprint: str) -> pa.Buffer:
    """Rows as the bytes of a Parquet file."""
    columns: dict[str, pa.Array] = {KEY: pa.array(list(rows))}
    shapes: dict[str, tuple[list[int], str]] = {}  # of a row
    split = []
    for name in next(iter(rows.values())):
        block = np.ascontiguousarray(np.stack([np.asarray(row[name]) for row in rows.values()]))
        shapes[name] = (list(block.shape[1:]), str(block.dtype))
        size = int(np.prod(block.shape[1:]))
        if block.dtype == np.uint8:  # as a list each byte would be a number of 4, and slow
            columns[name] = pa.Array.from_buffers(pa.binary(size), len(block), [None, pa.py_buffer(block)])
        else:
            columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), size)
        if block.dtype.kind == "f":
            split.append(f"{name}.list.element")
    metadata = {META: fingerprint, FORMAT_META: FORMAT, SHAPES: json.dumps(shapes)}
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table(columns).replace_schema_metadata(metadata),
        sink,
        row_group_size=GROUP,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        use_byte_stream_split=split,
        write_statistics=False,
        write_page_checksum=True,
    )
    return sink.getvalue()


def _values(column: pa.ChunkedArray, shape: Sequence[int], dtype: str) -> np.ndarray:
    array = column.combine_chunks()
    if pa.types.is_fixed_size_binary(array.type):
        width = array.type.byte_width
        flat = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width :][: len(array) * width]
    else:
        flat = array.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(array), *shape).astype(dtype, copy=False)


def _bytes(columns: Columns) -> int:
    return sum(block.nbytes for block in columns.values())


def _reason(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split()) or type(error).__name__
