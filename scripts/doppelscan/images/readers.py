"""Pixels of a file: PNG, JPEG, TIFF, NPY, NIfTI, DICOM, NRRD and MetaImage, by content and not by extension.

Geometry is kept or refused, never made up: NIfTI, DICOM, NRRD and MetaImage volumes are turned to the closest canonical orientation (RAS+);
a volume whose file carries no geometry keeps its stored axes.

A file may be damaged in any way: all that comes of it is an :class:`~doppelscan.errors.ImageError` with a reason of one line that
names neither the file nor what its header says of a person.
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import logging
import math
import os
import re
import stat
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO, Any, TypedDict

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

from doppelscan.errors import ImageError
from doppelscan.images.geometry import SlicePlan, VolumeGeometry, check_spacing, geometry_of, plan_slices, unknown_geometry
from doppelscan.images.gridfiles import MOST_INFLATED, GridFile, grid_format, read_grid_header

__all__ = ["FileHeader", "SliceStack", "image_format", "read_header", "read_pixels", "stack_slices"]

MAGIC = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"\x93NUMPY": "npy",
}
GZIP = b"\x1f\x8b"
# JPEG 2000 and JPEG-LS have no such bound; a slice of nothing but air comes to some hundred.
MOST_COMPRESSED = 4096
SMALLEST_SIDE = 8
LARGEST_VALUE = 1e38
LONGEST_REASON = 160
QUOTED = re.compile(r"""(?<!\w)b?(['"]).*?\1(?!\w)""")
# Of a DICOM file, all that is looked at before its pixels.
DICOM_TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsAllocated",
    "PhotometricInterpretation",
    "PixelSpacing",
    "PatientID",
    "Modality",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
]
LONG_LENGTH = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
UNDEFINED_LENGTH = 0xFFFFFFFF
# Of the pictures' formats, those whose volumes never say how large their voxels are.
NO_GEOMETRY = ("png", "jpeg", "tiff", "npy")
NIFTI_UNITS = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 1e-3}
# nibabel tells what it mends of a header to a logger of its choice.
SILENT = logging.Logger("doppelscan.silent", logging.CRITICAL + 1)
NOWHERE = logging.NullHandler()


@dataclass(frozen=True)
class FileHeader:
    """What is known of a file before its pixels are read.

    Attributes:
        format: png, jpeg, tiff, npy, nifti, dicom, nrrd or metaimage.
        shape: (rows, columns) of a 2D image, (x, y, z) of a volume, (x, y, z, t) of a series of volumes; RAS+ where the file says how it lies.
        patient: DICOM PatientID, else None.
        series: DICOM SeriesInstanceUID, else None.
        modality: DICOM Modality, such as MR, CT, CR or DX, else None.
        orientation: DICOM ImageOrientationPatient, 6 cosines, when it and the position are there and make sense, else None.
        origin: DICOM ImagePositionPatient in mm, or None as the orientation.
        instance: DICOM InstanceNumber, else 0.
        damage: why the pixels of a DICOM file cannot be whole although its header is (a truncated file), else None.
        pixel_spacing: DICOM PixelSpacing, mm between rows and between columns, as the header says it, else None.
        geometry: where the voxels of a volume in one file lie; None for a 2D image and where there is a ``fault``.
        fault: why a volume in one file cannot be read as a volume, though its slices may be read as images, else None.
        times: how many volumes lie at the same positions in one DICOM file of many frames.
        data: the file beside the header that holds the voxels (NRRD and MetaImage), else None.
    """

    format: str
    shape: tuple[int, ...]
    patient: str | None = None
    series: str | None = None
    modality: str | None = None
    orientation: tuple[float, ...] | None = None
    origin: tuple[float, ...] | None = None
    instance: float = 0.0
    damage: str | None = None
    pixel_spacing: tuple[float, ...] | None = None
    geometry: VolumeGeometry | None = None
    fault: str | None = None
    times: int = 1
    data: str | None = None


