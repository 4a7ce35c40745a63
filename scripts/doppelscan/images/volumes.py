"""Volumes whole: their voxels in RAS+ with their geometry, read plane by plane and, where asked, reduced on the way.

So a CT of 600 slices needs the memory of what is made of it, not that of the file. What was read stands in :func:`volume_table`.
"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pydicom
from scipy.sparse import csr_array

from doppelscan.errors import ImageError, InputError
from doppelscan.images.cubes import CUBE
from doppelscan.images.geometry import SlicePlan, VolumeGeometry, unknown_geometry
from doppelscan.images.gridfiles import read_grid_header
from doppelscan.images.readers import (
    LARGEST_VALUE,
    SMALLEST_SIDE,
    chosen_channel,
    dicom_frames,
    frame_count,
    frame_plan,
    grid_geometry,
    grid_turn,
    known_format,
    nifti_geometry,
    nifti_turn,
    opened_nifti,
    opened_picture,
    picture_values,
    read_header,
    reasoned,
    series_plan,
    squeezed,
)
from doppelscan.images.records import ImageRecord

__all__ = ["Volume", "read_compared", "read_volume", "volume_table"]

NO_VOLUME = "one slice only: a 2D image is no volume"
# Voxels along an axis that a volume is compared with, at most: twice those of its cube, whatever the size of the file.
LARGEST = 2 * CUBE
UNKNOWN_SPACING = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as it is compared.

    Attributes:
        pixels: float32 [X, Y, Z], RAS+, finite and not constant.
        geometry: where these voxels lie; its shape is theirs.
    """

    pixels: np.ndarray
    geometry: VolumeGeometry

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Of the voxels along x, y and z in mm; where the file does not say how large they are, they are taken for cubes of 1 mm."""
        return self.geometry.spacing if self.geometry.known else UNKNOWN_SPACING


@dataclass(frozen=True)
class _Stored:
    """The planes of a stored array, in order.

    Attributes:
        planes: [A, B] each.
        count: of the planes.
        along_first: the planes are [Y, Z] along x, else [X, Y] along z of the stored array.
        turn: nibabel's orientation of the stored array, or None.
        upside_down: rows are to be turned bottom up (a DICOM volume that does not say how it lies, as for its slices).
        geometry: of the whole array, turned.
    """

    planes: Iterator[np.ndarray]
    count: int
    geometry: VolumeGeometry
    turn: np.ndarray | None = None
    along_first: bool = False
    upside_down: bool = False

    def turned(self, array: np.ndarray) -> np.ndarray:
        """Array [N, A, B] of the planes -> [X, Y, Z]."""
        if self.along_first:
            return array
        array = array.transpose(1, 2, 0)
        if self.turn is not None:
            return nib.orientations.apply_orientation(array, self.turn)
        return array[:, ::-1] if self.upside_down else array


def read_volume(source: ImageRecord | Sequence[str], channel: int | None = None, largest: int | None = None) -> Volume:
    """Read one volume with its geometry.

    Args:
        source: a record, or the paths of one file, or of the files of one DICOM series in any order.
        channel: which volume of a 4D file or series, or which value of a voxel that has several; of a record, its own if None.
        largest: voxels along an axis, at most: where there are more, each output voxel is the mean of the voxels that it covers (by their
            share), read plane by plane. The memory needed is about two volumes of the result and a few planes, whatever the size of the file.

    Returns:
        the voxels, the same as :func:`~doppelscan.images.read_pixels` gives but for unevenly spaced slices, which are interpolated linearly
        (told in the geometry), and for reduction.

    Raises:
        InputError: ``largest`` is no integer from 8 on.
        ImageError: with the reason: what :func:`~doppelscan.images.read_pixels` refuses, no volume, one slice only, NaN or Inf, constant,
            a voxel size that is no size, sheared axes or gantry tilt above 1 degree, gaps that cannot be filled, files of several series.
    """
    if largest is not None and (not isinstance(largest, int) or largest < 8):
        raise InputError(f"The 'largest' parameter must be an integer >= 8, or None. Got {largest!r} instead.")
    if isinstance(source, ImageRecord):
        channel = source.channel if channel is None else channel
        source = source.paths
    with reasoned(source[0], "the volume cannot be read"), _stored(list(source), channel) as stored:
        return _collected(stored, largest)


def read_compared(source: ImageRecord | Sequence[str], channel: int | None = None, largest: int | None = LARGEST) -> Volume:
    """:func:`read_volume` of a volume that is to be compared whole.

    Raises:
        ImageError: also for an axis of less than 8 voxels.
    """
    volume = read_volume(source, channel, largest)
    shape = volume.pixels.shape
    if min(shape) < SMALLEST_SIDE:
        raise ImageError(f"{' x '.join(map(str, shape))} voxels; at least {SMALLEST_SIDE} along an axis are needed")
    return volume


@contextmanager
def _stored(paths: list[str], channel: int | None) -> Iterator[_Stored]:
    kind = known_format(paths[0])
    if kind == "dicom":
        yield _dicom_series(paths, channel) if len(paths) > 1 else _dicom_file(paths[0], channel)
    elif kind == "nifti":
        with opened_nifti(paths[0]) as (header, stream):
            shape = squeezed(header.get_data_shape())
            if len(shape) < 3:
                raise ImageError(NO_VOLUME)
            yield _Stored(_nifti_planes(header, stream, channel), shape[2], nifti_geometry(header), nifti_turn(header))
    elif kind in ("nrrd", "metaimage"):
        grid = read_grid_header(paths[0], kind)
        if len(grid.sizes) < 3:
            raise ImageError(NO_VOLUME)
        chosen = chosen_channel(channel, grid.shape) if grid.channels > 1 else 0
        yield _Stored(grid.planes(chosen), grid.sizes[2], grid_geometry(grid), grid_turn(grid))
    elif kind == "npy":
        yield _array(paths[0], channel)
    else:
        with opened_picture(paths[0], kind) as image:
            frames = getattr(image, "n_frames", 1) if kind == "tiff" else 1
            if frames == 1:
                raise ImageError(NO_VOLUME)

            def pages() -> Iterator[np.ndarray]:
                for frame in range(frames):
                    image.seek(frame)
                    yield picture_values(image)

            yield _Stored(pages(), frames, unknown_geometry((image.height, image.width, frames)))


def _nifti_planes(header: nib.Nifti1Header, stream: object, channel: int | None) -> Iterator[np.ndarray]:
    shape = squeezed(header.get_data_shape())
    rest = len(header.get_data_shape()) - 3
    chosen = chosen_channel(channel, shape) if len(shape) == 4 else 0
    voxels = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
    for index in range(shape[2]):
        yield np.asarray(voxels[(slice(None), slice(None), index, *((chosen, 0, 0, 0)[:rest]))])
    if isinstance(stream, gzip.GzipFile) and len(shape) == 3:  # to its end, where its checksum is compared
        while stream.read(1 << 20):
            pass


def _array(path: str, channel: int | None) -> _Stored:
    header = read_header(path)
    if len(header.shape) < 3:
        raise ImageError(NO_VOLUME)
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    array = array.reshape(header.shape, order="A") if array.shape != header.shape else array
    if array.ndim == 4:
        array = array[..., chosen_channel(channel, array.shape)]
    x, _, z = array.shape
    geometry = unknown_geometry(array.shape)
    if array.strides[0] < array.strides[2]:  # Fortran's order: the planes along z lie together
        return _Stored((array[:, :, i] for i in range(z)), z, geometry)
    return _Stored((array[i] for i in range(x)), x, geometry, along_first=True)


def _dicom_file(path: str, channel: int | None) -> _Stored:
    data = pydicom.dcmread(path, stop_before_pixels=True)
    frames = frame_count(data)
    if frames == 1:
        raise ImageError(NO_VOLUME)
    plan = frame_plan(data, frames)
    return _planned(plan, dicom_frames(path, _chosen_order(plan, channel)))


def _dicom_series(paths: list[str], channel: int | None) -> _Stored:
    headers = []
    for path in paths:
        with reasoned(path, "the header of a slice cannot be read"):
            headers.append(read_header(path))
    damaged = [header.damage for header in headers if header.damage]
    if damaged:
        raise ImageError(f"{len(damaged)} of {len(paths)} slices are damaged: {damaged[0]}")
    if any(len(header.shape) > 2 for header in headers):
        raise ImageError("several files that are volumes each")
    plan = series_plan(headers)
    return _planned(plan, _slices(paths, _chosen_order(plan, channel)))


def _slices(paths: Sequence[str], order: Sequence[int]) -> Iterator[np.ndarray]:
    for index in order:
        with reasoned(paths[index], "a slice cannot be read"):
            frame = next(dicom_frames(paths[index]))
        yield frame


def _chosen_order(plan: SlicePlan, channel: int | None) -> tuple[int, ...]:
    times = len(plan.order)
    return plan.order[chosen_channel(channel, (*plan.geometry.shape, times)) if times > 1 else 0]


def _planned(plan: SlicePlan, slices: Iterator[np.ndarray]) -> _Stored:
    return _Stored(
        (plane.T for plane in _evened(plan, slices)), len(plan.lower), plan.geometry, plan.turn, upside_down=plan.turn is None
    )


def _evened(plan: SlicePlan, slices: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Planes of even steps of slices in order; two slices in memory."""
    at, below = 0, next(slices)
    above: np.ndarray | None = None
    for lower, share in zip(plan.lower, plan.share, strict=True):
        while at < lower:
            at, below, above = at + 1, next(slices) if above is None else above, None
        if share > 0 and above is None:
            above = next(slices)
        yield below if above is None or share == 0 else (1 - share) * below + share * above


