"""Local statistics of an image, from which SSIM is made: what the pair head compares of two images, and by which it turns one onto the other."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from doppelscan.deepssim.augment import quarter_turn_poses

__all__ = [
    "TEXTURE_DEGREES",
    "TEXTURE_GRID",
    "TEXTURE_SIZE",
    "best_views",
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
    """The pose and turn of each second texture that correlates best with the first one.

    Args:
        first: float [B, 2050].
        second: float [P, B, 2050], in P poses.

    Returns:
        the texture float [B, 2050], and its pose int64 [B].
    """
    views = texture_views(second)  # [9, P, B, T]
    correlation = (look(views) * look(first)).sum(-1).flatten(0, 1)
    # Poses before turns: of equal ones that as it is.
    best = correlation.argmax(0)
    chosen = views.flatten(0, 1)[best, torch.arange(len(first), device=best.device)]
    return chosen, best % len(second)
