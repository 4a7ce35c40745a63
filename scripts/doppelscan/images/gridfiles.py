"""NRRD and MetaImage files: a header in words, then the voxels as one array, plain or compressed, in the file or beside it.

Read plane by plane, so that a file needs no more memory than what is made of it. NRRD headers are parsed by pynrrd (what MONAI's
``NrrdReader`` uses; extra ``[volumes]``); MetaImage headers are a dozen ``key = value`` lines and parsed here, since ITK, MONAI's reader for
them, brings 110 MB of wheels and allocates what a damaged header claims.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from doppelscan.errors import ImageError
from doppelscan.images.geometry import LPS_TO_RAS

__all__ = ["MOST_INFLATED", "GridFile", "grid_format", "read_grid_header"]

# Deflate cannot pack more into a byte (zlib's technical notes), so a header that says more is wrong.
MOST_INFLATED = 1032
LONGEST_HEADER = 1 << 20
META_START = re.compile(rb"\s*(?:Comment\s*=[^\n]*\n\s*)?(?:ObjectType|NDims)\s*=")
MET_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "long long int": "i8", "signed long long": "i8", "signed long long int": "i8",
    "int64": "i8", "int64_t": "i8", "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8", "uint64": "u8",
    "uint64_t": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
ENCODINGS = {"raw": "raw", "gzip": "deflate", "gz": "deflate", "bzip2": "bzip2", "bz2": "bzip2"}
# To RAS+; other spaces, such as scanner-xyz, do not say how the body lies.
SPACES = {
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]), "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
}  # fmt: skip
UNITS = {
    "mm": 1.0,
    "millimeter": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "meter": 1000.0,
    "um": 1e-3,
    "µm": 1e-3,
    "micron": 1e-3,
}


@dataclass(frozen=True)
class GridFile:
    """Where the voxels of a NRRD or MetaImage file are and what they are.

    Attributes:
        data: the file that holds them; the header's own, or one in the same folder.
        offset: byte at which they begin; negative where they are the last bytes of the file.
        encoding: raw, deflate (gzip or zlib) or bzip2.
        dtype: of a voxel.
        sizes: along the two or three axes in space, the first varies fastest.
        channels: values a voxel, or volumes.
        channels_first: whether the values of one voxel lie side by side, else volume follows volume.
        affine: float64 [4, 4], stored voxel indices -> mm, RAS+; None where the file does not say how large its voxels are. Columns of length
            0, or NaN, where it says nonsense.
        oriented: whether the file says how the axes lie in the body.
        unit_known: False where ``affine`` is in a unit that is not known here, so that it is not in mm.
    """

    data: str
    offset: int
    encoding: str
    dtype: np.dtype
    sizes: tuple[int, ...]
    channels: int
    channels_first: bool
    affine: np.ndarray | None
    oriented: bool
    unit_known: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """``sizes``, and the number of channels where there are several."""
        return self.sizes if self.channels == 1 else (*self.sizes, self.channels)

    @property
    def needed(self) -> int:
        """Bytes of all voxels."""
        return math.prod(self.sizes) * self.channels * self.dtype.itemsize

    def planes(self, channel: int = 0) -> Iterator[np.ndarray]:
        """Planes [x, y] (of a 2D file the one) of a channel, in order.

        Raises:
            ImageError: the voxels end too early.
        """
        x, y = self.sizes[:2]
        plane, count = x * y * self.dtype.itemsize, math.prod(self.sizes[2:])
        inner = self.channels if self.channels_first else 1
        with self._stream() as stream:
            _skip(stream, 0 if self.channels_first else channel * count * plane)
            for _ in range(count):
                block = np.frombuffer(_exactly(stream, plane * inner), self.dtype)
                yield block.reshape(inner, x, y, order="F")[channel if self.channels_first else 0]
            if self.encoding != "raw" and (self.channels_first or channel == self.channels - 1):
                stream.read(1)  # to the end, where the checksum is compared

    @contextmanager
    def _stream(self) -> Iterator[IO[bytes] | gzip.GzipFile | io.BufferedReader]:
        with open(self.data, "rb") as file:
            if self.offset < 0:
                file.seek(os.path.getsize(self.data) - self.needed)
            else:
                file.seek(self.offset)
            if self.encoding == "bzip2":
                yield bz2.BZ2File(file)
            elif self.encoding == "deflate":
                packed = file.read(2)
                file.seek(-len(packed), os.SEEK_CUR)
                yield gzip.GzipFile(fileobj=file) if packed == b"\x1f\x8b" else io.BufferedReader(_Inflated(file))
            else:
                yield file


class _Inflated(io.RawIOBase):
    """A zlib stream of ``file`` as a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._inflate = file, zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(1 << 16)
            if not packed:
                return 0
            block = self._inflate.decompress(packed, len(buffer))
            if block:
                buffer[: len(block)] = block
                return len(block)
        return 0


def _exactly(stream: IO[bytes] | gzip.GzipFile | io.BufferedReader, count: int) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise ImageError("truncated: the voxels end too early")
    return block


