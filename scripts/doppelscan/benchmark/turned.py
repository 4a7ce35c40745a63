"""How near an image lies to training images once it may be mirrored, turned, zoomed and moved: by brute force over poses, at few pixels.

It only ever takes the word ``novel`` from a sample. Every pose is tried on every training image, so that no search of ours decides what is looked at.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.progress import progress

__all__ = ["ROTATIONS", "SCALES", "SIDE", "turned_correlations"]

# Pixels of a side: 0.05 s an image and hundred training images.
SIDE = 32
ROTATIONS = tuple(range(-20, 21, 5))
SCALES = (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25)
# Pixels of SIDE, to either side: 9 % of it.
REACH = 3


def turned_correlations(banded: np.ndarray, training: np.ndarray, words: str = "images") -> np.ndarray:
    """Highest correlation of each image, in any pose, with each training image.

    Args:
        banded: float [M, S, S], band-passed so that ``SIDE`` pixels hold it.
        training: float [N, S, S], likewise.
        words: what is looked at, for the progress.

    Returns:
        float32 [M, N], over 8 flips and quarter turns, ``ROTATIONS``, ``SCALES`` and shifts to 9 % of the side.
    """
    own = _unit(_little(torch.as_tensor(training, dtype=torch.float32)))
    shifted = F.pad(own.unflatten(1, (SIDE, SIDE)), (REACH,) * 4).flatten(1)
    place = torch.arange((SIDE + 2 * REACH) ** 2).view(SIDE + 2 * REACH, -1)
    steps = [(y, x) for y in range(0, 2 * REACH + 1) for x in range(0, 2 * REACH + 1) if math.hypot(y - REACH, x - REACH) <= REACH]
    moved = torch.stack([shifted[:, place[y : y + SIDE, x : x + SIDE].reshape(-1)] for y, x in steps], 1)
    moved = _unit(moved.flatten(0, 1)).T.contiguous()
    found = []
    for image in progress(torch.as_tensor(banded, dtype=torch.float32), f"turn {words}", "image"):
        views = _views(image)
        best = torch.cat([(part @ moved).amax(0, keepdim=True) for part in views.split(128)]).amax(0)
        found.append(best.view(len(own), -1).amax(1))
    return torch.stack(found).numpy()


def _views(image: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, one a pose: float32 [poses, SIDE * SIDE]."""
    thetas = []
    for rotation in ROTATIONS:
        for scale in SCALES:
            c, s = math.cos(math.radians(rotation)) / scale, math.sin(math.radians(rotation)) / scale
            thetas.append([[c, -s, 0.0], [s, c, 0.0]])
    # Twice as fine as SIDE and averaged: a view that shrinks is not aliased.
    grid = F.affine_grid(torch.tensor(thetas), [len(thetas), 1, 2 * SIDE, 2 * SIDE], align_corners=False)
    views = F.grid_sample(image[None, None].expand(len(thetas), -1, -1, -1), grid, align_corners=False)
    views = F.avg_pool2d(views, 2)
    turned = [torch.rot90(one, turns, (2, 3)) for one in (views, views.flip(3)) for turns in range(4)]
    return _unit(torch.cat(turned).flatten(1))


def _little(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(images[:, None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False).flatten(1)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
