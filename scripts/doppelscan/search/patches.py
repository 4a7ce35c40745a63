"""Regions: which training image holds the same local structure, cell by cell, where the image as a whole does not.

An embedding speaks of the whole image; a copied half, a copied tumour or a blend of two patients hides from it. So the image is
cut into overlapping cells. In each cell the fine structure is whitened on the training set (what every member of the cohort shows
there, such as the rim of the skull, then counts little), and its cosine with the same cell of every training image is taken
over small shifts. The mean over the cells speaks of the image, the highest cell of a part of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import gaussian_blur, unit_float

__all__ = ["PatchDescriptor", "PatchMatches", "PatchSearch", "mean_agreement"]

SIZE = 64
CELL = 12
STRIDE = 6
# 0.4 % of the window: below it is background.
STRUCTURE = 0.004
COVERED = 0.8
# A cell counts when its structure is at least this share of the image's richest quarter of cells.
RICH = 0.35
FEWEST_CELLS = 8
SHIFTS = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0))
QUERIES, REFERENCES = 64, 512


class PatchDescriptor:
    """Whitened fine structure in overlapping cells of 12 x 12 pixels of the image at 64 x 64.

    Args:
        components: dimensions kept of each cell's 144.
        shrinkage: share of the mean variance that is added to each variance before whitening.
        device: where to compute.

    Attributes:
        grid: cells along a side.
        matrix: float32 [L, 144, components], the whitening of each of the L = grid x grid cells.
    """

    grid = (SIZE - CELL) // STRIDE + 1

    def __init__(self, components: int = 48, shrinkage: float = 0.03, device: str | torch.device = "cpu") -> None:
        self.components, self.shrinkage, self.device = components, shrinkage, torch.device(device)
        self.matrix = torch.zeros(0)

    def fit(self, thumbnails: Any) -> PatchDescriptor:
        """Learn what the training images have in common in each cell.

        Args:
            thumbnails: uint8 or float [N, 1, S, S]; anything with a length whose slices are tensors, read a block at a time.
        """
        covariance, count = torch.zeros((), device=self.device), 0
        for part in _blocks(thumbnails):
            structure = self.structure(part)
            for shift in ((0, 0), (-2, 0), (2, 0), (0, -2), (0, 2)):
                cells = self._cells(torch.roll(structure, shift, (2, 3)))
                covariance = covariance + cells.transpose(1, 2) @ cells
                count += cells.shape[1]
        covariance = covariance / max(1, count)
        mean_variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp_min(0) + self.shrinkage * mean_variance[:, None] + 1e-8).rsqrt()
        self.matrix = (vectors * scale[:, None])[:, :, -self.components :].contiguous()
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the training set that was fitted; read after :meth:`fit`."""
        return hashlib.sha256(self.matrix.cpu().numpy().tobytes()).hexdigest()

    def structure(self, images: torch.Tensor) -> torch.Tensor:
        """Band-passed ``images`` [B, 1, S, S]: float32 [B, 1, 64, 64]."""
        small = unit_float(images).to(self.device)
        if small.shape[-1] != SIZE:
            small = F.interpolate(small, (SIZE, SIZE), mode="bilinear", antialias=True)
        lifted = small.clamp_min(0) ** 0.7
        return gaussian_blur(lifted, 0.5) - gaussian_blur(lifted, 2.5)

    @staticmethod
    def _cells(structure: torch.Tensor) -> torch.Tensor:
        """float32 [L, B, 144] without their means."""
        cells = F.unfold(structure, CELL, stride=STRIDE).permute(2, 0, 1)
        return cells - cells.mean(-1, keepdim=True)

    def describe(self, structure: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Unit vectors of the cells of ``structure`` [B, 1, 64, 64].

        Args:
            structure: of :meth:`structure`.
            seen: float [B, 1, 64, 64], 1 where the image holds something; None is everywhere.

        Returns:
            float32 [L, B, components]; zeros where a cell is background, not seen or poor in structure.
        """
        held = (structure.abs() > STRUCTURE).float()
        if seen is not None:
            structure, held = structure * seen, held * seen
        cells = self._cells(structure)
        energy = cells.norm(dim=-1)
        covered = F.avg_pool2d(held, CELL, STRIDE).flatten(1).T > COVERED
        rich = energy > RICH * energy.topk(max(1, len(energy) // 4), 0).values.mean(0)
        return F.normalize(cells @ self.matrix, dim=-1) * (covered & rich)[..., None]

    def shifted(self, structure: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """:meth:`describe` of the image moved by 0 and by 1 of 64 pixels to each side: float32 [shifts, L, B, components]."""
        parts = []
        for shift in SHIFTS:
            moved = None if seen is None else torch.roll(seen, shift, (2, 3))
            parts.append(self.describe(torch.roll(structure, shift, (2, 3)), moved))
        return torch.stack(parts)

    def picture(self, cells: torch.Tensor) -> torch.Tensor:
        """Values of the cells [C, L] as a smooth image, each at the place of its cell: float32 [1, C, 64, 64]."""
        grid = cells.float().view(1, len(cells), self.grid, self.grid)
        spread = F.interpolate(grid, scale_factor=STRIDE, mode="bilinear")
        before = (CELL - STRIDE) // 2
        after = SIZE - before - spread.shape[-1]
        return F.pad(spread, (before, after, before, after), mode="replicate")


def mean_agreement(cells: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of ``cells`` [L, ...] over the cells that are ``counted`` (bool, the same shape); few cells make it small."""
    return (cells * counted).sum(0) / counted.sum(0).clamp_min(FEWEST_CELLS)


@dataclass(frozen=True)
class PatchMatches:
    """Of M images.

    Attributes:
        rows: int64 [M, k], the training images with the highest mean over all cells.
        mean: float32 [M, k], that mean, -1 to 1.
        part: float32 [M], the highest cosine of one cell with any training image.
        part_row: int64 [M], which training image.
        part_cells: float32 [M, L], cosines of all cells with that training image.
        part_mirrored: bool [M], found in the image mirrored left to right; the cells are those of the mirrored image.
        counted: bool [M, L], cells with structure.
    """

    rows: np.ndarray
    mean: np.ndarray
    part: np.ndarray
    part_row: np.ndarray
    part_cells: np.ndarray
    part_mirrored: np.ndarray
    counted: np.ndarray


class PatchSearch:
    """Training images that agree with an image in place: as it is and mirrored left to right, moved by up to 1.6 % of the field.

    Args:
        candidates: how many rows are kept for the mean.
        device: where to compute.
    """

    def __init__(self, candidates: int = 3, device: str | torch.device = "cpu") -> None:
        self.candidates = candidates
        self.descriptor = PatchDescriptor(device=device)

    def fit(self, thumbnails: Any) -> PatchSearch:
        """Keep the structure of the training ``thumbnails``, see :meth:`PatchDescriptor.fit`: 8 KB an image."""
        self.descriptor.fit(thumbnails)
        self.reference = torch.cat([self.descriptor.structure(part).half() for part in _blocks(thumbnails)])
        return self

    def search(self, thumbnails: torch.Tensor) -> PatchMatches:
        """Search ``thumbnails`` uint8 or float [M, 1, S, S]."""
        return self.search_structure(self.descriptor.structure(thumbnails))

    def search_structure(
        self, structure: torch.Tensor, asked: np.ndarray | None = None, without: np.ndarray | None = None
    ) -> PatchMatches:
        """Search fine structure, as of :meth:`PatchDescriptor.structure` or what is left of it when a match was taken out.

        Args:
            structure: float [M, 1, 64, 64].
            asked: bool [M, L], cells of the image as it is that are asked about, and then it is not mirrored; None asks about all.
            without: int64 [M], a training row that is not to be found for each image; None leaves out none.
        """
        parts = []
        for start in range(0, len(structure), QUERIES):
            block = slice(start, start + QUERIES)
            cells = None if asked is None else torch.from_numpy(asked[block].T.copy())
            parts.append(self._search(structure[block], cells, None if without is None else without[block]))
        return PatchMatches(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @torch.no_grad()
    def _search(self, structure: torch.Tensor, asked: torch.Tensor | None, without: np.ndarray | None) -> tuple:
        views = [structure] if asked is not None else [structure, structure.flip(-1)]
        queries = torch.stack([self.descriptor.shifted(view) for view in views])
        counted = queries[:, 0].abs().amax(-1) > 0  # [views, L, M]
        if asked is not None:
            counted = counted & asked.to(counted.device)
        count = len(structure)
        mean, rows = torch.full((count, 0), -1.0), torch.zeros((count, 0), dtype=torch.int64)
        part = torch.full((count,), -2.0)
        part_row, part_mirrored = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
        part_cells = torch.zeros(count, counted.shape[1])
        for start in range(0, len(self.reference), REFERENCES):
            reference = self.descriptor.describe(self.reference[start : start + REFERENCES].float()).transpose(1, 2)
            for mirrored in range(len(views)):
                cells = queries[mirrored, 0] @ reference
                for shifted in queries[mirrored, 1:]:
                    cells = torch.maximum(cells, shifted @ reference)
                cells = cells * counted[mirrored][..., None]
                if without is not None:
                    inside = np.flatnonzero((without >= start) & (without < start + reference.shape[2]))
                    cells[:, inside, without[inside] - start] = -1
                average = mean_agreement(cells, counted[mirrored][..., None]).cpu()
                mean = torch.cat([mean, average], 1)
                rows = torch.cat([rows, torch.arange(start, start + average.shape[1]).expand(count, -1)], 1)
                kept = mean.topk(min(2 * self.candidates, mean.shape[1]), 1)
                mean, rows = kept.values, rows.gather(1, kept.indices)
                highest, row = cells.amax(0).max(1)
                better = highest.cpu() > part
                part = torch.where(better, highest.cpu(), part)
                part_row = torch.where(better, row.cpu() + start, part_row)
                part_mirrored = torch.where(better, torch.tensor(bool(mirrored)), part_mirrored)
                found = cells[:, torch.arange(count), row].T.cpu()
                part_cells = torch.where(better[:, None], found, part_cells)
        best_rows, best_mean = self._without_repeats(rows.numpy(), mean.numpy())
        chosen = counted[part_mirrored.long().to(counted.device), :, torch.arange(count, device=counted.device)].cpu()
        return best_rows, best_mean, part.numpy(), part_row.numpy(), part_cells.numpy(), part_mirrored.numpy(), chosen.numpy()

    def _without_repeats(self, rows: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A training image can be found as it is and mirrored: once is enough."""
        kept = min(self.candidates, len(self.reference))
        best_rows, best = np.full((len(rows), kept), -1, np.int64), np.full((len(rows), kept), -1, np.float32)
        for i in range(len(rows)):
            _, first = np.unique(rows[i], return_index=True)
            first = np.sort(first)[:kept]
            best_rows[i, : len(first)], best[i, : len(first)] = rows[i, first], mean[i, first]
        return best_rows, best


def _blocks(thumbnails: Any) -> Iterator[torch.Tensor]:
    for start in range(0, len(thumbnails), REFERENCES):
        yield thumbnails[start : start + REFERENCES]
