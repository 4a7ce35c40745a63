"""One array with one affine, written as a volume of every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from doppelscan.images import cut_cube
from doppelscan.images.cubes import CubeFrame
from made_files import dicom
from pydicom.dataset import Dataset

SPACING = (2.0, 2.0, 2.0)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(degrees: Sequence[float]) -> np.ndarray:
    """Rotation [3, 3] about x, then y, then z."""
    made = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        one, two = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[one, one] = turn[two, two] = np.cos(angle)
        turn[one, two], turn[two, one] = -np.sin(angle), np.sin(angle)
        made = turn @ made
    return made


def made_affine(spacing: Sequence[float] = (1.1, 0.9, 2.3), degrees: Sequence[float] = (7, -12, 4)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = turned(degrees) * np.array(spacing)
    affine[:3, 3] = -31.5, 17.25, 40.0
    return affine


def stored_as(volume: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The array [X, Y, Z] and its affine with axes that run towards ``codes``."""
    image = nib.Nifti1Image(volume, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(codes))
    image = image.as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine


def write_nifti(
    path: Path, volume: np.ndarray, affine: np.ndarray, qform: bool = False, unit: str = "mm", kind: type = nib.Nifti1Image
) -> str:
    image = kind(volume, affine)
    image.set_sform(affine, 0 if qform else 1)
    image.set_qform(affine, 1 if qform else 0)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return str(path)


def write_nrrd(
    path: Path, volume: np.ndarray, affine: np.ndarray, space: str = "left-posterior-superior", compression_level: int = 9, **header
) -> str:
    stored = LPS @ affine if space.startswith("left-posterior") else affine
    fields = {
        "space": space,
        "space directions": stored[:3, :3].T,
        "space origin": stored[:3, 3],
        "kinds": ["domain"] * 3,
        **header,
    }
    nrrd.write(str(path), volume, fields, detached_header=str(path).endswith(".nhdr"), compression_level=compression_level)
    return str(path)


def itk_image(volume: np.ndarray, affine: np.ndarray, vector: bool = False) -> sitk.Image:
    """``volume`` [X, Y, Z] or, of several values a voxel, [X, Y, Z, C]."""
    image = sitk.GetImageFromArray(volume.transpose(2, 1, 0, *range(3, volume.ndim)), isVector=vector)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def write_itk(path: Path, volume: np.ndarray, affine: np.ndarray, compressed: bool = False, vector: bool = False) -> str:
    sitk.WriteImage(itk_image(volume, affine, vector), str(path), compressed)
    return str(path)


def _lie(affine: np.ndarray, index: int) -> tuple[list[float], list[float], list[float]]:
    """Position, orientation and PixelSpacing of slice ``index`` of a stored array."""
    lps = LPS @ affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / lengths
    position = lps[:3, :3] @ [0, 0, index] + lps[:3, 3]
    return position.tolist(), [*axes[:, 0], *axes[:, 1]], [lengths[1], lengths[0]]


def write_series(
    folder: Path,
    volume: np.ndarray,
    affine: np.ndarray,
    places: Sequence[float] | None = None,
    shift: Sequence[float] = (0, 0, 0),
    **options,
) -> list[str]:
    """Slices along the last axis, in no order of names; ``places`` of slices in steps, ``shift`` in mm (LPS) from slice to slice."""
    folder.mkdir(exist_ok=True, parents=True)
    count = volume.shape[2]
    paths = []
    for number, index in enumerate(np.random.default_rng(0).permutation(count).tolist()):
        position, orientation, spacing = _lie(affine, index if places is None else places[index])
        position = (np.array(position) + np.array(shift) * index).tolist()
        named = {"series": "1.2.3", "number": index + 1, **options}
        paths.append(
            dicom(
                folder / f"{number:03d}{named['series']}.dcm",
                volume[..., index].T,
                position=position,
                orientation=orientation,
                **named,
            )
        )
        data = pydicom.dcmread(paths[-1])
        data.PixelSpacing, data.SliceThickness = spacing, 99
        data.save_as(paths[-1])
    return paths


def write_enhanced(path: Path, volume: np.ndarray, affine: np.ndarray, slopes: Sequence[float] | None = None) -> str:
    order = np.random.default_rng(1).permutation(volume.shape[2]).tolist()
    frames = []
    for index in order:
        position, orientation, spacing = _lie(affine, index)
        frame, place, plane, measures = Dataset(), Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, plane.ImageOrientationPatient, measures.PixelSpacing = position, orientation, spacing
        frame.PlanePositionSequence, frame.PlaneOrientationSequence, frame.PixelMeasuresSequence = [place], [plane], [measures]
        if slopes is not None:
            scale = Dataset()
            scale.RescaleSlope, scale.RescaleIntercept = slopes[index], 0
            frame.PixelValueTransformationSequence = [scale]
        frames.append(frame)
    return dicom(path, volume[..., order].transpose(2, 1, 0), frames=frames)


def cubed(volume: np.ndarray) -> tuple[torch.Tensor, CubeFrame]:
    """The cube uint8 [1, 64, 64, 64] of a volume of 2 mm, as a store holds it, and its frame."""
    cube, frame = cut_cube(volume, SPACING, 64)
    return torch.from_numpy(np.round(cube.clip(0, 1) * 255).astype(np.uint8))[None], frame


class MadeTraining:
    """What is read of a set of volumes."""

    def __init__(self, volumes: Sequence[np.ndarray]) -> None:
        self.made = [cubed(volume) for volume in volumes]

    def thumbnails(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.stack([self.made[row][0] for row in rows])

    def frames(self, rows: Sequence[int]) -> list[CubeFrame]:
        return [self.made[row][1] for row in rows]

    def __len__(self) -> int:
        return len(self.made)
