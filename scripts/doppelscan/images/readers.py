"""Pixels of a file: PNG, JPEG, TIFF, NPY, NIfTI and DICOM, by content and not by extension.

Geometry is kept or refused, never made up: NIfTI and DICOM volumes are turned to the closest canonical orientation (RAS+);
a volume whose file carries no geometry keeps its stored axes.
"""

from __future__ import annotations

import gzip
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

from doppelscan.errors import ImageError

__all__ = ["FileHeader", "image_format", "read_header", "read_pixels"]

MAGIC = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"\x93NUMPY": "npy",
}
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class FileHeader:
    """What is known of a file before its pixels are read.

    Attributes:
        format: png, jpeg, tiff, npy, nifti or dicom.
        shape: (rows, columns) of a 2D image, (x, y, z) of a volume, (x, y, z, t) of a series of volumes; RAS+ for NIfTI, as stored for
            DICOM.
        patient: DICOM PatientID, else None.
        series: DICOM SeriesInstanceUID, else None.
        position: DICOM position along the slice normal in mm, else the instance number, else None.
    """

    format: str
    shape: tuple[int, ...]
    patient: str | None = None
    series: str | None = None
    position: float | None = None


def image_format(path: str | os.PathLike) -> str | None:
    """The format that the first bytes of ``path`` show, or None when it is no image that doppelscan reads."""
    with open(path, "rb") as file:
        head = file.read(352)
    if head[128:132] == b"DICM":  # first: a DICOM preamble may hold the magic of a TIFF
        return "dicom"
    for magic, name in MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path, "rb") as file:
                head = file.read(352)
        except (OSError, EOFError):
            return "nifti" if str(path).lower().endswith(".nii.gz") else None
    if head[344:347] in (b"n+1", b"ni1") or head[4:8] in (b"n+2\x00", b"ni2\x00"):
        return "nifti"
    return None


def _squeeze(shape: tuple[int, ...]) -> tuple[int, ...]:
    trimmed = tuple(int(n) for n in shape)
    while len(trimmed) > 2 and trimmed[-1] == 1:
        trimmed = trimmed[:-1]
    return trimmed


def _array_shape(array: np.ndarray) -> tuple[int, ...]:
    """A trailing axis of 3 or 4 on an otherwise large array is colour, and colour is 2D."""
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
        return array.shape[:2]
    return _squeeze(array.shape)


def read_header(path: str | os.PathLike) -> FileHeader:
    """Read the header of ``path``.

    Raises:
        ImageError: the file is empty, of no known format, or its header is broken.
    """
    if os.path.getsize(path) == 0:
        raise ImageError("the file is empty")
    kind = image_format(path)
    if kind is None:
        raise ImageError("not a PNG, JPEG, TIFF, NPY, NIfTI or DICOM file by its content")
    try:
        if kind == "nifti":
            return FileHeader(kind, _canonical_shape(_load_nifti(path)))
        if kind == "npy":
            return FileHeader(kind, _array_shape(np.load(path, mmap_mode="r", allow_pickle=False)))
        if kind == "dicom":
            return _dicom_header(path)
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            shape = (image.height, image.width)
            return FileHeader(kind, (*shape, frames) if frames > 1 and kind == "tiff" else shape)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the {kind} header cannot be read: {_first_line(error)}") from error


def _load_nifti(path: str | os.PathLike):
    """NIfTI by content: nibabel goes by the extension, so a file with another one is read from its bytes."""
    if str(path).lower().endswith((".nii", ".nii.gz")):
        return nib.load(path)
    raw = Path(path).read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    kind = nib.Nifti2Image if raw[4:7] in (b"n+2", b"ni2") else nib.Nifti1Image
    return kind.from_bytes(raw)


def _canonical_shape(image) -> tuple[int, ...]:
    """Shape after reorientation to RAS+, without reading the pixels."""
    shape = _squeeze(image.shape)
    if len(shape) < 3:
        return shape
    stored_axis = nib.io_orientation(image.affine)[:, 0].astype(int).tolist()
    return (*(shape[stored_axis.index(axis)] for axis in range(3)), *shape[3:])


