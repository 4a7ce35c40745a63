"""Light surroundings: a page, bars or a background that are no anatomy, found from the border of an image inwards.

Memorized copies come back letterboxed, on a page or on another background. What is bright would be taken for the anatomy, see
:func:`~doppelscan.images.foreground_square`, and nothing would be compared but the page.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

__all__ = ["darkened", "light_surround", "picture_box", "without_light_surround"]

# A surround is looked for at so many pixels of the longer side; of the values, the 1st and 99th percentile are 0 and 1.
WORKING_SIZE = 128
# It is light (so that the darkness around an anatomy, noise in it, or a padding a little lighter stay what they are), flat, and much of what stands at
# the border: of 1,774 slices and X-rays of seven sources none has one; at a spread of 0.03 one film has, and is torn (0.027), at 0.05 seven have. Of made
# surrounds nine of ten are below 0.003, of some JPEG ones up to 0.03.
LEAST_LEVEL, LARGEST_SPREAD, LEAST_SHARE = 0.25, 0.02, 0.35
DARK = 0.02
LEVELS = 25
# A page, a frame on it, and what the frame encloses.
LAYERS = 3
# Of the sides of a rectangle that a page or bars enclose less than this is surround; a head touches the sides of its rectangle at a few points.
MOST_OF_SIDES = 0.5
RINGING = 0.05


@dataclass(frozen=True)
class LightSurround:
    """Where the surround of some images lies.

    Attributes:
        rows: int [N], the images that have one.
        mask: bool [N, 1, H, W], True there.
        dark: float [N, 1, 1, 1], what stands for the dark around the anatomy, which the surround may have replaced whole: 0 or the lowest value where that is
            negative; not more than a quarter of the contrast below the lowest value.
        level: float [N, 1, 1, 1], of the innermost surround.
        tolerance: float [N, 1, 1, 1], how far its pixels are from ``level``.
        span: float [N, 1, 1, 1], contrast of the image, from the 1st to the 99th percentile.
    """

    rows: torch.Tensor
    mask: torch.Tensor
    dark: torch.Tensor
    level: torch.Tensor
    tolerance: torch.Tensor
    span: torch.Tensor


def without_light_surround(images: torch.Tensor) -> torch.Tensor:
    """Put what is dark in the place of a page, of bars or of a background that is light and flat and reaches the border.

    Args:
        images: float [B, 1, H, W], any intensity scale. H and W may differ; padding by zeros around a light surround is passed over.

    Returns:
        float [B, 1, H, W]; ``images`` itself where none has such a surround. What is enclosed by the anatomy stays.
    """
    found = light_surround(images)
    return images if found is None else darkened(images, found)


def darkened(images: torch.Tensor, found: LightSurround) -> torch.Tensor:
    """A copy of ``images`` that is dark where the surround was ``found``."""
    result = images.clone()
    result[found.rows] = torch.where(found.mask, found.dark, images[found.rows])
    return result


def picture_box(image: torch.Tensor, found: LightSurround | None = None) -> tuple[int, int, int, int] | None:
    """The picture that lies on a page or between bars: top, left, bottom and right in pixels; None where there is none, or the surround is a background.

    A margin of zeros around the page is passed over when the page is looked for, but not cut; a line of text on the page belongs to the picture.

    Args:
        image: float [H, W], any intensity scale.
        found: its surround, where that is known.
    """
    found = found or light_surround(image[None, None])
    if found is None:
        return None
    mask, (height, width) = found.mask[0, 0], image.shape
    # Wider than what the surround was found by: JPEG rings along the picture.
    like = (image - found.level.flatten()).abs() <= found.tolerance.flatten().clamp_min(RINGING * found.span.flatten())
    box = []
    # The mask is as exact as its pixels are small: from a little outside of it inwards, while a line is nothing but surround.
    margin = 2 * -(-max(height, width) // WORKING_SIZE)
    for axis, length in ((1, height), (0, width)):
        inside = (~mask).any(axis).nonzero().flatten().tolist()
        if not inside:
            return None
        box.append([max(0, inside[0] - margin), min(length, inside[-1] + 1 + margin)])
    (top, bottom), (left, right) = box
    while bottom - top > 8 and like[top, left:right].float().mean() > 0.95:
        top += 1
    while bottom - top > 8 and like[bottom - 1, left:right].float().mean() > 0.95:
        bottom -= 1
    while right - left > 8 and like[top:bottom, left].float().mean() > 0.95:
        left += 1
    while right - left > 8 and like[top:bottom, right - 1].float().mean() > 0.95:
        right -= 1
    sides = torch.cat([like[top, left:right], like[bottom - 1, left:right], like[top:bottom, left], like[top:bottom, right - 1]])
    if (bottom - top, right - left) == (height, width) or sides.float().mean() > MOST_OF_SIDES:
        return None
    return top, left, bottom, right


def light_surround(images: torch.Tensor) -> LightSurround | None:
    """The light surrounds of ``images`` float [B, 1, H, W], any intensity scale; None where none has one."""
    height, width = images.shape[-2:]
    small = _reduced(images, WORKING_SIZE // 2)
    low, high = torch.quantile(small.flatten(1), small.new_tensor([0.01, 0.99]), dim=1).view(2, -1, 1, 1, 1)
    span = (high - low).clamp_min(1e-12)
    # A first look at half the resolution tells nearly all images that have none.
    glance = ((small - low) / span).clamp(0, 1)
    share, level, _ = _border_level(glance, (glance > DARK).float())
    rows = ((share >= LEAST_SHARE / 2) & (level >= LEAST_LEVEL / 2)).nonzero().flatten()
    if not len(rows):
        return None
    seen = ((_reduced(images[rows], WORKING_SIZE) - low[rows]) / span[rows]).clamp(0, 1)
    held = (seen > DARK).float()
    cleared, levels, tolerances = torch.zeros_like(seen), seen.new_zeros(len(seen)), seen.new_zeros(len(seen))
    left = torch.arange(len(seen), device=images.device)
    for _ in range(LAYERS):
        share, _, values = _border_level(seen[left], held[left])
        # By medians: an anatomy may touch the border at a level near by.
        level = values.nanmedian(1).values
        spread = 1.4826 * (values - level[:, None]).abs().nanmedian(1).values
        light = (share >= LEAST_SHARE) & (level >= LEAST_LEVEL) & (spread <= LARGEST_SPREAD)
        left, level, tolerance = left[light], level[light], (3 * spread[light]).clamp_min(0.01)
        if not len(left):
            break
        grown = _reached_from_border(seen[left], held[left], level, tolerance)
        # What would leave less than a quarter of a side is no surround: the image itself is that flat.
        inside = held[left] * (1 - grown)
        wide = torch.stack([inside.amax(axis).flatten(1).mean(1) for axis in (-1, -2)]).amin(0) >= 0.25
        left, grown = left[wide], grown[wide]
        cleared[left] = torch.maximum(cleared[left], grown)
        held[left] = held[left] * (1 - grown)
        levels[left], tolerances[left] = level[wide], tolerance[wide]
    chosen = cleared.flatten(1).any(1)
    if not bool(chosen.any()):
        return None
    rows = rows[chosen]
    mask = F.interpolate(cleared[chosen], (height, width), mode="bilinear") > 0.3
    level, tolerance = levels[chosen].view(-1, 1, 1, 1), tolerances[chosen].view(-1, 1, 1, 1)
    lowest = images[rows].amin((1, 2, 3), keepdim=True)
    dark = torch.where(lowest < 0, lowest, (lowest - span[rows] / 4).clamp_min(0))
    return LightSurround(rows, mask, dark, low[rows] + level * span[rows], tolerance * span[rows], span[rows])


def _reduced(images: torch.Tensor, most: int) -> torch.Tensor:
    """``images`` [B, 1, H, W] with at most ``most`` pixels of the longer side."""
    longer = max(images.shape[-2:])
    if longer <= most:
        return images
    return F.interpolate(images, [max(4, round(most * side / longer)) for side in images.shape[-2:]], mode="area")


def _frames(held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the box of what is ``held`` [B, 1, H, W]: how far each pixel lies in it from its nearest side, and how deep its border is looked at [B, 1, 1, 1].

    The outermost pixels are passed over: resampling mixed them with what lies outside.
    """
    distances = []
    for axis in (-2, -1):
        there = held.amax(-1 if axis == -2 else -2).squeeze(1)  # [B, length]
        place = torch.arange(there.shape[1], device=held.device, dtype=held.dtype)
        first = torch.where(there > 0, place, float(there.shape[1])).amin(1, keepdim=True)
        last = torch.where(there > 0, place, -1.0).amax(1, keepdim=True)
        distance = torch.minimum(place - first, last - place)[:, None]
        distances.append(distance.unsqueeze(-1 if axis == -2 else -2))
    inset = max(1, round(0.025 * max(held.shape[-2:])))
    return torch.minimum(*torch.broadcast_tensors(*distances)), held.new_full((len(held), 1, 1, 1), inset)


