"""The same voxels: which volumes are a training volume as it is, in one of the 48 axis poses, resampled or windowed to 8 bit; :mod:`identical` in 3D."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from doppelscan.images import AXIS_POSES, axis_pose, unit_float
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.search import EmbeddedSet
from doppelscan.verify.identical import IdenticalImage
from doppelscan.verify.volume_pose import VolumePose

__all__ = ["IdenticalVolume", "IdenticalVoxels"]

# Voxels a side at which all are compared in all poses. Averaging takes noise and fine structure away: what is the same at full size is more so here.
COARSE = 16
INVERSE = [inverse_axis_pose(number) for number in range(len(AXIS_POSES))]


@dataclass(frozen=True)
class IdenticalVolume(IdenticalImage):
    """A training volume with the same voxels; ``pose`` is the number of the axis pose that maps it on the volume."""

    @property
    def mapped(self) -> VolumePose:  # type: ignore[override]
        """What maps the training volume on the volume."""
        return VolumePose(self.pose)


class IdenticalVoxels:
    """Finds the training volumes whose voxels a volume has.

    The cubes around the anatomy are compared: of volumes with the same voxels, on whatever grid, they are the same.

    Args:
        training: the training set.
        same: squared correlation of the cubes from which voxels are the same.
    """

    def __init__(self, training: EmbeddedSet, same: float = 0.998) -> None:
        self.training, self.same = training, same
        self.coarse = torch.cat([_coarse(training.thumbnails([row])) for row in range(len(training))])

    def find(self, images: EmbeddedSet) -> list[IdenticalImage | None]:
        """The training volume of the same voxels, or None, for each of ``images``."""
        return [self._found(images.thumbnails([row]), lambda other: True) for row in range(len(images))]

    def repeats(self) -> list[IdenticalImage | None]:
        """The first training volume before it that has the same voxels, or None, for each training volume."""
        first: dict[str, int] = {}
        distinct = {first.setdefault(content, row) for row, content in enumerate(self.training.contents)}

        def found(row: int) -> IdenticalImage | None:
            # A thousand copies of one file are compared with the first of them, not with each other.
            return self._found(self.training.thumbnails([row]), lambda other: other < row and other in distinct)

        return [found(row) for row in range(len(self.training))]

    def _found(self, cube: torch.Tensor, asked: Callable[[int], bool]) -> IdenticalImage | None:
        """The best of the training rows that are ``asked`` about."""
        small = F.adaptive_avg_pool3d(unit_float(cube), COARSE)
        # A training volume in a pose against the volume, as the volume in the inverse pose against the training volume.
        posed = torch.cat([_zscored(axis_pose(small, number)) for number in INVERSE])
        product = posed @ self.coarse.T / posed.shape[1]
        near = ((product > 0) & (product.square() >= self.same)).nonzero().tolist()
        best: IdenticalImage | None = None
        whole = _zscored(unit_float(cube))
        for number, row in sorted((one for one in near if asked(one[1])), key=lambda one: (one[1], one[0])):
            other = _zscored(axis_pose(unit_float(self.training.thumbnails([row])), number))
            # Rounded, so that equal volumes compete by their row and pose and not by the rounding of a sum.
            value = round(float((whole @ other.T)[0, 0] / whole.shape[1]) ** 2, 5)
            if value >= self.same and (best is None or value > best.correlation):
                best = IdenticalVolume(row, number, False, min(value, 1.0), self.same)
        return best


def _zscored(cubes: torch.Tensor) -> torch.Tensor:
    """[n, 1, S, S, S] as float [n, S * S * S] of mean 0 and mean square 1."""
    flat = cubes.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def _coarse(cubes: torch.Tensor) -> torch.Tensor:
    return _zscored(F.adaptive_avg_pool3d(unit_float(cubes), COARSE))