def _dicom_header(path: str | os.PathLike) -> FileHeader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, stop_before_pixels=True)
    if "Rows" not in data or "Columns" not in data:
        raise ImageError("a DICOM object without an image (no Rows and Columns)")
    frames = int(data.get("NumberOfFrames", 1) or 1)
    shape = (int(data.Rows), int(data.Columns))
    patient = str(data.get("PatientID", "") or "").strip() or None
    position: float | None = None
    orientation, origin = data.get("ImageOrientationPatient"), data.get("ImagePositionPatient")
    if orientation is not None and origin is not None:
        normal = np.cross(np.array(orientation[:3], float), np.array(orientation[3:], float))
        position = float(normal @ np.array(origin, float))
    elif data.get("InstanceNumber") is not None:
        position = float(data.InstanceNumber)
    return FileHeader("dicom", (*shape, frames) if frames > 1 else shape, patient, str(data.get("SeriesInstanceUID", "")), position)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def read_pixels(paths: list[str], channel: int | None = None) -> np.ndarray:
    """Read one image or volume.

    Args:
        paths: one file, or the files of one DICOM series in any order.
        channel: which 3D volume of a 4D file.

    Returns:
        float32 [H, W] (rows from top, columns from left) for an image, or [X, Y, Z] in RAS+ orientation for a volume.

    Raises:
        ImageError: with the reason.
    """
    try:
        kind = image_format(paths[0])
        if kind == "dicom":
            array = _read_dicom(paths)
        elif kind == "nifti":
            array = _read_nifti(paths[0], channel)
        elif kind == "npy":
            array = _grey(np.load(paths[0], allow_pickle=False))
        elif kind is None:
            raise ImageError("not a PNG, JPEG, TIFF, NPY, NIfTI or DICOM file by its content")
        else:
            array = _read_picture(paths[0])
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"the pixels cannot be read: {_first_line(error)}") from error
    if array.ndim == 4:
        if channel is None:
            raise ImageError(f"4D of shape {array.shape} without a choice: pass --channel 0 to {array.shape[3] - 1}")
        if not 0 <= channel < array.shape[3]:
            raise ImageError(f"--channel {channel} is outside 0 to {array.shape[3] - 1}")
        array = array[..., channel]
    if array.ndim not in (2, 3):
        raise ImageError(f"{array.ndim} dimensions of shape {array.shape}; 2 or 3 are read")
    return np.ascontiguousarray(array, dtype=np.float32)


def _read_picture(path: str) -> np.ndarray:
    with Image.open(path) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format == "TIFF":
            pages = []
            for frame in range(frames):
                image.seek(frame)
                pages.append(_grey(np.asarray(image)))
            return np.stack(pages, -1)
        if image.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "1"):
            return np.asarray(image.convert("L"), dtype=np.float32)
        return _grey(np.asarray(image))


