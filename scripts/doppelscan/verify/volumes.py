"""Register candidate training volumes on a synthetic one and measure how well they agree; :mod:`registration` in 3D.

Volumes are cubes around their anatomy (:func:`~doppelscan.images.cubes.cut_cube`). Coarse at 16 voxels by FFT over axis poses, rotations, scales and
all shifts; then Gauss-Newton over affine maps at 16 and 32 voxels, with fewer and fewer candidates; what agrees nearly as copies do is refined and all
that is left is measured at full size. All of it on band-passed volumes: gamma, window and bias field change slowly and are not novelty. What is done to a
pair hangs on nothing but the pair's own volume and its candidates, so synthetic and control volumes are treated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import ssim
from doppelscan.errors import InputError
from doppelscan.images import correlation, unit_float
from doppelscan.images.cubes import AXIS_POSES, CubeFrame, blur_volumes
from doppelscan.verify.agreement import match_intensity
from doppelscan.verify.volume_alignment import (
    align_volumes,
    band_pass_volumes,
    cube_grid,
    sample_volumes,
    shrink_volumes,
    within_boxes,
)
from doppelscan.verify.volume_coarse import COARSE, VolumeCoarseSearch, axis_posed, spread_rotations
from doppelscan.verify.volume_pose import VolumePose

__all__ = ["AlignedVolume", "VolumeAgreement", "VolumeRegistration", "fold_agreement"]

MIDDLE = 32
# Queries whose pairs are one tensor: what the caches of a processor hold, and what keeps a GPU busy.
CPU_QUERIES, GPU_QUERIES = 1, 16
# A cell of this agreement matches.
MATCHING = 0.7


@dataclass(frozen=True)
class VolumeAgreement:
    """A candidate after registration.

    Attributes:
        candidate: its position among the candidates given.
        pose: what maps the candidate on the volume, in mm.
        ssim: SSIM in 3D of the aligned pair over the shared field of view, intensities matched, -1 to 1.
        detail: correlation of fine structure (band-passed) in the shared field of view, -1 to 1.
        overlap: share of the volume that the moved candidate covers, 0 to 1.
        agreement: mean of the correlation of fine structure within cells, weighted by their structure, -1 to 1.
        share: share of the structure that lies in cells whose agreement is above 0.7, 0 to 1.
        score: what ranks, -1 to 1: mean agreement of the better half of the structure, so that a half or a part of a copy counts as one.
    """

    candidate: int
    pose: VolumePose
    ssim: float
    detail: float
    overlap: float
    agreement: float
    share: float
    score: float


@dataclass(frozen=True)
class AlignedVolume:
    """One pair in full, for the report; all in the frame of the volume's cube.

    Attributes:
        moved: float32 [S, S, S] in [0, 1], the candidate in the pose of the volume.
        inside: float32 [S, S, S], 1 where both hold image.
        agreement_map: float32 [S, S, S], local agreement, smooth; NaN where there is no structure.
    """

    moved: np.ndarray
    inside: np.ndarray
    agreement_map: np.ndarray


@dataclass(frozen=True)
class _Queries:
    """M queries, float [M, 1, s, s, s], at full size, and band-passed at each, and where each holds image, 1 or 0."""

    whole: torch.Tensor
    visible: torch.Tensor
    structure: torch.Tensor
    middle: torch.Tensor
    visible_middle: torch.Tensor
    small: torch.Tensor
    visible_small: torch.Tensor


class VolumeRegistration:
    """Finds the best pose of each candidate and measures how well the aligned pair agrees.

    Args:
        rotations: rotation vectors in degrees tried in the coarse search; the refinement reaches about 10 degrees further.
        scales: factors tried in the coarse search.
        max_shift: largest shift found, share of the cube.
        starts: axis poses of each candidate that are refined at 16 voxels.
        near: starts of each query that are refined at 32 voxels.
        screened: starts of each query that are refined there to the end.
        refined: candidates that are measured; where the best at 32 voxels is not ``promising``, that one alone.
        promising: correlation at 32 voxels from which candidates are refined at full size.
        device: where to compute.
        at_once: queries whose pairs are one tensor; None takes what is fastest there. Results do not depend on it.
    """

    def __init__(
        self,
        rotations: Sequence[tuple[float, float, float]] | None = None,
        scales: Sequence[float] = (0.85, 1.0, 1.18),
        max_shift: float = 0.2,
        starts: int = 2,
        near: int = 6,
        screened: int = 3,
        refined: int = 2,
        promising: float = 0.5,
        device: str | torch.device = "cpu",
        at_once: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.at_once = at_once or (CPU_QUERIES if self.device.type == "cpu" else GPU_QUERIES)
        self.starts, self.near, self.screened, self.refined, self.promising = starts, near, screened, refined, promising
        self.max_shift = max_shift
        self.coarse = VolumeCoarseSearch(rotations or spread_rotations(), scales, max_shift, self.device)

    def settings(self) -> dict:
        """What decides a result: part of the fingerprint of stored pairs."""
        return {
            "transforms": self.coarse.transforms,
            "max_shift": self.max_shift,
            "starts": self.starts,
            "near": self.near,
            "screened": self.screened,
            "refined": self.refined,
            "promising": self.promising,
            "version": 1,
        }

    @torch.no_grad()
    def __call__(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        frames: Sequence[CubeFrame],
        candidate_frames: Sequence[Sequence[CubeFrame]],
        *,
        given: np.ndarray | None = None,
        poses: np.ndarray | None = None,
    ) -> list[list[VolumeAgreement]]:
        """Register the ``candidates`` of each of M ``queries`` on it.

        Args:
            queries: uint8 or float [M, 1, S, S, S], S a multiple of 32.
            candidates: uint8 or float [M, K, 1, S, S, S].
            frames: of the queries' cubes, M.
            candidate_frames: of the candidates' cubes, M lists of K.
            given: bool [M, K], which of them are candidates; None says all.
            poses: int [M, K, n], the axis poses that are searched for each candidate, as retrieval found them; None searches all 48.

        Returns:
            of each query the refined ones only, best first; of equals the first candidate.

        Raises:
            InputError: cubes of another shape.
        """
        size = queries.shape[-1]
        if queries.shape[1:] != (1, size, size, size) or size % MIDDLE or candidates.shape[2:] != queries.shape[1:]:
            raise InputError(
                f"The 'queries' and 'candidates' parameters must be cubes [M, 1, S, S, S] and [M, K, 1, S, S, S], S a multiple of {MIDDLE}. "
                f"Got {tuple(queries.shape)} and {tuple(candidates.shape)} instead; cut them by cut_cube."
            )
        given = np.ones(tuple(candidates.shape[:2]), bool) if given is None else given
        found: list[list[VolumeAgreement]] = []
        for start in range(0, len(queries), self.at_once):
            block = slice(start, start + self.at_once)
            found += self._block(
                queries[block],
                candidates[block],
                frames[block],
                candidate_frames[block],
                given[block],
                None if poses is None else poses[block],
            )
        return found

    def _block(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        frames: Sequence[CubeFrame],
        candidate_frames: Sequence[Sequence[CubeFrame]],
        given: np.ndarray,
        poses: np.ndarray | None,
    ) -> list[list[VolumeAgreement]]:
        """All pairs of a few queries as one tensor: ``which`` is the query of each pair, ``place`` its candidate."""
        which, place = np.nonzero(given)
        if not len(which):
            return [[] for _ in queries]
        count = len(queries)
        seen = self._seen(unit_float(queries).to(self.device), frames)
        moving = unit_float(candidates[which, place]).to(self.device)
        boxes = field_boxes([candidate_frames[i][j] for i, j in zip(which, place, strict=True)]).to(self.device)
        little = shrink_volumes(moving, COARSE)
        held = _box_masks(boxes, COARSE)
        wanted = None if poses is None else poses[which, place]
        pair, numbers, matrices, _ = self.coarse(
            shrink_volumes(seen.whole, COARSE), seen.visible_small, little, held, which, wanted, self.starts
        )

        def refine(
            level: torch.Tensor, visible: torch.Tensor, source: torch.Tensor, iterations: int, step: int = 1
        ) -> torch.Tensor:
            nonlocal matrices
            posed = axis_posed(source, numbers)
            matrices, value = align_volumes(
                level, posed, matrices, visible, _posed_boxes(boxes[pair], numbers), which[pair], iterations, step
            )
            return value

        def keep(value: torch.Tensor, most: int) -> torch.Tensor:
            nonlocal pair, numbers, matrices
            rows = _highest(value, which[pair], pair, count, most)
            pair, numbers, matrices = pair[rows], numbers[rows], matrices[rows]
            return value[rows]

        keep(refine(seen.small, seen.visible_small, band_pass_volumes(little, COARSE / 12)[pair], 5), self.near)
        middle = band_pass_volumes(shrink_volumes(moving[np.unique(pair)], MIDDLE), MIDDLE / 24)
        keep(refine(seen.middle, seen.visible_middle, middle[np.searchsorted(np.unique(pair), pair)], 3), self.screened)
        value = refine(
            seen.middle,
            seen.visible_middle,
            band_pass_volumes(shrink_volumes(moving[pair], MIDDLE), MIDDLE / 24),
            4,
        )
        # Of each candidate the best start, and where none is promising, that one of the query alone.
        order = _first_of_each(value, pair)
        pair, numbers, matrices, value = pair[order], numbers[order], matrices[order], value[order]
        best = np.full(count, -np.inf)
        np.maximum.at(best, which[pair], value.cpu().numpy())
        told = best[which[pair]] >= self.promising
        leading = np.zeros(len(pair), bool)
        leading[_highest(value, which[pair], pair, count, 1)] = True
        rows = np.flatnonzero(leading | told)
        pair, numbers, matrices, value = pair[rows], numbers[rows], matrices[rows], value[rows]
        keep(value, self.refined)
        fine = np.flatnonzero(best[which[pair]] >= self.promising)
        posed = axis_posed(moving[pair], numbers)
        posed_boxes = _posed_boxes(boxes[pair], numbers)
        structure = band_pass_volumes(posed, posed.shape[-1] / 24)
        if len(fine):
            matrices[fine], _ = align_volumes(
                seen.structure, structure[fine], matrices[fine], seen.visible, posed_boxes[fine], which[pair[fine]], 3, 2
            )
        measured = self._measure(seen, posed, structure, matrices, posed_boxes, which[pair])
        found: list[list[VolumeAgreement]] = [[] for _ in queries]
        told_matrices = matrices.cpu().double().numpy()
        for row in np.lexsort((place[pair], -np.round(measured[:, -1], 6))):
            one = int(pair[row])
            query, candidate = int(which[one]), int(place[one])
            pose = VolumePose.from_sampling_matrix(
                int(numbers[row]), told_matrices[row], frames[query], candidate_frames[query][candidate]
            )
            found[query].append(VolumeAgreement(candidate, pose, *(float(number) for number in measured[row])))
        return found

    def _seen(self, queries: torch.Tensor, frames: Sequence[CubeFrame]) -> _Queries:
        """Queries [M, 1, S, S, S] and where each holds image and was not filled up."""
        size = queries.shape[-1]
        boxes = field_boxes(frames).to(self.device)
        middle = shrink_volumes(queries, MIDDLE)
        visible_middle = 1 - filled_borders(middle, _box_masks(boxes, MIDDLE))
        visible = F.interpolate(visible_middle, size=(size,) * 3) * _box_masks(boxes, size)
        small = shrink_volumes(queries, COARSE)
        return _Queries(
            queries,
            visible,
            band_pass_volumes(queries, size / 24),
            band_pass_volumes(middle, MIDDLE / 24),
            visible_middle,
            band_pass_volumes(small, COARSE / 12),
            shrink_volumes(visible_middle, COARSE),
        )

    def _measure(
        self,
        seen: _Queries,
        posed: torch.Tensor,
        structure: torch.Tensor,
        matrices: torch.Tensor,
        boxes: torch.Tensor,
        which: np.ndarray,
    ) -> np.ndarray:
        """float64 [B, 6]: SSIM, detail, overlap, agreement, share and score."""
        queries = seen.whole[which]
        grid = cube_grid(matrices, queries.shape[-1])
        moved, fine = sample_volumes(torch.cat([posed, structure], 1), grid).split(1, 1)
        inside = within_boxes(grid, boxes)[:, None] * seen.visible[which]
        similarity = _shared_ssim(queries, moved, inside)
        detail = correlation(fine.flatten(1), seen.structure[which].flatten(1), inside.flatten(1))
        overlap = inside.mean((1, 2, 3, 4)) / seen.visible[which].mean((1, 2, 3, 4)).clamp_min(1e-6)
        cells, weight = local_agreement(seen.structure[which], fine, inside)
        flat, weights = cells.flatten(1), weight.flatten(1)
        total = weights.sum(1).clamp_min(1e-8)
        agreement = (flat * weights).sum(1) / total
        share = ((flat > MATCHING) * weights).sum(1) / total
        score = fold_agreement(flat, weights)
        columns = (similarity, detail, overlap, agreement, share, score)
        return torch.stack([one.double().cpu().clamp(-1, 1) for one in columns], 1).numpy()

    @torch.no_grad()
    def pairs(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        frames: Sequence[CubeFrame],
        candidate_frames: Sequence[CubeFrame],
        poses: Sequence[VolumePose],
    ) -> list[AlignedVolume]:
        """All of B pairs whose poses are known.

        Args:
            queries: uint8 or float [B, 1, S, S, S].
            candidates: uint8 or float [B, 1, S, S, S], one of each query.
            frames: of the queries' cubes.
            candidate_frames: of the candidates' cubes.
            poses: B, what maps each candidate on its query.
        """
        seen = self._seen(unit_float(queries).to(self.device), frames)
        numbers = np.array([pose.number for pose in poses])
        posed = axis_posed(unit_float(candidates).to(self.device), numbers)
        matrices = np.stack([p.sampling_matrix(a, b) for p, a, b in zip(poses, frames, candidate_frames, strict=True)])
        size = posed.shape[-1]
        grid = cube_grid(torch.from_numpy(matrices).float().to(self.device), size)
        moved, fine = sample_volumes(torch.cat([posed, band_pass_volumes(posed, size / 24)], 1), grid).split(1, 1)
        boxes = _posed_boxes(field_boxes(candidate_frames).to(self.device), numbers)
        inside = within_boxes(grid, boxes)[:, None] * seen.visible
        cells, weight = local_agreement(seen.structure, fine, inside)
        cells = torch.where(weight > 0.05 * weight.flatten(1).amax(1).view(-1, 1, 1, 1), cells, torch.nan)
        picture = F.interpolate(cells[:, None], (size,) * 3, mode="nearest")
        arrays = [one[:, 0].cpu().numpy() for one in (moved, inside, picture)]
        return [AlignedVolume(*one) for one in zip(*arrays, strict=True)]


def local_agreement(first: torch.Tensor, second: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Correlation of two band-passed volumes within cells, each a Gaussian window of a sixteenth of the side.

    Args:
        first: float [B, 1, S, S, S].
        second: float [B, 1, S, S, S], aligned on it.
        inside: float [B, 1, S, S, S], 1 where both hold image.

    Returns:
        the correlation of each cell, -1 to 1, and its structure, which weighs it: both float [B, 16, 16, 16].
    """
    cells = 16
    sums = torch.cat([first * second, first * first, second * second], 1) * inside
    sums = blur_volumes(shrink_volumes(sums, cells), 1.0)
    product, one, other = sums.unbind(1)
    return product / (one * other).clamp_min(1e-12).sqrt().clamp_min(1e-3), one