@dataclass(frozen=True)
class SliceStack:
    """How slices make a volume.

    Attributes:
        order: of the slices, from the first to the last of the volume.
        turn: nibabel's orientation [3, 2] of (columns, rows, slices) in RAS+; None where the files do not say how they lie.
    """

    order: list[int]
    turn: np.ndarray | None

    @property
    def axis(self) -> int:
        """Axis of the volume along which the slices are stacked."""
        return 2 if self.turn is None else int(self.turn[2, 0])

    def shape(self, rows: int, columns: int) -> tuple[int, int, int]:
        """Shape of the volume."""
        stored = (columns, rows, len(self.order))
        if self.turn is None:
            return stored
        axes = self.turn[:, 0].astype(int).tolist()
        return stored[axes.index(0)], stored[axes.index(1)], stored[axes.index(2)]

    def volume(self, frames: np.ndarray) -> np.ndarray:
        """The volume [X, Y, Z] of frames [N, rows, columns], in their order."""
        stored = frames.transpose(2, 1, 0)
        if self.turn is None:
            return stored[:, ::-1]  # rows bottom up, so that a slice is shown as it is stored
        return nib.orientations.apply_orientation(stored, self.turn)


class _Shared:
    """A context that the first of several threads enters and the last one leaves.

    What is set for the whole process, such as the filters of ``warnings``, would else stay for good where two threads overlap.
    """

    def __init__(self, context: Callable[[], AbstractContextManager]) -> None:
        self._context, self._lock, self._inside, self._held = context, threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._held.enter_context(self._context())
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._held.close()


