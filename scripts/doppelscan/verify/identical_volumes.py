"""The same voxels: which volumes are a training volume as it is, in one of the 48 axis poses, resampled or windowed to 8 bit; :mod:`identical` in 3D.

Also where two headers say other sizes of the same voxels, as a generator's do that writes none: everything else compares volumes in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import AXIS_POSES, CubeFrame, ImageRecord, axis_pose, read_compared, unit_float
from doppelscan.images.cubes import cut_stored_cube, inverse_axis_pose
from doppelscan.images.transforms import window
from doppelscan.search import EmbeddedVolumes
from doppelscan.verify.identical import IdenticalImage
from doppelscan.verify.volume_pose import VolumePose, cube_to_mm, posed_places

__all__ = ["IdenticalVolume", "IdenticalVoxels"]

# Voxels a side at which all are compared in all poses. Averaging takes noise and fine structure away: what is the same at full size is more so here.
COARSE = 16
INVERSE = [inverse_axis_pose(number) for number in range(len(AXIS_POSES))]
# Voxels whose sides differ by less are cubes: of these a volume looks the same whatever their size.
CUBIC = 1.001
OTHER_SIZE = "another voxel size in the header"


@dataclass(frozen=True)
class IdenticalVolume(IdenticalImage):
    """A training volume with the same voxels.

    Attributes:
        pose: number of the axis pose that maps it on the volume.
        place: all that maps it on the volume, in mm.
        told: what else differs, in words.
    """

    place: VolumePose
    told: str = ""

    @property
    def mapped(self) -> VolumePose:  # type: ignore[override]
        """What maps the training volume on the volume."""
        return self.place


class IdenticalVoxels:
    """Finds the training volumes whose voxels a volume has.

    The cubes around the anatomy are compared: of volumes with the same voxels, on whatever grid, they are the same. Where none is, the volumes are
    compared as they are stored, without the voxel sizes of their headers: by a small cube that is kept of each, then by their files.

    Args:
        training: the training set.
        same: squared correlation of the cubes from which voxels are the same.
    """

    def __init__(self, training: EmbeddedVolumes, same: float = 0.998) -> None:
        self.training, self.same = training, same
        rows = range(len(training))
        self.coarse = torch.cat([_coarse(training.thumbnails([row])) for row in rows])
        self.stored = torch.cat([_coarse(training.stored_cubes([row])) for row in rows])
        self.cubic = np.array([_is_cubic(training.frames([row])[0]) for row in rows])

    def find(self, images: EmbeddedVolumes) -> list[IdenticalImage | None]:
        """The training volume of the same voxels, or None, for each of ``images``."""
        return [self._found(images, row, lambda other: True) for row in range(len(images))]

    def repeats(self) -> list[IdenticalImage | None]:
        """The first training volume before it that has the same voxels, or None, for each training volume."""
        first: dict[str, int] = {}
        distinct = {first.setdefault(content, row) for row, content in enumerate(self.training.contents)}

        def found(row: int) -> IdenticalImage | None:
            # A thousand copies of one file are compared with the first of them, not with each other.
            return self._found(self.training, row, lambda other: other < row and other in distinct)

        return [found(row) for row in range(len(self.training))]

    def _found(self, images: EmbeddedVolumes, row: int, asked: Callable[[int], bool]) -> IdenticalImage | None:
        """The best of the training rows that are ``asked`` about."""
        return self._in_mm(images, row, asked) or self._as_stored(images, row, asked)

    def _in_mm(self, images: EmbeddedVolumes, row: int, asked: Callable[[int], bool]) -> IdenticalImage | None:
        cube, (frame,) = unit_float(images.thumbnails([row])), images.frames([row])

        def other(place: int) -> torch.Tensor:
            return unit_float(self.training.thumbnails([place]))

        found = self._best(cube, (one for one in self._near(cube, self.coarse) if asked(one[1])), other)
        if found is None:
            return None
        number, place, value = found
        (match,) = self.training.frames([place])
        pose = VolumePose.of_cubes(number, frame, match)
        return IdenticalVolume(place, number, False, value, self.same, pose)

    def _as_stored(self, images: EmbeddedVolumes, row: int, asked: Callable[[int], bool]) -> IdenticalImage | None:
        """Of two volumes of cubic voxels that was compared already."""
        (frame,), cubic = images.frames([row]), self.cubic
        near = [
            (number, place)
            for number, place in self._near(unit_float(images.stored_cubes([row])), self.stored)
            if asked(place) and not (cubic[place] and _is_cubic(frame))
        ]
        if not near:
            return None
        size = images.thumbnails([row]).shape[-1]
        cube, lies = _read_stored(images.records[row], size)
        read = {place: _read_stored(self.training.records[place], size) for place in {place for _, place in near}}
        found = self._best(cube, near, lambda place: read[place][0])
        if found is None:
            return None
        number, place, value = found
        (match,) = self.training.frames([place])
        pose = VolumePose.from_matrix(_in_mm(lies, frame) @ posed_places(number) @ np.linalg.inv(_in_mm(read[place][1], match)))
        return IdenticalVolume(place, number, False, value, self.same, pose, OTHER_SIZE)

    def _near(self, cube: torch.Tensor, others: torch.Tensor) -> list[tuple[int, int]]:
        """Axis poses and training rows that are the same at 16 voxels a side, by row and pose."""
        small = F.adaptive_avg_pool3d(cube, COARSE)
        # A training volume in a pose against the volume, as the volume in the inverse pose against the training volume.
        posed = torch.cat([_zscored(axis_pose(small, number)) for number in INVERSE])
        product = posed @ others.T / posed.shape[1]
        near = ((product > 0) & (product.square() >= self.same)).nonzero().tolist()
        return sorted(((number, row) for number, row in near), key=lambda one: (one[1], one[0]))

    def _best(
        self, cube: torch.Tensor, near: Iterable[tuple[int, int]], other: Callable[[int], torch.Tensor]
    ) -> tuple[int, int, float] | None:
        """Pose, row and squared correlation of the first of the best at full size."""
        best: tuple[int, int, float] | None = None
        whole = _zscored(cube).double()  # of a quarter of a million products a sum of single precision loses 3e-4
        for number, row in near:
            posed = _zscored(axis_pose(other(row), number)).double()
            # Rounded, so that equal volumes compete by their row and pose and not by the rounding of a sum.
            value = round(float((whole * posed).mean()) ** 2, 5)
            if value >= self.same and (best is None or value > best[2]):
                best = number, row, min(value, 1.0)
        return best


def _is_cubic(frame: CubeFrame) -> bool:
    return max(frame.spacing) <= CUBIC * min(frame.spacing)


def _read_stored(record: ImageRecord, size: int) -> tuple[torch.Tensor, CubeFrame]:
    """The cube float [1, 1, size, size, size] of a volume as it is stored, and its frame in voxels of the file."""
    volume = read_compared(record)
    shape = volume.pixels.shape if record.geometry is None else record.geometry.shape
    cube, frame = cut_stored_cube(window(volume.pixels), shape, size)
    return torch.from_numpy(cube)[None, None], frame


def _in_mm(stored: CubeFrame, frame: CubeFrame) -> np.ndarray:
    """float64 [4, 4]: from places u of the cube of a volume as it is ``stored`` to mm from its centre; ``frame`` is of the same voxels in mm."""
    return np.diag([*(np.array(frame.spacing) / stored.spacing), 1.0]) @ cube_to_mm(stored)


def _zscored(cubes: torch.Tensor) -> torch.Tensor:
    """[n, 1, S, S, S] as float [n, S * S * S] of mean 0 and mean square 1."""
    flat = cubes.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def _coarse(cubes: torch.Tensor) -> torch.Tensor:
    return _zscored(F.adaptive_avg_pool3d(unit_float(cubes), COARSE))