def fold_agreement(cells: torch.Tensor, weights: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """Mean agreement [B] of the best cells that hold ``share`` of the structure: ``cells`` and ``weights`` float [B, L]."""
    order = cells.argsort(1, descending=True)
    value, weight = cells.gather(1, order), weights.gather(1, order)
    total = weight.sum(1, keepdim=True).clamp_min(1e-8) * share
    taken = (total - (weight.cumsum(1) - weight)).clamp_min(0)
    weight = torch.minimum(weight, taken)
    return (value * weight).sum(1) / weight.sum(1).clamp_min(1e-8)


def _shared_ssim(queries: torch.Tensor, moved: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """SSIM [B] of volumes, z-scored; outside of the shared field of view the moved one takes the place of both."""
    mapped = match_intensity(moved, queries, inside).view_as(moved)
    shared = queries * inside + mapped * (1 - inside)
    first, second = (
        (one - one.mean((1, 2, 3, 4), keepdim=True)) / one.std((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        for one in (shared, mapped)
    )
    # Of equal volumes it is 1 up to a rounding.
    return ssim(first, second).clamp_max(1)


def field_boxes(frames: Sequence[CubeFrame]) -> torch.Tensor:
    """Where in their cubes volumes lie: float32 [B, 2, 3], lower and upper corner, x, y, z in [-1, 1] and beyond."""
    corners = []
    for frame in frames:
        half = np.array(frame.shape) * frame.spacing / 2
        corners.append(frame.from_mm(np.stack([-half, half])))
    return torch.from_numpy(np.stack(corners)).float()


def _posed_boxes(boxes: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """``boxes`` float [B, 2, 3] in the axis pose of each."""
    axes = torch.tensor([AXIS_POSES[number][0] for number in numbers], device=boxes.device)
    flips = torch.tensor([AXIS_POSES[number][1] for number in numbers], device=boxes.device)
    turned = boxes.gather(2, axes[:, None].expand(-1, 2, -1))
    return torch.where(flips[:, None], -turned.flip(1), turned)


def _box_masks(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """float [B, 1, size, size, size], 1 where a voxel's centre lies in ``boxes``."""
    grid = cube_grid(torch.eye(3, 4, device=boxes.device)[None], size)
    return within_boxes(grid.expand(len(boxes), -1, -1, -1, -1), boxes)[:, None]


def filled_borders(volumes: torch.Tensor, held: torch.Tensor, level: float = 0.01, most: float = 0.35) -> torch.Tensor:
    """1 where a volume [B, 1, S, S, S] holds nothing: outside of ``held``, or filled up at its border by a shift or a rotation; else 0.

    Filled is what is dark and connected to the border. When that is more than ``most`` of the volume, it is the background of the anatomy, which
    does belong to the comparison, and only what lies outside of ``held`` is left out.
    """
    outside = 1 - held
    dark = torch.maximum((volumes < level).float(), outside)
    reached = torch.maximum(outside, 1 - F.pad(torch.ones_like(held)[..., 1:-1, 1:-1, 1:-1], (1,) * 6)) * dark
    for _ in range(volumes.shape[-1] // 2):
        grown = F.max_pool3d(reached, 3, stride=1, padding=1) * dark
        if torch.equal(grown, reached):
            break
        reached = grown
    share = (reached * held).mean((1, 2, 3, 4), keepdim=True) / held.mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    grown = F.max_pool3d(reached, 3, stride=1, padding=1)
    return torch.maximum(grown * (share < most).float(), outside)


def _highest(values: torch.Tensor, which: np.ndarray, order: np.ndarray, queries: int, kept: int) -> np.ndarray:
    """Rows of the ``kept`` highest values of each query, best first, of ties the first in ``order``."""
    rows = np.lexsort((order, -np.round(values.cpu().double().numpy(), 6), which))
    rank = np.arange(len(rows)) - np.searchsorted(which[rows], which[rows])
    return rows[rank < kept]


def _first_of_each(values: torch.Tensor, pair: np.ndarray) -> np.ndarray:
    """Row of the highest value of each pair."""
    rows = np.lexsort((np.arange(len(pair)), -values.cpu().numpy(), pair))
    return rows[np.unique(pair[rows], return_index=True)[1]]