def _covering(length: int, count: int) -> csr_array | None:
    """Shares float32 [count, length] with which ``length`` voxels make up ``count``; None where they are as many."""
    if length == count:
        return None
    edges = np.linspace(0, length, count + 1)
    first = np.floor(edges[:-1]).astype(int)
    last = np.minimum(np.ceil(edges[1:]).astype(int), length)
    rows = np.repeat(np.arange(count), last - first)
    columns = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    shares = np.minimum(edges[rows + 1], columns + 1) - np.maximum(edges[rows], columns)
    return csr_array(((shares * count / length).astype(np.float32), (rows, columns)), shape=(count, length))


def _collected(stored: _Stored, largest: int | None) -> Volume:
    through = None
    across = down = None
    made: np.ndarray | None = None
    bad, lowest, highest, seen = 0, math.inf, -math.inf, 0
    for index, plane in enumerate(stored.planes):
        plane = np.array(plane, np.float32)
        plane[np.abs(plane) > LARGEST_VALUE] = np.inf
        if made is None:
            sides = [stored.count, *plane.shape]
            kept = [n if largest is None else min(n, largest) for n in sides]
            through, across, down = (_covering(n, m) for n, m in zip(sides, kept, strict=True))
            shares = None if through is None else through.T.tocsr()
            made = np.zeros(kept, np.float32)
        bad += int(np.count_nonzero(~np.isfinite(plane)))
        if not bad:  # which else says nothing any more
            lowest, highest = min(lowest, float(plane.min())), max(highest, float(plane.max()))
        if across is not None:
            plane = across @ plane
        if down is not None:
            plane = (down @ plane.T).T
        if shares is None:
            made[index] = plane
        else:
            span = slice(shares.indptr[index], shares.indptr[index + 1])
            for target, share in zip(shares.indices[span], shares.data[span], strict=True):
                made[target] += share * plane
        seen += 1
    if made is None or seen != stored.count:
        raise ImageError(f"truncated: {seen} of {stored.count} planes")
    if bad:
        raise ImageError(f"{bad} of {math.prod(stored.geometry.shape)} voxels are NaN or Inf")
    if highest <= lowest:
        raise ImageError(f"a constant volume (every voxel is {lowest:g})")
    pixels = np.ascontiguousarray(stored.turned(made))
    geometry = stored.geometry if pixels.shape == stored.geometry.shape else stored.geometry.resized(pixels.shape)
    return Volume(pixels, geometry)


