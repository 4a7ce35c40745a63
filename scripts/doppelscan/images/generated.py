"""Patients that never lived: random anatomy, random contrast, for training without anybody's data.

A *cohort* shares coarse anatomy and contrast (one body part on one scanner); its *patients* differ in shape and fine
structure; the *slices* of a patient are neighbours. That is what makes hard negatives: members of a cohort look alike.
Label maps are the arg-max of smooth noise fields, an idea of SynthMorph (Hoffmann et al. 2021) and SynthStrip.
"""

from __future__ import annotations

import math

import torch

from doppelscan.images.foreground import gaussian_blur

__all__ = ["generate_cohort", "smooth_fields", "warp"]


def smooth_fields(count: int, size: int, sigma: float, generator: torch.Generator, stretch: float = 1.0) -> torch.Tensor:
    """Gaussian random fields [count, size, size] of zero mean and unit variance, smooth over ``sigma`` pixels (periodic).

    ``stretch`` lengthens what is smooth down the image and narrows it across by the same factor.
    """
    white = torch.randn(count, size, size, generator=generator)
    frequency = (torch.fft.fftfreq(size)[:, None] * stretch) ** 2 + (torch.fft.rfftfreq(size)[None] / stretch) ** 2
    return low_passed(white, frequency, sigma)


def low_passed(white: torch.Tensor, frequency: torch.Tensor, sigma: float) -> torch.Tensor:
    """Noise ``white`` [count, ...] of any number of axes, smooth over ``sigma`` pixels, of zero mean and unit variance each.

    ``frequency`` is the squared one of each coefficient that ``torch.fft.rfftn`` gives.
    """
    axes = tuple(range(1, white.ndim))
    spectrum = torch.fft.rfftn(white, dim=axes) * torch.exp(-2 * (math.pi * sigma) ** 2 * frequency)
    fields = torch.fft.irfftn(spectrum, s=white.shape[1:], dim=axes)
    fields = fields - fields.mean(axes, keepdim=True)
    return fields / fields.std(axes, keepdim=True).clamp_min(1e-8)


