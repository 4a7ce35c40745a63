"""Embeddings of volumes in views: of what is looked for in all 48 axis poses, of what is searched as it is and turned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim.augment import zscore
from doppelscan.deepssim.inferer import ViewInferer
from doppelscan.deepssim.nuisance import differences_of_views
from doppelscan.deepssim.volume_views import VolumeStrength, augment_volumes, axis_views, cube_views, turns
from doppelscan.images import AXIS_POSES, unit_float

__all__ = ["VolumePoseInferer", "turned_volumes", "volume_features", "volume_view_differences"]


def turned_volumes(volumes: torch.Tensor, degrees: float) -> torch.Tensor:
    """``volumes`` as they are, then turned by +-``degrees`` about x, y and z: float [B, C, S, S, S] -> [7, B, C, S, S, S].

    With 0 degrees the volumes alone, [1, B, C, S, S, S]. What comes from outside is each volume's minimum.
    """
    if degrees == 0:
        return volumes[None]
    axes = torch.eye(3).repeat_interleave(2, 0)
    angles = torch.deg2rad(torch.tensor([degrees, -degrees])).repeat(3)
    # Sampling counts axes from the last one, z, y, x.
    theta = F.pad(turns(axes, angles), (0, 1)).to(volumes)
    lowest = volumes.amin((1, 2, 3, 4), keepdim=True)
    views = [volumes]
    for one in theta:
        grid = F.affine_grid(one.expand(len(volumes), 3, 4), list(volumes.shape), align_corners=False)
        views.append(F.grid_sample(volumes - lowest, grid, align_corners=False) + lowest)
    return torch.stack(views)


class VolumePoseInferer(ViewInferer):
    """Run the network on views of cubes: their 48 axis poses, or the cubes as they are and turned; :class:`PoseInferer` in 3D.

    Of two volumes one is posed and the other turned: together they meet in poses x rotations, for the price of the sum.

    Args:
        poses: 48, of what is looked for; 1 for a volume in its own pose, of what is searched.
        degrees: a volume in its own pose is also seen turned by so much to either side about x, y and z; 0 leaves it at one view.
        batch_size: cubes the network sees at a time.

    Returns of a call (cubes float32 [B, 1, S, S, S], network):
        float32 [B, V, D]; the first view is the volume as it is.

    Raises:
        InputError: ``poses`` is neither.
    """

    # How many at a time, and the rotation that is not used: ``turned`` is.
    without_effect = ("batch_size", "degrees")
    known, straight = len(AXIS_POSES), 0.0

    def __init__(self, poses: int = 1, degrees: float = 15.0, batch_size: int = 48) -> None:
        super().__init__()
        self.degrees, self.batch_size = float(degrees), batch_size
        self._set_poses(poses)

    @property
    def turns(self) -> float:
        """Degrees."""
        return self.degrees

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(inputs) == 0:
            return torch.zeros(0, 1, 1)
        views = axis_views(inputs) if self.poses > 1 else turned_volumes(inputs, self.turned)
        return self._of_views(views, network, self.batch_size, torch.channels_last_3d)


@torch.no_grad()
def volume_features(
    network: Callable, volumes: torch.Tensor, outputs: Mapping[str, slice], inferer: VolumePoseInferer, spatial_size: int = 32
) -> dict[str, np.ndarray]:
    """Output name -> float32 [n, V, C] of ``volumes`` uint8 or float [n, 1, S, S, S], as :class:`~doppelscan.search.EmbeddedSet` keeps them.

    Args:
        network: z-scored float32 [B, 1, spatial_size, spatial_size, spatial_size] -> [B, D].
        volumes: cubes around the anatomy, see :class:`CubeThumbnaild`.
        outputs: where each output lies in D.
        inferer: which views.
        spatial_size: side of the network's input.
    """
    # One at a time: the views of many would not fit the cache of a small machine, nor its memory where there are 48 of them.
    found = torch.cat([inferer(small_cubes(one, spatial_size), network) for one in volumes.split(1)])
    return {name: found[..., part].numpy() for name, part in outputs.items()}


def small_cubes(volumes: torch.Tensor, size: int) -> torch.Tensor:
    """Cubes uint8 or float [B, 1, S, S, S] at the size of the network's input, z-scored."""
    return zscore(F.interpolate(unit_float(volumes), (size, size, size), mode="area"))


@torch.no_grad()
def volume_view_differences(
    embed: Callable[[torch.Tensor], torch.Tensor],
    volumes: torch.Tensor,
    spatial_size: int = 32,
    views: int = 6,
    seed: int = 0,
    batch_size: int = 16,
) -> torch.Tensor:
    """Embeddings of augmented views less that of the volume as it is: :func:`~doppelscan.deepssim.view_differences` in 3D.

    Args:
        embed: z-scored float32 [B, 1, spatial_size, spatial_size, spatial_size] -> [B, D].
        volumes: uint8 or float in [0, 1] [N, 1, S, S, S], cubes around the anatomy.
        spatial_size: side of the network's input.
        views: of each volume; turned, scaled, shifted, cropped, with other contrast, field, sharpness and noise (:class:`VolumeStrength`).
        seed: the same seed draws the same views.
        batch_size: volumes at a time.

    Returns:
        float32 [N * views, D].
    """
    strength, generator = VolumeStrength(half=0.0), torch.Generator().manual_seed(seed)
    return differences_of_views(
        lambda part: embed(cube_views(part, spatial_size)),
        lambda part: augment_volumes(part, strength, generator),
        volumes.split(batch_size),
        views,
    )