def _border_level(scaled: torch.Tensor, held: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the border of what is ``held``: the share [B] that its commonest level has, that level [B], and the values that are near it, else NaN [B, N]."""
    distance, inset = _frames(held)
    ring = (distance == inset).flatten(1)
    flat = scaled.flatten(1)
    index = (flat * LEVELS).long().clamp_(0, LEVELS - 1)
    counts = F.pad(flat.new_zeros(len(flat), LEVELS).scatter_add_(1, index, ring.float()), (1, 1))
    # The first bin's share is the darkness; three bins together, so that a level between two is one.
    together = (counts[:, :-2] + counts[:, 1:-1] + counts[:, 2:])[:, 1:]
    level = (together.argmax(1) + 1.5) / LEVELS
    near = ring & ((flat - level[:, None]).abs() < 2.5 / LEVELS)
    return near.sum(1) / ring.sum(1).clamp_min(1), level, torch.where(near, flat, torch.nan)


def _reached_from_border(scaled: torch.Tensor, held: torch.Tensor, level: torch.Tensor, tolerance: torch.Tensor) -> torch.Tensor:
    """1 where pixels of ``level`` [B] hang together with the border of what is ``held``, and one pixel more: [B, 1, H, W]."""
    distance, inset = _frames(held)
    like = ((scaled - level.view(-1, 1, 1, 1)).abs() < tolerance.view(-1, 1, 1, 1)).float() * (distance >= inset)
    reached = like * (distance == inset)
    for _ in range(max(scaled.shape[-2:])):
        last = reached.sum()
        for _ in range(8):
            reached = F.max_pool2d(reached, 3, stride=1, padding=1) * like
        if reached.sum() == last:
            break
    grown = F.max_pool2d(reached, 3, stride=1, padding=1)
    # Outwards of the ring that was looked at, what lies beside a reached pixel of it.
    reach = 2 * (int(inset.flatten()[0]) + 1) + 1
    outside = F.max_pool2d(reached, reach, stride=1, padding=reach // 2) * ((distance < inset) & (distance >= 0))
    return torch.maximum(grown, outside)
