"""The start of a registration: which flip, turn, rotation, scale and shift bring an image nearest to a candidate, at 32 pixels.

Each image is brought in all rotations and scales, each candidate in the flips and quarter turns that are tried, and the correlation over all
shifts is one product of their spectra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import quarter_turn
from doppelscan.images import band_pass, sampling_grid

__all__ = ["COARSE", "CoarseSearch", "quarter_turns", "tried_poses"]

COARSE = 32
# Waves a side that are looked at: above it, resampling and noise speak.
HIGHEST = 10
# Pairs of a candidate and a pose that are compared with all views of their query at a time: what the caches hold.
PAIRS = 16


class CoarseSearch:
    """Correlation over all views and shifts.

    Args:
        rotations: degrees that are tried.
        scales: factors that are tried.
        max_shift: largest shift found, share of the image.
        device: where to compute.

    Attributes:
        transforms: rotation and scale of each view of an image.
    """

    def __init__(self, rotations: Sequence[float], scales: Sequence[float], max_shift: float, device: torch.device) -> None:
        self.device = device
        # The views are of the query, by the inverse of the pose: they are made once for all its candidates.
        self.transforms = [(r, s) for r in rotations for s in scales]
        matrices = []
        for rotation, scale in self.transforms:
            angle = math.radians(rotation)
            cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
            matrices.append([[cosine, sine, 0.0], [-sine, cosine, 0.0]])
        theta = torch.tensor(matrices, dtype=torch.float32, device=self.device)
        self.scales = torch.tensor([s for _, s in self.transforms], dtype=torch.float32, device=self.device)
        self.grids = sampling_grid(theta, COARSE)
        reach = max(1, round(max_shift * COARSE))
        self.offsets = np.arange(-reach, reach + 1)
        self.rows, self.columns = (one.to(self.device) for one in _back_transforms(self.offsets))

    def __call__(
        self,
        queries: torch.Tensor,
        visible: torch.Tensor,
        candidates: torch.Tensor,
        held: torch.Tensor,
        which: np.ndarray,
        poses: np.ndarray | None,
    ) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
        """Best flip-and-turn pose of each pair and the start of its refinement.

        Args:
            queries: float [M, 1, 32, 32] in [0, 1].
            visible: float [M, 1, 32, 32], 1 where they hold image.
            candidates: float [P, 1, 32, 32] in [0, 1].
            held: float [P, 1, 32, 32], 1 where they hold image.
            which: int64 [P], the query of each candidate.
            poses: int [P, n], the poses that are tried, or None for all.

        Returns:
            float [P] correlation, int64 [P] pose numbers and float32 [P, 2, 3] sampling matrices from image to posed candidate.
        """
        views = self._spectra(queries, visible)
        structure = band_pass(candidates, 2.5) * held
        pair, numbers = tried_poses(poses, len(candidates))
        value, where = [], []
        for start in range(0, len(pair), PAIRS):
            part = slice(start, start + PAIRS)
            # Over all structure of both, not only where they overlap: what an overlap leaves out must not make it the better one.
            target = _unit(_spectrum(quarter_turns(structure[pair[part]], numbers[part])[:, 0]))
            product = torch.view_as_real(views[which[pair[part]]] * target[:, None].conj())
            # To the shifts that are looked for alone: [pairs, views, columns, rows and re or im] -> [pairs, views, shifts, shifts].
            half = (product.flatten(-2) @ self.rows).unflatten(-1, (len(self.offsets), 2))
            highest = (half.transpose(2, 3).flatten(-2) @ self.columns).flatten(1).max(1)
            value.append(highest.values.cpu())
            where.append(highest.indices.cpu())
        found = torch.cat(value)
        best = np.lexsort((numbers, -found.numpy(), pair))
        best = best[np.unique(pair[best], return_index=True)[1]]
        return found[best], numbers[best], self._sampling_matrices(torch.cat(where).numpy()[best])

    def _spectra(self, queries: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """Of all views of M queries: complex64 [M, T, columns, rows]."""
        count, views = len(queries), len(self.grids)
        small = band_pass(queries, 2.5)
        small = torch.cat([small * visible, (small * visible) ** 2], 1)
        grids = self.grids.repeat(count, 1, 1, 1)
        made = F.grid_sample(small.repeat_interleave(views, 0), grids, align_corners=False).unflatten(0, (count, views))
        # Of the query's structure, what each view holds: a view that reaches beyond the query is smaller than it by its scale squared.
        held = made[:, :, 1].sum((2, 3)) * self.scales**2 / small[:, 1].sum((1, 2)).clamp_min(1e-8)[:, None]
        return _unit(_spectrum(made[:, :, 0])) * held.clamp(0, 1).sqrt()[..., None, None]

    def _sampling_matrices(self, where: np.ndarray) -> torch.Tensor:
        """Sampling matrices of coarse hits: posed candidate(u) = view(u + shift)."""
        transform, place = np.divmod(where, len(self.offsets) ** 2)
        row, column = np.divmod(place, len(self.offsets))
        rotation, scale = np.array(self.transforms)[transform].T
        x, y = self.offsets[column] * 2.0 / COARSE, self.offsets[row] * 2.0 / COARSE
        cosine, sine = np.cos(np.radians(rotation)) / scale, np.sin(np.radians(rotation)) / scale
        matrices = np.stack([np.stack([cosine, -sine, -x], 1), np.stack([sine, cosine, -y], 1)], 1)
        return torch.from_numpy(matrices).float().to(self.device)


def quarter_turns(images: torch.Tensor, numbers: np.ndarray, undo: bool = False) -> torch.Tensor:
    """``images`` [B, C, S, S], each in the pose of its number, or with that pose undone; see :func:`~doppelscan.deepssim.quarter_turn`."""
    made = torch.empty_like(images)
    for number in np.unique(numbers):
        rows = torch.from_numpy(np.flatnonzero(numbers == number)).to(images.device)
        made[rows] = (_undo if undo else quarter_turn)(images[rows], int(number))
    return made


def _undo(images: torch.Tensor, number: int) -> torch.Tensor:
    """The inverse of flip-then-turn: turn back, then flip."""
    turned = torch.rot90(images, -(number % 4), (-2, -1))
    return torch.flip(turned, (-1,)) if number >= 4 else turned


def tried_poses(poses: np.ndarray | None, count: int, known: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Each pair with each pose that is searched, once: rows of the pairs, rising, and pose numbers; None searches all ``known`` ones."""
    wanted = np.tile(np.arange(known), (count, 1)) if poses is None else np.sort(poses, 1)
    first = np.ones(wanted.shape, bool)
    first[:, 1:] = wanted[:, 1:] != wanted[:, :-1]
    return np.nonzero(first)[0], wanted[first].astype(np.int64)