def _skip(stream: IO[bytes] | gzip.GzipFile | io.BufferedReader, count: int) -> None:
    while count > 0:
        count -= len(_exactly(stream, min(count, 1 << 20)))


def grid_format(head: bytes) -> str | None:
    """``nrrd`` or ``metaimage`` by the first bytes of a file, else None."""
    if head.startswith(b"NRRD000"):
        return "nrrd"
    return "metaimage" if META_START.match(head) else None


def read_grid_header(path: str | os.PathLike, kind: str) -> GridFile:
    """Header of a file of the format ``kind``, checked against the size of the file that holds the voxels.

    Raises:
        ImageError: the header is broken, asks for what is not read here, or says more than the file holds.
    """
    grid = _read_nrrd_header(path) if kind == "nrrd" else _read_meta_header(path)
    if min(grid.sizes) < 1 or grid.channels < 1:
        raise ImageError("no pixels: a size that is not above 0")
    left = os.path.getsize(grid.data) - max(grid.offset, 0)
    # bzip2's bound is about 47,000 of nothing but zeros.
    most = {"raw": 1, "deflate": MOST_INFLATED, "bzip2": 50_000}[grid.encoding]
    if grid.needed > max(left, 0) * most:
        raise ImageError(f"truncated: {grid.needed} bytes are needed, {max(left, 0)} are there")
    return grid


def _beside(path: str | os.PathLike, name: str) -> str:
    """The file of voxels that a header names: one in its own folder, whatever else a header of a stranger may ask to be read."""
    if not name or name != os.path.basename(name) or name in (".", "..") or "\0" in name or "\\" in name:
        raise ImageError("a header that names a file of voxels outside its folder; they must lie side by side")
    data = os.path.join(os.path.dirname(path), name)
    if not os.path.isfile(data):
        raise ImageError("the file of voxels that the header names is not there")
    return data


def _read_nrrd_header(path: str | os.PathLike) -> GridFile:
    try:
        import nrrd
    except ImportError as error:
        raise ImageError('NRRD files need pynrrd: pip install ".[volumes]"') from error
    with open(path, "rb") as file:
        head = file.read(LONGEST_HEADER)
    end = re.search(rb"\r?\n\r?\n", head)
    try:
        said = nrrd.read_header(iter((head if end is None else head[: end.end()]).splitlines(keepends=True)))
    except Exception as error:  # pynrrd's reasons cite the header
        raise ImageError("a NRRD header that cannot be parsed") from error
    if "data file" in said or "datafile" in said:
        name = str(said.get("data file", said.get("datafile")))
        if re.search(r"%|^LIST\b|\s\d+\s", name):
            raise ImageError("voxels in several files; one file is read")
        data, offset = _beside(path, name), 0
    elif end is None:
        raise ImageError("a NRRD header without an end")
    else:
        data, offset = str(path), end.end()
    encoding = ENCODINGS.get(str(said.get("encoding")).lower())
    if encoding is None:
        raise ImageError("voxels in an encoding that is not read; raw, gzip and bzip2 are")
    lines, skipped = int(said.get("line skip", said.get("lineskip", 0))), int(said.get("byte skip", said.get("byteskip", 0)))
    if lines or skipped < -1 or (skipped == -1 and encoding != "raw") or (skipped > 0 and encoding != "raw"):
        raise ImageError("voxels behind lines or bytes that would have to be skipped")
    offset = -1 if skipped == -1 else offset + skipped
    kind = NRRD_TYPES.get(str(said.get("type")).lower())
    if kind is None:
        raise ImageError("voxels of a type that is no number")
    order = ">" if str(said.get("endian")).lower() == "big" else "<"
    sizes = [int(n) for n in said["sizes"]]
    directions, origin = said.get("space directions"), said.get("space origin")
    spatial = _spatial_axes(said, len(sizes))
    first, last = spatial[0] > 0, spatial[-1] < len(sizes) - 1
    if spatial != list(range(spatial[0], spatial[-1] + 1)) or (first and last):
        raise ImageError("axes in space with another between them")
    affine, oriented, factor = None, False, 1.0
    if directions is not None and len(spatial) == 3:
        columns = np.stack([np.asarray(directions[a], np.float64) for a in spatial], 1)
        if columns.shape != (3, 3):
            raise ImageError("axes in a space that has not three dimensions")
        affine = np.eye(4)
        affine[:3, :3] = columns
        if origin is not None and np.isfinite(np.asarray(origin, np.float64)).all():
            affine[:3, 3] = origin
        space = str(said.get("space", "")).lower()
        oriented = space in SPACES
        affine = SPACES.get(space, LPS_TO_RAS) @ affine
        units = said.get("space units") or []
    else:
        spacings = said.get("spacings")
        units = [u for a, u in enumerate(said.get("units") or []) if a in spatial]
        if spacings is not None and len(spatial) == 3:
            steps = [float(spacings[a]) for a in spatial]
            if not all(map(math.isnan, steps)):  # NaN says that nothing is known
                affine = LPS_TO_RAS @ np.diag([*steps, 1.0])
    unit_known = True
    if affine is not None and (named := {str(u).strip().lower() for u in units if str(u).strip()}):
        unit_known = len(named) == 1 and next(iter(named)) in UNITS
        factor = UNITS.get(next(iter(named)), 1.0) if unit_known else 1.0
        affine[:3] *= factor
    return GridFile(
        data,
        offset,
        encoding,
        np.dtype(order + kind),
        tuple(sizes[a] for a in spatial),
        math.prod(n for a, n in enumerate(sizes) if a not in spatial),
        first,
        affine,
        oriented,
        unit_known,
    )


