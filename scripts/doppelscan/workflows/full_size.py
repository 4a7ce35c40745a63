"""Pairs of an audit at the resolution of their files, read again for the page: what was compared is 128 pixels, or 64 voxels, a side."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from monai.transforms import Compose

from doppelscan.decide import ScoredImage, ScoredSet
from doppelscan.errors import reason_of_image
from doppelscan.images import ImageRecord, SkippedImage, SquareThumbnaild, prepared, read_volume, whole_squares
from doppelscan.images.transforms import window
from doppelscan.search import EmbeddedSet, EmbeddedVolumes
from doppelscan.verify import FullSizePair, SeenVolume, VolumePose, laid_planes, laid_square

__all__ = ["full_size_images", "full_size_volumes"]

# Pixels a side of a picture, at most. Of a volume its file is read to 256 voxels along an axis, 64 MB.
LARGEST, LARGEST_VOLUME = 512, 256


def full_size_images(scored: ScoredSet, training: EmbeddedSet, transform: Callable) -> Callable[[ScoredImage], FullSizePair | None]:
    """What gives the pair of a scored image at the resolution of its files, or None where they hold no more than was compared, or are gone.

    Args:
        scored: the set.
        training: what it was scored against.
        transform: the preprocessing, whose steps before the thumbnail are done again.
    """
    steps = list(getattr(transform, "transforms", [transform]))
    places = [place for place, one in enumerate(steps) if isinstance(one, SquareThumbnaild)]
    small = steps[places[0]].spatial_size if places else LARGEST
    # One for each set: slices of a volume that come one after the other are read once.
    read = [Compose(deepcopy(steps[: places[0]])) for _ in range(2)] if places else None

    def pair(one: ScoredImage) -> FullSizePair | None:
        shapes = scored.images.native_shapes([one.row])[0], training.native_shapes([one.match])[0]
        size = min(LARGEST, int(max(shape.max() for shape in shapes)))
        if read is None or size <= small:
            return None
        squares = []
        for record, step in zip((scored.images.records[one.row], training.records[one.match]), read, strict=True):
            made = prepared(record, step)
            if isinstance(made, SkippedImage):
                return None
            square = whole_squares(torch.from_numpy(np.asarray(made["image"], np.float32))[None], size)[0, 0]
            squares.append(np.round(square.clamp(0, 1).numpy() * 255).astype(np.uint8))
        return FullSizePair(squares[0], laid_square(squares[1], one.pose), squares[1])

    return pair


def full_size_volumes(scored: ScoredSet, training: EmbeddedSet, size: int) -> Callable[[ScoredImage], FullSizePair | None]:
    """:func:`full_size_images` of volumes that were compared by cubes of ``size`` voxels a side."""
    images = scored.images
    assert isinstance(images, EmbeddedVolumes) and isinstance(training, EmbeddedVolumes)

    def pair(one: ScoredImage) -> FullSizePair | None:
        assert isinstance(one.pose, VolumePose)
        image, match = _seen(images, one.row), _seen(training, one.match)
        if image is None or match is None or max(image.side, match.side) <= size:
            return None
        return laid_planes(image, match, one.pose, min(LARGEST, max(image.side, match.side)))

    return pair


def _seen(volumes: EmbeddedVolumes, row: int) -> SeenVolume | None:
    record: ImageRecord = volumes.records[row]
    try:
        volume = read_volume(record, largest=LARGEST_VOLUME)
    except Exception as error:
        if reason_of_image(error) is None:
            raise
        return None
    (frame,) = volumes.frames([row])
    # Of a file that does not say how large its voxels are the frame does.
    x, y, z = (side * step / count for side, step, count in zip(frame.shape, frame.spacing, volume.pixels.shape, strict=True))
    return SeenVolume(window(volume.pixels), (x, y, z), frame)
