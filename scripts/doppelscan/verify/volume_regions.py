"""Regions: which training volume holds the same local structure, cell by cell, in place; the regions of :mod:`~doppelscan.search.patches` in 3D.

A volume's score is the agreement of the better half of its structure; a slab of a quarter that was set into a stranger hides from it, and from the
search, which looks at whole slices. So a volume is cut into overlapping cells. In each the fine structure is whitened on the training set (what every
member of the cohort shows there then counts little), and its cosine with the same cell of every training volume is taken over small shifts. The highest
mean of neighbouring cells speaks of a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from doppelscan.images import evenly_chosen, unit_float
from doppelscan.images.cubes import CubeFrame
from doppelscan.search import EmbeddedVolumes
from doppelscan.verify.volumes import volume_structure

__all__ = ["VolumeRegion", "VolumeRegions"]

# Voxels a side at which regions are compared, and of a cell, whose neighbour is so far away; cells along a side of a region.
SIDE, CELL, STRIDE, REGION = 32, 6, 3, 2
GRID = (SIDE - CELL) // STRIDE + 1
# Of each cell's 216 dimensions so many are kept; share of the mean variance that is added to each before whitening.
COMPONENTS, SHRINKAGE = 40, 0.1
# Share of a cell that must hold anatomy, and of the structure of the volume's richest quarter of cells that makes it count.
COVERED, RICH = 0.8, 0.35
# Share of a region's cells that must count.
COUNTED = 0.4
# A cell belongs to the region around the best one from this cosine on.
AGREES = 0.6
SHIFTS = ((0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
# Training volumes that whiten, at most: 216 dimensions ask for no more.
WHITENING = 256
BLOCK = 16


@dataclass(frozen=True)
class VolumeRegion:
    """The region of a volume that agrees best with any training volume, as both lie.

    Attributes:
        agreement: mean whitened cosine of its cells, -1 to 1; of T1 brains strangers reach 0.75, of hippocampus crops 0.89.
        row: of the training set; -1 where no cell is to be compared.
        share: of the volume's cells that hold structure, those of the region around it.
    """

    agreement: float
    row: int
    share: float


@dataclass(frozen=True, eq=False)
class VolumeRegions:
    """Cells of a training set, see :meth:`fitted`.

    Attributes:
        matrix: float32 [L, 216, 40], the whitening of each of the L cells.
        cells: float16 [N, L, 40], unit vectors of the training volumes' cells.
        counted: bool [N, L], cells that hold structure.
    """

    matrix: torch.Tensor
    cells: torch.Tensor
    counted: torch.Tensor

    @classmethod
    @torch.no_grad()
    def fitted(cls, training: EmbeddedVolumes) -> VolumeRegions:
        """Learn what the training volumes have in common in each cell, and keep their cells: 58 kB a volume, and 65 more while it is learned."""
        rows = evenly_chosen(len(training), min(WHITENING, len(training))).tolist()
        covariance = torch.zeros(())
        for start in range(0, len(rows), BLOCK):
            structure, tissue = _structures(training, rows[start : start + BLOCK])
            for shift in SHIFTS:
                cells = _cells(torch.roll(structure * tissue, shift, (2, 3, 4)))
                covariance = covariance + cells.transpose(1, 2) @ cells
        covariance = covariance / (len(rows) * len(SHIFTS))
        variance = covariance.diagonal(dim1=1, dim2=2).mean(1)
        values, vectors = torch.linalg.eigh(covariance)
        scale = (values.clamp_min(0) + SHRINKAGE * variance[:, None] + 1e-8).rsqrt()
        matrix = (vectors * scale[:, None])[:, :, -COMPONENTS:].contiguous()
        empty = cls(matrix, torch.zeros(0), torch.zeros(0))
        made = [
            empty._described(*_structures(training, range(start, min(start + BLOCK, len(training)))))
            for start in range(0, len(training), BLOCK)
        ]
        return cls(matrix, torch.cat([one.half() for one, _ in made]), torch.cat([held for _, held in made]))

    @torch.no_grad()
    def best(self, cubes: torch.Tensor, frames: Sequence[CubeFrame]) -> list[VolumeRegion]:
        """Of each of M volumes, by its cube uint8 [M, 1, S, S, S]."""
        return [self._best(cubes[row : row + 1], frames[row : row + 1]) for row in range(len(cubes))]

    def _best(self, cube: torch.Tensor, frames: Sequence[CubeFrame]) -> VolumeRegion:
        structure, tissue = volume_structure(unit_float(cube), frames, SIDE)
        best = VolumeRegion(-1.0, -1, 0.0)
        for shift in SHIFTS:
            cells, counted = self._described(*(torch.roll(one, shift, (2, 3, 4)) for one in (structure, tissue)))
            for start in range(0, len(self.cells), BLOCK):
                others = slice(start, start + BLOCK)
                cosines = (self.cells[others].float() * cells).sum(2)
                both = (self.counted[others] & counted).float()
                value = _region_means(cosines, both)
                highest = float(value.max())
                # Of equals the first in the training set and the first shift.
                if highest > best.agreement + 1e-6:
                    row, place = divmod(int(value.flatten().argmax()), value[0].numel())
                    share = _share_around(cosines[row], both[row], counted[0], place)
                    best = VolumeRegion(min(highest, 1.0), start + row, share)  # half precision rounds either way
        return best

    def _described(self, structure: torch.Tensor, tissue: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors float32 [B, L, 40] of the cells of volumes, and which of them hold structure, bool [B, L]."""
        cells = _cells(structure * tissue)
        energy = cells.norm(dim=-1)
        rich = energy >= RICH * energy.topk(max(1, len(energy) // 4), 0).values.mean(0)
        covered = F.avg_pool3d(tissue, CELL, STRIDE).flatten(1).T > COVERED
        described = torch.bmm(cells, self.matrix)
        described = described / described.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return described.transpose(0, 1), (covered & rich & (energy > 1e-6)).T


def _structures(volumes: EmbeddedVolumes, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    return volume_structure(unit_float(volumes.thumbnails(rows)), volumes.frames(rows), SIDE)


def _cells(structure: torch.Tensor) -> torch.Tensor:
    """float32 [L, B, 216] without their means."""
    cells = structure[:, 0].unfold(1, CELL, STRIDE).unfold(2, CELL, STRIDE).unfold(3, CELL, STRIDE)
    cells = cells.reshape(len(structure), -1, CELL**3).transpose(0, 1)
    return cells - cells.mean(-1, keepdim=True)


def _region_means(cosines: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean cosine of the counted cells of every region, float [N, places]; -1 where too few count."""
    grid = (-1, 1, GRID, GRID, GRID)
    total = F.avg_pool3d((cosines * counted).view(grid), REGION, 1)
    held = F.avg_pool3d(counted.view(grid), REGION, 1)
    return torch.where(held > COUNTED, total / held.clamp_min(1e-6), torch.tensor(-1.0)).flatten(1)


def _share_around(cosines: torch.Tensor, both: torch.Tensor, counted: torch.Tensor, place: int) -> float:
    """Share of the volume's cells that are connected to the region at ``place`` and agree."""
    corner = np.unravel_index(place, (GRID - REGION + 1,) * 3)
    inside = ((cosines > AGREES) & (both > 0)).view(GRID, GRID, GRID).numpy().copy()
    window = tuple(slice(int(one), int(one) + REGION) for one in corner)
    inside[window] = True
    labels, _ = ndimage.label(inside, np.ones((3, 3, 3)))
    region = (labels == labels[window].flat[0]) & (both > 0).view(GRID, GRID, GRID).numpy()
    return float(region.sum() / max(1, int(counted.sum())))
