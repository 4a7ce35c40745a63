"""Register candidate training images on a synthetic image: coarse by FFT over all poses, then Gauss-Newton to sub-pixel.

Both work on band-passed images: gamma, window and bias field change slowly over the image and are not novelty. The coarse
search looks at 8 flip-and-turn poses x rotations x scales x all shifts at 32 pixels, where a correlation over all shifts is
one small FFT; refinement follows the gradient at 64 and at full size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from doppelscan.deepssim import quarter_turn, ssim, zscore
from doppelscan.images import align, band_pass, correlation, unit_float
from doppelscan.verify.pose import Pose

__all__ = ["PairAgreement", "Registration"]

COARSE = 32


@dataclass(frozen=True)
class PairAgreement:
    """A candidate after registration.

    Attributes:
        candidate: its position among the candidates given.
        pose: what maps the candidate on the image.
        ssim: SSIM of the aligned pair over the shared field of view, intensities matched, -1 to 1.
        detail: correlation of fine structure (band-passed) in the anatomy, -1 to 1.
        overlap: share of the image that the moved candidate covers, 0 to 1.
    """

    candidate: int
    pose: Pose
    ssim: float
    detail: float
    overlap: float


class Registration:
    """Finds the best pose of each candidate and measures how well the aligned pair agrees.

    Args:
        rotations: degrees tried in the coarse search.
        scales: factors tried in the coarse search.
        max_shift: largest shift found, share of the image.
        refined: candidates that are refined at full size.
        device: where to compute.
    """

    def __init__(
        self,
        rotations: tuple[float, ...] = (-20, -15, -10, -5, 0, 5, 10, 15, 20),
        scales: tuple[float, ...] = (0.8, 0.87, 0.93, 1.0, 1.08, 1.16, 1.25),
        max_shift: float = 0.2,
        refined: int = 3,
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.max_shift, self.refined = max_shift, refined
        # The views are of the query, by the inverse of the pose: they are made once for all its candidates.
        self.transforms = [(r, s) for r in rotations for s in scales]
        matrices = []
        for rotation, scale in self.transforms:
            angle = math.radians(rotation)
            cosine, sine = math.cos(angle) * scale, math.sin(angle) * scale
            matrices.append([[cosine, sine, 0.0], [-sine, cosine, 0.0]])
        theta = torch.tensor(matrices, dtype=torch.float32, device=self.device)
        self.grids = F.affine_grid(theta, [len(theta), 1, COARSE, COARSE], align_corners=False)
        reach = max(1, round(max_shift * COARSE))
        offsets = torch.arange(-reach, reach + 1, device=self.device)
        self.offsets = offsets
        self.window = offsets % COARSE

    def settings(self) -> dict:
        """What decides a result: part of the fingerprint of stored pairs."""
        return {"transforms": self.transforms, "max_shift": self.max_shift, "refined": self.refined, "version": 1}

    @torch.no_grad()
    def __call__(self, query: torch.Tensor, candidates: torch.Tensor) -> list[PairAgreement]:
        """Register ``candidates`` uint8 or float [K, 1, S, S] on ``query`` [1, S, S]; best first, the refined ones only."""
        query = unit_float(query[None]).to(self.device)
        candidates = unit_float(candidates).to(self.device)
        half = query.shape[-1] // 2
        # Found once, at half size: growing it from the border is the slowest part at full size.
        filled = filled_border(_resize(query, half))
        numbers, matrices = self.coarse(query, candidates, filled)
        posed = torch.stack([quarter_turn(c, int(n)) for c, n in zip(candidates, numbers, strict=True)])
        matrices, agreement = align(_resize(query, half), _resize(posed, half), matrices, 1 - filled, 5)
        kept = agreement.argsort(descending=True, stable=True)[: self.refined]
        seen = F.interpolate(1 - filled, size=query.shape[-2:])
        refined, _ = align(query, posed[kept], matrices[kept], seen, 6)
        return self._measure(query, posed[kept], refined, seen, numbers[kept.cpu()], kept.cpu())

    def coarse(self, query: torch.Tensor, candidates: torch.Tensor, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Best flip-and-turn pose of each candidate and the start of its refinement.

        Args:
            query: float [1, 1, S, S] in [0, 1].
            candidates: float [K, 1, S, S].
            filled: float [1, 1, s, s], 1 where the query was filled up, see :func:`filled_border`.

        Returns:
            int64 [K] pose numbers (CPU) and float32 [K, 2, 3] sampling matrices from image to posed candidate.
        """
        small = band_pass(_resize(query, COARSE), 2.5)
        small = torch.cat([small, 1 - _resize(filled, COARSE)], 1)
        small[:, :1] *= small[:, 1:]
        views = F.grid_sample(small.expand(len(self.grids), -1, -1, -1), self.grids, align_corners=False)
        # The inverse of flip-then-turn: turn back, then flip.
        posed = torch.stack([self._undo(views, number) for number in range(8)]).flatten(0, 1)
        spectrum = torch.fft.rfft2(_normalised(posed[:, 0]))
        structure = band_pass(_resize(candidates, COARSE), 2.5)[:, 0]
        structure = structure - structure.mean((-2, -1), keepdim=True)
        # The candidate's own energy where the view sees it, or zoomed-in copies would lose to whole images. The shift is left out.
        energy = (structure**2).flatten(1) @ posed[:, 1].flatten(1).T
        target = torch.fft.rfft2(structure)
        numbers, matrices = [], []
        for one, seen in zip(target, energy, strict=True):
            correlation = torch.fft.irfft2(spectrum * one.conj(), s=(COARSE, COARSE)) / seen.clamp_min(1e-6).sqrt()[:, None, None]
            near = correlation[:, self.window][:, :, self.window]
            best = int(near.flatten().argmax())
            view, place = divmod(best, len(self.window) ** 2)
            row, column = divmod(place, len(self.window))
            number, transform = divmod(view, len(self.transforms))
            numbers.append(number)
            matrices.append(self._sampling_matrix(number, transform, int(self.offsets[column]), int(self.offsets[row])))
        return torch.tensor(numbers), torch.stack(matrices).to(self.device)

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

    def _measure(self, query, posed, matrices, seen, numbers, kept) -> list[PairAgreement]:
        count, size = len(posed), query.shape[-1]
        grid = F.affine_grid(matrices, [count, 1, size, size], align_corners=False)
        aligned = F.grid_sample(posed, grid, align_corners=False)
        inside = (grid.abs().amax(-1) <= 1)[:, None].float() * seen
        queries = query.expand(count, -1, -1, -1)
        aligned = match_intensity(aligned, queries, inside)
        shared = queries * inside + aligned * (1 - inside)
        agreement = ssim(zscore(shared), zscore(aligned))
        detail = detail_correlation(aligned, queries, inside)
        overlap = inside.mean((1, 2, 3))
        results = [
            PairAgreement(
                int(kept[i]),
                Pose.from_sampling_matrix(int(numbers[i]), matrices[i].cpu().double().numpy()),
                float(agreement[i]),
                float(detail[i]),
                float(overlap[i]),
            )
            for i in range(count)
        ]
        return sorted(results, key=lambda r: -r.detail)


