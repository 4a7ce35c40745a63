"""Large arrays in a file of no name, mapped: the processes of a machine share its pages, and the system drops and reads them again as memory allows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, BinaryIO

import faiss
import numpy as np

from doppelscan.errors import StoreError

__all__ = ["MappedIndex", "mapped"]


def mapped(write: Callable[[BinaryIO], None]) -> np.ndarray:
    """uint8 [n], what ``write`` writes to a file in the folder for temporary files, from which the name is gone; the disk is freed with the array.

    Raises:
        StoreError: the folder cannot be written, or is full.
    """
    try:
        with tempfile.TemporaryFile(prefix="doppelscan-") as file:
            write(file)  # type: ignore[arg-type]
            file.write(b"\0")  # nothing cannot be mapped
            file.flush()
            # Private pages, so that PyTorch takes them for writable; nobody writes.
            return np.asarray(np.memmap(file, np.uint8, "c"))[:-1]
    except OSError as error:
        raise StoreError(
            f"The folder for temporary files, {tempfile.gettempdir()!r}, must have room for the search: {error.strerror}; free some, or set TMPDIR to "
            "another folder."
        ) from error


class MappedIndex:
    """A FAISS index whose values lie in a mapped file, or in what a pickle brought, and are not copied.

    Args:
        index: an inverted file; it is written, and read where it lies.
    """

    def __init__(self, index: Any) -> None:
        # Not faiss.serialize_index: it fails where SimpleITK was imported first, whose wrapper of std::vector takes the place of FAISS's.
        self._open(mapped(lambda file: faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))), index.nprobe)  # type: ignore[attr-defined]

    def _open(self, stored: np.ndarray, probes: int) -> None:
        self.stored = stored
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(stored), stored.nbytes)  # type: ignore[attr-defined]
        index: Any = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)  # type: ignore[attr-defined]
        index.nprobe = probes
        self.index = index

    def __getstate__(self) -> tuple[np.ndarray, int]:
        return self.stored, self.index.nprobe

    def __setstate__(self, state: tuple[np.ndarray, int]) -> None:
        self._open(*state)
