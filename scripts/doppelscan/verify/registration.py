"""Register candidate training images on a synthetic image: coarse by FFT over all poses, then Gauss-Newton to sub-pixel.

Both work on band-passed images: gamma, window and bias field change slowly over the image and are not novelty. The coarse
search looks at 8 flip-and-turn poses x rotations x scales x all shifts at 32 pixels, where a correlation over all shifts is
one small FFT; refinement follows the gradient at 64 and at full size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import quarter_turn, ssim, zscore
from doppelscan.images import align, band_pass, unit_float, within
from doppelscan.search import PatchDescriptor, mean_agreement
from doppelscan.verify.agreement import detail_correlation, explained_share, match_intensity
from doppelscan.verify.pose import Pose

__all__ = ["AlignedPair", "PairAgreement", "Registration"]

COARSE = 32
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


@dataclass(frozen=True)
class AlignedPair:
    """One pair in full, for the report and for the kind of a finding.

    Attributes:
        moved: float32 [S, S] in [0, 1], the candidate in the pose of the image.
        inside: float32 [S, S], 1 where both hold image.
        explained: see :func:`~doppelscan.verify.agreement.explained_share`.
        cells: float32 [L], agreement of each cell, in the frame of the candidate.
        counted: bool [L], cells that hold structure.
        agreement_map: float32 [S, S], the agreement of the cells, smooth, in the frame of the image; NaN where there is no structure.
        query: float32 [S, S] in [0, 1], the image in the frame of the candidate.
    """

    moved: np.ndarray
    inside: np.ndarray
    explained: float
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
        screened: candidates that are refined at half size.
        refined: candidates that are refined at full size.
        device: where to compute.
    """

    def __init__(
        self,
        rotations: tuple[float, ...] = (-20, -15, -10, -5, 0, 5, 10, 15, 20),
        scales: tuple[float, ...] = (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25),
        max_shift: float = 0.2,
        screened: int = 8,
        refined: int = 3,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.max_shift, self.screened, self.refined = max_shift, screened, refined
        # The views are of the query, by the inverse of the pose: they are made once for all its candidates.
        self.transforms = [(r, s) for r in rotations for s in scales]
        matrices = []
        for rotation, scale in self.transforms:
            angle = math.radians(rotation)
            cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
            matrices.append([[cosine, sine, 0.0], [-sine, cosine, 0.0]])
        theta = torch.tensor(matrices, dtype=torch.float32, device=self.device)
        self.scales = torch.tensor([s for _, s in self.transforms], dtype=torch.float32, device=self.device)
        self.grids = F.affine_grid(theta, [len(theta), 1, COARSE, COARSE], align_corners=False)
        reach = max(1, round(max_shift * COARSE))
        offsets = torch.arange(-reach, reach + 1, device=self.device)
        self.offsets = offsets
        self.window = offsets % COARSE

    def settings(self) -> dict:
        """What decides a result: part of the fingerprint of stored pairs."""
        return {
            "transforms": self.transforms,
            "max_shift": self.max_shift,
            "screened": self.screened,
            "refined": self.refined,
            "version": 3,
        }

    @torch.no_grad()
    def __call__(
        self,
        query: torch.Tensor,
        candidates: torch.Tensor,
        *,
        shape: Sequence[int] | None = None,
        shapes: np.ndarray | None = None,
        poses: np.ndarray | None = None,
        descriptor: PatchDescriptor | None = None,
    ) -> list[PairAgreement]:
        """Register ``candidates`` on ``query``.

        Args:
            query: uint8 or float [1, S, S].
            candidates: uint8 or float [K, 1, S, S].
            shape: native height and width of the query, which was padded to a square; None is square.
            shapes: int [K, 2], the same of the candidates.
            poses: int [K, n], the flip-and-turn poses that are searched for each candidate, as retrieval found them; None searches all 8.
            descriptor: measures local agreement; None leaves it out.

        Returns:
            the refined ones only, best first.
        """
        query = unit_float(query[None]).to(self.device)
        candidates = unit_float(candidates).to(self.device)
        half = query.shape[-1] // 2
        filled, visible = self._seen(query, shape)
        areas = None if shapes is None else torch.cat([image_area(s, COARSE) for s in shapes]).to(self.device)
        small, seen = (_resize(image, COARSE) for image in (query, 1 - filled))
        little = _resize(candidates, COARSE)
        starts = [
            self._aligned(small, seen, little, shapes, *start)
            for start in (self.coarse(query, candidates, filled, areas, poses), self._plain(small, seen, little, shapes, poses))
        ]
        # The plain pose is always among the starts: what is not moved must not be lost to a view that masks what disagrees.
        better = (starts[1][2] > starts[0][2] - 1e-4).cpu()
        numbers = torch.where(better, starts[1][0], starts[0][0])
        better = better.to(self.device)
        matrices = torch.where(better[:, None, None], starts[1][1], starts[0][1])
        agreement = torch.where(better, starts[1][2], starts[0][2])
        posed = torch.stack([quarter_turn(c, int(n)) for c, n in zip(candidates, numbers, strict=True)])
        extent = _extents(shapes, numbers).to(self.device)
        first = agreement.argsort(descending=True, stable=True)[: self.screened]
        posed, matrices, extent = posed[first], matrices[first], extent[first]
        matrices, agreement = align(_resize(query, half), _resize(posed, half), matrices, 1 - filled, 5, extent)
        best = agreement.argsort(descending=True, stable=True)[: self.refined]
        posed, matrices, extent, kept = posed[best], matrices[best], extent[best], first[best].cpu()
        matrices, _ = align(query, posed, matrices, visible, 6, extent)
        return self._measure(query, posed, matrices, visible, extent, numbers[kept], kept, descriptor)

    def _aligned(
        self,
        small: torch.Tensor,
        seen: torch.Tensor,
        little: torch.Tensor,
        shapes: np.ndarray | None,
        numbers: torch.Tensor,
        matrices: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A start of each candidate refined at 32 pixels: pose numbers, matrices and agreement."""
        posed = torch.stack([quarter_turn(c, int(n)) for c, n in zip(little, numbers, strict=True)])
        found, agreement = align(small, posed, matrices, seen, 3, _extents(shapes, numbers).to(self.device))
        return numbers, found, agreement

    def _plain(
        self, small: torch.Tensor, seen: torch.Tensor, little: torch.Tensor, shapes: np.ndarray | None, poses: np.ndarray | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The flip-and-turn pose of each candidate that agrees best as it is, not moved: pose numbers and matrices."""
        count = len(little)
        tried = np.tile(np.arange(8), (count, 1)) if poses is None else np.concatenate([np.zeros((count, 1), int), poses], 1)
        numbers = torch.from_numpy(tried.reshape(-1).astype(np.int64))
        which = np.repeat(np.arange(count), tried.shape[1])
        posed = torch.stack([quarter_turn(little[k], int(n)) for k, n in zip(which, numbers, strict=True)])
        unmoved = torch.eye(2, 3, device=self.device).expand(len(posed), 2, 3)
        _, agreement = align(
            small, posed, unmoved, seen, 0, _extents(None if shapes is None else shapes[which], numbers).to(self.device)
        )
        # Of equals the first, and the plain image is the first of all.
        rounded = (agreement.view(count, -1) * 1e4).round()
        best = (rounded == rounded.amax(1, keepdim=True)).int().argmax(1).cpu()
        return numbers.view(count, -1)[torch.arange(count), best], unmoved[:count].clone()

    def coarse(
        self,
        query: torch.Tensor,
        candidates: torch.Tensor,
        filled: torch.Tensor,
        areas: torch.Tensor | None = None,
        poses: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Best flip-and-turn pose of each candidate and the start of its refinement.

        Args:
            query: float [1, 1, S, S] in [0, 1].
            candidates: float [K, 1, S, S].
            filled: float [1, 1, s, s], 1 where the query was filled up, see :func:`filled_border`.
            areas: float [K, 1, 32, 32], 1 where each candidate holds image; None is everywhere.
            poses: see :meth:`__call__`.

        Returns:
            int64 [K] pose numbers (CPU) and float32 [K, 2, 3] sampling matrices from image to posed candidate.
        """
        small = band_pass(_resize(query, COARSE), 2.5)
        seen = 1 - _resize(filled, COARSE)
        small = torch.cat([small * seen, (small * seen) ** 2], 1)
        views = F.grid_sample(small.expand(len(self.grids), -1, -1, -1), self.grids, align_corners=False)
        # Of the query's structure, what each view holds: a view that reaches beyond the query is smaller than it by its scale squared.
        held = views[:, 1].sum((1, 2)) * self.scales**2 / small[0, 1].sum().clamp_min(1e-8)
        views = _normalised(views[:, 0]) * held.clamp(0, 1).sqrt()[:, None, None]
        # The inverse of flip-then-turn: turn back, then flip.
        spectrum = torch.fft.rfft2(torch.stack([self._undo(views, number) for number in range(8)]))
        structure = band_pass(_resize(candidates, COARSE), 2.5)
        structure = structure[:, 0] if areas is None else (structure * areas)[:, 0]
        # Over all structure of both, not only where they overlap: what an overlap leaves out must not make it the better one.
        structure = _normalised(structure)
        target = torch.fft.rfft2(structure)
        every = np.arange(8)
        numbers, matrices = [], []
        for k, one in enumerate(target):
            tried = torch.as_tensor(every if poses is None else np.unique(poses[k]), device=self.device)
            correlation = torch.fft.irfft2(spectrum[tried] * one.conj(), s=(COARSE, COARSE))
            near = correlation[..., self.window, :][..., self.window]
            view, place = divmod(int(near.flatten().argmax()), len(self.window) ** 2)
            row, column = divmod(place, len(self.window))
            index, transform = divmod(view, len(self.transforms))
            numbers.append(int(tried[index]))
            matrices.append(self._sampling_matrix(numbers[-1], transform, int(self.offsets[column]), int(self.offsets[row])))
        return torch.tensor(numbers), torch.stack(matrices).to(self.device)

    def _seen(self, query: torch.Tensor, shape: Sequence[int] | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Where ``query`` [1, 1, S, S] was filled up, at half size, and where it holds image, at full size."""
        # Found at half size: growing it from the border is the slowest part at full size.
        half = query.shape[-1] // 2
        filled = filled_border(_resize(query, half), image_area(shape, half).to(self.device))
        return filled, F.interpolate(1 - filled, size=query.shape[-2:])

    @staticmethod
    def _undo(images: torch.Tensor, number: int) -> torch.Tensor:
        turned = torch.rot90(images, -(number % 4), (-2, -1))
        return torch.flip(turned, (-1,)) if number >= 4 else turned

    def _sampling_matrix(self, number: int, transform: int, dx: int, dy: int) -> torch.Tensor:
        """Sampling matrix of a coarse hit: the shift was found in the candidate's own frame, before flip and turn."""
        rotation, scale = self.transforms[transform]
        # candidate(v) = view(v + d), so posed(u) = turned_query(u + P d) with P the linear part of flip-then-turn.
        x, y = dx * 2.0 / COARSE, dy * 2.0 / COARSE
        if number >= 4:
            x = -x
        for _ in range(number % 4):
            x, y = y, -x  # a counter-clockwise quarter turn, y pointing down
        angle = math.radians(rotation)
        cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
        return torch.tensor([[cosine, -sine, -x], [sine, cosine, -y]], dtype=torch.float32)

    def _measure(self, query, posed, matrices, seen, extent, numbers, kept, descriptor) -> list[PairAgreement]:
        aligned, inside = self._moved(query, posed, matrices, seen, extent)
        queries = query.expand(len(posed), -1, -1, -1)
        mapped = match_intensity(aligned, queries, inside)
        shared = queries * inside + mapped * (1 - inside)
        similarity = ssim(zscore(shared), zscore(mapped))
        detail = detail_correlation(mapped, queries, inside)
        overlap = inside.mean((1, 2, 3))
        agreement = share = torch.full((len(posed),), math.nan)
        if descriptor is not None:
            cells, counted, _ = self._local(query, posed, matrices, seen, numbers, descriptor)
            agreement = mean_agreement(cells, counted)
            share = ((cells > MATCHING) & counted).sum(0) / counted.sum(0).clamp_min(1)
        results = [
            PairAgreement(
                int(kept[i]),
                Pose.from_sampling_matrix(int(numbers[i]), matrices[i].cpu().double().numpy()),
                *(float(value[i]) for value in (similarity, detail, overlap, agreement, share)),
            )
            for i in range(len(posed))
        ]
        return sorted(results, key=lambda r: -r.detail)

    @staticmethod
    def _moved(query, posed, matrices, seen, extent) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates in the pose of the query, and where both hold image."""
        size = query.shape[-1]
        grid = F.affine_grid(matrices, [len(posed), 1, size, size], align_corners=False)
        return F.grid_sample(posed, grid, align_corners=False), within(grid, extent)[:, None] * seen

    def _local(self, query, posed, matrices, seen, numbers, descriptor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Agreement of the cells [L, K], which count, and the query in the frame of each candidate, where cells are whitened."""
        count, size = len(posed), query.shape[-1]
        grid = F.affine_grid(_inverse(matrices), [count, 1, size, size], align_corners=False)
        both = torch.cat([query, seen], 1).expand(count, -1, -1, -1)
        back = F.grid_sample(both, grid, align_corners=False)
        back = torch.stack([self._undo(b, int(n)) for b, n in zip(back, numbers, strict=True)])
        frame = torch.stack([self._undo(p, int(n)) for p, n in zip(posed, numbers, strict=True)])
        structure = descriptor.structure(back[:, :1])
        known = (_resize(back[:, 1:], structure.shape[-1]) > 0.99).float()
        shifted = descriptor.shifted(structure, known)
        reference = descriptor.describe(descriptor.structure(frame), known)
        counted = shifted[0].abs().amax(-1) > 0
        return (shifted * reference).sum(-1).amax(0) * counted, counted, back[:, 0]

    @torch.no_grad()
    def pair(
        self,
        query: torch.Tensor,
        candidate: torch.Tensor,
        pose: Pose,
        descriptor: PatchDescriptor,
        shape: Sequence[int] | None = None,
        candidate_shape: Sequence[int] | None = None,
    ) -> AlignedPair:
        """All of one pair whose ``pose`` is known; ``query`` and ``candidate`` uint8 or float [1, S, S]."""
        query, candidate = unit_float(query[None]).to(self.device), unit_float(candidate[None]).to(self.device)
        size = query.shape[-1]
        _, seen = self._seen(query, shape)
        posed = quarter_turn(candidate, pose.number)
        matrix = torch.from_numpy(pose.sampling_matrix()).float()[None].to(self.device)
        number = torch.tensor([pose.number])
        extent = _extents(None if candidate_shape is None else np.asarray(candidate_shape)[None], number).to(self.device)
        moved, inside = self._moved(query, posed, matrix, seen, extent)
        cells, counted, back = self._local(query, posed, matrix, seen, number, descriptor)
        picture = descriptor.picture(torch.stack([cells[:, 0], counted[:, 0].float()]))
        picture = F.interpolate(quarter_turn(picture, pose.number), (size, size), mode="bilinear")
        picture = F.grid_sample(picture, F.affine_grid(matrix, [1, 1, size, size], align_corners=False), align_corners=False)[0]
        known = torch.where(picture[1] > 0.25, picture[0] / picture[1].clamp_min(0.25), torch.nan)
        return AlignedPair(
            moved[0, 0].cpu().numpy(),
            inside[0, 0].cpu().numpy(),
            float(explained_share(query, moved, inside)),
            cells[:, 0].cpu().numpy(),
            counted[:, 0].cpu().numpy(),
            known.cpu().numpy(),
            back[0].cpu().numpy(),
        )


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


def image_area(shape: Sequence[int] | None, size: int) -> torch.Tensor:
    """float [1, 1, size, size], 1 where an image of native ``shape`` lies that was padded to a square; None is square."""
    area = torch.ones(1, 1, size, size)
    if shape is not None:
        height, width = (size * int(side) / max(1, *map(int, shape)) for side in shape)
        inside = (torch.arange(size) + 0.5 - size / 2).abs()
        area = area * (inside < height / 2).float()[:, None] * (inside < width / 2).float()
    return area


def _extents(shapes: np.ndarray | None, numbers: torch.Tensor) -> torch.Tensor:
    """float [K, 2], reach of each posed candidate to the right and down."""
    if shapes is None:
        return torch.ones(len(numbers), 2)
    reach = torch.as_tensor(np.asarray(shapes)[:, ::-1] / np.asarray(shapes).max(1, keepdims=True), dtype=torch.float32)
    return torch.where((numbers % 2 == 1)[:, None], reach.flip(1), reach)


def _inverse(matrices: torch.Tensor) -> torch.Tensor:
    """Of sampling matrices [B, 2, 3]."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], 2)


def _normalised(images: torch.Tensor) -> torch.Tensor:
    images = images - images.mean((-2, -1), keepdim=True)
    return images / images.flatten(-2).norm(dim=-1)[..., None, None].clamp_min(1e-8)