def _resize(images: torch.Tensor, size: int) -> torch.Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def detail_correlation(first: torch.Tensor, second: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Correlation [B] of the band-passed images where either holds anatomy and both are ``inside`` the field of view."""
    sigma = first.shape[-1] / 40
    return correlation(band_pass(first, sigma).flatten(1), band_pass(second, sigma).flatten(1), inside.flatten(1))


def filled_border(images: torch.Tensor, level: float = 0.01, most: float = 0.35) -> torch.Tensor:
    """1 where an image [B, 1, S, S] was filled up at its border by a shift or a rotation, else 0.

    Dark and connected to the border. When it is more than ``most`` of the image, it is the background of the anatomy, which
    does belong to the comparison, and the mask is empty.
    """
    size = images.shape[-1]
    dark = (F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1) < level).float()
    reached = torch.zeros_like(dark)
    reached[..., 0, :], reached[..., -1, :], reached[..., :, 0], reached[..., :, -1] = 1, 1, 1, 1
    reached = reached * dark
    step = 2 * max(1, size // 32) + 1
    for _ in range(16):  # each step grows the filled strip inwards; a fill is at most a third of the image wide
        reached = F.max_pool2d(reached, step, stride=1, padding=step // 2) * dark
    grown = F.max_pool2d(reached, 3, stride=1, padding=1)
    return grown * (grown.mean((1, 2, 3), keepdim=True) < most).float()


def _normalised(images: torch.Tensor) -> torch.Tensor:
    images = images - images.mean((-2, -1), keepdim=True)
    return images / images.flatten(-2).norm(dim=-1)[..., None, None].clamp_min(1e-8)


def match_intensity(moving: torch.Tensor, target: torch.Tensor, inside: torch.Tensor, bins: int = 32) -> torch.Tensor:
    """Map the intensities of ``moving`` on those of ``target`` by a rising curve: the mean of target in bins of moving.

    Args:
        moving: float [B, 1, S, S] in [0, 1].
        target: float [B, 1, S, S] in [0, 1].
        inside: float [B, 1, S, S], 1 where both are seen.
        bins: points of the curve.
    """
    count = len(moving)
    value, goal, weight = moving.flatten(1).clamp(0, 1), target.flatten(1), inside.flatten(1)
    place = (value * (bins - 1)).round().long()
    sums = torch.zeros(count, bins, device=moving.device).scatter_add_(1, place, goal * weight)
    counts = torch.zeros(count, bins, device=moving.device).scatter_add_(1, place, weight)
    centres = torch.linspace(0, 1, bins, device=moving.device).expand(count, -1)
    # Bins with few pixels lean on the identity, and the running maximum keeps the curve rising.
    curve = ((sums + 4 * centres) / (counts + 4)).cummax(1).values
    position = value * (bins - 1)
    lower = position.floor().long().clamp(0, bins - 2)
    fraction = position - lower
    return (curve.gather(1, lower) * (1 - fraction) + curve.gather(1, lower + 1) * fraction).view_as(moving)
