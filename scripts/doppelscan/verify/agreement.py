"""How well a registered pair agrees: intensities, fine detail, local structure, and what a mild bending leaves unexplained."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from doppelscan.images import band_pass, correlation, gaussian_blur, sampling_grid

__all__ = [
    "Explained",
    "detail_correlation",
    "explained",
    "explained_share",
    "match_intensity",
    "mild_bending",
    "verified_score",
]

# Bands of detail, each between two Gaussian blurs, fine to coarse, in pixels of 128.
BANDS = ((0.9, 1.4), (1.4, 2.2), (2.2, 3.4), (3.4, 5.2))
# A band is judged where the image has nearly the power of its match: blurred images and networks' have less of the finest.
SHARP = 0.9
# And where noise that the match has not is not most of what is there.
CLEAR = 1.5
# What is unexplained falls this much from the finest band to the third where an image was rendered or moved again; between slices of one person by 2 to 4.
STEEP = 4.5
# And this much to the coarsest where a generator drew its detail anew, as rich as that of the match (at least this share of its power) and as an autoencoder
# writes it: 14 to 30 of autoencoded copies, 7 to 18 of a diffusion model's plain ones; of the slice 1.5 mm away, autoencoded too, up to 6.2.
REDRAWN, RICH = 7.0, 0.5


def detail_correlation(first: torch.Tensor, second: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Correlation [B] of the band-passed images where either holds anatomy and both are ``inside`` the field of view."""
    sigma = first.shape[-1] / 40
    return correlation(band_pass(first, sigma).flatten(1), band_pass(second, sigma).flatten(1), inside.flatten(1))


def verified_score(detail: float, agreement: float) -> float:
    """Agreement of the registered pair, about 0 to 1."""
    return 0.35 * detail + 0.65 * agreement


def match_intensity(moving: torch.Tensor, target: torch.Tensor, inside: torch.Tensor, bins: int = 32) -> torch.Tensor:
    """Map the intensities of ``moving`` on those of ``target`` by a rising curve: moving plus the mean difference in bins of moving.

    Args:
        moving: float [B, 1, S, S] in [0, 1].
        target: float [B, 1, S, S] in [0, 1].
        inside: float [B, 1, S, S], 1 where both are seen.
        bins: points of the curve.
    """
    count = len(moving)
    value, goal, weight = moving.flatten(1).clamp(0, 1), target.flatten(1), inside.flatten(1)
    place = (value * (bins - 1)).round().long()
    # Of the difference: the mean of the target itself would round an image to the centres of the bins, also on itself.
    sums = torch.zeros(count, bins, device=moving.device).scatter_add_(1, place, (goal - value) * weight)
    counts = torch.zeros(count, bins, device=moving.device).scatter_add_(1, place, weight)
    centres = torch.linspace(0, 1, bins, device=moving.device).expand(count, -1)
    # Bins with few pixels lean on the identity, and the running maximum keeps the curve rising.
    curve = (centres + sums / (counts + 4)).cummax(1).values
    position = value * (bins - 1)
    lower = position.floor().long().clamp(0, bins - 2)
    fraction = position - lower
    return (curve.gather(1, lower) * (1 - fraction) + curve.gather(1, lower + 1) * fraction).view_as(moving)


