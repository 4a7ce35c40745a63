"""A registered pair at the resolution of its files: the pose that was found on small squares or cubes, applied to what they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import CubeFrame, sampling_grid
from doppelscan.verify.coarse import quarter_turns
from doppelscan.verify.pose import Pose
from doppelscan.verify.volume_pose import VolumePose

__all__ = ["FullSizePair", "SeenVolume", "laid_planes", "laid_square"]


@dataclass(frozen=True)
class FullSizePair:
    """A pair, larger than it was compared at; of volumes the sagittal, coronal and axial plane through the middle of the image's cube, one below the other.

    Attributes:
        image: uint8 [S, S] or [3 S, S].
        moved: the match in the pose of the image, likewise.
        match: as it lies in training, likewise.
    """

    image: np.ndarray
    moved: np.ndarray
    match: np.ndarray


def laid_square(match: np.ndarray, pose: Pose) -> np.ndarray:
    """uint8 [S, S]: the whole square of a match, uint8 [S, S], in ``pose``; 0 where it holds nothing."""
    square = torch.from_numpy(match)[None, None].float() / 255
    posed = quarter_turns(1 - square if pose.inverted else square, np.array([pose.number]))
    matrix = torch.from_numpy(pose.sampling_matrix())[None].float()
    moved = F.grid_sample(posed, sampling_grid(matrix, len(match)), align_corners=False)[0, 0]
    return np.round(moved.clamp(0, 1).numpy() * 255).astype(np.uint8)


@dataclass(frozen=True)
class SeenVolume:
    """A volume as its file has it.

    Attributes:
        pixels: float32 [X, Y, Z] in [0, 1].
        spacing: of its voxels in mm.
        frame: of the cube that it was compared by, perhaps of fewer voxels.
    """

    pixels: np.ndarray
    spacing: tuple[float, float, float]
    frame: CubeFrame

    @property
    def side(self) -> int:
        """Voxels along a side of its cube."""
        return round(self.frame.side / min(self.spacing))

    def at(self, millimetres: np.ndarray) -> np.ndarray:
        """uint8 [...], what lies at places [..., 3] in mm from the volume's centre; 0 outside."""
        places = np.asarray(millimetres) * 2 / (np.array(self.pixels.shape) * self.spacing)
        grid = torch.from_numpy(np.ascontiguousarray(places[None, None, ..., ::-1])).float()  # axes are counted from the last one
        volume = torch.from_numpy(self.pixels)[None, None]
        found = F.grid_sample(volume, grid, align_corners=False)[0, 0, 0].clamp(0, 1).numpy()
        return np.round(found * 255).astype(np.uint8)


def laid_planes(image: SeenVolume, match: SeenVolume, pose: VolumePose, size: int) -> FullSizePair:
    """Three planes of ``size`` pixels a side of a pair of volumes, see :class:`FullSizePair`."""
    here, there = (_planes(one.frame, size) for one in (image, match))
    back = np.linalg.inv(pose.matrix())
    return FullSizePair(image.at(here), match.at(here @ back[:3, :3].T + back[:3, 3]), match.at(there))


def _planes(frame: CubeFrame, size: int) -> np.ndarray:
    """float64 [3 size, size, 3], places in mm of the three planes: x, then y, then z is that of the middle; z runs up and y to the front."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    across, up = np.meshgrid(axis, axis[::-1])
    middle = np.zeros_like(across)
    planes = [(middle, across, up), (across, middle, up), (across, up, middle)]
    return frame.to_mm(np.concatenate([np.stack(one, -1) for one in planes]))
