"""Volumes on one footing: a cube of isotropic voxels around the anatomy, the way back to millimetres, and the 48 axis poses.

:mod:`foreground` and :mod:`squares` in 3D. Everywhere the last three axes of a tensor are x, y and z of a volume in RAS+, and a place in a cube
is u in [-1, 1]^3 in the same order; millimetres are measured from the volume's centre along its axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.errors import ImageError, InputError
from doppelscan.images.foreground import blur_weights, otsu_threshold
from doppelscan.images.squares import axis_weights

__all__ = [
    "AXIS_POSES",
    "CubeFrame",
    "axis_pose",
    "axis_pose_matrix",
    "blur_volumes",
    "cut_cube",
    "cut_cubes",
    "cut_stored_cube",
    "foreground_cube",
    "inverse_axis_pose",
    "resample_blocks",
]

CUBE = 64
# A uniform ball of radius R has a moment radius of R sqrt(3 / 5); 3.2 of them hold a brain's long axis with a margin of 7 %.
SIDE_PER_MOMENT_RADIUS = 3.2
WORKING_SIZE = 48
# Share of the surface of the field of view that is tissue: of T1 brains cropped by 15 % up to 0.22; of hippocampus crops, which have no background, 0.66
# to 0.74, and 0.29 or more where a rotation or a bending filled their border with black.
FILLED = (0.22, 0.3)
# Planes at the border are black that hold nothing above this share of the range; interpolation and 8 bit leave less.
FRAME = 0.02
# Version of how cubes are cut, for what is kept of them.
CUBES = 2

# Number -> (axes, flips): axis i of the posed volume is axis ``axes[i]`` of the volume, reversed where ``flips[i]``; 0 is the volume as it is.
AXIS_POSES: tuple[tuple[tuple[int, int, int], tuple[bool, bool, bool]], ...] = tuple(
    ((x, y, z), (bool(bits & 1), bool(bits & 2), bool(bits & 4)))
    for x, y, z in itertools.permutations(range(3), 3)
    for bits in range(8)
)


def axis_pose(volumes: torch.Tensor, number: int) -> torch.Tensor:
    """``volumes`` [..., X, Y, Z] in the axis pose ``number`` (0 to 47): axes permuted, then flipped; see :data:`AXIS_POSES`."""
    axes, flips = AXIS_POSES[number]
    lead = volumes.ndim - 3
    posed = volumes.permute(*range(lead), *(lead + axis for axis in axes))
    flipped = [lead + axis for axis in range(3) if flips[axis]]
    return torch.flip(posed, flipped) if flipped else posed


def axis_pose_matrix(number: int) -> np.ndarray:
    """float64 [3, 3]: a place u of the volume lies at ``matrix @ u`` in the posed one."""
    axes, flips = AXIS_POSES[number]
    matrix = np.zeros((3, 3))
    matrix[range(3), axes] = np.where(flips, -1.0, 1.0)
    return matrix


def inverse_axis_pose(number: int) -> int:
    """The axis pose that undoes ``number``."""
    matrix = axis_pose_matrix(number).T
    axes = tuple(int(axis) for axis in np.abs(matrix).argmax(1))
    flips = tuple(bool(value < 0) for value in matrix.sum(1))
    return AXIS_POSES.index((axes, flips))  # type: ignore[arg-type]


@dataclass(frozen=True)
class CubeFrame:
    """Where a cube lies in its volume.

    Attributes:
        centre: x, y and z of the cube's centre in mm from the volume's centre.
        side: of the cube in mm.
        size: voxels a side of the cube.
        shape: voxels of the volume.
        spacing: of the volume's voxels in mm.
    """

    centre: tuple[float, float, float]
    side: float
    size: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def voxel(self) -> float:
        """Side of a voxel of the cube in mm."""
        return self.side / self.size

    def to_mm(self, places: np.ndarray) -> np.ndarray:
        """Places u [..., 3] in [-1, 1] of the cube in mm from the volume's centre."""
        return np.asarray(self.centre) + np.asarray(places) * self.side / 2

    def from_mm(self, millimetres: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_mm`."""
        return (np.asarray(millimetres) - np.asarray(self.centre)) * 2 / self.side

    def to_voxels(self, places: np.ndarray) -> np.ndarray:
        """Places u [..., 3] of the cube as voxel indices of the volume, whose first voxel's centre is 0."""
        return self.to_mm(places) / np.asarray(self.spacing) + (np.asarray(self.shape) - 1) / 2

    def from_voxels(self, indices: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_voxels`."""
        return self.from_mm((np.asarray(indices) - (np.asarray(self.shape) - 1) / 2) * np.asarray(self.spacing))


def blur_volumes(volumes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur ``volumes`` [..., X, Y, Z] by a Gaussian of ``sigma`` voxels; edges are replicated."""
    x, y, z = (blur_weights(side, sigma, volumes.dtype, volumes.device) for side in volumes.shape[-3:])
    return _contracted(volumes, x, y, z)


def _contracted(volumes: torch.Tensor, x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """One matrix an axis: ``volumes`` [..., X, Y, Z] with x [..., x, X], y [..., y, Y] and z [..., z, Z]."""
    lead = volumes.shape[:-3]
    flat = x @ volumes.reshape(*lead, volumes.shape[-3], -1)
    planes = flat.unflatten(-1, volumes.shape[-2:])
    return (y.unsqueeze(-3) @ planes) @ z.unsqueeze(-3).transpose(-1, -2)


def resample_blocks(volumes: torch.Tensor, blocks: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Resample a block of each volume by a triangle filter that widens with the reduction, see :mod:`squares`.

    Args:
        volumes: float [B, C, X, Y, Z].
        blocks: float [B, 6], the lower corner x, y, z, then the upper one, in voxels from the volume's corner; may reach out of the volume, where
            it is 0.
        size: voxels of the result along x, y and z.

    Returns:
        float [B, C, *size].
    """
    low, high = blocks.to(volumes.device, torch.float64).split(3, 1)
    x, y, z = (
        axis_weights(low[:, axis], high[:, axis], volumes.shape[2 + axis], size[axis]).to(volumes.dtype)[:, None]
        for axis in range(3)
    )
    return _contracted(volumes, x, y, z)


def foreground_cube(volumes: torch.Tensor, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    """Centre and side of the cube that holds the anatomy, by first and second moments of a soft Otsu mask.

    It moves continuously with shift, zoom and rotation: no box jumps when one voxel crosses a threshold. Of a volume that is tissue up to the
    surface of its field of view the moments say nothing, and the cube goes over to the whole field of view, without what is black around it, as a
    copy that was shrunk or shifted has it.

    Args:
        volumes: float [B, 1, X, Y, Z], any intensity scale.
        spacing: of the voxels along x, y and z in mm.

    Returns:
        float [B, 4]: x, y, z of the centre in mm from the volume's centre, and the side in mm. A volume without contrast gives the whole field of view.
    """
    step = torch.tensor([float(one) for one in spacing], dtype=torch.float64)
    extent = step * torch.tensor(volumes.shape[-3:], dtype=torch.float64)
    longest = float(extent.max())
    size = [max(4, round(WORKING_SIZE * float(one) / longest)) for one in extent]
    whole = torch.tensor([[0.0] * 3 + list(volumes.shape[-3:])], dtype=torch.float64).expand(len(volumes), 6)
    small = resample_blocks(volumes, whole, size)
    flat = small.flatten(1)
    limits = torch.quantile(flat, torch.tensor([0.01, 0.99], dtype=flat.dtype, device=flat.device), dim=1)
    per_volume = (-1, 1, 1, 1, 1)
    low, high = limits[0].view(per_volume), limits[1].view(per_volume)
    scaled = ((small - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    smooth = blur_volumes(scaled**0.7, 1.5)
    threshold = otsu_threshold(smooth).view(per_volume)
    weight = ((smooth - 0.6 * threshold) / (0.4 * threshold).clamp_min(1e-12)).clamp(0, 1)[:, 0].double()
    total = weight.sum((1, 2, 3)).clamp_min(1e-6)
    centre, variance = [], torch.zeros_like(total)
    for axis in range(3):
        place = ((torch.arange(size[axis], dtype=torch.float64) + 0.5) / size[axis] - 0.5).to(weight.device) * float(extent[axis])
        profile = weight.sum([other + 1 for other in range(3) if other != axis]) / total[:, None]
        mean = profile @ place
        centre.append(mean)
        variance = variance + profile @ place**2 - mean**2
    side = (SIDE_PER_MOMENT_RADIUS * variance.clamp_min(0).sqrt()).clamp(0.1 * longest, 1.5 * longest)
    found = torch.cat([torch.stack(centre, 1), side[:, None]], 1)
    fields = _fields(volumes)
    share = ((_surface_share(weight, fields) - FILLED[0]) / (FILLED[1] - FILLED[0])).clamp(0, 1)
    share = torch.where((limits[1] - limits[0]) <= 1e-12, torch.ones_like(share), share)[:, None]
    reach = (fields * extent.to(fields)[:, None]).unbind(2)
    field = torch.cat([(reach[0] + reach[1]) / 2, (reach[1] - reach[0]).amax(1, keepdim=True)], 1)
    return (found + share * (field - found)).to(volumes.dtype)


def _fields(volumes: torch.Tensor) -> torch.Tensor:
    """Where ``volumes`` [B, 1, X, Y, Z] lie within a black frame: float64 [B, 3, 2], first and last share of each axis, -0.5 to 0.5; all of one without
    contrast."""
    flat = volumes.flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    filled = volumes[:, 0] > (low + FRAME * (high - low)).view(-1, 1, 1, 1)
    made = []
    for axis in range(3):
        count = filled.shape[1 + axis]
        held = filled.any(3 if axis < 2 else 1).any(2 if axis == 0 else 1)  # the first of the others goes last
        held = torch.where(held.any(1, keepdim=True), held, True).double()
        first, last = held.argmax(1), count - held.flip(1).argmax(1)
        made.append(torch.stack([first, last], 1).double() / count - 0.5)
    return torch.stack(made, 1)


def _surface_share(weight: torch.Tensor, fields: torch.Tensor) -> torch.Tensor:
    """Mean [B] over the six faces of the share of ``weight`` [B, X, Y, Z] at the surface of ``fields``."""
    shares = []
    for own, field in zip(weight, fields.tolist(), strict=True):
        # The cells that lie in it whole.
        inner = [
            slice(min(math.ceil((a + 0.5) * n - 1e-6), n - 1), max(math.floor((b + 0.5) * n + 1e-6), 1))
            for (a, b), n in zip(field, own.shape, strict=True)
        ]
        own = own[tuple(one if one.stop > one.start else slice(one.start, one.start + 1) for one in inner)]
        shares.append(torch.stack([own.select(axis, index).mean() for axis in range(3) for index in (0, -1)]).mean())
    return torch.stack(shares)


def cut_cubes(volumes: torch.Tensor, size: int = CUBE, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> torch.Tensor:
    """The cube of each volume that holds its anatomy, see :func:`foreground_cube`, 0 outside of the volume.

    Args:
        volumes: float [B, 1, X, Y, Z], any intensity scale.
        size: voxels a side of the result.
        spacing: of the volumes' voxels in mm.

    Returns:
        float [B, 1, size, size, size], isotropic, on the intensity scale of ``volumes``.
    """
    return _cut(volumes, foreground_cube(volumes, spacing), size, spacing)


def _cut(volumes: torch.Tensor, cubes: torch.Tensor, size: int, spacing: Sequence[float]) -> torch.Tensor:
    step = cubes.new_tensor([float(one) for one in spacing]).double()
    half = cubes.new_tensor(list(volumes.shape[-3:])).double() / 2
    centre, reach = cubes[:, :3].double(), cubes[:, 3:].double() / 2
    blocks = torch.cat([(centre - reach) / step + half, (centre + reach) / step + half], 1)
    return resample_blocks(volumes, blocks, (size, size, size))


def cut_cube(volume: np.ndarray, spacing: Sequence[float], size: int = CUBE) -> tuple[np.ndarray, CubeFrame]:
    """The cube of one volume that holds its anatomy, and where it lies.

    Args:
        volume: float [X, Y, Z] in RAS+, any intensity scale.
        spacing: of its voxels along x, y and z in mm.
        size: voxels a side of the cube.

    Returns:
        float32 [size, size, size], isotropic, on the intensity scale of ``volume``, 0 outside of it; and its frame.

    Raises:
        InputError: not three axes, or a spacing that is not three positive numbers.
        ImageError: NaN or Inf.
    """
    steps = tuple(float(one) for one in spacing)
    if volume.ndim != 3:
        raise InputError(f"The 'volume' parameter must have three axes. Got an array of shape {volume.shape} instead.")
    if len(steps) != 3 or not all(np.isfinite(one) and one > 0 for one in steps):
        raise InputError(
            f"The 'spacing' parameter must be three positive numbers in mm. Got {steps} instead; see the file's header."
        )
    batch = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    bad = int((~torch.isfinite(batch)).sum())
    if bad:
        raise ImageError(f"{bad} of {volume.size} voxels are NaN or Inf")
    found = foreground_cube(batch, steps)
    cube = _cut(batch, found, size, steps)[0, 0].numpy()
    x, y, z, side = (float(one) for one in found[0])
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    return cube, CubeFrame((x, y, z), side, size, shape, (steps[0], steps[1], steps[2]))


def cut_stored_cube(pixels: np.ndarray, shape: Sequence[int], size: int = CUBE) -> tuple[np.ndarray, CubeFrame]:
    """:func:`cut_cube` of a volume as it is stored: as if the voxels of its file were cubes of 1 mm, whatever the header says of them.

    Args:
        pixels: float [X, Y, Z] in RAS+, which may have been reduced when they were read.
        shape: voxels of the file along the same axes.
        size: voxels a side of the cube.

    Returns:
        the cube, and its frame, whose lengths are in voxels of the file.
    """
    return cut_cube(pixels, [stored / read for stored, read in zip(shape, pixels.shape, strict=True)], size)
