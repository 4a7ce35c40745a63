"""Register candidate training volumes on a synthetic one and measure how well they agree; :mod:`registration` in 3D.

Volumes are cubes around their anatomy (:func:`~doppelscan.images.cubes.cut_cube`). Coarse at 16 voxels by FFT over axis poses, rotations, scales and
all shifts; then Gauss-Newton over affine maps at 16 and 32 voxels, with fewer and fewer candidates; what agrees nearly as copies do is refined and all
that is left is measured at full size. All of it on band-passed volumes: gamma, window and bias field change slowly and are not novelty. What is done to a
pair hangs on nothing but the pair's own volume and its candidates, so synthetic and control volumes are treated alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import ssim
from doppelscan.errors import InputError
from doppelscan.images import correlation, unit_float
from doppelscan.images.cubes import CubeFrame, blur_volumes
from doppelscan.verify.agreement import match_intensity
from doppelscan.verify.stages import Stages
from doppelscan.verify.volume_alignment import (
    align_volumes,
    band_pass_volumes,
    bend_volumes,
    bent_grid,
    better_half,
    cube_grid,
    sample_volumes,
    shrink_volumes,
    tissue_masks,
)
from doppelscan.verify.volume_coarse import COARSE, VolumeCoarseSearch, axis_posed, spread_rotations
from doppelscan.verify.volume_pose import VolumePose

__all__ = ["AlignedVolume", "VolumeAgreement", "VolumeRegistration"]

MIDDLE = 32
# Queries whose pairs are one tensor: what the caches of a processor hold, and what keeps a GPU busy.
CPU_QUERIES, GPU_QUERIES = 1, 16
# A cell of this agreement matches.
MATCHING = 0.7
# What is known of a start of a pair: its axis pose, then after each stage where it is (a sampling matrix of 12) and how well it agrees there; after the
# last one, and of what was not brought there, what was measured.
COARSE_START, NEAR_STAGE, MIDDLE_STAGE = slice(0, 14), slice(14, 27), slice(27, 40)
WHOLE_STAGE, LEFT_STAGE = slice(40, 58), slice(58, 64)
START = 64


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
        share: share of the structure, as it is within the shared field of view, in cells whose agreement there is above 0.7, 0 to 1.
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
class _Levels:
    """Volumes, float [B, 1, S, S, S], where they hold anatomy, float [B, 1, 32, 32, 32], and where their field of view lies, float [B, 2, 3]."""

    whole: torch.Tensor
    tissue: torch.Tensor
    boxes: torch.Tensor
    kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return self.whole.shape[-1]

    def at(self, size: int, rows: np.ndarray | slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Volumes and masks of ``rows`` at ``size`` voxels a side."""
        tissue = self.tissue[rows]
        if size > MIDDLE:
            tissue = F.interpolate(tissue, size=(size,) * 3, mode="trilinear") * _box_masks(self.boxes[rows], size)
        elif size < MIDDLE:
            tissue = shrink_volumes(tissue, size)
        return shrink_volumes(self.whole[rows], size), tissue

    def structure(self, size: int, rows: np.ndarray | slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
        """Band-passed volumes and masks of ``rows``; those of all are kept."""
        if isinstance(rows, slice) and size in self.kept:
            return self.kept[size]
        volumes, tissue = self.at(size, rows)
        made = band_pass_volumes(volumes, max(size, 32) / 24, tissue), tissue
        if isinstance(rows, slice):
            self.kept[size] = made
        return made

    def moved(self, rows: np.ndarray, numbers: np.ndarray, grid: torch.Tensor) -> torch.Tensor:
        """Volumes, their structure and their masks of ``rows``, in axis poses and at the places of ``grid``: float [B, 3, S, S, S]."""
        channels = torch.cat([self.whole[rows], *self.structure(self.size, rows)], 1)
        return sample_volumes(axis_posed(channels, numbers), grid)

    def bent(self, rows: np.ndarray, numbers: np.ndarray, matrices: torch.Tensor, onto: _Levels, here: np.ndarray) -> torch.Tensor:
        """The places of sampling matrices, bent on the rows ``here`` of ``onto``: float [B, S, S, S, 3]."""
        structure, tissue = self.structure(MIDDLE, rows)
        posed = axis_posed(torch.cat([structure, tissue], 1), numbers)
        target, visible = (one[here] for one in onto.structure(MIDDLE))
        field = bend_volumes(target, posed[:, :1], matrices, visible, posed[:, 1:])
        return bent_grid(matrices, F.interpolate(field, size=(self.size,) * 3, mode="trilinear"))


def _levels(volumes: torch.Tensor, frames: Sequence[CubeFrame]) -> _Levels:
    boxes = field_boxes(frames).to(volumes.device)
    tissue = tissue_masks(shrink_volumes(volumes, MIDDLE), _box_masks(boxes, MIDDLE))
    return _Levels(volumes, tissue, boxes)


def volume_structure(volumes: torch.Tensor, frames: Sequence[CubeFrame], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fine structure of cubes float [B, 1, S, S, S] in [0, 1] at ``size`` voxels a side, and where they hold anatomy: float [B, 1, size, size, size] each."""
    return _levels(volumes, frames).structure(size)


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
        promising: agreement of the better half at 32 voxels from which candidates are refined at full size; of T1 brains, strangers reach 0.91 there and
            copies begin at 0.93, so that by default only what is hopeless is left out.
        device: where to compute.
        at_once: queries whose pairs are one tensor; None takes what is fastest there. Results do not depend on it.
        bends: bend pairs mildly before they are measured. Copies that were bent strongly come nearer, strangers too; of a generator's samples 7 in
            place of 20 were then flagged, so it is not done of its own accord, and the thresholds of ``VolumeRules`` are those of stiff pairs.
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
        bends: bool = False,
    ) -> None:
        self.device, self.bends = torch.device(device), bends
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
            "bends": self.bends,
            "version": 4,
        }

    @property
    def columns(self) -> int:
        """Numbers of a pair in ``known``: those of each of its starts."""
        return self.starts * START

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
        known: np.ndarray | None = None,
    ) -> list[list[VolumeAgreement]]:
        """Register the ``candidates`` of each of M ``queries`` on it.

        Args:
            queries: uint8 or float [M, 1, S, S, S], S a multiple of 32.
            candidates: uint8 or float [M, K, 1, S, S, S].
            frames: of the queries' cubes, M.
            candidate_frames: of the candidates' cubes, M lists of K.
            given: bool [M, K], which of them are candidates; None says all.
            poses: int [M, K, n], the axis poses that are searched for each candidate, as retrieval found them; None searches all 48.
            known: float32 [M, K, columns], see :class:`~doppelscan.verify.Stages`, of pairs that were registered in these poses before, NaN of others;
                what is registered now is written into it. None knows none.

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
        count = tuple(candidates.shape[:2])
        given = np.ones(count, bool) if given is None else given
        known = np.full((*count, self.columns), np.nan, np.float32) if known is None else known
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
                known[block],
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
        known: np.ndarray,
    ) -> list[list[VolumeAgreement]]:
        """All pairs of a few queries as one tensor: ``which`` is the query of each pair, ``place`` its candidate, ``pair`` the pair of each start."""
        which, place = np.nonzero(given)
        if not len(which):
            return [[] for _ in queries]
        count, size = len(queries), queries.shape[-1]
        seen = _levels(unit_float(queries).to(self.device), frames)
        its_frames = [candidate_frames[i][j] for i, j in zip(which.tolist(), place.tolist(), strict=True)]
        moving = _levels(unit_float(candidates[which, place]).to(self.device), its_frames)
        wanted = None if poses is None else poses[which, place]
        pair = np.arange(len(which)).repeat(self.starts)
        stages = Stages(known[which, place].reshape(len(pair), START))

        def refined(starts: np.ndarray, before: np.ndarray, level: int, iterations: int, step: int = 1) -> np.ndarray:
            """Where some starts are, and their agreement, after ``iterations`` at ``level`` voxels."""
            rows, place_of = np.unique(pair[starts], return_inverse=True)
            structure, tissue = (one[place_of] for one in moving.structure(level, rows))
            numbers = stages.rows[starts, 0].astype(np.int64)
            posed = axis_posed(torch.cat([structure, tissue], 1), numbers)
            matrices = torch.from_numpy(before.reshape(-1, 3, 4)).to(self.device)
            target, visible = seen.structure(level)
            of = which[pair[starts]]
            matrices, value = align_volumes(target, posed[:, :1], matrices, visible, posed[:, 1:], of, iterations, step)
            return np.concatenate([matrices.flatten(1).cpu().numpy(), value.cpu().numpy()[:, None]], 1)

        def coarse(starts: np.ndarray) -> np.ndarray:
            """A pair's starts are found together; where they are fewer the rest is no axis pose."""
            rows = np.unique(pair[starts])
            asked, of = np.unique(which[rows], return_inverse=True)
            tried = None if wanted is None else wanted[rows]
            one, numbers, matrices, _ = self.coarse(*seen.at(COARSE, asked), *moving.at(COARSE, rows), of, tried, self.starts)
            its_place = rows[one] * self.starts + np.arange(len(one)) - np.searchsorted(one, one)
            stages.rows[its_place, 0] = numbers
            found = np.full((len(pair), NEAR_STAGE.start), -1, np.float32)
            found[its_place, 0] = numbers
            found[its_place, 1:] = refined(its_place, matrices.flatten(1).cpu().numpy(), COARSE, 5)
            return found[starts]

        def near(starts: np.ndarray) -> np.ndarray:
            return refined(starts, stages.rows[starts, COARSE_START][:, 1:13], MIDDLE, 3)

        def screened(starts: np.ndarray) -> np.ndarray:
            return refined(starts, stages.rows[starts, NEAR_STAGE][:, :12], MIDDLE, 4)

        def whole(starts: np.ndarray) -> np.ndarray:
            where = refined(starts, stages.rows[starts, MIDDLE_STAGE][:, :12], size, 3, 2)[:, :12]
            return np.concatenate([where, self._measure(seen, moving, pair[starts], stages.rows[starts, 0], where, which)], 1)

        def as_they_are(starts: np.ndarray) -> np.ndarray:
            where = stages.rows[starts, MIDDLE_STAGE][:, :12]
            return self._measure(seen, moving, pair[starts], stages.rows[starts, 0], where, which)

        def best(starts: np.ndarray, value: np.ndarray, most: int) -> np.ndarray:
            return starts[_highest(value, which[pair[starts]], pair[starts], most)]

        every = np.arange(len(pair))
        first = stages.done(COARSE_START, every, coarse)
        kept = every[first[:, 0] >= 0]
        kept = best(kept, first[kept, 13], self.near)
        kept = best(kept, stages.done(NEAR_STAGE, kept, near)[:, 12], self.screened)
        value = stages.done(MIDDLE_STAGE, kept, screened)[:, 12]
        # Of each candidate the best start, and where none is promising, that one of the query alone.
        rows = _first_of_each(value, pair[kept])
        kept, value = kept[rows], value[rows]
        highest = np.full(count, -np.inf)
        np.maximum.at(highest, which[pair[kept]], value)
        promising = highest[which[pair[kept]]] >= self.promising
        leading = np.isin(kept, best(kept, value, 1))
        kept, value = kept[leading | promising], value[leading | promising]
        kept = best(kept, value, self.refined)
        promising = highest[which[pair[kept]]] >= self.promising
        told = np.zeros((len(kept), 18), np.float32)
        if promising.any():
            told[promising] = stages.done(WHOLE_STAGE, kept[promising], whole)
        if not promising.all():
            told[~promising, :12] = stages.rows[kept[~promising], MIDDLE_STAGE][:, :12]
            told[~promising, 12:] = stages.done(LEFT_STAGE, kept[~promising], as_they_are)
        known[which, place] = stages.rows.reshape(len(which), -1)
        found: list[list[VolumeAgreement]] = [[] for _ in queries]
        for row in np.lexsort((place[pair[kept]], -np.round(told[:, -1].astype(np.float64), 6))):
            one = int(pair[kept[row]])
            query, candidate = int(which[one]), int(place[one])
            pose = VolumePose.from_sampling_matrix(
                int(stages.rows[kept[row], 0]),
                told[row, :12].astype(np.float64).reshape(3, 4),
                frames[query],
                candidate_frames[query][candidate],
            )
            found[query].append(VolumeAgreement(candidate, pose, *(float(number) for number in told[row, 12:])))
        return found

    def _measure(
        self, seen: _Levels, moving: _Levels, pair: np.ndarray, numbers: np.ndarray, where: np.ndarray, which: np.ndarray
    ) -> np.ndarray:
        """float32 [B, 6] of pairs in their axis poses and sampling matrices [B, 12]: SSIM, detail, overlap, agreement, share and score."""
        size, here = seen.size, which[pair]
        matrices = torch.from_numpy(where.reshape(-1, 3, 4)).to(self.device)
        whole, (structure, tissue) = seen.whole[here], (one[here] for one in seen.structure(size))
        number = numbers.astype(np.int64)
        grid = moving.bent(pair, number, matrices, seen, here) if self.bends else cube_grid(matrices, size)
        moved, fine, inside = moving.moved(pair, number, grid).split(1, 1)
        inside = inside * tissue
        similarity = _shared_ssim(whole, moved, inside)
        detail = correlation(fine.flatten(1), structure.flatten(1), inside.flatten(1))
        overlap = inside.mean((1, 2, 3, 4)) / tissue.mean((1, 2, 3, 4)).clamp_min(1e-6)
        cells, weight = local_agreement(structure, fine, inside)
        flat, weights = cells.flatten(1), weight.flatten(1)
        total = weights.sum(1).clamp_min(1e-8)
        agreement = (flat * weights).sum(1) / total
        score = better_half(flat, weights)
        cells, weight = _explained(whole, moved, inside)
        flat, weights = cells.flatten(1), weight.flatten(1)
        share = ((flat > MATCHING) * weights).sum(1) / weights.sum(1).clamp_min(1e-8)
        columns = (similarity, detail, overlap, agreement, share, score)
        return torch.stack([one.float().cpu().clamp(-1, 1) for one in columns], 1).numpy()

    @torch.no_grad()
    def pairs(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        frames: Sequence[CubeFrame],
        candidate_frames: Sequence[CubeFrame],
        poses: Sequence[VolumePose],
        bent: bool = True,
    ) -> list[AlignedVolume]:
        """All of B pairs whose poses are known.

        Args:
            queries: uint8 or float [B, 1, S, S, S].
            candidates: uint8 or float [B, 1, S, S, S], one of each query.
            frames: of the queries' cubes.
            candidate_frames: of the candidates' cubes.
            poses: B, what maps each candidate on its query.
            bent: after them, as it is measured, where pairs are. What is bent on a blend takes some of its second source with it.
        """
        seen = _levels(unit_float(queries).to(self.device), frames)
        moving = _levels(unit_float(candidates).to(self.device), candidate_frames)
        numbers = np.array([pose.number for pose in poses])
        matrices = np.stack([p.sampling_matrix(a, b) for p, a, b in zip(poses, frames, candidate_frames, strict=True)])
        placed = torch.from_numpy(matrices).float().to(self.device)
        each, size = np.arange(len(numbers)), seen.size
        grid = moving.bent(each, numbers, placed, seen, each) if bent and self.bends else cube_grid(placed, size)
        moved, _, inside = moving.moved(each, numbers, grid).split(1, 1)
        inside = inside * seen.at(size)[1]
        cells, weight = _explained(seen.whole, moved, inside)
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


def _explained(queries: torch.Tensor, moved: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`local_agreement` of what both are where both hold image: a border that only one of them has is no structure that the other lacks."""
    first, second = (band_pass_volumes(one, one.shape[-1] / 24, inside) for one in (queries, moved))
    return local_agreement(first, second, inside)


def _shared_ssim(queries: torch.Tensor, moved: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """SSIM [B] of volumes, z-scored; outside of the shared field of view the moved one takes the place of both."""
    mapped = match_intensity(moved, queries, inside).view_as(moved)
    shared = queries * inside + mapped * (1 - inside)
    first, second = (
        (one - one.mean((1, 2, 3, 4), keepdim=True)) / one.std((1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
        for one in (shared, mapped)
    )
    # Of equal volumes it is 1 up to a rounding.
    return ssim(first, second, stride=2).clamp_max(1)


def field_boxes(frames: Sequence[CubeFrame]) -> torch.Tensor:
    """Where in their cubes volumes lie: float32 [B, 2, 3], lower and upper corner, x, y, z in [-1, 1] and beyond."""
    corners = []
    for frame in frames:
        half = np.array(frame.shape) * frame.spacing / 2
        corners.append(frame.from_mm(np.stack([-half, half])))
    return torch.from_numpy(np.stack(corners)).float()


def _box_masks(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """float [B, 1, size, size, size], 1 where a voxel's centre lies in ``boxes``."""
    axis = (torch.arange(size, device=boxes.device) + 0.5) / size * 2 - 1
    x, y, z = ((axis >= reach[:, 0]) & (axis <= reach[:, 1]) for reach in boxes[..., None].unbind(2))
    return (x[:, :, None, None] & y[:, None, :, None] & z[:, None, None]).float()[:, None]


def _highest(values: np.ndarray, which: np.ndarray, order: np.ndarray, kept: int) -> np.ndarray:
    """Rows of the ``kept`` highest values of each query, best first, of ties the first in ``order``."""
    rows = np.lexsort((order, -np.round(values.astype(np.float64), 6), which))
    rank = np.arange(len(rows)) - np.searchsorted(which[rows], which[rows])
    return rows[rank < kept]


def _first_of_each(values: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """Row of the highest value of each pair."""
    rows = np.lexsort((np.arange(len(pair)), -values, pair))
    return rows[np.unique(pair[rows], return_index=True)[1]]
