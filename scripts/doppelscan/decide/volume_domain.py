"""Which volumes cannot be compared with the training set: another modality or anatomy, a small part of it, noise; :mod:`domain` in 3D."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doppelscan.decide.domain import MOST, nearest_distances, unlike_limit
from doppelscan.decide.rules import VolumeRules
from doppelscan.images import unit_float
from doppelscan.images.cubes import blur_volumes
from doppelscan.images.foreground import otsu_threshold
from doppelscan.images.volumes import UNKNOWN_SPACING
from doppelscan.memorization import spread_over_patients
from doppelscan.search import EmbeddedVolumes

__all__ = ["anatomy_extents", "other_proportions", "unlike_volumes"]

# What an early layer gives of texture, contrast and coarse shape, the mean of nine slices.
LAYER = "layer2"
# Channels that hardly differ among the training volumes would make any difference large.
LEAST_SPREAD = 0.3
# Rows of 48 poses that are compared at a time.
BLOCK = 16
# Of the tissue along an axis, left out at either end of its box: a few bright voxels are no anatomy.
OUTSIDE = 0.01
# Proportions of voxels that differ by less than this factor are within what registration finds.
ALIKE = 1.1


def unlike_volumes(
    images: EmbeddedVolumes, training: EmbeddedVolumes, rules: VolumeRules, holdout: EmbeddedVolumes | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which volumes hold much less anatomy than any training volume, or much more, or lie further from the training set than its people from each other.

    The distance is that to the nearest three training volumes by an early layer, each channel by its spread among them, of the axis pose that is nearest;
    the scale is the distance of training volumes to those of other people, and of the holdout's. Whitened features would set strangers apart: of 24
    people they know too few directions.

    Args:
        images: what is asked about, in 48 axis poses.
        training: the training set.
        rules: thresholds.
        holdout: other real volumes of the same kind, or None.

    Returns:
        bool [M], and what must be noted.
    """
    apart = _of_other_size(images, training, rules)
    if len(training) < rules.unlike_images or LAYER not in training.outputs:
        why = f"fewer than {rules.unlike_images} training volumes do" if LAYER in training.outputs else "the encoder does"
        note = (
            "Whether synthetic volumes can be compared with the training set (modality, anatomy, preparation, noise) was looked at by the size of the anatomy "
            f"alone: {why} not tell more."
        )
        return apart, (note,)
    known = training.subset(spread_over_patients(training.patients, MOST, 0)) if len(training) > MOST else training
    plain = known.single_pose([LAYER])[LAYER]
    middle, spread = plain.mean(0), plain.std(0)
    spread = np.maximum(spread, max(LEAST_SPREAD * float(np.median(spread)), 1e-6)) * np.sqrt(plain.shape[1])

    def scaled(values: np.ndarray) -> np.ndarray:
        return ((values - middle) / spread).astype(np.float32)

    own = scaled(plain)
    people = np.unique(known.patients, return_inverse=True)[1].reshape(-1)
    limit = unlike_limit(own, people, holdout, lambda one: scaled(one.single_pose([LAYER])[LAYER]), rules)
    far = [_nearest_pose(scaled(images.features(rows, [LAYER])[LAYER]), own) > limit for rows in images.blocks(BLOCK)]
    return apart | np.concatenate(far), ()


def _nearest_pose(posed: np.ndarray, own: np.ndarray) -> np.ndarray:
    """float64 [M], the distance of the nearest of the poses of each volume, ``posed`` float32 [M, P, C]."""
    return nearest_distances(posed.reshape(-1, posed.shape[-1]), own).reshape(posed.shape[:2]).min(1)


def _of_other_size(images: EmbeddedVolumes, training: EmbeddedVolumes, rules: VolumeRules) -> np.ndarray:
    """bool [M]. Voxels of 1 x 1 x 1 mm where no training volume has them are those of a header that nobody set, which tells no size."""
    known = anatomy_extents(training)
    sizes = anatomy_extents(images)
    told = {frame.spacing for frame in training.frames(range(len(training)))}
    sized = np.array([one.spacing != UNKNOWN_SPACING or UNKNOWN_SPACING in told for one in images.frames(range(len(images)))])
    return sized & ((sizes < rules.smallest_extent * known.min()) | (sizes > rules.largest_extent * known.max()))


def anatomy_extents(volumes: EmbeddedVolumes) -> np.ndarray:
    """float64 [M], mm^3 of the box that holds the tissue of each volume: what is brighter than its background, whatever the contrast."""
    found = []
    for row in range(len(volumes)):
        cube, (frame,) = unit_float(volumes.thumbnails([row])), volumes.frames([row])
        smooth = blur_volumes(cube**0.7, 1.5)
        tissue = (smooth > 0.8 * otsu_threshold(smooth).view(-1, 1, 1, 1, 1))[0, 0].double()
        sides = []
        for axis in range(3):
            profile = tissue.sum([other for other in range(3) if other != axis]).cumsum(0)
            share = profile / profile[-1].clamp_min(1)
            sides.append(1 + int(((share >= OUTSIDE) & (share <= 1 - OUTSIDE)).sum()))
        found.append(float(np.prod(sides)) * frame.voxel**3)
    return np.array(found)


def other_proportions(images: EmbeddedVolumes, training: EmbeddedVolumes) -> tuple[str, ...]:
    """What is noted of volumes whose voxels are longer and shorter in other proportions than those of any training volume."""
    own, known = _proportions(images), _proportions(training)
    apart = np.abs(np.log(own[:, None] / known[None])).max(2).min(1) > np.log(ALIKE)
    if not apart.any():
        return ()
    first = images.frames([int(np.flatnonzero(apart)[0])])[0].spacing
    return (
        f"{int(apart.sum())} of {len(images)} synthetic volumes have voxels of other proportions ({_mm(first)}) than any training volume "
        f"({_mm(training.frames([0])[0].spacing)}). If a header is wrong, as where a generator sets none, the anatomy is squeezed: copies with the same voxels are "
        "found all the same, noisy, turned or mixed ones may be missed. Give the right voxel sizes in the headers (of NIfTI the affine) and audit again.",
    )


def _proportions(volumes: EmbeddedVolumes) -> np.ndarray:
    """float64 [M, 3], spacing by the shortest, from the shortest to the longest."""
    spacing = np.sort([frame.spacing for frame in volumes.frames(range(len(volumes)))], axis=1)
    return spacing / spacing[:, :1]


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{one:.3g}" for one in spacing) + " mm"
