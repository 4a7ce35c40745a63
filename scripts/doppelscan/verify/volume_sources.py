"""What else a matched volume holds: a second training volume mixed in; the mixtures of :mod:`sources` in 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.images import axis_pose, unit_float
from doppelscan.images.cubes import CubeFrame, blur_volumes, inverse_axis_pose
from doppelscan.search import EmbeddedVolumes
from doppelscan.verify.volume_alignment import band_pass_volumes, shrink_volumes
from doppelscan.verify.volumes import AlignedVolume, VolumeAgreement, VolumeRegistration

__all__ = ["SecondVolume", "coarse_structures", "second_volume"]

# Voxels a side at which training volumes are compared with what is left, as they lie; so many of the most alike are registered.
COARSE, REGISTERED = 16, 6
# Volumes whose cubes are read at a time: a quarter of a megabyte each.
BLOCK = 32
# Share of the fine structure that the match leaves, below which nothing can be found in it.
LEFT = 0.02
TISSUE = 0.08


@dataclass(frozen=True)
class SecondVolume:
    """A training volume of another patient in what the match leaves.

    Attributes:
        row: which.
        agreement: of the better half of its structure with what is left, see :attr:`~doppelscan.verify.VolumeAgreement.score`.
        share: its weight beside the match, 0 to 1.
    """

    row: int
    agreement: float
    share: float


@torch.no_grad()
def coarse_structures(training: EmbeddedVolumes) -> np.ndarray:
    """What :func:`second_volume` compares of each training volume, float16 [N, 4096]: 8 kB each, so that no cube is read for each volume anew."""
    made = [
        _structure(unit_float(training.thumbnails(range(start, min(start + BLOCK, len(training)))))).half().numpy()
        for start in range(0, len(training), BLOCK)
    ]
    return np.concatenate(made)


@torch.no_grad()
def second_volume(
    cube: torch.Tensor,
    frame: CubeFrame,
    pair: AlignedVolume,
    number: int,
    training: EmbeddedVolumes,
    structures: np.ndarray,
    excluded: Sequence[bool] | np.ndarray,
    registration: VolumeRegistration,
    register: Callable[[torch.Tensor, list[int]], Sequence[VolumeAgreement]],
) -> SecondVolume | None:
    """Look for a second source.

    Args:
        cube: uint8 [1, S, S, S] of the volume.
        frame: of it.
        pair: the registered match in full, not bent.
        number: axis pose of the match; a second source of a posed blend was posed alike.
        training: the training set.
        structures: of it, see :func:`coarse_structures`.
        excluded: bool [N], volumes of it that are not asked.
        registration: lays the second source on the volume.
        register: registers training rows, in pose ``number``, on what is left, a cube uint8 [1, 1, S, S, S] in ``frame``; the best first.

    Returns:
        the most alike, or None where the match leaves nothing or nobody else is there.
    """
    others = np.flatnonzero(~np.asarray(excluded, bool))
    image, moved, inside = unit_float(cube)[None], *(torch.from_numpy(one)[None, None] for one in (pair.moved, pair.inside))
    fine, explained = _fine(image, inside), _fine(moved, inside)
    gain = float((fine * explained).sum() / (explained * explained).sum().clamp_min(1e-8))
    left = (fine - gain * explained).square().sum() / fine.square().sum().clamp_min(1e-8)
    if not len(others) or float(left) < LEFT:
        return None
    rest = ((image - gain * moved) * inside).clamp_min(0)
    rest = (rest / rest.flatten().quantile(0.995).clamp_min(1e-3)).clamp(0, 1)
    # Structure is posed as the volume is, so that what is left is posed back instead of each training volume.
    wanted = axis_pose(_structure(rest).view(1, COARSE, COARSE, COARSE), inverse_axis_pose(number)).reshape(-1).numpy()
    alike = np.concatenate([structures[start : start + 1024] @ wanted for start in range(0, len(structures), 1024)])[others]
    chosen = [int(one) for one in others[np.argsort(-alike, kind="stable")[:REGISTERED]]]
    left_over = (rest * 255).round().to(torch.uint8)
    best = register(left_over, chosen)[0]
    row = chosen[best.candidate]
    (other,) = registration.pairs(left_over, training.thumbnails([row]), [frame], training.frames([row]), [best.pose], False)
    second = _fine(torch.from_numpy(other.moved)[None, None], inside)
    return SecondVolume(row, best.score, _share(fine, explained, second))


def _fine(cubes: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """What differs from its surroundings, on the intensity scale of ``cubes``."""
    return (cubes - blur_volumes(cubes, cubes.shape[-1] / 24)) * inside


def _share(wanted: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """Weight of ``second`` in the mixture of both that fits best, by least squares, 0 to 1."""
    columns = torch.stack([first.flatten(), second.flatten()], 1).double()
    weights = torch.linalg.lstsq(columns, wanted.flatten().double()[:, None]).solution[:, 0].clamp_min(0)
    return float(weights[1] / weights.sum().clamp_min(1e-6))


def _structure(cubes: torch.Tensor) -> torch.Tensor:
    """Band-passed at 16 voxels, of unit length: float [B, 4096]."""
    small = shrink_volumes(cubes.contiguous(), COARSE)
    flat = band_pass_volumes(small, COARSE / 8, (small > TISSUE).float()).flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-8)
