"""Local statistics of an image, from which SSIM is made: what the pair head compares of two images, and by which it turns one onto the other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from doppelscan.deepssim.augment import quarter_turn_poses
from doppelscan.images import align, sampling_grid

__all__ = [
    "TEXTURE_DEGREES",
    "TEXTURE_GRID",
    "TEXTURE_SIZE",
    "best_views",
    "laid_on",
    "texture",
    "texture_maps",
    "texture_poses",
    "texture_views",
]

# Cells a side; SSIM is taken on 7 x 7 windows of 128 px, and a cell is 4 px.
TEXTURE_GRID = 32
TEXTURE_SIZE = 2 * TEXTURE_GRID**2 + 2
# Turns in which a texture is laid on another: two images that are each up to 10 degrees off are up to 20 apart. Of equal ones the first is taken.
TEXTURE_DEGREES = (0.0, -5.0, 5.0, -10.0, 10.0, -15.0, 15.0, -20.0, 20.0)
# Of alignment; and exponents, those of two images of gamma 0.5 to 1.5 are up to 3 apart.
STEPS = 6
GAMMAS = (1.0, 0.37, 0.45, 0.55, 0.67, 0.82, 1.22, 1.49, 1.82, 2.23, 2.72)
# Below the C2 of SSIM for any range that a z-scored image has, so that a flat window is flat, and not infinitely so.
FLOOR = 1e-3


def texture(image: torch.Tensor) -> torch.Tensor:
    """Mean and log variance of the 7 x 7 windows that SSIM is taken on, averaged over the cells of a 32 x 32 grid, and the range of the image.

    Args:
        image: float [B, C, H, W], z-scored; of several channels their mean is looked at. Sides that are multiples of 32 can be exported to ONNX.

    Returns:
        float [B, 2050]: means row by row, log(variance + 0.001) row by row, minimum, maximum.
    """
    # Written so that torch.jit.script and ONNX take it.
    gray = image.mean(1, keepdim=True)
    padded = F.pad(gray, [3, 3, 3, 3], mode="replicate")
    mean = F.avg_pool2d(padded, 7, 1)
    variance = (F.avg_pool2d(padded * padded, 7, 1) - mean * mean).clamp_min(0.0)
    maps = torch.cat([mean, torch.log(variance + 1e-3)], 1)
    height, width = int(image.shape[2]), int(image.shape[3])
    if height % 32 == 0 and width % 32 == 0:  # what ONNX can say of padded maps
        cells = F.avg_pool2d(maps, [height // 32, width // 32])
    else:
        cells = F.adaptive_avg_pool2d(maps, 32)
    pixels = gray.flatten(1)
    return torch.cat([cells.flatten(1), pixels.min(1)[0][:, None], pixels.max(1)[0][:, None]], 1)


def texture_maps(vectors: torch.Tensor) -> torch.Tensor:
    """The two maps of textures [..., 2050]: float [..., 2, 32, 32]."""
    return vectors[..., :-2].unflatten(-1, (2, TEXTURE_GRID, TEXTURE_GRID))


def texture_poses(vectors: torch.Tensor) -> torch.Tensor:
    """Textures float [B, 2050] of the 8 flip and quarter-turn poses, without computing them again: [8, B, 2050]."""
    poses = quarter_turn_poses(texture_maps(vectors)).flatten(2)
    return torch.cat([poses, vectors[:, -2:].expand(8, -1, -1)], 2)


def texture_views(vectors: torch.Tensor) -> torch.Tensor:
    """Textures float [..., 2050] turned by each of :data:`TEXTURE_DEGREES`: [9, ..., 2050]. What comes from outside is the border's."""
    maps = texture_maps(vectors).float()
    flat = maps.flatten(0, -4) if maps.ndim > 3 else maps[None]
    views = [vectors.float()]
    for degrees in TEXTURE_DEGREES[1:]:
        angle = math.radians(degrees)
        theta = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]).to(flat)
        grid = F.affine_grid(theta.expand(len(flat), 2, 3), list(flat.shape), align_corners=False)
        turned = F.grid_sample(flat, grid, align_corners=False, padding_mode="border").view_as(maps)
        views.append(torch.cat([turned.flatten(-3), vectors[..., -2:].float()], -1))
    return torch.stack(views)


