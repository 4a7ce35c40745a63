"""Register candidate training images on a synthetic image: coarse by FFT over all poses, then Gauss-Newton to sub-pixel.

Both work on band-passed images: gamma, window and bias field change slowly over the image and are not novelty. The coarse
search looks at 8 flip-and-turn poses x rotations x scales x all shifts at 32 pixels, where a correlation over all shifts is
one small Fourier transform; refinement follows the gradient at 32, at 64 and at full size. Each step goes on with fewer candidates, and
full size is for those alone that agree nearly as copies do: of most images of strangers the first steps tell enough. What is
done to a pair hangs on nothing but the pair's own image and its candidates, so synthetic and control images are treated alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import ssim, zscore
from doppelscan.images import align, sampling_grid, unit_float, within
from doppelscan.memorization import falling_order
from doppelscan.search import PatchDescriptor, mean_agreement
from doppelscan.verify.agreement import detail_correlation, explained, match_intensity, verified_score
from doppelscan.verify.coarse import COARSE, CoarseSearch, quarter_turns, tried_poses
from doppelscan.verify.pose import Pose
from doppelscan.verify.stages import COARSE_STAGE, HALF_STAGE, SMALL_STAGE, STAGES, WHOLE_STAGE, Stages

__all__ = ["AlignedPair", "PairAgreement", "Registration"]

# The native shape of what was not padded.
SQUARE = np.ones(2, np.int64)
# Queries whose pairs are one tensor: what the caches of a processor hold, and what keeps a GPU busy (about 1 GB with 20 candidates).
CPU_QUERIES, GPU_QUERIES = 8, 64
# A cell of this agreement matches: of unrelated patients' cells 1 in 50 reaches it, of a copy's most do.
MATCHING = 0.7


@dataclass(frozen=True)
class PairAgreement:
    """A candidate after registration.

    Attributes:
        candidate: its position among the candidates given.
        pose: what maps the candidate on the image.
        ssim: SSIM of the aligned pair over the shared field of view, intensities matched, -1 to 1.
        detail: correlation of fine structure (band-passed) in the anatomy, -1 to 1.
        overlap: share of the image that the moved candidate covers, 0 to 1.
        agreement: mean agreement of whitened local structure, see :class:`~doppelscan.search.PatchDescriptor`; NaN without one.
        share: share of the field of view that matches: of the cells that hold structure, those whose agreement is above 0.7; NaN likewise.
    """

    candidate: int
    pose: Pose
    ssim: float
    detail: float
    overlap: float
    agreement: float = math.nan
    share: float = math.nan

    @property
    def verified(self) -> float:
        """See :func:`~doppelscan.verify.verified_score`; without an agreement the detail alone."""
        return self.detail if math.isnan(self.agreement) else verified_score(self.detail, self.agreement)


@dataclass(frozen=True)
class AlignedPair:
    """One pair in full, for the report and for the kind of a finding.

    Attributes:
        moved: float32 [S, S] in [0, 1], the candidate in the pose of the image.
        inside: float32 [S, S], 1 where both hold image.
        explained: share of the structure of the image that the candidate explains, see :func:`~doppelscan.verify.agreement.explained`.
        coarse: it could only be judged in the coarsest band of detail, as the image is so blurred or noisy.
        fine: share of the fine structure, whatever the sharpness and noise, see :func:`~doppelscan.verify.agreement.explained_share`.
        cells: float32 [L], agreement of each cell, in the frame of the candidate.
        counted: bool [L], cells that hold structure.
        agreement_map: float32 [S, S], the agreement of the cells, smooth, in the frame of the image; NaN where there is no structure.
        query: float32 [S, S] in [0, 1], the image in the frame of the candidate.
    """

    moved: np.ndarray
    inside: np.ndarray
    explained: float
    coarse: bool
    fine: float
    cells: np.ndarray
    counted: np.ndarray
    agreement_map: np.ndarray
    query: np.ndarray


class Registration:
    """Finds the best pose of each candidate and measures how well the aligned pair agrees.

    Args:
        rotations: degrees tried in the coarse search.
        scales: factors tried in the coarse search.
        max_shift: largest shift found, share of the image.
        near: candidates that are refined at 32 pixels.
        screened: candidates that are refined at half size.
        refined: candidates that are measured; where the best of half size is not ``promising``, that one alone.
        promising: verified agreement (see :attr:`PairAgreement.verified`) from which candidates are refined at full size;
            unrelated people reach 0.65, close pairs begin at 0.72.
        device: where to compute.
        at_once: queries whose pairs are one tensor; None takes what is fastest there. Results do not depend on it.
    """

    def __init__(
        self,
        rotations: tuple[float, ...] = (-20, -15, -10, -5, 0, 5, 10, 15, 20),
        scales: tuple[float, ...] = (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25),
        max_shift: float = 0.2,
        near: int = 8,
        screened: int = 3,
        refined: int = 3,
        promising: float = 0.6,
        device: str | torch.device = "cpu",
        at_once: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.at_once = at_once or (CPU_QUERIES if self.device.type == "cpu" else GPU_QUERIES)
        self.max_shift, self.near, self.screened, self.refined, self.promising = max_shift, near, screened, refined, promising
        self.coarse = CoarseSearch(rotations, scales, max_shift, self.device)

    def settings(self) -> dict:
        """What decides a result: part of the fingerprint of stored pairs."""
        return {
            "transforms": self.coarse.transforms,
            "max_shift": self.max_shift,
            "near": self.near,
            "screened": self.screened,
            "refined": self.refined,
            "promising": self.promising,
            "version": 5,
        }

    @torch.no_grad()
    def __call__(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        *,
        given: np.ndarray | None = None,
        shapes: np.ndarray | None = None,
        candidate_shapes: np.ndarray | None = None,
        poses: np.ndarray | None = None,
        descriptor: PatchDescriptor | None = None,
        known: np.ndarray | None = None,
    ) -> list[list[PairAgreement]]:
        """Register the ``candidates`` of each of M ``queries`` on it.

        Args:
            queries: uint8 or float [M, 1, S, S].
            candidates: uint8 or float [M, K, 1, S, S].
            given: bool [M, K], which of them are candidates; None says all.
            shapes: int [M, 2], native height and width of the queries, which were padded to squares; None is square.
            candidate_shapes: int [M, K, 2], the same of the candidates.
            poses: int [M, K, n], the flip-and-turn poses that are searched for each candidate, as retrieval found them; None searches all 8.
            descriptor: measures local agreement; None leaves it out.
            known: float32 [M, K, 29], see :class:`~doppelscan.verify.Stages`, of pairs that were registered in these poses before, NaN of others; what
                is registered now is written into it. None knows none.

        Returns:
            of each query the refined ones only, best first; of equals the first candidate.
        """
        count = tuple(candidates.shape[:2])
        given = np.ones(count, bool) if given is None else given
        shapes = SQUARE[None].repeat(count[0], 0) if shapes is None else shapes
        candidate_shapes = np.tile(SQUARE, (*count, 1)) if candidate_shapes is None else candidate_shapes
        known = np.full((*count, STAGES), np.nan, np.float32) if known is None else known
        found: list[list[PairAgreement]] = []
        for start in range(0, len(queries), self.at_once):
            block = slice(start, start + self.at_once)
            found += self._block(
                queries[block],
                candidates[block],
                given[block],
                shapes[block],
                candidate_shapes[block],
                None if poses is None else poses[block],
                descriptor,
                known[block],
            )
        return found

    def _block(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        given: np.ndarray,
        shapes: np.ndarray,
        candidate_shapes: np.ndarray,
        poses: np.ndarray | None,
        descriptor: PatchDescriptor | None,
        known: np.ndarray,
    ) -> list[list[PairAgreement]]:
        """All pairs of a few queries as one tensor: ``which`` is the query of each pair, ``place`` its candidate."""
        which, place = np.nonzero(given)
        if not len(which):
            return [[] for _ in queries]
        moving = unit_float(candidates[which, place]).to(self.device)
        seen = self._seen(unit_float(queries).to(self.device), shapes)
        native = candidate_shapes[which, place]
        wanted = None if poses is None else poses[which, place]
        little, stages = _resize(moving, COARSE), Stages(known[which, place])

        def coarse(pairs: np.ndarray) -> np.ndarray:
            asked, of = np.unique(which[pairs], return_inverse=True)
            areas, tried = _areas(native[pairs], COARSE).to(self.device), None if wanted is None else wanted[pairs]
            value, numbers, matrices = self.coarse(seen.small[asked], seen.visible_small[asked], little[pairs], areas, of, tried)
            return _stage(numbers, matrices, value)

        def small(pairs: np.ndarray) -> np.ndarray:
            begun = stages.rows[pairs, COARSE_STAGE]
            tried = None if wanted is None else wanted[pairs]
            starts = [
                self._aligned(seen, little[pairs], native[pairs], which[pairs], *start)
                for start in (
                    (begun[:, 0].astype(np.int64), self._matrices(begun[:, 1:7])),
                    self._plain(seen, little[pairs], native[pairs], which[pairs], tried),
                )
            ]
            # The plain pose is always among the starts: what is not moved must not be lost to a view that masks what disagrees.
            better = starts[1][2] > starts[0][2] - 1e-4
            numbers = np.where(better.cpu().numpy(), starts[1][0], starts[0][0])
            matrices = torch.where(better[:, None, None], starts[1][1], starts[0][1])
            return _stage(numbers, matrices, torch.where(better, starts[1][2], starts[0][2]))

        def posed(pairs: np.ndarray) -> torch.Tensor:
            return quarter_turns(moving[pairs], numbers[pairs])

        def extents(pairs: np.ndarray) -> torch.Tensor:
            return self._extents(native[pairs], numbers[pairs])

        def half(pairs: np.ndarray) -> np.ndarray:
            middle, start = _resize(posed(pairs), seen.half.shape[-1]), self._matrices(stages.rows[pairs, SMALL_STAGE][:, 1:7])
            matrices, agreement = align(seen.half, middle, start, seen.visible_half, 5, extents(pairs), which[pairs])
            return _stage(None, matrices, agreement)

        def whole(pairs: np.ndarray) -> np.ndarray:
            start = self._matrices(stages.rows[pairs, HALF_STAGE][:, :6])
            return _stage(None, align(seen.whole, posed(pairs), start, seen.visible, 6, extents(pairs), which[pairs])[0])

        every = np.arange(len(which))
        kept = _highest(stages.done(COARSE_STAGE, every, coarse)[:, 7], which, len(queries), self.near)
        agreement = stages.done(SMALL_STAGE, kept, small)[:, 7]
        kept = kept[_highest(agreement, which[kept], len(queries), self.screened)]
        numbers = np.nan_to_num(stages.rows[:, SMALL_STAGE.start]).astype(np.int64)
        agreement = stages.done(HALF_STAGE, kept, half)[:, 6]

        def measure(pairs: np.ndarray, fine: bool) -> dict[int, PairAgreement]:
            """Of some pairs, where they are, or refined at full size."""
            where = stages.done(WHOLE_STAGE, pairs, whole) if fine else stages.rows[pairs, HALF_STAGE][:, :6]
            told = self._measure(
                seen, posed(pairs), self._matrices(where), extents(pairs), numbers[pairs], which[pairs], place[pairs], descriptor
            )
            return dict(zip(pairs.tolist(), told, strict=True))

        measured = measure(kept[_highest(agreement, which[kept], len(queries), 1)], False)
        promising = {which[pair] for pair, one in measured.items() if one.verified >= self.promising}
        asked = kept[_highest(agreement, which[kept], len(queries), self.refined)]
        asked = asked[np.isin(which[asked], list(promising))]
        if len(asked):
            measured |= measure(asked, True)
        known[which, place] = stages.rows
        pairs = np.array(sorted(measured))
        order = _highest(
            np.array([measured[pair].detail for pair in pairs.tolist()]),
            which[pairs],
            len(queries),
            self.refined,
            place[pairs],
        )
        found: list[list[PairAgreement]] = [[] for _ in queries]
        for pair in pairs[order].tolist():
            found[which[pair]].append(measured[pair])
        return found

    def _aligned(
        self,
        seen: _Queries,
        little: torch.Tensor,
        shapes: np.ndarray,
        which: np.ndarray,
        numbers: np.ndarray,
        matrices: torch.Tensor,
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """A start of each pair refined at 32 pixels: pose numbers, matrices and agreement."""
        extent = self._extents(shapes, numbers)
        found, agreement = align(seen.small, quarter_turns(little, numbers), matrices, seen.visible_small, 3, extent, which)
        return numbers, found, agreement

    def _plain(
        self, seen: _Queries, little: torch.Tensor, shapes: np.ndarray, which: np.ndarray, poses: np.ndarray | None
    ) -> tuple[np.ndarray, torch.Tensor]:
        """The flip-and-turn pose of each pair that agrees best as it is, not moved: pose numbers and matrices."""
        # The image as it is, too, whatever retrieval found.
        pair, numbers = tried_poses(None if poses is None else np.pad(poses, ((0, 0), (1, 0))), len(little))
        unmoved = torch.eye(2, 3, device=self.device).expand(len(pair), 2, 3)
        posed, extent = quarter_turns(little[pair], numbers), self._extents(shapes[pair], numbers)
        _, agreement = align(seen.small, posed, unmoved, seen.visible_small, 0, extent, which[pair])
        # Of equals the first, and the plain image is the first of all.
        best = np.lexsort((numbers, -np.round(agreement.cpu().numpy(), 4), pair))
        best = best[np.unique(pair[best], return_index=True)[1]]
        return numbers[best], unmoved[: len(little)].clone()

    def _matrices(self, rows: np.ndarray) -> torch.Tensor:
        """float [n, 2, 3] of n rows of a stage."""
        return torch.from_numpy(rows).to(self.device).unflatten(1, (2, 3))

    def _seen(self, queries: torch.Tensor, shapes: np.ndarray) -> _Queries:
        """Queries [M, 1, S, S] at the three sizes, and where each holds image and was not filled up."""
        # Found at half size: growing it from the border is the slowest part at full size.
        half = _resize(queries, queries.shape[-1] // 2)
        visible = 1 - filled_border(half, _areas(shapes, half.shape[-1]).to(self.device))
        whole = F.interpolate(visible, size=queries.shape[-2:])
        return _Queries(queries, half, _resize(queries, COARSE), whole, visible, _resize(visible, COARSE))

    def _extents(self, shapes: np.ndarray, numbers: np.ndarray) -> torch.Tensor:
        """float [K, 2], reach to the right and down of candidates of native ``shapes`` int [K, 2] in the poses ``numbers`` [K]."""
        reach = torch.from_numpy(shapes[:, ::-1] / shapes.max(1, keepdims=True)).float()
        turned = torch.from_numpy(numbers % 2 == 1)[:, None]
        return torch.where(turned, reach.flip(1), reach).to(self.device)

    def _measure(
        self,
        seen: _Queries,
        posed: torch.Tensor,
        matrices: torch.Tensor,
        extent: torch.Tensor,
        numbers: np.ndarray,
        which: np.ndarray,
        place: np.ndarray,
        descriptor: PatchDescriptor | None,
    ) -> list[PairAgreement]:
        queries, visible = seen.whole[which], seen.visible[which]
        aligned, inside = self._moved(posed, matrices, visible, extent)
        mapped = match_intensity(aligned, queries, inside)
        shared = queries * inside + mapped * (1 - inside)
        # Of equal images it is 1 up to a rounding.
        similarity = ssim(zscore(shared), zscore(mapped)).clamp_max(1)
        detail = detail_correlation(mapped, queries, inside)
        overlap = inside.mean((1, 2, 3))
        agreement = share = torch.full((len(posed),), math.nan)
        if descriptor is not None:
            cells, counted, _ = self._local(queries, visible, posed, matrices, numbers, descriptor)
            agreement = mean_agreement(cells, counted)
            share = ((cells > MATCHING) & counted).sum(0) / counted.sum(0).clamp_min(1)
        values = torch.stack([one.cpu().double() for one in (similarity, detail, overlap, agreement, share)], 1).tolist()
        found = matrices.cpu().double().numpy()
        return [
            PairAgreement(int(place[i]), Pose.from_sampling_matrix(int(numbers[i]), found[i]), *values[i])
            for i in range(len(posed))
        ]

    @staticmethod
    def _moved(
        posed: torch.Tensor, matrices: torch.Tensor, visible: torch.Tensor, extent: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates in the pose of the query, and where both hold image."""
        grid = sampling_grid(matrices, posed.shape[-1])
        return F.grid_sample(posed, grid, align_corners=False), within(grid, extent)[:, None] * visible

    @staticmethod
    def _local(
        queries: torch.Tensor,
        visible: torch.Tensor,
        posed: torch.Tensor,
        matrices: torch.Tensor,
        numbers: np.ndarray,
        descriptor: PatchDescriptor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Agreement of the cells [L, K], which count, and the queries in the frame of the candidates, where cells are whitened."""
        grid = sampling_grid(_inverse(matrices), posed.shape[-1])
        back = quarter_turns(F.grid_sample(torch.cat([queries, visible], 1), grid, align_corners=False), numbers, undo=True)
        structure = descriptor.structure(back[:, :1])
        known = (_resize(back[:, 1:], structure.shape[-1]) > 0.99).float()
        shifted = descriptor.shifted(structure, known)
        reference = descriptor.describe(descriptor.structure(quarter_turns(posed, numbers, undo=True)), known)
        counted = shifted[0].abs().amax(-1) > 0
        return (shifted * reference).sum(-1).amax(0) * counted, counted, back[:, 0]

    @torch.no_grad()
    def pairs(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        poses: Sequence[Pose],
        descriptor: PatchDescriptor,
        shapes: np.ndarray | None = None,
        candidate_shapes: np.ndarray | None = None,
    ) -> list[AlignedPair]:
        """All of B pairs whose poses are known.

        Args:
            queries: uint8 or float [B, 1, S, S].
            candidates: uint8 or float [B, 1, S, S], one of each query.
            poses: B, what maps each candidate on its query.
            descriptor: of local structure.
            shapes: int [B, 2], native shapes of the queries; None is square.
            candidate_shapes: int [B, 2], those of the candidates.
        """
        square = SQUARE[None].repeat(len(queries), 0)
        shapes = square if shapes is None else shapes
        candidate_shapes = square if candidate_shapes is None else candidate_shapes
        found: list[AlignedPair] = []
        for start in range(0, len(queries), self.at_once):
            block = slice(start, start + self.at_once)
            found += self._pairs(
                queries[block],
                candidates[block],
                poses[block],
                descriptor,
                shapes[block],
                candidate_shapes[block],
            )
        return found

    def _pairs(
        self,
        queries: torch.Tensor,
        candidates: torch.Tensor,
        poses: Sequence[Pose],
        descriptor: PatchDescriptor,
        shapes: np.ndarray,
        candidate_shapes: np.ndarray,
    ) -> list[AlignedPair]:
        seen = self._seen(unit_float(queries).to(self.device), shapes)
        count, size = len(queries), seen.whole.shape[-1]
        numbers = np.array([pose.number for pose in poses])
        candidates = unit_float(candidates).to(self.device)
        inverted = torch.tensor([pose.inverted for pose in poses], device=self.device)[:, None, None, None]
        posed = quarter_turns(torch.where(inverted, 1 - candidates, candidates), numbers)
        matrices = torch.from_numpy(np.stack([pose.sampling_matrix() for pose in poses])).float().to(self.device)
        moved, inside = self._moved(posed, matrices, seen.visible, self._extents(candidate_shapes, numbers))
        cells, counted, back = self._local(seen.whole, seen.visible, posed, matrices, numbers, descriptor)
        pictures = descriptor.picture(torch.stack([cells.T, counted.T.float()], 1).flatten(0, 1))[0].unflatten(0, (count, 2))
        pictures = F.interpolate(quarter_turns(pictures, numbers), (size, size), mode="bilinear")
        grid = sampling_grid(matrices, size)
        agreeing, known = F.grid_sample(pictures, grid, align_corners=False).unbind(1)
        known = torch.where(known > 0.25, agreeing / known.clamp_min(0.25), torch.nan)
        longer = shapes.max(1)
        pitch = torch.from_numpy(np.where(longer > 1, size / longer, 1.0))
        told = explained(seen.whole, moved, inside, pitch)
        arrays = [one.cpu().numpy() for one in (moved[:, 0], inside[:, 0], cells.T, counted.T, known, back)]
        return [
            AlignedPair(m, i, share, coarse, fine, c, n, k, b)
            for share, coarse, fine, m, i, c, n, k, b in zip(*(one.tolist() for one in told), *arrays, strict=True)
        ]


@dataclass(frozen=True)
class _Queries:
    """M queries, float [M, 1, s, s] at three sizes, and where each holds image, 1 or 0."""

    whole: torch.Tensor
    half: torch.Tensor
    small: torch.Tensor
    visible: torch.Tensor
    visible_half: torch.Tensor
    visible_small: torch.Tensor


def _stage(numbers: np.ndarray | None, matrices: torch.Tensor, agreement: torch.Tensor | None = None) -> np.ndarray:
    """The columns of a stage, see :class:`~doppelscan.verify.Stages`."""
    columns = [] if numbers is None else [torch.from_numpy(numbers).float()[:, None]]
    columns.append(matrices.flatten(1).float().cpu())
    if agreement is not None:
        columns.append(agreement.float().cpu()[:, None])
    return torch.cat(columns, 1).numpy()


def _highest(values: np.ndarray, which: np.ndarray, queries: int, kept: int, order: np.ndarray | None = None) -> np.ndarray:
    """Rows of the ``kept`` highest values of each query, best first, of ties the first; ``order`` breaks them otherwise."""
    most = np.bincount(which, minlength=queries)
    ranked = np.full((queries, most.max()), -np.inf)
    first = np.cumsum(most) - most
    rows = np.argsort(which, kind="stable") if order is None else np.lexsort((order, which))
    column = np.arange(len(which)) - first[which[rows]]
    ranked[which[rows], column] = values[rows]
    row_of = np.full(ranked.shape, -1)
    row_of[which[rows], column] = rows
    chosen = np.take_along_axis(row_of, falling_order(ranked), 1)[:, :kept].reshape(-1)
    return chosen[chosen >= 0]


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def filled_border(images: torch.Tensor, held: torch.Tensor | None = None, level: float = 0.01, most: float = 0.35) -> torch.Tensor:
    """1 where an image [B, 1, S, S] holds nothing: outside of ``held``, or filled up at its border by a shift or a rotation; else 0.

    Filled is what is dark and connected to the border. When that is more than ``most`` of the image, it is the background of the
    anatomy, which does belong to the comparison, and only what lies outside of ``held`` is left out.
    """
    size = images.shape[-1]
    held = torch.ones_like(images) if held is None else held.expand_as(images)
    outside = 1 - held
    dark = (F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1) < level).float()
    # Next to the padding the mean of 3 x 3 pixels is half padding: there the pixel itself tells.
    edge = F.max_pool2d(outside, 3, stride=1, padding=1) * held
    dark = torch.where(edge > 0, (images < level).float(), dark)
    reached = outside.clone()
    reached[..., 0, :], reached[..., -1, :], reached[..., :, 0], reached[..., :, -1] = 1, 1, 1, 1
    reached = torch.maximum(reached, edge) * torch.maximum(dark, outside)
    step = 2 * max(1, size // 32) + 1
    for _ in range(16):  # each step grows the filled strip inwards; a fill is at most a third of the image wide
        reached = torch.maximum(F.max_pool2d(reached, step, stride=1, padding=step // 2) * dark, outside)
    grown = F.max_pool2d(reached, 3, stride=1, padding=1)
    share = (grown * held).mean((1, 2, 3), keepdim=True) / held.mean((1, 2, 3), keepdim=True)
    return torch.maximum(grown * (share < most).float(), outside)


def _inverse(matrices: torch.Tensor) -> torch.Tensor:
    """Of sampling matrices [B, 2, 3]."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], 2)


def _areas(shapes: np.ndarray, size: int) -> torch.Tensor:
    """float [B, 1, size, size], 1 where images of native ``shapes`` int [B, 2] lie that were padded to squares."""
    reach = torch.from_numpy(size * shapes / shapes.max(1, keepdims=True).clip(1) / 2)
    inside = (torch.arange(size) + 0.5 - size / 2).abs()
    height, width = (inside < reach[:, side, None] for side in (0, 1))
    return (height[:, :, None] & width[:, None, :]).float()[:, None]
