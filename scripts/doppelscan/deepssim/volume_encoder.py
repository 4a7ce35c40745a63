"""The encoder of slices as one network of volumes: cube in, row out, for TorchScript, ONNX and a scorer of volumes."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from doppelscan.deepssim.augment import quarter_turn
from doppelscan.deepssim.roles import slices_of
from doppelscan.deepssim.volume_slices import (
    PLACES,
    TURNS,
    joined_rows,
    pose_table,
    require_symmetric,
    row_parts,
    row_slices,
    slices_at,
)
from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES

__all__ = ["VolumeEncoder"]


class VolumeEncoder(nn.Module):
    """Cuts the slices of a cube, runs the encoder of slices, and lays what it gives side by side: what :class:`VolumeSliceInferer` does, as a network.

    Its state dict is that of the encoder of slices, so that one file of weights serves both.

    Args:
        encoder: slices float32 [n, 1, size, size] -> [n, C], with ``output_slices``.
        poses: 1 for the volume as it is; 48 for a row in each axis pose.
        places: of the slices along each axis, see :func:`~doppelscan.deepssim.cube_slices`.
        spatial_size: side of a slice.

    Attributes:
        output_slices: where each output lies in D: heads of all slices side by side, layers averaged over them.

    Shape:
        cubes float [B, 1, S, S, S], see :func:`~doppelscan.images.cut_cubes`, any intensity scale -> float32 [B, D]; in 48 poses [B, 48, D].

    Raises:
        InputError: ``poses`` is neither, or ``places`` are not symmetric.
    """

    __jit_unused_properties__ = ("output_slices",)
    index: torch.Tensor
    known_poses = len(AXIS_POSES)

    def __init__(self, encoder: Any, poses: int = 1, places: Sequence[float] = PLACES, spatial_size: int = 128) -> None:
        super().__init__()
        require_symmetric(places)
        self.slice_encoder, self.spatial_size = encoder, spatial_size
        self.places, self.slots = [float(one) for one in places], 3 * len(places)
        self.parts = row_parts(encoder.output_slices)
        self.output_sizes = {name: part.stop - part.start for name, part in row_slices(encoder.output_slices, self.slots).items()}
        number, turn = pose_table(len(self.places)).unbind(-1)
        self.register_buffer("index", (turn * self.slots + number).flatten(), persistent=False)
        self._set_poses(poses)

    def _set_poses(self, poses: int) -> None:
        if poses not in (1, self.known_poses):
            raise InputError(f"The 'poses' parameter of VolumeEncoder must be 1 or {self.known_poses}. Got {poses!r} instead.")
        self.poses = poses

    def with_poses(self, poses: int) -> "VolumeEncoder":
        """The same network, with the same weights, in 1 or 48 poses; this one stays as it is."""
        made = copy.copy(self)
        made._set_poses(poses)
        return made

    @property
    def output_slices(self) -> dict[str, slice]:
        """Where each output lies in a row."""
        return slices_of(self.output_sizes)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Of the encoder of slices."""
        return self.slice_encoder.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in [one for one in state_dict if one.startswith(prefix)]:
            state_dict[f"{prefix}slice_encoder.{name[len(prefix) :]}"] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Written so that torch.jit.script takes it.
        slices = slices_at(image, self.places, self.spatial_size)
        if self.poses == 1:
            found = self.slice_encoder(slices).float()
            return joined_rows(found.view(-1, self.slots, found.shape[-1]), self.parts)
        turned = torch.cat([quarter_turn(slices, number) for number in range(8)])
        found = self.slice_encoder(turned).float()
        each = found.view(8, -1, self.slots, found.shape[-1]).transpose(0, 1).flatten(1, 2)  # [B, 8 * K, C]
        posed = each[:, self.index].view(-1, 48, self.slots, found.shape[-1])
        return joined_rows(posed, self.parts)


assert TURNS == 8 and len(AXIS_POSES) == 48  # as forward says in numbers, which TorchScript keeps
