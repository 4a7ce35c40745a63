"""The start of a registration of volumes: which axis pose, rotation, scale and shift bring them nearest, at 16 voxels; :mod:`coarse` in 3D.

Each image is brought in all rotations and scales, each candidate in the axis poses that are tried, and the correlation over all shifts is one
product of their spectra.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from doppelscan.images.cubes import AXIS_POSES, axis_pose
from doppelscan.verify.coarse import tried_poses
from doppelscan.verify.volume_alignment import band_pass_volumes, cube_grid, sample_volumes

__all__ = ["COARSE", "VolumeCoarseSearch", "axis_posed", "spread_rotations"]

COARSE = 16
# Waves a side that are looked at: above it, resampling and noise speak.
HIGHEST = 5
# Rows of candidates and poses that are compared with all views of their query at a time: what the caches hold.
ROWS = 16
# Share of the candidate's structure that counts at least.
LEAST = 0.2


def spread_rotations(reach: float = 28.0, step: float = 16.0) -> list[tuple[float, float, float]]:
    """Rotation vectors in degrees, no longer than ``reach``, on a body-centred cubic lattice of edge ``step``: of all lattices of so many points
    the one whose holes are smallest, 0.56 ``step`` deep. The first is no rotation."""
    half, most = step / 2, int(reach / step * 2) + 1
    grid = [
        tuple(half * one for one in place)
        for place in itertools.product(range(-most, most + 1), repeat=3)
        if len({one % 2 for one in place}) == 1
    ]
    kept = [place for place in grid if float(np.linalg.norm(place)) <= reach + 1e-9]
    return sorted(kept, key=lambda place: (round(float(np.linalg.norm(place)), 9), place))  # type: ignore[arg-type, return-value]


def axis_posed(volumes: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """``volumes`` [B, C, S, S, S], each in the axis pose of its number, contiguous."""
    made = torch.empty_like(volumes)
    for number in np.unique(numbers):
        rows = torch.from_numpy(np.flatnonzero(numbers == number)).to(volumes.device)
        made[rows] = axis_pose(volumes[rows], int(number))
    return made


class VolumeCoarseSearch:
    """Correlation over all views and shifts.

    Args:
        rotations: rotation vectors in degrees that are tried.
        scales: factors that are tried.
        max_shift: largest shift found, share of the cube.
        device: where to compute.
    """

    def __init__(
        self, rotations: Sequence[tuple[float, float, float]], scales: Sequence[float], max_shift: float, device: torch.device
    ) -> None:
        self.device = device
        self.transforms = [(rotation, scale) for rotation in rotations for scale in scales]
        turned = Rotation.from_rotvec(np.array([rotation for rotation, _ in self.transforms]), degrees=True).as_matrix()
        scale = np.array([scale for _, scale in self.transforms])
        # A view of the query by the inverse of the pose: view(u) = query(scale R u).
        self.linear = turned * scale[:, None, None]
        matrices = torch.from_numpy(np.concatenate([self.linear, np.zeros((len(scale), 3, 1))], 2)).float()
        self.grids = cube_grid(matrices.to(device), COARSE)
        self.scales = torch.from_numpy(scale).float().to(device)
        reach = max(1, int(np.ceil(max_shift * COARSE)))
        self.offsets = np.arange(-reach, reach + 1)
        self.across, self.along = (one.to(device) for one in _back_transforms(self.offsets))

    def __call__(
        self,
        queries: torch.Tensor,
        visible: torch.Tensor,
        candidates: torch.Tensor,
        held: torch.Tensor,
        which: np.ndarray,
        poses: np.ndarray | None,
        starts: int,
    ) -> tuple[np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:
        """The best axis poses of each pair and the start of their refinement.

        Args:
            queries: float [M, 1, 16, 16, 16] in [0, 1].
            visible: float [M, 1, 16, 16, 16], 1 where they hold anatomy.
            candidates: float [P, 1, 16, 16, 16] in [0, 1].
            held: float [P, 1, 16, 16, 16], 1 where they hold anatomy.
            which: int64 [P], the query of each candidate.
            poses: int [P, n], the axis poses that are tried, or None for all 48.
            starts: axis poses of each pair that are kept.

        Returns:
            int64 [Q] the pair of each start, int64 [Q] its axis pose, float32 [Q, 3, 4] its sampling matrix from image to posed candidate, and
            float [Q] its correlation; of each pair the best first.
        """
        views, power, masks = self._spectra(queries, visible)
        structure = band_pass_volumes(candidates, COARSE / 8, held)
        pair, numbers = tried_poses(poses, len(candidates), len(AXIS_POSES))
        value, where = [], []
        for start in range(0, len(pair), ROWS):
            part = slice(start, start + ROWS)
            posed = axis_posed(structure[pair[part]], numbers[part])[:, 0]
            here = which[pair[part]]
            product = self._shifted(views[here] * _spectrum(posed)[:, None].conj())
            # Of the candidate's structure, what lies under the query's anatomy: a half is compared with a half (Padfield 2012).
            energy = _spectrum(posed * posed, mean=True)
            covered = self._shifted(masks[here] * energy[:, None].conj())
            least = LEAST * COARSE**3 * energy[:, 0, 0, 0].real.view(-1, 1, 1, 1, 1)
            highest = (product / (power[here] * torch.maximum(covered, least)).clamp_min(1e-12).sqrt()).flatten(1).max(1)
            value.append(highest.values.cpu())
            where.append(highest.indices.cpu())
        found = torch.cat(value)
        order = np.lexsort((numbers, -found.numpy(), pair))
        rank = np.arange(len(order)) - np.searchsorted(pair[order], pair[order])
        kept = order[rank < starts]
        return pair[kept], numbers[kept], self._sampling_matrices(torch.cat(where).numpy()[kept]), found[kept].to(self.device)

    def _spectra(self, queries: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of all views of M queries: spectra complex64 [M, T, kz, ky, kx], what to divide their squares by, and spectra of their masks."""
        count, views = len(queries), len(self.grids)
        small = band_pass_volumes(queries, COARSE / 8, visible)
        small = torch.cat([small, small**2, visible], 1)
        made = sample_volumes(small.repeat_interleave(views, 0), self.grids.repeat(count, 1, 1, 1, 1)).unflatten(0, (count, views))
        # Of the query's structure, what each view holds: a view that reaches beyond the query is smaller than it by its scale cubed.
        held = made[:, :, 1].sum((2, 3, 4)) * self.scales**3 / small[:, 1].sum((1, 2, 3)).clamp_min(1e-8)[:, None]
        spectra = _spectrum(made[:, :, 0])
        squares = spectra.abs().square().sum((-1, -2))
        power = (2 * squares.sum(-1) - squares[..., 0]) / held.clamp(1e-3, 1)
        return spectra, power[..., None, None, None], _spectrum(made[:, :, 2], mean=True)

    def _shifted(self, product: torch.Tensor) -> torch.Tensor:
        """Correlation at the shifts alone: complex [R, T, kz, ky, kx] -> float [R, T, x, y, z]."""
        x = product @ self.across.T
        y = x.transpose(-1, -2) @ self.across.T  # [R, T, kz, x, y]
        rows = torch.view_as_real(y.permute(0, 1, 3, 4, 2).contiguous()).flatten(-2)
        return rows @ self.along

    def _sampling_matrices(self, where: np.ndarray) -> torch.Tensor:
        """Of coarse hits: posed candidate(u) = view(u + shift)."""
        transform, place = np.divmod(where, len(self.offsets) ** 3)
        steps = np.stack(np.unravel_index(place, (len(self.offsets),) * 3), 1)
        shift = self.offsets[steps] * 2.0 / COARSE
        inverse = np.linalg.inv(self.linear[transform])
        return torch.from_numpy(np.concatenate([inverse, -shift[..., None]], 2)).float().to(self.device)


