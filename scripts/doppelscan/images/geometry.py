"""Where the voxels of a volume lie in millimetres, from what its header says: affine, spacing, orientation, slices by position.

World axes are RAS+ (nibabel's); DICOM, NRRD and MetaImage say LPS, so that their first two axes change sign. What a header does not say
is unknown here and never guessed; what cannot be a volume is refused in words that hold numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from doppelscan.errors import ImageError

__all__ = ["LPS_TO_RAS", "SlicePlan", "VolumeGeometry", "geometry_of", "plan_slices", "unknown_geometry"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Of skew and gantry tilt, degrees: what is less is rounding and hand-set angles, and moves the far end of 200 mm by at most 3.5 mm.
LARGEST_SHEAR = 1.0
# Below this, an affine is as orthogonal as the float32 of a NIfTI header lets it be.
ROUNDING_SHEAR = 0.01
# mm: from micro-CT to scouts; what lies beyond is a wrong unit.
SMALLEST_SPACING, LARGEST_SPACING = 1e-4, 200.0
FURTHEST = 1e5
SMALLEST_PLANE = 8
# A stack of slices, see VolumeGeometry.stack_axis.
THICK, THICK_RATIO, ANY_THICK_RATIO = 3.0, 2.0, 4.0
# Of steps between slices: what differs less is an even stack.
EVEN = 0.05
WIDEST_GAP, MOST_MISSING = 3, 0.1


@dataclass(frozen=True)
class VolumeGeometry:
    """Where a volume's voxels lie, after the array was turned to the closest canonical orientation (RAS+).

    Attributes:
        affine: float64 [4, 4], voxel indices -> mm, RAS+; its axes are orthogonal. NaN where ``known`` is False.
        spacing: mm between voxel centres along x, y, z of the array; NaN where ``known`` is False.
        shape: (x, y, z) of the array.
        oblique: largest angle between an axis of the array and the closest world axis, degrees, 0 to about 55; NaN where ``orientation`` is
            None.
        orientation: towards what the axes ran as stored, such as ``LPS``; None where the header does not say. The array is then turned
            by the format's default, or stays as stored.
        known: whether the file says how large its voxels are. NPY and TIFF never do.
        told: what was mended on reading, in words that name no path.
    """

    affine: np.ndarray = field(compare=False, repr=False)
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    oblique: float
    orientation: str | None
    known: bool
    told: tuple[str, ...] = ()

    @property
    def stack_axis(self) -> int | None:
        """Axis along which the volume is a stack of thick slices, else None.

        That is the axis of the largest spacing, where it is at least 3 mm and twice the next (1 x 1 x 3 mm, and the 8 to 10 mm of the heart),
        or more than 4 times the next (a mouse at 0.1 x 0.1 x 0.5 mm): interpolation through it makes anatomy up. A CT of 0.7 x 0.7 x 2.5 mm
        is none.
        """
        if not self.known:
            return None
        largest = int(np.argmax(self.spacing))
        ratio = self.spacing[largest] / sorted(self.spacing)[1]
        thick = ratio > ANY_THICK_RATIO or (self.spacing[largest] >= THICK - 1e-3 and ratio >= THICK_RATIO - 1e-3)
        return largest if thick else None

    @property
    def kind(self) -> str:
        """``volume``, ``stack`` (see :attr:`stack_axis`) or ``unknown geometry``."""
        if not self.known:
            return "unknown geometry"
        return "volume" if self.stack_axis is None else "stack"

    @property
    def extent(self) -> tuple[float, float, float]:
        """mm from the first to the last face of the array along x, y, z; NaN where ``known`` is False."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing, strict=True))
        return x, y, z

    def resized(self, shape: Sequence[int]) -> VolumeGeometry:
        """The geometry of the same box in ``shape`` voxels."""
        factors = np.array(self.shape) / np.array(shape)
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ ((factors - 1) / 2) + self.affine[:3, 3]
        affine[:3, :3] = self.affine[:3, :3] * factors
        x, y, z = (s * f for s, f in zip(self.spacing, factors.tolist(), strict=True))
        return VolumeGeometry(
            affine, (x, y, z), (int(shape[0]), int(shape[1]), int(shape[2])), self.oblique, self.orientation, self.known, self.told
        )


