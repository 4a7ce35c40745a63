"""Where shards lie: a folder of this machine or of its network, or an object storage that fsspec knows by its URL."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from doppelscan.errors import InputError, MissingPackageError
from doppelscan.locations import is_url

__all__ = ["ObjectStorage", "ShardFolder", "Shards", "shards_at"]

SHARD = ".parquet"
WRITING = ".tmp"
ASIDE = ".damaged"
LEFT_BEHIND = 3600.0  # seconds after which a shard that is still being written is what a killed run left
# What a rename on a network file system may fail with once: the server forgot a handle, or did it already and its answer was lost.
FLEETING = frozenset({errno.ESTALE, errno.EEXIST, errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOENT})
RENAME_AGAIN = (0.05, 0.2, 1.0)  # seconds between tries


class Shards(Protocol):
    """Files that are written once, whole or not at all, and never changed: so readers and writers need no lock.

    Attributes:
        remote: whether each read is a request that costs more than the bytes between two of them.
    """

    remote: bool

    def make(self) -> None:
        """Make the place, and clear away what killed runs left in it."""

    def names(self) -> list[str]:
        """Of the shards, in order."""

    def source(self, name: str) -> Any:
        """A shard as pyarrow opens it."""

    def write(self, name: str, content: Any) -> None:
        """Write a shard of a new name from a buffer of bytes."""

    def set_aside(self, name: str) -> None:
        """Keep a damaged shard under a name that is no shard's, if that can be done."""


class ShardFolder:
    """Shards in a folder: each is written to a temporary file, and renamed when it is whole and on the disk.

    A killed run leaves at most a temporary file; those are cleared by age, as a younger one may be being written by another process.
    """

    remote = False

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        for left in self.path.glob(f"*{WRITING}"):
            with contextlib.suppress(OSError):  # cleared by another process
                if time.time() - left.stat().st_mtime > LEFT_BEHIND:
                    left.unlink()

    def names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.path) if name.endswith(SHARD))

    def source(self, name: str) -> str:
        # Not mapped into memory: a file that is cut short under a mapping ends the process.
        return str(self.path / name)

    def write(self, name: str, content: Any) -> None:
        temporary = self.path / f"{name}{WRITING}"
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _rename(temporary, self.path / name)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _sync_names(self.path)

    def set_aside(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.replace(self.path / name, self.path / f"{name}{ASIDE}")


def _rename(temporary: Path, path: Path) -> None:
    for wait in (*RENAME_AGAIN, None):
        try:
            os.replace(temporary, path)
            return
        except OSError as error:
            # Names are never used twice: what is there is the file that was to be renamed.
            if path.exists() and not temporary.exists():
                return
            if error.errno not in FLEETING or wait is None:
                raise
            time.sleep(wait)


def _sync_names(folder: Path) -> None:
    """Make a rename last through a loss of power, where a folder can be synced."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class ObjectStorage:
    """Shards under a URL that fsspec knows, such as s3://bucket/folder: there a put is whole or not at all, so nothing is renamed."""

    remote = True

    def __init__(self, url: str, files: Any, path: str) -> None:
        self.url, self.files, self.path = url, files, path.rstrip("/")

    def make(self) -> None:
        self.files.makedirs(self.path, exist_ok=True)

    def names(self) -> list[str]:
        self.files.invalidate_cache(self.path)  # fsspec keeps listings, and others write
        try:
            found = self.files.ls(self.path, detail=False)
        except FileNotFoundError:  # a folder without objects is none
            return []
        return sorted(name for name in (one.rsplit("/", 1)[-1] for one in found) if name.endswith(SHARD))

    def source(self, name: str) -> Any:
        return self.files.open(f"{self.path}/{name}", "rb")

    def write(self, name: str, content: Any) -> None:
        self.files.pipe_file(f"{self.path}/{name}", bytes(content))

    def set_aside(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.files.mv(f"{self.path}/{name}", f"{self.path}/{name}{ASIDE}")


def part_of(store: str | os.PathLike, name: str) -> str:
    """The folder ``name`` of a store, which is a local folder or a URL."""
    place = os.fspath(store)
    return f"{place.rstrip('/')}/{name}" if is_url(place) else os.path.join(place, name)


def shards_at(directory: str | os.PathLike) -> Shards:
    """The shards of a local path or of a URL.

    Raises:
        InputError: a URL of a protocol that fsspec does not know.
        MissingPackageError: the package that serves its protocol is not installed.
    """
    place = os.fspath(directory)
    if not is_url(place):
        return ShardFolder(place)
    try:
        files, path = fsspec.core.url_to_fs(place)
    except ValueError as error:
        raise InputError(
            f"The 'store' parameter must be a folder or a URL that fsspec knows, such as s3://bucket/folder. Got {place!r}; pass another one."
        ) from error
    except ImportError as error:
        raise MissingPackageError(f"The store {place!r} needs a package that is not installed: {error}.") from error
    return ShardFolder(path) if isinstance(files, LocalFileSystem) else ObjectStorage(place, files, path)