def _spatial_axes(said: Mapping[str, Any], count: int) -> list[int]:
    """Axes of a NRRD file that lie in space: by their kinds, else those with a direction, else the first three."""
    kinds = [str(k).lower() for k in said.get("kinds") or []]
    directions = said.get("space directions")
    if directions is not None:
        found = [a for a, d in enumerate(directions) if d is not None and not np.all(np.isnan(np.asarray(d, np.float64)))]
    elif len(kinds) == count and any(k in ("domain", "space") for k in kinds):
        found = [a for a, kind in enumerate(kinds) if kind in ("domain", "space")]
    else:
        found = list(range(min(count, 3)))
    if not 2 <= len(found) <= 3:
        raise ImageError(f"{len(found)} axes in space; 2 or 3 are read")
    return found


def _read_meta_header(path: str | os.PathLike) -> GridFile:
    said: dict[str, str] = {}
    offset = 0
    with open(path, "rb") as file:
        for line in itertools.islice(iter(lambda: file.readline(1 << 16), b""), 1000):
            key, equal, value = line.decode("latin-1").partition("=")
            if not equal:
                raise ImageError("a MetaImage header that cannot be parsed")
            said[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                offset = file.tell()
                break
        else:
            raise ImageError("a MetaImage header without ElementDataFile")
    name = said["elementdatafile"]
    if name.upper() != "LOCAL":
        if re.search(r"%|^LIST\b", name):
            raise ImageError("voxels in several files; one file is read")
        data, offset = _beside(path, name), 0
    else:
        data = str(path)
    if said.get("objecttype", "Image").lower() != "image":
        raise ImageError("a MetaImage header of an object that is no image")
    if said.get("binarydata", "True").lower() == "false":
        raise ImageError("voxels written as words; binary ones are read")
    compressed = said.get("compresseddata", "False").lower() == "true"
    skipped = int(said.get("headersize", 0))
    if skipped and (compressed or skipped < -1):
        raise ImageError("voxels behind bytes that would have to be skipped")
    offset = -1 if skipped == -1 else offset + skipped if data != str(path) else offset
    kind = MET_TYPES.get(said.get("elementtype", "").upper().removesuffix("_ARRAY"))
    if kind is None:
        raise ImageError("voxels of a type that is no number")
    big = said.get("binarydatabyteordermsb", said.get("elementbyteordermsb", "False")).lower() == "true"
    dims = int(said["ndims"])
    sizes = [int(n) for n in said["dimsize"].split()]
    if not 2 <= dims <= 4 or len(sizes) != dims:
        raise ImageError(f"{dims} dimensions with {len(sizes)} sizes; 2 to 4 are read")
    channels = int(said.get("elementnumberofchannels", 1))
    if dims == 4 and channels > 1:
        raise ImageError("a series of volumes of several values a voxel; one or the other is read")
    spacing = _numbers(said, ("elementspacing", "elementsize"), dims)
    turned = _numbers(said, ("transformmatrix", "rotation", "orientation"), dims * dims)
    origin = _numbers(said, ("offset", "position", "origin"), dims)
    affine = None
    if spacing is not None and dims >= 3:
        affine = np.eye(4)
        # A row of the matrix is the direction of an axis, as ITK reads it.
        axes = np.eye(dims) if turned is None else np.array(turned).reshape(dims, dims).T
        affine[:3, :3] = axes[:3, :3] * np.array(spacing[:3])
        affine[:3, 3] = 0.0 if origin is None else origin[:3]
        affine = LPS_TO_RAS @ affine
        if min(spacing[:3]) < 0:  # a length cannot tell
            affine[:3, :3] = 0.0
    return GridFile(
        data,
        offset,
        "deflate" if compressed else "raw",
        np.dtype((">" if big else "<") + kind),
        tuple(sizes[:3]),
        channels * (sizes[3] if dims == 4 else 1),
        channels > 1,
        affine,
        turned is not None,
    )


def _numbers(said: Mapping[str, str], names: Sequence[str], count: int) -> list[float] | None:
    """The ``count`` numbers of the first key of ``names`` that is there."""
    text = next((said[name] for name in names if name in said), None)
    if text is None:
        return None
    found = [float(word) for word in text.split()]
    if len(found) != count:
        raise ImageError(f"{len(found)} numbers where a MetaImage header must have {count}")
    return found