def look(vectors: torch.Tensor) -> torch.Tensor:
    """Unit vectors [..., 1024] of textures [..., 2050]; their product is the correlation of the means."""
    means = vectors[..., : TEXTURE_GRID**2].float()
    return F.normalize(means - means.mean(-1, keepdim=True), dim=-1)


def best_views(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each second texture the pose and turn in which it correlates best with the first one, laid on that, see :func:`laid_on`.

    Args:
        first: float [B, 2050].
        second: float [P, B, 2050], in P poses.

    Returns:
        the texture float [B, 2050], and its pose int64 [B].
    """
    correlation = (look(texture_views(second)) * look(first)).sum(-1).flatten(0, 1)
    # Poses before turns: of equal ones that as it is.
    best = correlation.argmax(0)
    pose = best % len(second)
    return laid_on(first, second[pose, torch.arange(len(first), device=best.device)], best // len(second)), pose


def laid_on(first: torch.Tensor, second: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The second texture where and as bright as registration would see it: turned, scaled and shifted onto the first one by its means
    (:func:`~doppelscan.images.align`), then under the gamma in which these correlate best with the first one's.

    What moves it no nearer leaves it as it is, so that equal ones stay equal.

    Args:
        first: float [B, 2050].
        second: float [B, 2050], in the pose of the first one.
        turns: int64 [B], from which of :data:`TEXTURE_DEGREES` alignment starts.

    Returns:
        float [B, 2050].
    """
    fixed, moving = texture_maps(first.float()), texture_maps(second.float())
    angle = torch.deg2rad(torch.tensor(TEXTURE_DEGREES, device=turns.device))[turns]
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    start = torch.stack([torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)], 1)
    a, b = _unit(fixed[:, :1]), _unit(moving[:, :1])
    found, _ = align(a, b, start, torch.ones_like(a), STEPS)
    # An area that halves or doubles, or a shift by a fifth of the field, is an alignment that ran away.
    area = found[:, 0, 0] * found[:, 1, 1] - found[:, 0, 1] * found[:, 1, 0]
    near = (area > 0.5) & (area < 2) & (found[:, :, 2].abs().amax(1) < 0.4)
    grid = sampling_grid(torch.where(near[:, None, None], found, start), TEXTURE_GRID)
    moved = F.grid_sample(moving, grid, align_corners=False, padding_mode="border")
    nearer = (moved - fixed).abs().mean((1, 2, 3)) < (moving - fixed).abs().mean((1, 2, 3))
    moved = torch.where(nearer[:, None, None, None], moved, moving)
    return _under_gamma(first, torch.cat([moved.flatten(1), second[:, -2:].float()], 1))


def _unit(maps: torch.Tensor) -> torch.Tensor:
    """Each of ``maps`` [B, 1, 32, 32] from 0 to 1."""
    low, high = maps.amin((1, 2, 3), keepdim=True), maps.amax((1, 2, 3), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-3)


def _under_gamma(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Textures ``second`` [B, 2050] of what the images were under the one of :data:`GAMMAS` in which their means correlate best with the first ones'."""
    maps, low, high = texture_maps(second), second[:, -2, None, None], second[:, -1, None, None]
    span = (high - low).clamp_min(1e-3)
    level, variance = ((maps[:, 0] - low) / span).clamp(1e-4, 1), (maps[:, 1].exp() - FLOOR).clamp_min(0) / span**2
    seen = [second]
    for gamma in GAMMAS[1:]:
        mean, spread = level**gamma, variance * (gamma * level.clamp_min(0.03) ** (gamma - 1)) ** 2
        # z-scored again: the variance of all pixels is that between the windows and that within.
        centre = mean.mean((1, 2))[:, None, None]
        scale = (mean.var((1, 2), unbiased=False) + spread.mean((1, 2))).clamp_min(1e-8).sqrt()[:, None, None]
        flat = torch.cat([((mean - centre) / scale).flatten(1), torch.log(spread / scale**2 + FLOOR).flatten(1)], 1)
        seen.append(torch.cat([flat, (-centre / scale)[:, :, 0], ((1 - centre) / scale)[:, :, 0]], 1))
    views = torch.stack(seen)
    correlation = (look(views) * look(first)).sum(-1)
    correlation[0] += 1e-4  # of equal ones that as it is
    return views[correlation.argmax(0), torch.arange(len(first), device=first.device)]