def volume_table(records: Sequence[ImageRecord]) -> list[dict[str, str | int | float | None]]:
    """What was read of each volume, a row each, for a table: 2D images and slices have none.

    Columns: ``path``, ``format``, ``shape`` (``x y z`` after the turn to RAS+), ``spacing`` (mm, as ``shape``), ``orientation`` (as stored,
    such as LPS), ``oblique`` (degrees), ``channel``, ``kind`` (``volume``, ``stack`` or ``unknown geometry``), ``stack_axis`` (0, 1, 2 of the
    array), ``patient``, ``told`` (what was mended). What the file does not say is None.
    """
    rows: list[dict[str, str | int | float | None]] = []
    for record in records:
        geometry = record.geometry
        if not record.whole or geometry is None:
            continue
        rows.append(
            {
                "path": os.fspath(record.volume),
                "format": record.format,
                "shape": " ".join(map(str, geometry.shape)),
                "spacing": " ".join(f"{s:.4g}" for s in geometry.spacing) if geometry.known else None,
                "orientation": geometry.orientation,
                "oblique": None if math.isnan(geometry.oblique) else round(geometry.oblique, 2),
                "channel": record.channel,
                "kind": geometry.kind,
                "stack_axis": geometry.stack_axis,
                "patient": record.patient,
                "told": "; ".join(geometry.told) or None,
            }
        )
    return rows