def _words(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.4g}" for v in values)


def check_sides(shape: Sequence[int]) -> None:
    """Raises ``ImageError`` where a volume of ``shape`` is one slice, or too small to hold a picture in any plane."""
    if min(shape) < 2:
        raise ImageError(f"one slice only: a shape of {_words(shape)} is no volume")
    if sorted(shape)[1] < SMALLEST_PLANE:
        raise ImageError(f"{_words(shape)} voxels; at least {SMALLEST_PLANE} along two axes are needed")


def check_spacing(spacing: Sequence[float]) -> None:
    """Raises ``ImageError`` where a voxel size in mm, in the order of the file, is no size."""
    if not all(math.isfinite(s) for s in spacing):
        raise ImageError(f"a voxel size that is no number: {_words(spacing)} mm")
    if min(spacing) <= 0:
        raise ImageError(f"a voxel size that is not above 0: {_words(spacing)} mm")
    if min(spacing) < SMALLEST_SPACING or max(spacing) > LARGEST_SPACING:
        raise ImageError(
            f"a voxel size of {_words(spacing)} mm, beyond {SMALLEST_SPACING:g} to {LARGEST_SPACING:g}; is the unit in the header right?"
        )


def _shear(axes: np.ndarray) -> float:
    """Degrees by which two of the unit columns of ``axes`` [3, 3] miss the right angle, at most."""
    cosines = (axes.T @ axes)[[0, 0, 1], [1, 2, 2]]
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1))))


def geometry_of(affine: np.ndarray, shape: Sequence[int], oriented: bool = True, told: Sequence[str] = ()) -> VolumeGeometry:
    """Geometry of a stored array after it was turned by ``nib.io_orientation(affine)``.

    Args:
        affine: float [4, 4], stored voxel indices -> mm, RAS+.
        shape: of the stored array, three axes.
        oriented: False where the directions in ``affine`` are the format's default and not said by the file.
        told: what was mended before.

    Raises:
        ImageError: the voxel size is zero, no number or absurd; one slice only; axes sheared by more than 1 degree. Less is made orthogonal
            about the centre (polar decomposition, the nearest orthogonal axes) and told where it is more than rounding.
    """
    affine = np.array(affine, np.float64)
    told = list(told)
    check_spacing(spacing := np.linalg.norm(affine[:3, :3], axis=0).tolist())
    check_sides(shape)
    if not np.abs(affine).max() <= FURTHEST:
        raise ImageError(f"a position that is no number, or beyond {FURTHEST:g} mm")
    axes = affine[:3, :3] / spacing
    shear = _shear(axes)
    if shear > LARGEST_SHEAR:
        raise ImageError(
            f"a sheared affine: its axes miss the right angle by {shear:.1f} degrees, at most {LARGEST_SHEAR:g} is read"
        )
    turn = nib.io_orientation(affine)  # before it is mended: the array is turned by what the header says
    if shear > ROUNDING_SHEAR:
        told.append(f"sheared by {shear:.2f} degrees, made orthogonal")
    if shear > 0:
        left, _, right = np.linalg.svd(axes)
        upright = left @ right * spacing
        affine[:3, 3] += (affine[:3, :3] - upright) @ ((np.array(shape[:3]) - 1) / 2)
        affine[:3, :3] = upright
    canonical = affine @ nib.orientations.inv_ornt_aff(turn, tuple(shape[:3]))
    x, y, z = (int(shape[a]) for a in np.argsort(turn[:, 0]))
    lengths = np.linalg.norm(canonical[:3, :3], axis=0)
    oblique = float(np.degrees(np.arccos(np.clip(np.abs(np.diag(canonical[:3, :3])) / lengths, 0, 1))).max())
    return VolumeGeometry(
        canonical,
        (float(lengths[0]), float(lengths[1]), float(lengths[2])),
        (x, y, z),
        (oblique if oblique > ROUNDING_SHEAR else 0.0) if oriented else math.nan,
        "".join(nib.aff2axcodes(affine)) if oriented else None,
        True,
        tuple(told),
    )