def _grey(array: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R 601) of colour; alpha is dropped, since a mask of opacity is not anatomy."""
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise ImageError(f"pixels of type {array.dtype}; numbers are read")
    array = array.astype(np.float32)
    if array.ndim == 3 and array.shape[-1] == 2 and min(array.shape[:2]) > 4:
        return array[..., 0]
    if array.ndim == 3 and array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
        return array[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    return array.reshape(_squeeze(array.shape))


def _read_nifti(path: str, channel: int | None) -> np.ndarray:
    image = _load_nifti(path)
    shape = _squeeze(image.shape)
    if len(shape) == 2:
        # A 2D NIfTI has no through-plane axis to reorient by; rows are shown top down, as for the slices of a volume.
        return np.rot90(np.asarray(image.dataobj, dtype=np.float32).reshape(shape))
    if len(shape) == 4 and channel is None:
        raise ImageError(f"4D of shape {shape} without a choice: pass --channel 0 to {shape[3] - 1}")
    canonical = nib.as_closest_canonical(image)
    if len(shape) == 4 and channel is not None and 0 <= channel < shape[3]:
        return np.asarray(canonical.dataobj[..., channel], dtype=np.float32).reshape(canonical.shape[:3])
    return np.asarray(canonical.dataobj, dtype=np.float32).reshape(_squeeze(canonical.shape))


def _read_dicom(paths: list[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [pydicom.dcmread(path) for path in paths]
    if len(files) == 1 and int(files[0].get("NumberOfFrames", 1) or 1) == 1:
        return _dicom_pixels(files[0])
    if len(files) == 1:
        frames = _dicom_pixels(files[0])
        planes, orientation, origins = _frame_geometry(files[0], len(frames))
        frames = frames[planes]
    else:
        shapes = {(int(f.Rows), int(f.Columns)) for f in files}
        if len(shapes) > 1:
            raise ImageError(f"the slices of the series differ in size: {sorted(shapes)}")
        orientation = files[0].get("ImageOrientationPatient")
        positions = [f.get("ImagePositionPatient") for f in files]
        if orientation is not None and all(p is not None for p in positions):
            normal = np.cross(np.array(orientation[:3], float), np.array(orientation[3:], float))
            order = np.argsort([normal @ np.array(p, float) for p in positions], kind="stable")
            origins = [np.array(positions[i], float) for i in order]
        else:
            orientation, origins = None, None
            order = np.argsort([float(f.get("InstanceNumber") or 0) for f in files], kind="stable")
        frames = np.stack([_dicom_pixels(files[i]) for i in order])
    volume = frames.transpose(2, 1, 0)  # columns, rows, frames
    if orientation is None or origins is None or np.allclose(origins[0], origins[-1]):
        return volume[:, ::-1]  # no geometry: rows bottom up, so that a slice is shown as it is stored
    return _to_ras(volume, np.array(orientation, float), np.array(origins[-1]) - np.array(origins[0]))


def _to_ras(volume: np.ndarray, orientation: np.ndarray, through: np.ndarray) -> np.ndarray:
    # DICOM's patient axes are LPS, NIfTI's RAS: the first two change sign.
    axes = np.stack([orientation[:3], orientation[3:], through / np.linalg.norm(through)], 1)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ axes
    return nib.orientations.apply_orientation(volume, nib.io_orientation(affine))


def _dicom_pixels(data: pydicom.Dataset) -> np.ndarray:
    pixels = data.pixel_array
    if int(data.get("SamplesPerPixel", 1)) > 1:
        pixels = pixels[..., :3] @ np.array([0.299, 0.587, 0.114])
    pixels = pixels.astype(np.float32) * float(data.get("RescaleSlope", 1) or 1) + float(data.get("RescaleIntercept", 0) or 0)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() - pixels
    return pixels


def _frame_geometry(data: pydicom.Dataset, frames: int) -> tuple[np.ndarray, list | None, list | None]:
    """Order, orientation and origins of an enhanced multi-frame object; (stored order, None, None) when it has none."""
    stored = np.arange(frames), None, None
    per_frame = data.get("PerFrameFunctionalGroupsSequence")
    shared = data.get("SharedFunctionalGroupsSequence")
    if not per_frame or len(per_frame) != frames:
        return stored
    try:
        place = [np.array(f.PlanePositionSequence[0].ImagePositionPatient, float) for f in per_frame]
        sources = [*(shared or []), per_frame[0]]
        plane = next(s for s in sources if "PlaneOrientationSequence" in s)
        orientation = [float(v) for v in plane.PlaneOrientationSequence[0].ImageOrientationPatient]
    except (AttributeError, StopIteration, IndexError):
        return stored
    normal = np.cross(orientation[:3], orientation[3:])
    order = np.argsort([normal @ p for p in place], kind="stable")
    return order, orientation, [place[i] for i in order]


def encode_png(pixels: np.ndarray) -> bytes:
    """Bytes of an 8-bit grayscale PNG of ``pixels`` uint8 [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
