"""The preprocessing of volumes that are compared whole, as MONAI dictionary transforms: :mod:`transforms` in 3D.

``LoadVolumed`` -> ``Windowd`` -> ``ForegroundCubed``; the encoder of slices z-scores each slice that it cuts.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from doppelscan.images.cubes import CUBE, CUBES, cut_cube
from doppelscan.images.volumes import LARGEST, read_compared

__all__ = ["ForegroundCubed", "LoadVolumed"]


class LoadVolumed(MapTransform):
    """Read a volume whole: float32 [1, X, Y, Z] in RAS+; its geometry goes to ``volume_geometry``, the spacing of its voxels in mm to ``volume_spacing``:
    voxels of a size that the file does not say are taken for cubes of 1 mm.

    Each key holds a path or a list of paths (a DICOM series); the key ``channel`` of the item, when there, chooses one volume of a 4D file.

    Args:
        keys: of the item.
        largest: voxels along an axis, at most, see :func:`~doppelscan.images.read_volume`: twice a cube's side by default, whatever the size of the file.
        allow_missing_keys: see MONAI's ``MapTransform``.

    Raises:
        ImageError: see :func:`~doppelscan.images.read_compared`.
    """

    def __init__(self, keys: KeysCollection, largest: int | None = LARGEST, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.largest = largest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            source = item[key]
            paths = list(source) if isinstance(source, (list, tuple)) else [source]
            volume = read_compared([str(path) for path in paths], item.get("channel"), self.largest)
            item[key] = volume.pixels[None]
            item["volume_geometry"] = volume.geometry
            item["volume_spacing"] = volume.spacing
        return item


class ForegroundCubed(MapTransform):
    """Cut the cube that holds the anatomy and resample it to isotropic voxels: float32 [1, S, S, S] in [0, 1].

    The cube as 8 bit, uint8 [1, S, S, S], goes to ``thumbnail_key``, its frame to ``cube_frame``, the volume's voxels to ``native_shape``. See
    :func:`doppelscan.images.cut_cube`.

    Args:
        keys: of the item, each a volume [1, X, Y, Z] in [0, 1] that :class:`LoadVolumed` read.
        spatial_size: S.
        thumbnail_key: of the cube.
        allow_missing_keys: see MONAI's ``MapTransform``.
    """

    def __init__(
        self, keys: KeysCollection, spatial_size: int = CUBE, thumbnail_key: str = "thumbnail", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size, self.thumbnail_key, self.cubes = spatial_size, thumbnail_key, CUBES

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            pixels = np.asarray(item[key])[0]
            cube, frame = cut_cube(pixels, item["volume_spacing"], self.spatial_size)
            stored = np.round(np.clip(cube, 0, 1) * 255).astype(np.uint8)[None]
            # What is embedded is what is kept: stored cubes are looked at again, for the views that whitening mutes.
            item[key] = stored.astype(np.float32) / 255
            item[self.thumbnail_key], item["cube_frame"] = stored, frame
            item["native_shape"] = np.array(pixels.shape, np.int32)
        return item