def unknown_geometry(shape: Sequence[int], told: Sequence[str] = ()) -> VolumeGeometry:
    """Geometry of an array [x, y, z] of a file that does not say how large its voxels are.

    Raises:
        ImageError: one slice only.
    """
    check_sides(shape)
    x, y, z = (int(n) for n in shape)
    nothing = np.full((4, 4), math.nan)
    nothing[3] = 0, 0, 0, 1
    return VolumeGeometry(nothing, (math.nan,) * 3, (x, y, z), math.nan, None, False, tuple(told))


@dataclass(frozen=True)
class SlicePlan:
    """How the slices of a DICOM series, or the frames of one file, make volumes.

    Attributes:
        order: for each volume (one, or those of a time series) its slices from the first to the last.
        turn: nibabel's orientation [3, 2] of (columns, rows, slices); None where the files do not say how they lie.
        lower: of each plane of the volume, the slice of ``order`` below it.
        share: of each plane, 0 to 1, how much of it comes from the next slice; all 0 where the slices are even.
        geometry: of the volume.
    """

    order: tuple[tuple[int, ...], ...]
    turn: np.ndarray | None = field(compare=False)
    lower: tuple[int, ...]
    share: tuple[float, ...]
    geometry: VolumeGeometry


def _clusters(places: np.ndarray) -> list[list[int]]:
    """Slices at one place along the normal, mm, from the lowest place to the highest."""
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    near = min(0.01, 0.1 * float(places.max() - places.min()) / max(len(places) - 1, 1))
    return [part.tolist() for part in np.split(order, np.flatnonzero(steps > near) + 1)]


