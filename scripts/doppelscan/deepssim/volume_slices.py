"""Embeddings of volumes by the encoder of slices: slices of three planes, side by side in one row; 48 axis poses for the price of 8.

An axis pose of a cube permutes its planes, reverses the order of their slices and turns each slice by quarters or mirrors it. So the slices of
a volume are embedded in their 8 quarter-turn poses once, and the row of each axis pose is put together from these. Rows of two volumes
are compared slice by slice: see :class:`~doppelscan.memorization.SlotWhitening`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from doppelscan.deepssim.augment import quarter_turn_poses, zscore
from doppelscan.deepssim.inferer import ViewInferer
from doppelscan.deepssim.roles import slices_of
from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES, axis_pose, cut_cubes

__all__ = ["VolumeSliceInferer", "cube_slices", "halved_cubes", "turned_cubes"]

# The middle and an eighth of the cube's side to either side of it: with these 9 slices the source is first as often as with 15 (docs of the bundle).
PLACES = (-0.25, 0.0, 0.25)
TURNS = 8
# Half of a volume is half of the evidence. Of 0.6 to 0.85 the least confuses people most rarely, and finds all halves of brains.
HALF_WEIGHT = 0.6


def cube_slices(cubes: torch.Tensor, places: Sequence[float] = PLACES, size: int = 128) -> torch.Tensor:
    """Slices across x, then across y, then across z, as the encoder of slices takes them.

    Args:
        cubes: uint8 or float [B, 1, S, S, S], see :func:`~doppelscan.images.cut_cubes`.
        places: of the slices along each axis, in [-1, 1] from one face of the cube to the other; interpolated between voxels.
        size: side of a slice.

    Returns:
        float32 [B, 3 * len(places), size, size], each z-scored; a slice without contrast is 0.
    """
    slices = slices_at(cubes, list(places), size)
    return slices.view(len(cubes), 3 * len(places), size, size)


def slices_at(cubes: torch.Tensor, places: list[float], size: int) -> torch.Tensor:
    """:func:`cube_slices` as float32 [B * 3 * len(places), 1, size, size]; written so that torch.jit.script and an ONNX export of any batch take it."""
    side = int(cubes.shape[-1])  # a number to the ONNX export, which else knows no sizes
    index = ((torch.tensor(places, dtype=torch.float64, device=cubes.device) + 1) * side / 2 - 0.5).clamp(0, side - 1)
    below = index.floor().long().clamp_max(side - 2)
    share = (index - below).float().view(-1, 1, 1)
    planes = []
    for axis in range(3):
        stack = cubes[:, 0].movedim(1 + axis, 1)
        planes.append((1 - share) * stack[:, below] + share * stack[:, below + 1])
    # As F.interpolate does bilinearly, but as two products, after which the ONNX export still knows the size.
    wanted = ((torch.arange(size, dtype=torch.float64, device=cubes.device) + 0.5) * side / size - 0.5).clamp(0, side - 1)
    own = torch.arange(side, dtype=torch.float64, device=cubes.device)
    weights = (1 - (wanted[:, None] - own).abs()).clamp_min(0).float()
    flat = torch.cat(planes, 1).flatten(0, 1)[:, None]
    return zscore(weights @ flat @ weights.t())


def joined_rows(found: torch.Tensor, parts: list[tuple[int, int, bool]]) -> torch.Tensor:
    """Rows of volumes of what the encoder gives of their K slices: float [..., K, C] -> [..., D]; torch.jit.script takes it.

    Args:
        found: of the slices, in their order.
        parts: first column, one after the last, and whether it is a layer: layers are averaged over the slices, heads lie side by side, each of
            length 1 / sqrt(K).
    """
    slots = found.shape[-2]
    rows: list[torch.Tensor] = []
    for start, stop, is_layer in parts:
        values = found[..., start:stop]
        if is_layer:
            rows.append(values.mean(-2))
        else:
            rows.append((F.normalize(values, dim=-1) / slots**0.5).flatten(-2))
    return torch.cat(rows, -1)


def row_parts(outputs: Mapping[str, slice]) -> list[tuple[int, int, bool]]:
    """Of :func:`joined_rows`; names that begin with ``layer`` are layers."""
    return [(part.start, part.stop, name.startswith("layer")) for name, part in outputs.items()]


def row_slices(outputs: Mapping[str, slice], slots: int) -> dict[str, slice]:
    """Where ``outputs`` lie in the rows that :func:`joined_rows` gives of ``slots`` slices."""
    layer = {name: part.stop - part.start for name, part in outputs.items()}
    return slices_of({name: size if name.startswith("layer") else size * slots for name, size in layer.items()})


def require_symmetric(places: Sequence[float]) -> None:
    """Raise ``InputError`` for places of slices that a flip changes."""
    if not places or any(abs(one + other) > 1e-6 for one, other in zip(places, reversed(places), strict=True)):
        raise InputError(
            f"The 'places' parameter must be symmetric about 0, or a flipped volume has other slices. Got {list(places)} instead."
        )


@lru_cache(maxsize=4)
def pose_table(count: int) -> torch.Tensor:
    """Which slice, in which quarter-turn pose, comes to each place of a row: int64 [48, 3 * count, 2], for ``count`` slices across each axis.

    Found by trying: the slices of a cube of numbers in each axis pose, among its own slices in each of their 8 poses.
    """
    side = count + 2  # so that one slice too has something to be turned
    numbers = torch.arange(side**3, dtype=torch.float32).view(side, side, side)

    def across(cube: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.movedim(cube, axis, 0)[1:-1] for axis in range(3)])

    own = quarter_turn_poses(across(numbers)[:, None])[:, :, 0]
    table = torch.zeros(len(AXIS_POSES), 3 * count, 2, dtype=torch.long)
    for pose in range(len(AXIS_POSES)):
        wanted = across(axis_pose(numbers, pose))
        for place, turn, number in itertools.product(range(3 * count), range(TURNS), range(3 * count)):
            if torch.equal(own[turn, number], wanted[place]):
                table[pose, place] = torch.tensor([number, turn])
    return table


def turned_cubes(cubes: torch.Tensor, degrees: float) -> torch.Tensor:
    """``cubes`` as they are, then turned by +-``degrees`` about x, y and z: uint8 or float [B, 1, S, S, S] -> float32 [7, B, 1, S, S, S].

    With 0 degrees the cubes alone, [1, B, 1, S, S, S]. What comes from outside is each cube's minimum.
    """
    cubes = cubes.float()
    if degrees == 0:
        return cubes[None]
    lowest = cubes.amin((1, 2, 3, 4), keepdim=True)
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    views = [cubes]
    for axis, sign in itertools.product(range(3), (1, -1)):
        one, other = (place for place in range(3) if place != axis)
        # Sampling counts axes from the last one, z, y, x.
        theta = torch.eye(3, 4)
        theta[2 - one, 2 - one] = theta[2 - other, 2 - other] = torch.cos(angle)
        theta[2 - one, 2 - other], theta[2 - other, 2 - one] = sign * torch.sin(angle), -sign * torch.sin(angle)
        grid = F.affine_grid(theta.to(cubes).expand(len(cubes), 3, 4), list(cubes.shape), align_corners=False)
        views.append(F.grid_sample(cubes - lowest, grid, align_corners=False) + lowest)
    return torch.stack(views)


def halved_cubes(cubes: torch.Tensor) -> torch.Tensor:
    """The cubes of what is left when one half of ``cubes`` is empty: uint8 or float [B, 1, S, S, S] -> float32 [6, B, 1, S, S, S].

    The lower, then the upper half along x, y and z is emptied. What is left has a foreground cube of its own, smaller and elsewhere.
    """
    side = cubes.shape[-1]
    views = []
    for axis, upper in itertools.product(range(3), (False, True)):
        left = cubes.float().clone()
        start = side // 2 if upper else 0
        left.narrow(2 + axis, start, side - side // 2 if upper else side // 2).zero_()
        views.append(cut_cubes(left, side))
    return torch.stack(views)


class VolumeSliceInferer(ViewInferer):
    """Run an encoder of slices on cubes: in all 48 axis poses, or as they are, turned and halved; :class:`PoseInferer` for volumes.

    Of two volumes one is posed and the other turned: together they meet in poses x rotations, for the price of the sum. And a volume of
    which one half is empty meets the half of its source.

    Heads of K slices lie side by side, each of length 1 / sqrt(K), so that a row is of unit length and the product of two rows is the mean of
    their slices' cosines. Layers are averaged over the slices.

    Args:
        outputs: where each output lies in what the network gives; names that begin with ``layer`` are layers, the others heads.
        poses: 48, of what is looked for; 1 for a volume in its own pose, of what is searched.
        degrees: a volume in its own pose is also seen turned by so much to either side about x, y and z; 0 leaves it at one view.
        halves: a volume in its own pose is also seen with each of 6 halves emptied, see :func:`halved_cubes`.
        places: of the slices along each axis, see :func:`cube_slices`; as many on one side of the middle as on the other.
        spatial_size: side of the network's input.
        batch_size: slices the network sees at a time.

    Attributes:
        output_slices: where each output lies in D.
        slots: K, slices side by side in a head.

    Returns of a call (cubes uint8 or float [B, 1, S, S, S], network of float32 [n, 1, size, size] -> [n, C], or a
    :class:`~doppelscan.deepssim.VolumeEncoder`, of which the encoder of slices is run):
        float32 [B, V, D], V 48, or 1, 7 with turned and 6 more with halved views; the first view is the volume as it is.

    Raises:
        InputError: ``poses`` is neither, or ``places`` are not symmetric.
    """

    # How many at a time, and the views that are not used: ``turned`` and ``halved`` are.
    without_effect = ("batch_size", "degrees", "halves")
    known, straight = len(AXIS_POSES), 0.0

    def __init__(
        self,
        outputs: Mapping[str, slice],
        poses: int = 1,
        degrees: float = 15.0,
        halves: bool = True,
        places: Sequence[float] = PLACES,
        spatial_size: int = 128,
        batch_size: int = 72,
    ) -> None:
        super().__init__()
        require_symmetric(places)
        self.outputs, self.places, self.degrees, self.halves = dict(outputs), tuple(places), float(degrees), halves
        self.spatial_size, self.batch_size, self.slots = spatial_size, batch_size, 3 * len(places)
        self.output_slices = row_slices(self.outputs, self.slots)
        self._set_poses(poses)

    @property
    def turns(self) -> float:
        """Degrees."""
        return self.degrees

    def _set_poses(self, poses: int) -> None:
        super()._set_poses(poses)
        self.halved = self.halves and poses == 1

    @property
    def view_weights(self) -> tuple[float, ...]:
        """What the similarity with each view counts, for :meth:`doppelscan.search.VolumeSearch.fit`."""
        if self.poses > 1:
            return (1.0,) * self.poses
        return (1.0,) * (7 if self.turned else 1) + (HALF_WEIGHT,) * (6 if self.halved else 0)

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(inputs) == 0:
            return torch.zeros(0, 1, 1)
        of_slices = getattr(network, "slice_encoder", network)
        return torch.stack([self._views(cube[None], of_slices) for cube in inputs])

    def _views(self, cube: torch.Tensor, network: Callable) -> torch.Tensor:
        """float32 [V, D] of one cube [1, 1, S, S, S]."""
        if self.poses == 1:
            views = turned_cubes(cube, self.turned)
            views = torch.cat([views, halved_cubes(cube)]) if self.halved else views
            slices = cube_slices(views.flatten(0, 1), self.places, self.spatial_size)
            found = self._embedded(slices.flatten(0, 1), network).view(len(slices), self.slots, -1)
        else:
            slices = cube_slices(cube, self.places, self.spatial_size)[0]
            turns = quarter_turn_poses(slices[:, None])  # [8, K, 1, size, size]
            each = self._embedded(turns[:, :, 0].flatten(0, 1), network).view(TURNS, self.slots, -1)
            table = pose_table(len(self.places)).to(each.device)
            found = each[table[..., 1], table[..., 0]]
        return joined_rows(found, row_parts(self.outputs))

    def _embedded(self, slices: torch.Tensor, network: Callable) -> torch.Tensor:
        batches = slices[:, None].contiguous(memory_format=torch.channels_last).split(self.batch_size)
        return torch.cat([network(batch).float() for batch in batches])