def _spectrum(volumes: torch.Tensor, mean: bool = False) -> torch.Tensor:
    """Fourier coefficients of real ``volumes`` [..., x, y, z] without the highest frequencies, and the ``mean`` where asked: complex [..., kz, ky, kx].

    Half of kz: the other half is the same again.
    """
    kept = torch.fft.rfftn(volumes, dim=(-3, -2, -1))[..., : HIGHEST + 1]
    for axis in (-3, -2):
        kept = torch.cat([kept.narrow(axis, 0, HIGHEST + 1), kept.narrow(axis, COARSE - HIGHEST, HIGHEST)], axis)
    kept = kept.transpose(-3, -1).contiguous()
    if not mean:
        kept[..., 0, 0, 0] = 0
    return kept


def _back_transforms(offsets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices from frequencies to the shifts ``offsets``: complex [n, 2 HIGHEST + 1] for x and y, float [2 (HIGHEST + 1), n] for z, whose real and
    imaginary parts lie beside each other."""
    frequencies = np.concatenate([np.arange(HIGHEST + 1), np.arange(-HIGHEST, 0)])
    across = np.exp(2j * np.pi / COARSE * np.outer(offsets, frequencies))
    angle = 2 * np.pi / COARSE * np.arange(HIGHEST + 1)[:, None] * offsets
    weight = np.where(np.arange(HIGHEST + 1) == 0, 1, 2)[:, None]
    along = np.stack([weight * np.cos(angle), -weight * np.sin(angle)], 1).reshape(2 * (HIGHEST + 1), -1)
    return torch.from_numpy(across).to(torch.complex64), torch.from_numpy(along).float()
