"""Pictures of volumes: three orthogonal planes one below the other, and all of a volume as one mosaic, which the page's script cuts."""

from __future__ import annotations

import numpy as np

__all__ = ["TILES", "middle_planes", "mosaic"]

# Slices in a row of a mosaic.
TILES = 8


def planes_at(volume: np.ndarray, places: tuple[int, int, int]) -> np.ndarray:
    """Sagittal, coronal and axial plane of ``volume`` [S, S, S] (x to the right, y to the front, z up) through ``places``: [3 S, S]."""
    x, y, z = places
    return np.concatenate([volume[x, :, ::-1].T, volume[:, y, ::-1].T, volume[:, ::-1, z].T])


def middle_planes(volume: np.ndarray) -> np.ndarray:
    """The three planes through the middle of ``volume`` [S, S, S]: [3 S, S]."""
    middle = len(volume) // 2
    return planes_at(volume, (middle, middle, middle))


def mosaic(volume: np.ndarray) -> np.ndarray:
    """Axial planes of ``volume`` [S, S, S], 8 in a row, from below: [S / 8 * S, 8 S]; pixel (row, column) of a tile is (y, x)."""
    side = len(volume)
    rows = volume.transpose(2, 1, 0).reshape(-1, TILES, side, side)
    return np.ascontiguousarray(rows.transpose(0, 2, 1, 3).reshape(-1, TILES * side))
