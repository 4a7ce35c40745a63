"""Planted copies of volumes: what a memorizing generator could make of a training volume, with the truth known; :mod:`copies` in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from doppelscan.errors import InputError
from doppelscan.images.cubes import AXIS_POSES, axis_pose, axis_pose_matrix, resample_blocks

__all__ = ["VOLUME_BENDINGS", "VOLUME_REGIONS", "VOLUME_TRANSFORMS", "VOLUME_VISITS", "PlantedVolume", "plant_volume"]

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class PlantedVolume:
    """A changed volume and how it was changed.

    Attributes:
        pixels: float32 [X, Y, Z] in [0, 1].
        spacing: of its voxels in mm.
        matrix: float64 [4, 4]: a place of the source, in mm from its centre along its axes, lies at ``matrix`` times it in the planted volume,
            in mm from that one's centre.
        words: the change, for example ``rotation 10 x``.
        bent: the source was bent as well, so that the matrix holds on the whole only.
        share: of the field of view that the source fills: 1, or 0.5 of a half, or what a region is of it.
    """

    pixels: np.ndarray
    spacing: Spacing
    matrix: np.ndarray
    words: str
    bent: bool = False
    share: float = 1.0


Partner = tuple[np.ndarray, Spacing]
Transform = Callable[[np.ndarray, Spacing, np.random.Generator, "Partner | None"], PlantedVolume]


def _same(pixels: np.ndarray, spacing: Spacing, words: str, **more) -> PlantedVolume:
    return PlantedVolume(pixels, spacing, np.eye(4), words, **more)


def _matrix(linear: np.ndarray, shift: Sequence[float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, shift
    return matrix


def _moved(volume: np.ndarray, spacing: Spacing, matrix: np.ndarray, words: str) -> PlantedVolume:
    """Through ``matrix`` (mm, from the centre), on the same grid; outside is 0."""
    step, centre = np.array(spacing), (np.array(volume.shape) - 1) / 2
    back = np.linalg.inv(matrix)
    # ndimage asks where in the input, as an index, each index of the output comes from.
    linear = back[:3, :3] * step / step[:, None]
    offset = centre - linear @ centre + back[:3, 3] / step
    return PlantedVolume(ndimage.affine_transform(volume, linear, offset, order=1), spacing, matrix, words)


def _posed(number: int, words: str) -> Transform:
    def made(volume, spacing, rng, partner):
        axes = AXIS_POSES[number][0]
        pixels = axis_pose(torch.from_numpy(np.ascontiguousarray(volume)), number).numpy()
        return PlantedVolume(pixels, tuple(spacing[axis] for axis in axes), _matrix(axis_pose_matrix(number)), words)

    return made


def _rotated(degrees: float, axis: int, words: str) -> Transform:
    vector = np.eye(3)[axis] * degrees
    linear = Rotation.from_rotvec(vector, degrees=True).as_matrix()
    return lambda volume, spacing, rng, partner: _moved(volume, spacing, _matrix(linear), words)


def _shifted(axis: int, words: str, share: float = 0.1) -> Transform:
    def made(volume, spacing, rng, partner):
        reach = np.zeros(3)
        reach[axis] = share * volume.shape[axis] * spacing[axis]
        return _moved(volume, spacing, _matrix(np.eye(3), reach), words)

    return made


def _cropped(volume, spacing, rng, partner):
    cut = [round(0.075 * side) for side in volume.shape]
    return _same(volume[tuple(slice(one, side - one) for one, side in zip(cut, volume.shape, strict=True))], spacing, "crop 15 %")


def _zoomed(volume, spacing, rng, partner):
    factor = math.exp(rng.uniform(math.log(0.85), math.log(1.2)))
    return _moved(volume, spacing, _matrix(np.eye(3) * factor), f"zoom {factor:.3f}")


def _on_grid(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """All of ``volume`` on a grid of ``shape``."""
    whole = torch.tensor([[0.0] * 3 + list(volume.shape)])
    batch = torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None, None]
    return resample_blocks(batch, whole, shape)[0, 0].numpy()


def _resampled(millimetres: float, back: bool, words: str) -> Transform:
    def made(volume, spacing, rng, partner):
        shape = [max(4, round(side * step / millimetres)) for side, step in zip(volume.shape, spacing, strict=True)]
        small = _on_grid(volume, shape)
        if back:
            return _same(_on_grid(small, volume.shape), spacing, words)
        coarse = tuple(side * step / new for side, step, new in zip(volume.shape, spacing, shape, strict=True))
        return _same(small, coarse, words)

    return made


def _smooth_noise(shape: tuple[int, ...], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Zero mean, unit variance, smooth over ``sigma`` voxels; drawn coarsely where it is smoother than the grid."""
    step = max(1, int(sigma // 3))
    small = [math.ceil(side / step) + 2 for side in shape]
    coarse = ndimage.gaussian_filter(rng.standard_normal(small), sigma / step)
    field = (ndimage.zoom(coarse, step, order=1) if step > 1 else coarse)[tuple(slice(side) for side in shape)]
    return (field - field.mean()) / field.std()


def _noised(volume, spacing, rng, partner):
    return _same(volume + 0.03 * rng.standard_normal(volume.shape), spacing, "noise")


def _biased(volume, spacing, rng, partner):
    field = volume * np.exp(0.3 * _smooth_noise(volume.shape, max(volume.shape) / 4, rng))
    return _same(field / max(1.0, float(field.max())), spacing, "bias field")


def _displaced(volume: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Bent by a smooth field, ``share`` of the longest side along each axis (standard deviation)."""
    sigma, size = max(volume.shape) / 12, max(volume.shape) * share
    places = np.meshgrid(*map(np.arange, volume.shape), indexing="ij")
    moved = [place + size * _smooth_noise(volume.shape, sigma, rng) for place in places]
    return ndimage.map_coordinates(volume, moved, order=1)


def _bent(share: float, words: str) -> Transform:
    return lambda volume, spacing, rng, partner: _same(_displaced(volume, share, rng), spacing, words, bent=True)


def _other(volume: np.ndarray, partner: Partner | None, words: str) -> np.ndarray:
    if partner is None:
        raise InputError(f"The 'partner' parameter must be a volume for the transform {words!r}. Got None instead.")
    return partner[0] if partner[0].shape == volume.shape else _on_grid(partner[0], volume.shape)


def _blended(volume, spacing, rng, partner):
    return _same(0.75 * volume + 0.25 * _other(volume, partner, "blend 75/25"), spacing, "blend 75/25")


def _halved(replaced: bool) -> Transform:
    def made(volume, spacing, rng, partner):
        words = "half replaced" if replaced else "half emptied"
        axis, upper = int(rng.integers(3)), bool(rng.integers(2))
        half = volume.shape[axis] // 2
        lost = tuple((slice(half, None) if upper else slice(half)) if i == axis else slice(None) for i in range(3))
        pixels = volume.copy()
        pixels[lost] = _other(volume, partner, words)[lost] if replaced else 0
        return _same(pixels, spacing, f"{words} {'+' if upper else '-'}{'xyz'[axis]}", share=0.5)

    return made


def _kept(parts: int, words: str) -> Transform:
    """One of ``parts`` slabs across an axis that is drawn, set into the partner."""

    def made(volume, spacing, rng, partner):
        axis, place = int(rng.integers(3)), int(rng.integers(parts))
        first, last = (round(volume.shape[axis] * one / parts) for one in (place, place + 1))
        kept = tuple(slice(first, last) if i == axis else slice(None) for i in range(3))
        pixels = _other(volume, partner, words).copy()
        pixels[kept] = volume[kept]
        return _same(pixels, spacing, f"{words} {'xyz'[axis]} {place + 1}", share=1 / parts)

    return made


def _several(volume, spacing, rng, partner):
    linear = Rotation.from_rotvec(rng.choice((-8.0, 8.0)) * np.array([0.6, 0.0, 0.8]), degrees=True).as_matrix()
    flipped = _posed(1, "flip-x")(volume, spacing, rng, partner)
    turned = _moved(flipped.pixels, spacing, _matrix(linear), "")
    noise = 0.03 * rng.standard_normal(volume.shape)
    return PlantedVolume(turned.pixels + noise, spacing, turned.matrix @ flipped.matrix, "flip, rotation, noise")


def _recropped(volume, spacing, rng, partner):
    """Another field of view of the same scan: each of the six sides cut by up to a fifth."""
    shares = rng.uniform(0, 0.2, (3, 2))
    first = [round(share * side) for share, side in zip(shares[:, 0], volume.shape, strict=True)]
    last = [side - round(share * side) for share, side in zip(shares[:, 1], volume.shape, strict=True)]
    centre = [(a + b - side) / 2 * step for a, b, side, step in zip(first, last, volume.shape, spacing, strict=True)]
    kept = volume[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    return PlantedVolume(kept, spacing, _matrix(np.eye(3), [-one for one in centre]), "other crop")


def _revisited(volume, spacing, rng, partner):
    """As another visit on the same scanner may look: the head lies otherwise, tissue moved a little, the coil's field, the grid and the noise are
    others."""
    axis = rng.standard_normal(3)
    linear = Rotation.from_rotvec(4 * axis / np.linalg.norm(axis), degrees=True).as_matrix()
    shift = rng.uniform(-0.03, 0.03, 3) * np.array(volume.shape) * np.array(spacing)
    moved = _moved(_displaced(volume, 0.003, rng), spacing, _matrix(linear, shift), "other visit")
    field = moved.pixels * np.exp(0.15 * _smooth_noise(volume.shape, max(volume.shape) / 4, rng))
    coarse = _resampled(1.25 * max(spacing), True, "")(field / max(1.0, float(field.max())), spacing, rng, partner).pixels
    noisy = coarse + 0.03 * rng.standard_normal(volume.shape)
    return PlantedVolume(noisy, spacing, moved.matrix, "other visit", bent=True)


VOLUME_TRANSFORMS: dict[str, Transform] = {
    "exact": lambda v, s, r, p: _same(v, s, "exact"),
    "noise": _noised,
    "gamma 0.7": lambda v, s, r, p: _same(v**0.7, s, "gamma 0.7"),
    "gamma 1.5": lambda v, s, r, p: _same(v**1.5, s, "gamma 1.5"),
    "flip-x": _posed(1, "flip-x"),
    "flip-y": _posed(2, "flip-y"),
    "flip-z": _posed(4, "flip-z"),
    "axes 2 0 1": _posed(AXIS_POSES.index(((2, 0, 1), (False, False, False))), "axes 2 0 1"),
    **{
        f"rotation {degrees:g} {axis}": _rotated(degrees if degrees != 10 else -degrees, place, f"rotation {degrees:g} {axis}")
        for degrees in (5.0, 10.0, 20.0)
        for place, axis in enumerate("xyz")
    },
    **{f"shift 10 % {axis}": _shifted(place, f"shift 10 % {axis}") for place, axis in enumerate("xyz")},
    "crop 15 %": _cropped,
    "zoom": _zoomed,
    "2 mm": _resampled(2.0, False, "2 mm"),
    "3 mm": _resampled(3.0, False, "3 mm"),
    "3 mm and back": _resampled(3.0, True, "3 mm and back"),
    "blur": lambda v, s, r, p: _same(ndimage.gaussian_filter(v, max(v.shape) / 160), s, "blur"),
    "bias field": _biased,
    "elastic": _bent(0.008, "elastic"),
    "blend 75/25": _blended,
    "half replaced": _halved(True),
    "half emptied": _halved(False),
    "flip, rotation, noise": _several,
}

# Regions that are smaller than the half, in which all of a pair's score rests.
VOLUME_REGIONS: dict[str, Transform] = {name: _kept(parts, name) for name, parts in (("third kept", 3), ("quarter kept", 4))}

# What is stronger than the bending above, and the same person again.
VOLUME_BENDINGS: dict[str, Transform] = {f"elastic x{k:g}": _bent(0.008 * k, f"elastic x{k:g}") for k in (1.5, 2.0, 3.0)}
VOLUME_VISITS: dict[str, Transform] = {"other crop": _recropped, "other visit": _revisited}


def plant_volume(
    volume: np.ndarray, spacing: Sequence[float], name: str, rng: np.random.Generator, partner: Partner | None = None
) -> PlantedVolume:
    """Apply a transform of :data:`VOLUME_TRANSFORMS`, :data:`VOLUME_REGIONS`, :data:`VOLUME_BENDINGS` or :data:`VOLUME_VISITS`.

    Args:
        volume: float32 [X, Y, Z] in [0, 1].
        spacing: of its voxels along x, y and z in mm.
        name: of the transform.
        rng: what the transform draws from.
        partner: another volume and its spacing, for ``blend 75/25``, ``half replaced`` and regions; it is brought on the grid of ``volume``.

    Raises:
        InputError: an unknown name, or no partner where one is needed.
    """
    known = VOLUME_TRANSFORMS | VOLUME_REGIONS | VOLUME_BENDINGS | VOLUME_VISITS
    if name not in known:
        raise InputError(f"The 'name' parameter must be one of {', '.join(known)}. Got {name!r} instead.")
    x, y, z = (float(one) for one in spacing)
    made = known[name](volume, (x, y, z), rng, partner)
    pixels = np.ascontiguousarray(np.clip(made.pixels, 0, 1), dtype=np.float32)
    return PlantedVolume(pixels, made.spacing, made.matrix, made.words, made.bent, made.share)
