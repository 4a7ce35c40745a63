"""FSIM of many pairs: phase congruency says where the structure is, and with the gradient how alike it is there.

Zhang, Zhang, Mou and Zhang, "FSIM: a feature similarity index for image quality assessment", IEEE Transactions on Image
Processing 20 (8), 2011, for images of one channel. Equation numbers are that paper's.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import unit_float

__all__ = ["FeatureSimilarity", "fsim", "phase_congruency"]

# Section IV.A and the released code of the paper, which takes Kovesi's phase congruency (his second measure) as it is.
SCALES, ORIENTATIONS = 4, 4
SHORTEST_WAVELENGTH, WAVELENGTH_FACTOR = 6, 2
RADIAL_BANDWIDTH, ANGULAR_RATIO = 0.55, 1.2
NOISE_DEVIATIONS, NOISE_RESCALING = 2.0, 1.7
T1, T2 = 0.85, 160.0
TINY = 1e-4
BLOCK = 64


@lru_cache(maxsize=4)
def _filters(height: int, width: int) -> torch.Tensor:
    """Log-Gabor filters in the frequency plane [orientations, scales, height, width]."""
    v, u = torch.meshgrid(torch.fft.fftfreq(height), torch.fft.fftfreq(width), indexing="ij")
    radius = torch.sqrt(u**2 + v**2)
    low_pass = 1 / (1 + (radius / 0.45) ** 30)  # no frequencies from the corners of the plane
    radius[0, 0] = 1
    angle = torch.atan2(-v, u)
    radial = []
    for scale in range(SCALES):
        centre = 1 / (SHORTEST_WAVELENGTH * WAVELENGTH_FACTOR**scale)
        band = torch.exp(-(torch.log(radius / centre) ** 2) / (2 * math.log(RADIAL_BANDWIDTH) ** 2)) * low_pass
        band[0, 0] = 0
        radial.append(band)
    sigma = math.pi / ORIENTATIONS / ANGULAR_RATIO
    angular = []
    for orientation in range(ORIENTATIONS):
        turned = angle - orientation * math.pi / ORIENTATIONS
        distance = torch.atan2(torch.sin(turned), torch.cos(turned)).abs()
        angular.append(torch.exp(-(distance**2) / (2 * sigma**2)))
    return torch.stack(angular)[:, None] * torch.stack(radial)[None]


def phase_congruency(images: torch.Tensor) -> torch.Tensor:
    """Phase congruency (eqs. 1 to 3, and Kovesi's noise compensation): float [B, H, W] in [0, 1] of ``images`` float [B, 1, H, W] in [0, 255]."""
    filters = _filters(*images.shape[-2:]).to(images)
    response = torch.fft.ifft2(torch.fft.fft2(images)[:, :, None] * filters[None])  # even part real, odd part imaginary
    total = response.sum(2, keepdim=True)
    direction = total / (total.abs() + TINY)
    turned = response * direction.conj()  # to the mean phase: cosine real, sine imaginary
    energy = (turned.real - turned.imag.abs()).sum(2)
    threshold = _noise_threshold(response[:, :, 0], filters)
    kept = (energy - threshold).clamp_min(0).sum(1)
    return kept / (response.abs().sum((1, 2)) + TINY)


def _noise_threshold(finest: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Energy [B, orientations, 1, 1] that noise alone may have; ``finest``: responses [B, orientations, H, W] of the smallest scale.

    The squared amplitude of noise is exponential, so its mean is its median / ln 2; the energy of noise is Rayleigh's.
    """
    power = finest.abs().square().flatten(2).median(2).values / math.log(2) / filters[:, 0].square().sum((1, 2))
    # Sum over scales of squares, and of products of two: together the square of the sum.
    spread = torch.fft.ifft2(filters).real.sum(1).square().sum((1, 2)) * filters[0, 0].numel()
    tau = torch.sqrt(power * spread)
    highest = tau * (math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2))
    return (highest / NOISE_RESCALING)[..., None, None]


def _gradient(images: torch.Tensor) -> torch.Tensor:
    """Magnitude of Scharr's gradient (Table I): float [B, H, W]."""
    across = images.new_tensor([[3.0, 0.0, -3.0], [10.0, 0.0, -10.0], [3.0, 0.0, -3.0]]) / 16
    found = F.conv2d(images, torch.stack([across, across.T])[:, None], padding=1)
    return found.square().sum(1).sqrt()


def _maps(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Phase congruency and gradient of ``images`` float [B, 1, H, W] in [0, 1], averaged first where they are large, as in the paper's code."""
    factor = max(1, round(min(images.shape[-2:]) / 256))
    images = F.avg_pool2d(images * 255, factor)
    return phase_congruency(images), _gradient(images)


def _alike(a: torch.Tensor, b: torch.Tensor, constant: float) -> torch.Tensor:
    return (2 * a * b + constant) / (a**2 + b**2 + constant)


def _mean_similarity(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Eq. 7, of the maps of two images each."""
    weight = torch.maximum(a[0], b[0])
    similarity = _alike(a[0], b[0], T1) * _alike(a[1], b[1], T2)
    return (similarity * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp_min(1e-12)


def fsim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """FSIM of each pair: float [B] in (0, 1], of float [B, 1, H, W] in [0, 1] twice; two flat images, without structure, give 0."""
    return _mean_similarity(_maps(first.float()), _maps(second.float()))


class FeatureSimilarity:
    """FSIM of the whole images at ``size`` pixels, not registered and in one pose; a :class:`~doppelscan.search.Similarity`."""

    def __init__(self, size: int = 128) -> None:
        self.size = size

    def _ready(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        size = (self.size, self.size)
        maps = [_maps(F.interpolate(unit_float(p), size, mode="bilinear", antialias=True)) for p in images.split(BLOCK)]
        return torch.cat([m[0] for m in maps]), torch.cat([m[1] for m in maps])

    def fit(self, images: torch.Tensor) -> FeatureSimilarity:
        """Keep the maps of the training images."""
        self.reference = self._ready(images)
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N]."""
        blocks = list(zip(*(part.split(BLOCK) for part in self.reference), strict=True))
        rows = []
        for congruency, gradient in zip(*self._ready(images), strict=True):
            rows.append(torch.cat([_mean_similarity((congruency[None], gradient[None]), block) for block in blocks]))
        return torch.stack(rows).numpy()