def mild_bending(fixed: torch.Tensor, moving: torch.Tensor, inside: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """Bend ``moving`` on ``fixed`` by a smooth field of at most 2.5 % of the image a side (Lucas and Kanade 1981, Gaussian windows).

    Args:
        fixed: float [B, 1, S, S] in [0, 1].
        moving: float [B, 1, S, S] in [0, 1], registered already.
        inside: float [B, 1, S, S], 1 where both are seen.
        iterations: steps.

    Returns:
        float [B, 1, S, S], ``moving`` bent.
    """
    count, size = len(moving), fixed.shape[-1]
    window, most = size / 20, size / 40
    base = sampling_grid(torch.eye(2, 3, device=moving.device)[None], size)
    target, structure = band_pass(fixed, size / 24), band_pass(moving, size / 24)
    field = torch.zeros(count, 2, size, size, device=moving.device)

    def bent(images: torch.Tensor) -> torch.Tensor:
        grid = base + field.permute(0, 2, 3, 1) * 2 / size
        return F.grid_sample(images, grid, align_corners=False, padding_mode="border")

    for _ in range(iterations):
        warped = bent(structure)
        x = (torch.roll(warped, -1, 3) - torch.roll(warped, 1, 3)) / 2 * inside
        y = (torch.roll(warped, -1, 2) - torch.roll(warped, 1, 2)) / 2 * inside
        error = (target - warped) * inside
        sums = gaussian_blur(torch.cat([x * x, x * y, y * y, x * error, y * error], 1), window)
        xx, xy, yy, xe, ye = (part[:, None] for part in sums.unbind(1))
        xx, yy = xx + 1e-2, yy + 1e-2
        determinant = xx * yy - xy * xy + 1e-6
        step = torch.cat([(yy * xe - xy * ye) / determinant, (xx * ye - xy * xe) / determinant], 1)
        field = (field + gaussian_blur(step.clamp(-1.5, 1.5), window / 2)).clamp(-most, most)
    return bent(moving)


def explained_share(fixed: torch.Tensor, moving: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Share [B] of the fine structure of ``fixed`` that the registered ``moving`` explains, 1 - residual / total variance.

    After mild bending, a rising intensity curve and a gain and offset that change slowly over the image, so that elastic change,
    gamma and bias field are no novelty. Of the band of 1 to 2.5 of 128 pixels, as sharp and as noisy as both are: for real images, which are alike
    in that. Measured (docs/benchmarks.md): the slice 1 mm away 0.92 to 0.97, other patients below 0.86 at 128 pixels of native resolution.
    """
    return _share_of_fine(fixed, _brought_near(fixed, moving, inside), inside)


class Explained(NamedTuple):
    """How much of an image its match explains, float32 [B] each.

    Attributes:
        share: of the structure of the finest band in which the image can be judged, 1 - residual / total variance, noise taken off both.
        coarse: bool [B], only the coarsest band could be judged: in it slices of one person are alike.
        fine: see :func:`explained_share`.
    """

    share: torch.Tensor
    coarse: torch.Tensor
    fine: torch.Tensor


def explained(fixed: torch.Tensor, moving: torch.Tensor, inside: torch.Tensor, pitch: torch.Tensor | None = None) -> Explained:
    """What the registered ``moving`` explains of ``fixed`` at the sharpness and noise of ``fixed`` itself.

    A copy that was blurred, resampled, covered with noise or rendered by a network differs from its source in fine detail, as a neighbouring slice
    does. What tells them apart: a linear filter by rings of frequency (the transfer function) explains blur and resampling, noise that the image has
    and its match has not (Immerkaer 1996) is taken off, and a network loses only the finest detail, where another slice differs at all scales.

    Args:
        fixed: float [B, 1, S, S] in [0, 1].
        moving: float [B, 1, S, S] in [0, 1], registered.
        inside: float [B, 1, S, S], 1 where both are seen.
        pitch: float [B], how far apart native pixels of ``fixed`` lie in its square; None is 1. Noise between them was enlarged with them.
    """
    moved = _brought_near(fixed, moving, inside)
    target, matched = ((one - _local(one, inside)) * inside for one in (fixed, moved))
    size = fixed.shape[-1]
    # Noise added to black background is cut off at 0: only anatomy tells how strong it is.
    seen = (gaussian_blur(fixed, size / 64) > 0.06) & (gaussian_blur(moving, size / 64) > 0.06) & (inside > 0.99)
    anatomy = torch.where(seen.any(dim=(2, 3), keepdim=True), seen, inside > 0.99).float()
    filtered = _transferred(target, matched) * inside
    gain = _local(target * filtered, inside) / (_local(filtered**2, inside) + 1e-4)
    filtered = filtered * gain.clamp(0.5, 2)
    residual = (target - filtered) * inside
    reach = torch.full((len(fixed),), 2.0) if pitch is None else (1.5 * pitch).round().clamp(2, 6)
    noise = torch.zeros(len(fixed), device=fixed.device)
    for step in reach.unique().tolist():
        own = (reach == step).to(fixed.device)
        of_image, of_match = (_noise_power(one[own], anatomy[own], int(step)) for one in (target, filtered))
        noise[own] = (of_image - of_match).clamp_min(0)
    shares, sharp, clear, rich = [], [], [], []
    for low, high in BANDS:
        band = (low * size / 128, high * size / 128)
        total, left, before, after = (_band_power(one, band, anatomy) for one in (target, residual, matched, filtered))
        excess = noise * _white_share(size, band)
        shares.append(1 - (left - excess).clamp_min(0) / (total - excess).clamp_min(1e-9))
        sharp.append(after >= SHARP * before)
        clear.append(total - excess >= CLEAR * excess)
        rich.append(total >= RICH * before)
    share = torch.stack(shares, 1)
    fit = torch.stack(sharp, 1) & torch.stack(clear, 1)
    band_of = torch.where(fit.any(1), fit.int().argmax(1), len(BANDS) - 1)
    left_over = (1 - share).clamp_min(1e-3)
    rendered = clear[0] & (left_over[:, 0] >= STEEP * left_over[:, 2])
    redrawn = clear[0] & rich[0] & (left_over[:, 0] >= REDRAWN * left_over[:, -1])
    band_of = torch.where(rendered, band_of.clamp_min(2), band_of)
    coarse = (band_of == len(BANDS) - 1) & ~redrawn
    band_of = torch.where(redrawn, len(BANDS) - 1, band_of)
    return Explained(share.gather(1, band_of[:, None])[:, 0], coarse, _share_of_fine(fixed, moved, inside))


def _brought_near(fixed: torch.Tensor, moving: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """``moving`` bent on ``fixed``, with its intensities."""
    return match_intensity(mild_bending(fixed, moving, inside), fixed, inside)


def _local(values: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` around each pixel, of what is ``inside``."""
    wide = values.shape[-1] / 16
    return gaussian_blur(values * inside, wide) / (gaussian_blur(inside, wide) + 1e-3)


def _share_of_fine(fixed: torch.Tensor, moved: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    size = fixed.shape[-1]
    mean_moved, mean_fixed = _local(moved, inside), _local(fixed, inside)
    gain = (_local(moved * fixed, inside) - mean_moved * mean_fixed) / (_local(moved * moved, inside) - mean_moved**2 + 1e-4)
    residual = (fixed - mean_fixed - (moved - mean_moved) * gain) * inside
    band = (size / 142, size / 51)
    return 1 - _band_power(residual, band, inside) / _band_power(fixed * inside, band, inside).clamp_min(1e-9)


def _band_power(values: torch.Tensor, band: tuple[float, float], where: torch.Tensor) -> torch.Tensor:
    """Mean square [B] of what lies between two blurs."""
    between = gaussian_blur(values, band[0]) - gaussian_blur(values, band[1])
    return (between**2 * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp_min(1)


def _transferred(target: torch.Tensor, matched: torch.Tensor) -> torch.Tensor:
    """``matched`` through the linear filter, of rings of frequency, that brings it nearest to ``target``."""
    size = target.shape[-1]
    frequency = torch.fft.fftfreq(size, device=target.device)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt() * size / 2
    ring = radius.round().long().flatten()
    spectrum, other = (torch.fft.fft2(one[:, 0]).flatten(1) for one in (target, matched))

    def over_rings(values: torch.Tensor) -> torch.Tensor:
        sums = torch.zeros(len(values), int(ring.max()) + 1, device=values.device).index_add_(1, ring, values)
        smooth = torch.tensor([1.0, 2, 3, 2, 1], device=values.device)[None, None] / 9
        return F.conv1d(F.pad(sums[:, None], (2, 2), mode="replicate"), smooth)[:, 0]

    gain = (over_rings((spectrum * other.conj()).real) / (over_rings(other.abs() ** 2) + 1e-6)).clamp(0, 1.5)
    # The local means are gone from both: the lowest rings hold too little to tell a gain.
    gain[:, :2] = 1
    return torch.fft.ifft2((other * gain[:, ring]).unflatten(1, (size, size))).real[:, None]


def _noise_power(values: torch.Tensor, anatomy: torch.Tensor, step: int) -> torch.Tensor:
    """Power [B] of white noise, by the median of the difference of two Laplacians, in which smooth structure cancels, ``step`` pixels apart."""

    def noise_of(images: torch.Tensor) -> torch.Tensor:
        kernel = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]], device=images.device)[None, None]
        # Blurred, or pixels that far apart would be another frequency's alias.
        return F.conv2d(F.pad(gaussian_blur(images, 0.4 * step), (step,) * 4, mode="reflect"), kernel, dilation=step)

    found = noise_of(values).abs().masked_fill(anatomy == 0, torch.nan)
    return (found.flatten(1).nanmedian(1).values.nan_to_num() / 0.6745) ** 2 / noise_of(_point(values.shape[-1])).square().sum()


def _white_share(size: int, band: tuple[float, float]) -> float:
    """Share of the power of white noise that lies between two blurs."""
    point = _point(size)
    return float((gaussian_blur(point, band[0]) - gaussian_blur(point, band[1])).square().sum())


def _point(size: int) -> torch.Tensor:
    point = torch.zeros(1, 1, size, size)
    point[..., size // 2, size // 2] = 1
    return point