def warp(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Move ``images`` [B, C, S, S] by ``displacement`` [B, 2, S, S] (x, y in pixels); outside is the edge value."""
    size = images.shape[-1]
    axis = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], -1)[None] + displacement.permute(0, 2, 3, 1) * (2 / size)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False, padding_mode="border")


def _uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _body(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Signed distance-like body outline [count, size, size], positive inside; the cohort shares the ellipse."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if _uniform(generator, 0, 1) < 0.3:  # the anatomy fills the field of view, as in a spine or a knee
        return torch.full((count, size, size), 1.0)
    width, height = _uniform(generator, 0.45, 0.9), _uniform(generator, 0.45, 0.9)
    shared = smooth_fields(1, size, size / 6, generator) * _uniform(generator, 0.02, 0.15)
    own = smooth_fields(count, size, size / 8, generator) * 0.06
    scale = 1 + 0.06 * torch.randn(count, 1, 1, generator=generator)
    shift = 0.04 * torch.randn(2, count, 1, 1, generator=generator)
    radius = (((x - shift[0]) / (width * scale)) ** 2 + ((y - shift[1]) / (height * scale)) ** 2).sqrt()
    return 1 - radius + shared + own


def _segments(patients: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """A column of repeated bodies and the gaps between them [patients, 2, size, size], as vertebrae, ribs or toes make."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    count, width = _uniform(generator, 2, 6), _uniform(generator, 0.12, 0.3)
    bend = _uniform(generator, 0.0, 0.3) + 0.04 * torch.randn(patients, 1, 1, generator=generator)
    phase = 0.3 * torch.randn(patients, 1, 1, generator=generator)
    pace = 1 + 0.05 * torch.randn(patients, 1, 1, generator=generator)
    place = x - _uniform(generator, -0.4, 0.4) - bend * torch.sin(2.5 * y)
    column = torch.exp(-((place / width) ** 2)) * 2.5
    wave = torch.cos(math.pi * count * pace * y + phase)
    return torch.stack([column * (wave > -0.6).float(), column * (wave <= -0.6).float()], 1)


def _ramp(size: int, generator: torch.Generator) -> torch.Tensor:
    """A plane from -1 to 1 in a random direction [size, size]: a surface coil's reach."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    angle = _uniform(generator, 0, 2 * math.pi)
    return x * math.cos(angle) + y * math.sin(angle)


def _narrow_field(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Black bars on two sides, as a rectangular field of view has in a square image; the cohort shares them."""
    size = images.shape[-1]
    bars = (torch.rand(2, generator=generator) * 0.22 * size).long().tolist()
    images = images.clone()
    images[..., : bars[0]] = 0
    images[..., size - bars[1] :] = 0
    return images.transpose(-1, -2) if _uniform(generator, 0, 1) < 0.5 else images


def generate_cohort(patients: int, slices: int = 2, size: int = 160, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One cohort of generated patients.

    Args:
        patients: number of patients, >= 1.
        slices: neighbouring slices of each patient, >= 1.
        size: side of the square images in pixels.
        seed: the same seed gives the same images.

    Returns:
        images uint8 [patients * slices, 1, size, size] and patient numbers int64 [patients * slices].
    """
    generator = torch.Generator().manual_seed(seed)
    labels = int(torch.randint(4, 9, (), generator=generator))
    coarse = size / _uniform(generator, 7, 16)
    stretch = _uniform(generator, 1.2, 2.2) if _uniform(generator, 0, 1) < 0.4 else 1.0  # muscle, vessels, a limb's long axis
    likeness = _uniform(generator, 0.04, 0.5)  # the share of the coarse anatomy that belongs to one patient alone
    shared = smooth_fields(labels, size, coarse, generator, stretch)
    own = smooth_fields(patients * labels, size, coarse, generator, stretch).view(patients, labels, size, size)
    finer = smooth_fields(patients * labels, size, coarse / 3, generator, stretch).view(patients, labels, size, size)
    maps = shared[None] + likeness * own + _uniform(generator, 0.03, 0.4) * finer
    if _uniform(generator, 0, 1) < 0.3:
        maps[:, :2] += _segments(patients, size, generator)
    detail_sigma = size / _uniform(generator, 30, 70)
    detail = smooth_fields(patients * 2, size, detail_sigma, generator).view(patients, 2, size, size)
    folds = smooth_fields(patients, size, detail_sigma * 1.5, generator)
    body = _body(patients, size, generator)
    rim_width = _uniform(generator, 0.02, 0.08) if _uniform(generator, 0, 1) < 0.5 else 0.0

    # A power above 1 leaves one or two bright tissues among dark ones, as fat or fluid is.
    means = torch.rand(labels, generator=generator) ** _uniform(generator, 0.8, 2.5) * 0.85 + 0.15
    texture = torch.rand(labels, generator=generator) * 0.15
    fold_mean = _uniform(generator, -0.5, 0.5)
    rim_mean, background = _uniform(generator, 0.5, 1.3), _uniform(generator, 0, 0.08)
    if _uniform(generator, 0, 1) < 0.1:
        background = _uniform(generator, 0.1, 0.4)
    falloff = torch.exp(_uniform(generator, 0.3, 1.2) * _ramp(size, generator)) if _uniform(generator, 0, 1) < 0.25 else 1.0
    blur, noise = _uniform(generator, 0.4, 1.2), _uniform(generator, 0.0, 0.03)
    images = []
    for index in range(slices):
        angle = 0.0 if index == 0 else _uniform(generator, 0.05, 0.5)
        other = smooth_fields(patients * labels, size, coarse / 2, generator).view_as(maps)
        other_detail = smooth_fields(patients * 2, size, detail_sigma, generator).view_as(detail)
        other_folds = smooth_fields(patients, size, detail_sigma * 1.5, generator)
        here = math.cos(angle) * maps + math.sin(angle) * other
        fine = math.cos(2 * angle) * detail + math.sin(2 * angle) * other_detail
        fold = math.cos(2 * angle) * folds + math.sin(2 * angle) * other_folds
        probability = torch.softmax(here * 12, 1)
        image = torch.einsum("plhw,l->phw", probability, means)
        image = image + torch.einsum("plhw,l->phw", probability, texture) * fine[:, 0]
        folded = (probability[:, 0] + probability[:, 1]) * torch.sigmoid(8 * fold)
        image = (image + fold_mean * folded).clamp_min(0.02)
        inside = torch.sigmoid(body * 60)
        rim = inside * torch.sigmoid((rim_width - body) * 60) if rim_width else torch.zeros_like(inside)
        image = image * (inside - rim) + rim_mean * rim + background * (1 - inside)
        bias = torch.exp(0.15 * smooth_fields(patients, size, size / 3, generator))
        image = gaussian_blur((image * bias * falloff)[:, None], blur)
        image = image + noise * torch.randn(image.shape, generator=generator)
        images.append(image)
    stacked = torch.stack(images, 1).view(patients * slices, 1, size, size)
    low = stacked.flatten(1).quantile(0.002, 1).view(-1, 1, 1, 1)
    high = stacked.flatten(1).quantile(0.998, 1).view(-1, 1, 1, 1)
    stacked = ((stacked - low) / (high - low).clamp_min(1e-6)).clamp(0, 1)
    if _uniform(generator, 0, 1) < 0.3:
        stacked = _narrow_field(stacked, generator)
    return (stacked * 255).round().to(torch.uint8), torch.arange(patients).repeat_interleave(slices)
