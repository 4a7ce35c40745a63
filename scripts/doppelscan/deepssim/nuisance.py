"""What changes in an embedding when the image is only seen differently: the directions that whitening has to mute."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from doppelscan.deepssim.augment import ViewStrength, augment, foreground_views
from doppelscan.images import unit_float

__all__ = ["view_differences"]


@torch.no_grad()
def view_differences(
    embed: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    spatial_size: int = 128,
    views: int = 6,
    seed: int = 0,
    batch_size: int = 32,
) -> torch.Tensor:
    """Embeddings of augmented views less that of the image as it is.

    Args:
        embed: z-scored float32 [B, 1, spatial_size, spatial_size] -> [B, D].
        images: uint8 or float in [0, 1] [N, 1, S, S], whole square images.
        spatial_size: side of the foreground squares.
        views: of each image; rotated, scaled, shifted, with other contrast, field, sharpness and noise (:class:`ViewStrength`).
        seed: the same seed draws the same views.
        batch_size: images at a time.

    Returns:
        float32 [N * views, D].
    """
    strength, generator = ViewStrength(occlusion=0.0), torch.Generator().manual_seed(seed)
    return differences_of_views(
        lambda part: embed(foreground_views(part, spatial_size)),
        lambda part: augment(part, strength, generator),
        images.split(batch_size),
        views,
    )


def differences_of_views(
    embed: Callable[[torch.Tensor], torch.Tensor],
    augmented: Callable[[torch.Tensor], torch.Tensor],
    batches: Iterable[torch.Tensor],
    views: int,
) -> torch.Tensor:
    """``embed`` of what ``augmented`` makes of uint8 or float ``batches``, ``views`` times, less that of the batch: float32 [N * views, D]."""
    result = []
    for part in map(unit_float, batches):
        plain = embed(part)
        result += [embed(augmented(part)) - plain for _ in range(views)]
    return torch.cat(result)