def _spectrum(images: torch.Tensor) -> torch.Tensor:
    """Fourier coefficients of real ``images`` [..., 32, 32] without the mean and the highest frequencies: complex [..., columns, rows].

    The columns are half of the plane: the other half is the same again.
    """
    whole = torch.fft.rfft2(images)[..., : HIGHEST + 1]
    kept = torch.cat([whole[..., : HIGHEST + 1, :], whole[..., -HIGHEST:, :]], -2).transpose(-1, -2).contiguous()
    kept[..., 0, 0] = 0
    return kept


def _unit(spectrum: torch.Tensor) -> torch.Tensor:
    """Of unit length over the whole plane."""
    power = spectrum.abs().square().sum(-1)
    length = (2 * power.sum(-1) - power[..., 0]).sqrt()
    return spectrum / length[..., None, None].clamp_min(1e-8)


def _back_transforms(offsets: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices that take the spectrum of a product to the shifts ``offsets`` of rows, and the result to those of columns; parts re and im lie
    beside each other."""
    frequencies = np.concatenate([np.arange(HIGHEST + 1), np.arange(-HIGHEST, 0)])
    angle = 2 * np.pi / COARSE * frequencies[:, None] * offsets
    rows = np.stack([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # from re or im, to re or im
    rows = rows.transpose(2, 0, 3, 1).reshape(2 * len(frequencies), -1)
    angle = 2 * np.pi / COARSE * np.arange(HIGHEST + 1)[:, None] * offsets
    weight = np.where(np.arange(HIGHEST + 1) == 0, 1, 2)[:, None]
    columns = np.stack([weight * np.cos(angle), -weight * np.sin(angle)], 1).reshape(2 * (HIGHEST + 1), -1)
    return torch.from_numpy(rows).float(), torch.from_numpy(columns).float()