def _even(places: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Places of the planes of a volume of even steps, mm, of the rising places of its slices.

    Raises:
        ImageError: a gap of more than two slices, or more than a tenth of the slices missing: what would fill it was never seen.
    """
    steps = np.diff(places)
    step = float(np.median(steps))
    if np.all(np.abs(steps - step) <= EVEN * step):
        return np.linspace(places[0], places[-1], len(places)), []
    widest = float(steps.max())
    whole = np.rint(steps / step)
    missing = int(np.maximum(whole - 1, 0).sum())
    if np.all((whole >= 1) & (np.abs(steps - whole * step) <= 0.1 * step)):
        words = (
            f"{missing} of {len(places) + missing} slices are missing: the widest gap is {widest:.4g} mm at a step of {step:.4g} mm"
        )
    else:
        words = f"uneven gaps between the slices, {steps.min():.4g} to {widest:.4g} mm at a middle step of {step:.4g} mm"
    if widest > (WIDEST_GAP + 0.1) * step or missing > max(1, MOST_MISSING * len(places)):
        raise ImageError(words)
    planes = round((places[-1] - places[0]) / step) + 1
    return np.linspace(places[0], places[-1], planes), [f"{words}; interpolated linearly"]


def plan_slices(
    plane: tuple[int, int],
    orientations: Sequence[Sequence[float] | None],
    origins: Sequence[Sequence[float] | None],
    spacings: Sequence[Sequence[float] | None],
    instances: Sequence[float],
) -> SlicePlan:
    """Order, grid and geometry of slices by their positions (DICOM PS3.3, C.7.6.2); SliceThickness plays no part.

    Args:
        plane: rows and columns of every slice.
        orientations: ImageOrientationPatient of each slice, 6 cosines, or None.
        origins: ImagePositionPatient of each slice, mm, LPS, or None.
        spacings: PixelSpacing of each slice, mm between rows and between columns, or None.
        instances: InstanceNumber of each slice: their order where they have no position, and of a time series at one position.

    Returns:
        the plan. Where several slices lie at every position, it is a time series of as many volumes.

    Raises:
        ImageError: one slice only; slices that are tilted against each other or shifted along their plane (gantry tilt) by more than 1
            degree; a gap that cannot be filled; positions that some slices share and others do not; PixelSpacing that is no size.
    """
    rows, columns = plane
    count = len(origins)
    placed = [o for o in origins if o is not None]
    turned = [o for o in orientations if o is not None]
    if len(placed) < count or len(turned) < count:
        by_number = tuple(np.argsort(instances, kind="stable").tolist())
        unplaced = () if not placed else (f"{count - len(placed)} of {count} slices have no position; ordered by number",)
        return SlicePlan(
            (by_number,), None, tuple(range(count)), (0.0,) * count, unknown_geometry((columns, rows, count), unplaced)
        )
    cosines, points = np.array(turned, np.float64), np.array(placed, np.float64)
    if np.abs(points).max() > FURTHEST:
        raise ImageError(f"a slice at a position beyond {FURTHEST:g} mm")
    normals = np.cross(cosines[:, :3], cosines[:, 3:])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cosines /= np.repeat(np.linalg.norm(cosines.reshape(-1, 2, 3), axis=2), 3, axis=1)
    # Of unit vectors, by the chord: arccos loses small angles.
    apart = max(np.linalg.norm(v - v[0], axis=1).max() for v in (normals, cosines[:, :3]))
    if math.degrees(apart) > LARGEST_SHEAR:
        raise ImageError(f"slices tilted against each other by up to {math.degrees(apart):.1f} degrees are no volume")
    normal = normals[0]
    clusters = _clusters(points @ normal)
    repeats = {len(c) for c in clusters}
    if len(clusters) < 2:
        raise ImageError(f"one slice only: {count} slices at one position" if count > 1 else "one slice only")
    if len(repeats) > 1:
        shared = sum(len(c) > 1 for c in clusters)
        raise ImageError(
            f"{shared} of {len(clusters)} positions hold more than one slice: neither one volume nor a whole time series"
        )
    times = repeats.pop()
    clusters = [sorted(c, key=lambda i: instances[i]) for c in clusters]
    order = [tuple(c[time] for c in clusters) for time in range(times)]
    centres = np.array([points[c].mean(0) for c in clusters])
    _check_line(centres, normal)
    places = centres @ normal
    grid, told = _even(places)
    lower = np.clip(np.searchsorted(places, grid, side="right") - 1, 0, len(places) - 2)
    share = np.clip((grid - places[lower]) / (places[lower + 1] - places[lower]), 0, 1)
    if len(grid) == len(places) and not told:  # jitter within the tolerance is no reason to blur
        lower, share = np.arange(len(places)), np.zeros(len(places))
    if times > 1:
        told.append(f"a series of {times} volumes at the same positions")
    stored = (columns, rows, len(grid))
    known = [s for s in spacings if s is not None]
    affine = np.eye(4)
    through = normal * (grid[1] - grid[0])
    across, down = cosines[0, :3], cosines[0, 3:]
    between_rows, between_columns = known[0] if known else (1.0, 1.0)
    affine[:3] = np.stack([across * between_columns, down * between_rows, through, centres[0]], 1)
    affine = LPS_TO_RAS @ affine
    if len(known) < count:
        turn = nib.io_orientation(affine)
        x, y, z = (stored[a] for a in np.argsort(turn[:, 0]))
        geometry = unknown_geometry((x, y, z), (*told, "no PixelSpacing"))
    else:
        check_spacing((between_columns, between_rows, float(grid[1] - grid[0])))
        if not np.allclose(known, known[0], rtol=0.01, atol=0):
            raise ImageError("the slices of the series differ in PixelSpacing")
        turn = nib.io_orientation(affine)
        geometry = geometry_of(affine, stored, told=told)
    return SlicePlan(tuple(order), turn, tuple(lower.tolist()), tuple(share.tolist()), geometry)


def _check_line(centres: np.ndarray, normal: np.ndarray) -> None:
    """Raises ``ImageError`` where slices at ``centres`` [N, 3] do not lie above each other along ``normal``."""
    through = centres[-1] - centres[0]
    heights = (centres - centres[0]) @ normal
    tilt = math.degrees(math.atan2(float(np.linalg.norm(through - (through @ normal) * normal)), float(through @ normal)))
    if tilt > LARGEST_SHEAR:
        raise ImageError(
            f"gantry tilt: the slices are shifted along their plane by {tilt:.1f} degrees, so that the volume is sheared; "
            f"at most {LARGEST_SHEAR:g} is read"
        )
    off = np.linalg.norm(centres - centres[0] - heights[:, None] / heights[-1] * through, axis=1).max()
    if off > max(math.tan(math.radians(LARGEST_SHEAR)) * heights[-1], 1.0):
        raise ImageError(f"the slices do not lie above each other: they are off their line by up to {off:.1f} mm")