@contextmanager
def _silenced() -> Iterator[None]:
    """Holds back what the libraries warn and log.

    Their loggers are cut off from the others and not set to a level: that would clear every logger's cache, for each image anew.
    """
    loggers = [(logger, logger.propagate) for logger in map(logging.getLogger, ("PIL", "pydicom"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger, _ in loggers:
            logger.propagate = False
            logger.addHandler(NOWHERE)
        try:
            yield
        finally:
            for logger, propagate in loggers:
                logger.propagate = propagate
                logger.removeHandler(NOWHERE)


@contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """libtiff prints on file descriptor 2 itself, and Pillow does not ask it not to."""
    try:
        kept = os.dup(2)
    except OSError:  # a process without one
        yield
        return
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


quiet = _Shared(_silenced)
quiet_stderr = _Shared(_stderr_to_nowhere)


@contextmanager
def reasoned(path: str | os.PathLike, doing: str) -> Iterator[None]:
    """Whatever a library raises at a damaged file becomes an ``ImageError`` that begins with ``doing``.

    Every decoder has errors of its own (zlib.error, struct.error, KeyError, RecursionError, MemoryError ...) and no list of them is
    complete; a fault of ours would show as the reason too, of every file, not as one file's.
    """
    try:
        with quiet, np.errstate(all="ignore"):
            yield
    except ImageError:
        raise
    except OSError as error:
        if error.strerror and error.errno:
            raise ImageError(f"cannot be opened: {error.strerror}") from error
        raise ImageError(f"{doing}: {_reason(error, path)}") from error
    except Exception as error:
        raise ImageError(f"{doing}: {_reason(error, path)}") from error


def _reason(error: BaseException, path: str | os.PathLike) -> str:
    """One line of ``error`` without the path and without what it cites: a damaged header may cite a name."""
    text = (str(error).strip().splitlines() or [""])[0]
    for form in filter(None, (os.path.abspath(path), str(path), os.path.basename(path))):
        text = re.sub(rf"(?<![\w.]){re.escape(form)}(?!\w)", "the file", text)
    text = "".join(c for c in QUOTED.sub("...", text) if c.isprintable())
    return text[:LONGEST_REASON] or type(error).__name__


def image_format(path: str | os.PathLike) -> str | None:
    """The format that the first bytes of ``path`` show, or None when it is no image that doppelscan reads.

    Raises:
        ImageError: it is no regular file, or cannot be opened.
    """
    with reasoned(path, "cannot be opened"):
        return _format(path)


def _format(path: str | os.PathLike) -> str | None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ImageError("not a regular file")
    with open(path, "rb") as file:
        head = file.read(352)
    if head[128:132] == b"DICM":  # first: a DICOM preamble may hold the magic of a TIFF
        return "dicom"
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head.startswith(GZIP):
        try:
            with gzip.open(path, "rb") as file:
                head = file.read(352)
        except (OSError, EOFError, zlib.error):
            return "nifti" if str(path).lower().endswith(".nii.gz") else None
    if head[344:347] in (b"n+1", b"ni1") or head[4:8] in (b"n+2\x00", b"ni2\x00"):
        return "nifti"
    return grid_format(head)


def known_format(path: str | os.PathLike) -> str:
    kind = _format(path)
    if kind is None:
        empty = os.path.getsize(path) == 0
        raise ImageError(
            "the file is empty" if empty else "not a PNG, JPEG, TIFF, NPY, NIfTI, DICOM, NRRD or MetaImage file by its content"
        )
    return kind


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    trimmed = tuple(int(n) for n in shape)
    while len(trimmed) > 2 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    return trimmed


def _array_shape(array: np.ndarray) -> tuple[int, ...]:
    """A trailing axis of 3 or 4 on an otherwise large array is colour, and colour is 2D."""
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
        return array.shape[:2]
    return squeezed(array.shape)


def _check_kind(dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise ImageError(f"pixels of type {str(dtype)[:40]}; numbers are read")


def _check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    words = " x ".join(str(n) for n in shape[:6]) + (" ..." if len(shape) > 6 else "")
    if not 2 <= len(shape) <= 4:
        raise ImageError(f"{len(shape)} dimensions of shape ({words}); 2 to 4 are read")
    if min(shape) < 1:
        raise ImageError(f"no pixels: a shape of {words}")
    return shape


def read_header(path: str | os.PathLike) -> FileHeader:
    """Read the header of ``path``; what it says is checked against the size of the file.

    Raises:
        ImageError: the file is empty, of no known format, truncated (but see ``damage``), or its header is broken; nothing else.
    """
    with reasoned(path, "the header cannot be read"):
        kind = known_format(path)
        if kind == "dicom":
            return _read_dicom_header(path)
        if kind in ("nrrd", "metaimage"):
            return _read_grid_file_header(path, kind)
        geometry: _Geometry = {}
        if kind == "nifti":
            with opened_nifti(path) as (header, _):
                shape = _nifti_shape(header)
                if len(shape) > 2:
                    geometry = _geometry_or_fault(lambda: nifti_geometry(header))
        elif kind == "npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            _check_kind(array.dtype)
            shape = _array_shape(array)
        else:
            with opened_picture(path, kind) as image:
                frames = getattr(image, "n_frames", 1)
                shape = (image.height, image.width)
                shape = (*shape, frames) if frames > 1 and kind == "tiff" else shape
        _check_shape(shape)
        if kind in NO_GEOMETRY and len(shape) > 2:
            geometry = _geometry_or_fault(lambda: unknown_geometry(shape[:3]))
        return FileHeader(kind, shape, **geometry)


class _Geometry(TypedDict, total=False):
    geometry: VolumeGeometry
    fault: str


def _geometry_or_fault(read: Callable[[], VolumeGeometry]) -> _Geometry:
    """The fields of a ``FileHeader`` that say where a volume lies, or why it cannot be said: its slices may be images all the same."""
    try:
        return {"geometry": read()}
    except ImageError as error:
        return {"fault": str(error)}


def read_pixels(paths: Sequence[str], channel: int | None = None) -> np.ndarray:
    """Read one image or volume.

    Args:
        paths: one file, or the files of one DICOM series in any order.
        channel: which 3D volume of a 4D file.

    Returns:
        float32 [H, W] (rows from top, columns from left) for an image, or [X, Y, Z] in RAS+ orientation for a volume. Where the pixels of
        one file of a series cannot be read, its slice is NaN and the others are as they are. Values beyond 1e38 are Inf: their
        differences are no float32.

    Raises:
        ImageError: with the reason; nothing else.
    """
    with reasoned(paths[0], "the pixels cannot be read"):
        kind = known_format(paths[0])
        if kind == "dicom":
            array = _read_series(paths) if len(paths) > 1 else _read_dicom(paths[0])
        elif kind == "nifti":
            array = _read_nifti(paths[0], channel)
        elif kind in ("nrrd", "metaimage"):
            array = _read_grid_file(paths[0], kind, channel)
        elif kind == "npy":
            array = _grey(np.load(paths[0], mmap_mode="r", allow_pickle=False))
        else:
            array = _read_picture(paths[0], kind)
        if _check_shape(array.shape) and array.ndim == 4:
            array = array[..., chosen_channel(channel, array.shape)]
        array = np.ascontiguousarray(array, dtype=np.float32)
        if not (array.min() >= -LARGEST_VALUE and array.max() <= LARGEST_VALUE):
            array = np.where(np.abs(array) > LARGEST_VALUE, np.float32(np.inf), array)
        return array


def chosen_channel(channel: int | None, shape: tuple[int, ...]) -> int:
    if channel is None:
        raise ImageError(f"4D of shape {shape} without a choice: pass --channel 0 to {shape[3] - 1}")
    if not 0 <= channel < shape[3]:
        raise ImageError(f"--channel {channel} is outside 0 to {shape[3] - 1}")
    return channel


def grid_geometry(grid: GridFile) -> VolumeGeometry:
    """Geometry of the volume in a NRRD or MetaImage file.

    Raises:
        ImageError: one slice only, a voxel size that is no size, sheared axes, an unknown unit.
    """
    if not grid.unit_known:
        raise ImageError("lengths in a unit that is not known; mm, cm, m and um are")
    if grid.affine is None:
        return unknown_geometry(grid.sizes)
    return geometry_of(grid.affine, grid.sizes, grid.oriented)


def grid_turn(grid: GridFile) -> np.ndarray | None:
    """nibabel's orientation [3, 2] of the axes of a NRRD or MetaImage volume in RAS+; None where it stays as stored."""
    if grid.affine is None or not np.isfinite(grid.affine).all():
        return None
    turn = nib.io_orientation(grid.affine)
    return turn if np.isfinite(turn).all() else None


def _read_grid_file_header(path: str | os.PathLike, kind: str) -> FileHeader:
    grid = read_grid_header(path, kind)
    data = None if grid.data == str(path) else grid.data
    shape = squeezed(grid.shape)
    if len(grid.sizes) == 2 or len(shape) == 2:
        if grid.channels not in (1, 3, 4):
            raise ImageError(f"a 2D image of {grid.channels} values a pixel; 1, 3 and 4 are read")
        return FileHeader(kind, (grid.sizes[1], grid.sizes[0]), data=data)
    turn = grid_turn(grid)
    if turn is not None:
        x, y, z = (grid.sizes[a] for a in np.argsort(turn[:, 0]))
        shape = (x, y, z, *shape[3:])
    return FileHeader(kind, _check_shape(shape), data=data, **_geometry_or_fault(lambda: grid_geometry(grid)))


def _read_grid_file(path: str, kind: str, channel: int | None) -> np.ndarray:
    grid = read_grid_header(path, kind)
    if len(grid.sizes) == 2 or len(squeezed(grid.shape)) == 2:
        # As it is stored: x runs to the right, y down.
        return _grey(np.stack([next(grid.planes(c)).T for c in range(grid.channels)], -1)).reshape(grid.sizes[1], grid.sizes[0])
    chosen = chosen_channel(channel, grid.shape) if grid.channels > 1 else 0
    array = np.stack([plane.astype(np.float32) for plane in grid.planes(chosen)], -1)
    turn = grid_turn(grid)
    return array if turn is None else nib.orientations.apply_orientation(array, turn)


def _grey(array: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R 601) of colour; alpha is dropped, since a mask of opacity is not anatomy."""
    _check_kind(array.dtype)
    shape = _array_shape(array)
    array = np.array(array, dtype=np.float32)
    if len(shape) == 2 and array.ndim == 3 and array.shape[-1] in (3, 4):
        return array[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    return array.reshape(shape)


@contextmanager
def opened_picture(path: str | os.PathLike, kind: str) -> Iterator[Any]:
    with quiet_stderr if kind == "tiff" else nullcontext(), Image.open(path, formats=[kind]) as image:
        most = Image.MAX_IMAGE_PIXELS
        if most is not None and image.width * image.height > most:
            raise ImageError(f"{image.height} x {image.width} pixels, more than the {most} of Pillow's MAX_IMAGE_PIXELS")
        yield image


def picture_values(image: Any) -> np.ndarray:
    """Values float32 [H, W] of the page at which ``image`` stands."""
    if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "1"):
        return np.asarray(image.convert("L"), dtype=np.float32)
    return _grey(np.asarray(image.getchannel(0) if len(image.getbands()) == 2 else image))


def _read_picture(path: str, kind: str) -> np.ndarray:
    with opened_picture(path, kind) as image:
        frames = getattr(image, "n_frames", 1) if kind == "tiff" else 1
        pages = []
        for frame in range(frames):
            if frames > 1:
                image.seek(frame)
            pages.append(picture_values(image))
        return pages[0] if frames == 1 else np.stack(pages, -1)


@contextmanager
def opened_nifti(path: str | os.PathLike) -> Iterator[tuple[Any, Any]]:
    """Checked header and open stream of a NIfTI file, gzip or not, whatever its extension.

    Raises:
        ImageError: voxels that are no numbers, or more of them than the file can hold.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
    with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
        second = stream.read(8)[4:7] in (b"n+2", b"ni2")
        stream.seek(0)
        header = (nib.Nifti2Header if second else nib.Nifti1Header).from_fileobj(stream, check=False)
        header.stored_pixdim = header["pixdim"][1:4].astype(float).tolist()  # nibabel mends a size of 0 to 1
        header.check_fix(logger=SILENT, error_level=40)
        if header["magic"].item().startswith(b"ni"):
            raise ImageError("the header of a NIfTI pair (.hdr and .img); one .nii file is read")
        _check_shape(squeezed(header.get_data_shape()))
        dtype = header.get_data_dtype()
        _check_kind(dtype)
        needed = header.get_data_offset() + math.prod(int(n) for n in header.get_data_shape()) * dtype.itemsize
        size = os.path.getsize(path)
        if needed > size * (MOST_INFLATED if packed else 1):
            raise ImageError(f"truncated: {needed} bytes are needed, {size} are there")
        yield header, stream


def nifti_geometry(header: Any) -> VolumeGeometry:
    """Geometry of a volume by the sform, else by the qform, else by the voxel sizes alone (nifti1.h, methods 3, 2 and 1); where the header is
    silent about the unit, it is mm.

    Raises:
        ImageError: one slice only, a voxel size that is no size, sheared axes, an unknown unit.
    """
    try:
        factor = NIFTI_UNITS[header.get_xyzt_units()[0]]
    except KeyError as error:
        raise ImageError("lengths in a unit that NIfTI does not have") from error
    by_sform, by_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if not by_sform:
        check_spacing([size * factor for size in header.stored_pixdim])
    affine = header.get_best_affine()
    affine[:3] *= factor
    return geometry_of(affine, squeezed(header.get_data_shape())[:3], by_sform or by_qform)


def nifti_turn(header: Any) -> np.ndarray:
    affine = header.get_best_affine()
    turn = nib.io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if not np.isfinite(turn).all():
        if int(header["sform_code"]) <= 0:  # the voxel sizes are what it is made of
            check_spacing(header.stored_pixdim)
        if np.isfinite(affine).all():
            check_spacing(np.linalg.norm(affine[:3, :3], axis=0).tolist())
        raise ImageError("the affine of the NIfTI header does not say how the volume lies")
    return turn


def _nifti_shape(header: Any) -> tuple[int, ...]:
    """Shape after reorientation to RAS+, without reading the pixels."""
    shape = squeezed(header.get_data_shape())
    if len(shape) < 3:
        return shape
    axes = nifti_turn(header)[:, 0].astype(int).tolist()
    return (*(shape[axes.index(axis)] for axis in range(3)), *shape[3:])


def _read_nifti(path: str, channel: int | None) -> np.ndarray:
    with opened_nifti(path) as (header, stream):
        shape = _check_shape(squeezed(header.get_data_shape()))
        voxels = nib.arrayproxy.ArrayProxy(stream, header, mmap=False)
        if len(shape) == 4:
            array = np.asarray(voxels[:, :, :, chosen_channel(channel, shape)]).reshape(shape[:3])
        else:
            array = np.asarray(voxels).reshape(shape)
            if isinstance(stream, gzip.GzipFile):  # to its end, where its checksum is compared
                while stream.read(1 << 20):
                    pass
        if len(shape) == 2:
            # A 2D NIfTI has no through-plane axis to reorient by; rows are shown top down, as for the slices of a volume.
            return np.rot90(array)
        return nib.orientations.apply_orientation(array, nifti_turn(header))


def _read_dicom_header(path: str | os.PathLike) -> FileHeader:
    with open(path, "rb") as file:
        data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(DICOM_TAGS))
        header = _dicom_header(data)
        return header if (damage := _pixel_damage(file, data)) is None else dataclasses.replace(header, damage=damage)


def frame_count(data: pydicom.Dataset) -> int:
    """Frames of a DICOM object; one where it does not say."""
    return max(int(data.get("NumberOfFrames", 1) or 1), 1)


def _dicom_header(data: pydicom.Dataset) -> FileHeader:
    if "Rows" not in data or "Columns" not in data:
        raise ImageError("a DICOM object without an image (no Rows and Columns)")
    rows, columns, frames = int(data.Rows), int(data.Columns), frame_count(data)
    shape: tuple[int, ...] = (rows, columns) if frames == 1 else _frame_stack(data, frames).shape(rows, columns)
    geometry: _Geometry = {}
    times = 1
    if frames > 1:
        try:
            plan = frame_plan(data, frames)
            geometry, times = {"geometry": plan.geometry}, len(plan.order)
        except ImageError as error:
            geometry = {"fault": str(error)}
    orientation, origin = _lie(data.get("ImageOrientationPatient"), data.get("ImagePositionPatient"))
    return FileHeader(
        "dicom",
        _check_shape(shape),
        patient=_text(data, "PatientID"),
        series=_text(data, "SeriesInstanceUID"),
        modality=_text(data, "Modality"),
        orientation=orientation,
        origin=origin,
        instance=next(iter(_numbers(data.get("InstanceNumber"), 1) or ()), 0.0),
        pixel_spacing=stated_numbers(data.get("PixelSpacing"), 2),
        times=times,
        **geometry,
    )


def _text(data: pydicom.Dataset, name: str) -> str | None:
    return str(data.get(name) or "").strip() or None


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers of a DICOM value, or None."""
    try:
        found = tuple(float(v) for v in ([value] if isinstance(value, (str, int, float)) else value))
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def stated_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """``count`` numbers of a DICOM value, be they NaN or Inf, or None."""
    try:
        found = tuple(float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return found if len(found) == count else None


def _lie(orientation: Any, position: Any) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Orientation and position of a slice, or (None, None) where they are not two unit vectors at a right angle and a point."""
    cosines, origin = _numbers(orientation, 6), _numbers(position, 3)
    if cosines is None or origin is None:
        return None, None
    across, down = np.array(cosines[:3]), np.array(cosines[3:])
    if not np.allclose([across @ across, down @ down, across @ down], [1, 1, 0], atol=0.05):
        return None, None
    return cosines, origin


def _stack(orientation: Sequence[float] | None, origins: np.ndarray | None, otherwise: Sequence[float]) -> SliceStack:
    """Slices of one orientation by their position along the normal; without one, or all at one place, by ``otherwise``."""
    if orientation is not None and origins is not None:
        order = np.argsort(origins @ np.cross(orientation[:3], orientation[3:]), kind="stable")
        through = origins[order[-1]] - origins[order[0]]
        if not np.allclose(through, 0):
            # DICOM's patient axes are LPS, NIfTI's RAS: the first two change sign.
            affine = np.eye(4)
            axes = np.stack([orientation[:3], orientation[3:], through / np.linalg.norm(through)], 1)
            affine[:3, :3] = np.diag([-1, -1, 1]) @ axes
            turn = nib.io_orientation(affine)
            if np.isfinite(turn).all():
                return SliceStack(order.tolist(), turn)
    return SliceStack(np.argsort(otherwise, kind="stable").tolist(), None)


def stack_slices(headers: Sequence[FileHeader]) -> SliceStack:
    """How the files of one DICOM series make a volume: by position, or by instance number where a file has no position."""
    origins = [h.origin for h in headers if h.origin is not None]
    placed = np.array(origins) if len(origins) == len(headers) else None
    return _stack(headers[0].orientation, placed, [h.instance for h in headers])


def _frame_stack(data: pydicom.Dataset, frames: int) -> SliceStack:
    """How the frames of an enhanced multi-frame object make a volume; in stored order when it does not say how they lie."""
    places = _frame_places(data, frames)
    origins = [origin for _, origin, _ in places if origin is not None]
    return _stack(places[0][0], np.array(origins) if len(origins) == frames else None, range(frames))


def _frame_places(data: pydicom.Dataset, frames: int) -> list[tuple[tuple | None, tuple | None, tuple | None]]:
    """Orientation, position and PixelSpacing of each frame of an enhanced object (PS3.3, C.7.6.16); None where it does not say."""
    nothing: list[tuple[tuple | None, tuple | None, tuple | None]] = [(None, None, None)] * frames
    per_frame, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    if not per_frame or len(per_frame) != frames:
        return nothing

    def said(frame: Any, group: str, name: str) -> Any:
        holder = next((s for s in (frame, *(shared or [])) if group in s and len(s[group].value)), None)
        return None if holder is None else holder[group].value[0].get(name)

    try:
        return [
            (
                *_lie(
                    said(frame, "PlaneOrientationSequence", "ImageOrientationPatient"),
                    said(frame, "PlanePositionSequence", "ImagePositionPatient"),
                ),
                stated_numbers(said(frame, "PixelMeasuresSequence", "PixelSpacing"), 2),
            )
            for frame in per_frame
        ]
    except (AttributeError, TypeError, IndexError):
        return nothing


def frame_plan(data: pydicom.Dataset, frames: int) -> SlicePlan:
    """How the frames of one DICOM file make a volume or a series of volumes.

    Raises:
        ImageError: as :func:`~doppelscan.images.geometry.plan_slices`.
    """
    orientations, origins, spacings = zip(*_frame_places(data, frames), strict=True)
    return plan_slices((int(data.Rows), int(data.Columns)), orientations, origins, spacings, range(frames))


def series_plan(headers: Sequence[FileHeader]) -> SlicePlan:
    """How the files of one DICOM series make a volume or a series of volumes, by their headers.

    Raises:
        ImageError: as :func:`~doppelscan.images.geometry.plan_slices`; slices that differ in size; files of several series.
    """
    series = {header.series for header in headers}
    if len(series) > 1:
        raise ImageError(f"files of {len(series)} series (SeriesInstanceUID); each is a volume of its own")
    shapes = {header.shape for header in headers}
    if len(shapes) > 1:
        raise ImageError(f"the slices of the series differ in size: {sorted(shapes)[:4]}")
    rows, columns = headers[0].shape
    return plan_slices(
        (rows, columns),
        [h.orientation for h in headers],
        [h.origin for h in headers],
        [h.pixel_spacing for h in headers],
        [h.instance for h in headers],
    )


def _pixel_damage(file: IO[bytes], data: Any) -> str | None:
    """Why the pixel data, at which ``file`` stands, cannot be whole; None where it is long enough. Nothing is decoded."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax not in pydicom.uid.AllTransferSyntaxes or syntax.is_deflated:
        return None
    order = "<" if syntax.is_little_endian else ">"
    head = file.read(8)
    if len(head) < 8 or struct.unpack(order + "H", head[:2]) != (0x7FE0,):
        return "no pixel data"
    if not syntax.is_implicit_VR and head[4:6] not in LONG_LENGTH:
        return None
    length = head[4:] if syntax.is_implicit_VR else file.read(4)
    if len(length) < 4:
        return "no pixel data"
    (declared,) = struct.unpack(order + "I", length)
    left = os.fstat(file.fileno()).st_size - file.tell()
    if declared != UNDEFINED_LENGTH and declared > left:
        return f"truncated: {left} of {declared} bytes of pixels"
    if "BitsAllocated" not in data:
        return "a header without BitsAllocated"
    samples = int(data.get("SamplesPerPixel", 1) or 1)
    if data.get("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2
    needed = math.ceil(frame_count(data) * int(data.Rows) * int(data.Columns) * samples * int(data.BitsAllocated) / 8)
    if syntax.is_compressed:
        return "more pixels than the file can hold" if needed > left * MOST_COMPRESSED else _fragment_damage(file, left)
    return f"{declared} of {needed} bytes of pixels" if declared < needed else None


def _fragment_damage(file: IO[bytes], left: int) -> str | None:
    """Of encapsulated pixel data (PS3.5, A.4): its items must fit in the file and come to their end."""
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHI", item)
        left -= 8
        if (group, element) == (0xFFFE, 0xE0DD):
            return None
        if (group, element) != (0xFFFE, 0xE000) or length > left:
            break
        file.seek(length, os.SEEK_CUR)
        left -= length
    return "truncated: the compressed pixels do not come to their end"


def _read_dicom(path: str) -> np.ndarray:
    data = pydicom.dcmread(path)
    frames = _dicom_pixels(data)
    if frame_count(data) == 1:
        return frames
    stack = _frame_stack(data, len(frames))
    return stack.volume(frames[stack.order])


def _read_series(paths: Sequence[str]) -> np.ndarray:
    files = [pydicom.dcmread(path) for path in paths]
    headers = [_dicom_header(data) for data in files]
    shapes = {header.shape for header in headers}
    if len(shapes) > 1:
        raise ImageError(f"the slices of the series differ in size: {sorted(shapes)[:4]}")
    stack = stack_slices(headers)
    frames: list[np.ndarray | None] = []
    failed: list[Exception] = []
    for index in stack.order:
        try:
            frames.append(_dicom_pixels(files[index]))
        except Exception as error:  # as in reasoned; the place of the slice is known, its pixels are not
            frames.append(None)
            failed.append(error)
    if len(failed) == len(files):
        raise failed[0]
    unknown = np.full(headers[0].shape, np.nan, np.float32)
    return stack.volume(np.stack([unknown if frame is None else frame for frame in frames]))


def _dicom_pixels(data: Any) -> np.ndarray:
    """Of one frame [rows, columns], of several [frames, rows, columns]."""
    with _decoding(data):
        pixels = data.pixel_array
    coloured, frames = int(data.get("SamplesPerPixel", 1)) > 1, frame_count(data)
    # pydicom gives the frames for which there are bytes, be they more than the header says.
    pixels = pixels.reshape(-1, *pixels.shape[-3 if coloured else -2 :])[:frames]
    pixels = np.stack([_rescaled(data, frame, number) for number, frame in enumerate(pixels)])
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return pixels if frames > 1 else pixels[0]


@contextmanager
def _decoding(data: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        syntax = data.file_meta.get("TransferSyntaxUID")
        if syntax in pydicom.uid.AllTransferSyntaxes and syntax.is_compressed:
            raise ImageError(f"the pixels cannot be decoded, or pydicom has no decoder here: {syntax.name[:80]}") from error
        raise


def _rescaled(data: Any, frame: np.ndarray, number: int) -> np.ndarray:
    """Values float32 [rows, columns] of a decoded frame; an enhanced object has a slope of its own for all or for each frame."""
    if frame.ndim == 3:
        frame = frame[..., :3] @ np.array([0.299, 0.587, 0.114])
    per_frame, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    groups = (*(per_frame[number : number + 1] if per_frame else ()), *(shared or ()), data)
    said = (g.get("PixelValueTransformationSequence") for g in groups)
    scale = next((s[0] for s in said if s), data)
    return frame.astype(np.float32) * float(scale.get("RescaleSlope", 1) or 1) + float(scale.get("RescaleIntercept", 0) or 0)


def dicom_frames(path: str, order: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Frames float32 [rows, columns] of a DICOM file in ``order``, one in memory at a time; the only one where that is None.

    Of MONOCHROME1 the values change sign, so that bright is bright in all slices of a volume alike.
    """
    data = pydicom.dcmread(path, stop_before_pixels=order is not None)
    sign = -1 if data.get("PhotometricInterpretation") == "MONOCHROME1" else 1
    if order is None:
        with _decoding(data):
            pixels = data.pixel_array
        coloured = int(data.get("SamplesPerPixel", 1)) > 1
        yield sign * _rescaled(data, pixels.reshape(-1, *pixels.shape[-3 if coloured else -2 :])[0], 0)
        return
    with _decoding(data):
        frames = _decoded(path, order)
        for number in order:
            yield sign * _rescaled(data, next(frames), number)


def _decoded(path: str, order: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames of a multi-frame file in ``order``, one at a time; under pydicom 2, which MONAI Label runs on, all are decoded first."""
    try:
        from pydicom.pixels import iter_pixels
    except ImportError:
        pixels = pydicom.dcmread(path).pixel_array
        return (pixels[number] for number in order)
    return iter_pixels(path, indices=order)


def encode_png(pixels: np.ndarray) -> bytes:
    """Bytes of an 8-bit grayscale PNG of ``pixels`` uint8 [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
