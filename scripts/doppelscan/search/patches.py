"""Regions: which training image holds the same local structure, cell by cell, where the image as a whole does not.

An embedding speaks of the whole image; a copied half, a copied tumour or a blend of two patients hides from it. So the image is
cut into overlapping cells. In each cell the fine structure is whitened on the training set (what every member of the cohort shows
there, such as the rim of the skull, then counts little), and its cosine with the same cell of every training image is taken
over small shifts. The mean over the cells speaks of the image, the highest cell of a part of it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import gaussian_blur, unit_float
from doppelscan.memorization import (
    TIE,
    MappedIndex,
    NearestInBlocks,
    content_groups,
    falling_order,
    interleaved,
    inverted_file,
    mapped,
    repeated,
)

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
QUERIES, REFERENCES = 128, 512
# Of each, on the whole and by a cell, as many are compared with all shifts.
SCREENED = 16
# Of each cell, in clusters: how many are looked at, and how many cells are named.
CELL_PROBES, NEAR_CELLS = 12, 6


class PatchDescriptor:
    """Whitened fine structure in overlapping cells of 12 x 12 pixels of the image at 64 x 64.

    Args:
        components: dimensions kept of each cell's 144.
        shrinkage: share of the mean variance that is added to each variance before whitening.
        device: where to compute.

    Attributes:
        grid: cells along a side.
        matrix: float32 [L, 144, components], the whitening of each of the L = grid x grid cells.
        fingerprint: of the settings and of the images that were fitted; not of the matrix, which other processors round otherwise.
    """

    grid = (SIZE - CELL) // STRIDE + 1

    def __init__(self, components: int = 48, shrinkage: float = 0.03, device: str | torch.device = "cpu") -> None:
        self.components, self.shrinkage, self.device = components, shrinkage, torch.device(device)
        self.matrix, self.fingerprint = torch.zeros(0), ""

    def fit(self, thumbnails: Any) -> PatchDescriptor:
        """Learn what the training images have in common in each cell.

        Args:
            thumbnails: uint8 or float [N, 1, S, S]; anything with a length whose slices are tensors, read a block at a time.
        """
        covariance, count = torch.zeros((), device=self.device), 0
        seen = hashlib.sha256(repr((SIZE, CELL, STRIDE, self.components, self.shrinkage)).encode())
        for part in _blocks(thumbnails):
            seen.update(part.cpu().numpy().tobytes())
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
        self.fingerprint = seen.hexdigest()
        return self

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
        # Copied once, in the order in which they are multiplied: four times as fast as im2col and a transposed view of it.
        cells = structure[:, 0].unfold(1, CELL, STRIDE).unfold(2, CELL, STRIDE).permute(1, 2, 0, 3, 4)
        cells = cells.reshape(-1, len(structure), CELL * CELL)
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
        described = torch.bmm(cells, self.matrix)
        return described.mul_(((covered & rich) / described.norm(dim=-1).clamp_min(1e-12))[..., None])

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
        rows: int64 [M, k], the training images with the highest mean over all cells; -1 fills up where fewer take part.
        mean: float32 [M, k], that mean, -1 to 1.
        part: float32 [M], the highest cosine of one cell with any training image.
        part_row: int64 [M], which training image; -1 where none takes part, and then all agreement is -1.
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
        clustered: look for each cell among those of the nearest clusters alone: for hundreds of thousands of training images.
    """

    def __init__(self, candidates: int = 3, device: str | torch.device = "cpu", clustered: bool = False) -> None:
        self.candidates, self.clustered = candidates, clustered
        self.descriptor = PatchDescriptor(device=device)

    def fit(self, thumbnails: Any, keys: Sequence | np.ndarray | None = None) -> PatchSearch:
        """Keep the cells of the training images: 8 KB an image.

        Args:
            thumbnails: see :meth:`PatchDescriptor.fit`; also lists of their rows are asked for.
            keys: content of each image: images of one key are one row, named by the first of them. None compares the thumbnails.
        """
        self.descriptor.fit(thumbnails)
        self.thumbnails = thumbnails
        if keys is None:
            images = (image for part in _blocks(thumbnails) for image in part)
            keys = [hashlib.sha256(image.cpu().numpy().tobytes()).digest() for image in images]
        self.groups = content_groups((), keys)
        self.distinct = np.flatnonzero(~repeated(self.groups))
        self.reference = self._described()
        self.files = self._clustered_cells() if self.clustered else []
        return self

    def _described(self) -> torch.Tensor:
        """The cells of the training images, float16 [N, L, C]; where there are very many, in a mapped file."""
        blocks = (
            self.descriptor.describe(self.descriptor.structure(part)).transpose(0, 1).half() for part in _blocks(self.thumbnails)
        )
        shape = len(self.thumbnails), self.descriptor.grid**2, self.descriptor.components
        if self.clustered and self.descriptor.device.type == "cpu":
            stored = mapped(lambda file: file.writelines(block.contiguous().numpy().data for block in blocks))
            return torch.from_numpy(stored.view(np.float16)).view(shape)
        reference = torch.empty(shape, dtype=torch.float16, device=self.descriptor.device)
        for start, block in zip(range(0, len(reference), REFERENCES), blocks, strict=True):
            reference[start : start + REFERENCES] = block
        return reference

    def _clustered_cells(self) -> list[tuple[np.ndarray, MappedIndex | None]]:
        """Of each cell the rows that have structure there, and an inverted file of them; 8 bits a value, as what it finds is compared again."""
        files = []
        for number in range(self.reference.shape[1]):
            cells = self.reference[self.distinct, number].float().cpu()
            rich = (cells.abs().amax(1) > 0).numpy()
            own = cells.numpy()[rich]
            files.append((self.distinct[rich], inverted_file(own, 8, CELL_PROBES) if len(own) else None))
        return files

    def without(self, rows: np.ndarray) -> PatchSearch:
        """The same search in which the training images ``rows`` bool [N] are not found."""
        made = copy.copy(self)
        made.distinct = np.flatnonzero(~repeated(self.groups, rows))
        return made

    def structure_of(self, rows: np.ndarray) -> torch.Tensor:
        """Fine structure of training images: float32 [n, 1, 64, 64] of rows int64 [n]."""
        return self.descriptor.structure(self.thumbnails[rows.clip(0).tolist()])

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
            without: int64 [M], a training row that is not to be found for each image, nor one that repeats it; None leaves out none.
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
        queries = torch.stack([self.descriptor.shifted(view) for view in views])  # [views, shifts, L, M, C]
        counted = queries[:, 0].abs().amax(-1) > 0  # [views, L, M]
        if asked is not None:
            counted = counted & asked.to(counted.device)
        rows = self._screened(queries[:, 0] * counted[..., None], counted, without)
        count, none = len(structure), torch.from_numpy(rows < 0).to(counted.device)[:, None]
        # All shifts of the few that are left: [L, M, views * shifts, K], the best of the shifts.
        reference = self._cells_of(rows.clip(0)).permute(2, 0, 3, 1)
        cells = queries.permute(2, 3, 0, 1, 4).flatten(2, 3) @ reference
        cells = cells.unflatten(2, queries.shape[:2]).amax(3) * counted.permute(1, 2, 0)[..., None]
        average = mean_agreement(cells, counted.permute(1, 2, 0)[..., None].expand_as(cells)).masked_fill(none, -torch.inf)
        highest = cells.amax(0).masked_fill(none, -torch.inf)  # [M, views, K]
        whole, part = (one.amax(1).cpu().numpy() for one in (average, highest))
        kept = min(self.candidates, len(self.reference))
        order = falling_order(whole, rows)[:, :kept]
        best = falling_order(part, rows)[:, 0]
        image = np.arange(count)
        row = rows[image, best]
        of_best = highest.cpu().numpy()[image, :, best]
        mirrored = (of_best >= of_best.max(1, keepdims=True) - TIE).argmax(1)
        found = cells[:, image, mirrored, best].T.clone()
        found[row < 0] = -1
        named = np.pad(np.take_along_axis(rows, order, 1), ((0, 0), (0, kept - order.shape[1])), constant_values=-1)
        mean = np.pad(np.take_along_axis(whole, order, 1), ((0, 0), (0, kept - order.shape[1])), constant_values=-1)
        return (
            named,
            np.where(named < 0, np.float32(-1), mean),
            found.amax(1).cpu().numpy(),
            row,
            found.cpu().numpy(),
            mirrored == 1,
            counted[mirrored, :, image].cpu().numpy(),
        )

    def _cells_of(self, rows: np.ndarray) -> torch.Tensor:
        """Of training images of any shape of rows: float32 [..., L, C], of unit length again: a half-precision row ties with its own image."""
        return F.normalize(self.reference[rows].float(), dim=-1)

    def _screened(self, queries: torch.Tensor, counted: torch.Tensor, without: np.ndarray | None) -> np.ndarray:
        """Rows that agree best as they lie, on the whole or in a cell: int64 [M, K], falling, -1 fills up at the end.

        A shift by 1 of 64 pixels changes cells of 12 little: what agrees best shifted is among the best unshifted.

        Args:
            queries: float [views, L, M, C], zero where a cell is not asked about.
            counted: bool [views, L, M], what is asked about.
            without: int64 [M], see :meth:`search_structure`.
        """
        if self.files:
            return self._screened_in_clusters(queries, counted, without)
        views, cells, count, size = queries.shape
        flat = queries.transpose(1, 2).reshape(views * count, cells * size)
        by_cell = queries.transpose(0, 1).reshape(cells, views * count, size).contiguous()
        scale = counted.sum(1).clamp_min(FEWEST_CELLS).reshape(views * count, 1).reciprocal()
        # A cell that is not asked about agrees with nothing: 0, as cells without structure do.
        lowest = torch.where(counted.all(1), -torch.inf, 0.0).reshape(views * count, 1)
        whole, part = (NearestInBlocks(count, min(SCREENED, len(self.reference))) for _ in range(2))
        for start in range(0, len(self.distinct), REFERENCES):
            rows = self.distinct[start : start + REFERENCES]
            reference = self._cells_of(rows)
            mean = (flat @ reference.flatten(1).T) * scale
            highest, product = lowest.expand(-1, len(rows)).clone(), torch.empty_like(mean)
            for own, other in zip(by_cell, reference.permute(1, 2, 0).contiguous(), strict=True):
                torch.maximum(highest, torch.mm(own, other, out=product), out=highest)
            left_out = None
            if without is not None:
                left_out = torch.from_numpy(self.groups[without][:, None] == self.groups[rows]).to(counted.device)
            for collector, values in ((whole, mean), (part, highest)):
                collector.add(values.unflatten(0, (views, count)).transpose(0, 1), rows, left_out)
        rows = np.sort(np.concatenate([one.found().rows for one in (whole, part)], 1))
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        return -np.sort(-rows)[:, : max(1, int((rows >= 0).sum(1).max(initial=0)))]

    def _screened_in_clusters(self, queries: torch.Tensor, counted: torch.Tensor, without: np.ndarray | None) -> np.ndarray:
        """:meth:`_screened` of the rows that some cell is near to: those of which a cell is nearest, and those with most near cells."""
        views, cells, count, size = queries.shape
        own = queries.permute(1, 2, 0, 3).reshape(cells, count * views, size).cpu().numpy()
        asked = counted.permute(1, 2, 0).reshape(cells, count * views).cpu().numpy()
        values = np.zeros((cells, count * views, NEAR_CELLS), np.float32)
        rows = np.full(values.shape, -1)
        for number, (row_of, file) in enumerate(self.files):
            some = np.flatnonzero(asked[number])
            if file is None or not len(some):
                continue
            value, place = file.index.search(np.ascontiguousarray(own[number][some]), min(NEAR_CELLS, len(row_of)))
            rows[number, some, : place.shape[1]] = np.where(place < 0, -1, row_of[place])
            values[number, some, : place.shape[1]] = np.where(place < 0, 0, value)
        # An image in each view: [images, views * cells * near].
        named, value_of = (one.reshape(cells, count, -1).swapaxes(0, 1).reshape(count, -1) for one in (rows, values))
        return self._of_near_cells(named, value_of, without)

    def _of_near_cells(self, rows: np.ndarray, values: np.ndarray, without: np.ndarray | None) -> np.ndarray:
        """Of near cells int and float [M, n] the rows to compare: those of the nearest cell, and those with most."""
        taking_part = np.isin(rows, self.distinct) if len(self.distinct) < len(self.reference) else rows >= 0
        if without is not None:
            taking_part &= self.groups[rows.clip(0)] != self.groups[without][:, None]
        rows, values = np.where(taking_part, rows, -1), np.where(taking_part, values, 0)
        order = np.argsort(rows, axis=1, kind="stable")
        rows, values = np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)
        # Of a row all values together, at its last place.
        last = np.ones(rows.shape, bool)
        last[:, :-1] = rows[:, 1:] != rows[:, :-1]
        last &= rows >= 0
        total = np.cumsum(values, 1)
        before = np.maximum.accumulate(np.where(last, total, 0), 1)
        together = np.where(last, total - np.pad(before, ((0, 0), (1, 0)))[:, :-1], -np.inf)
        lists = [_first(rows, score, 4 * SCREENED) for score in (np.where(rows >= 0, values, -np.inf), together)]
        found = interleaved(lists, 2 * SCREENED)
        return found[:, : max(1, int((found >= 0).sum(1).max(initial=0)))]


def _first(rows: np.ndarray, score: np.ndarray, kept: int) -> np.ndarray:
    """Of int [M, n] those of the highest ``score`` [M, n], -1 where it is -inf: int [M, kept]."""
    place = np.argsort(-score, axis=1, kind="stable")[:, :kept]
    return np.where(np.isinf(np.take_along_axis(score, place, 1)), -1, np.take_along_axis(rows, place, 1))


def _blocks(thumbnails: Any) -> Iterator[torch.Tensor]:
    for start in range(0, len(thumbnails), REFERENCES):
        yield thumbnails[start : start + REFERENCES]
