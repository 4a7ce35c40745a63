"""Structure-preserving augmentation of a batch, on the device: the two views of an image that training compares.

A view is what a generator might give back of a training image: the same anatomy, moved, rescaled, with other contrast,
field, noise and sharpness. Geometry is applied before the foreground is found, so training sees the errors that finding it
makes at test time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from doppelscan.images import cut_foreground, gaussian_blur, smooth_fields, warp, whole_squares
from doppelscan.images.foreground import otsu_threshold

__all__ = [
    "ViewStrength",
    "augment",
    "foreground_views",
    "misalign",
    "quarter_turn",
    "quarter_turn_poses",
    "rotated",
    "whole_views",
    "zscore",
]


@dataclass(frozen=True)
class ViewStrength:
    """How far a view may go; each effect is drawn with ``probability``, rotation, scale and shift with ``geometry``.

    The last four effects are off here: the audit whitens on views of this strength. Training turns them on (train.json).

    Attributes:
        rotation: degrees to either side.
        scale: largest zoom, and its inverse.
        shift: share of the field of view.
        gamma: largest exponent, and its inverse (METHODS: 0.5 to 1.5).
        bias: standard deviation of the log bias field.
        noise: largest standard deviation, of a [0, 1] image.
        blur: largest sigma in pixels of a 160 px image.
        reduction: largest factor of down- and up-sampling.
        elastic: largest standard deviation of the displacement in pixels of a 160 px image.
        occlusion: largest side of a blanked rectangle, share of the field.
        cut: largest share of each side that is cut off; what is left fills the field again. 0 cuts nothing.
        reconstruction: largest factor by which a view is reduced and made large again, with little noise, as a generator gives back what it
            keeps in few components; drawn with the square of ``probability``. At most 2 reconstructs nothing.
        page: share of the views that lie smaller on a black, gray or white page, or between two bars of it, half of them in a frame.
        background: share of the views whose dark surroundings are gray, white or noisy.
    """

    probability: float = 0.5
    geometry: float = 0.85
    rotation: float = 20.0
    scale: float = 1.3
    shift: float = 0.12
    gamma: float = 1.8
    bias: float = 0.3
    noise: float = 0.06
    blur: float = 1.5
    reduction: float = 2.5
    elastic: float = 2.0
    occlusion: float = 0.25
    cut: float = 0.0
    reconstruction: float = 0.0
    page: float = 0.0
    background: float = 0.0


def zscore(images: torch.Tensor) -> torch.Tensor:
    """Subtract each image's mean and divide by its standard deviation; [B, C, ...] of images or volumes, a flat one gives zeros."""
    axes = list(range(1, images.ndim))  # no tuple, so that torch.jit.script takes it
    mean = images.mean(axes, keepdim=True)
    return (images - mean) / images.std(axes, keepdim=True, unbiased=False).clamp_min(1e-6)


def quarter_turn(images: torch.Tensor, number: int) -> torch.Tensor:
    """Pose ``number`` (0 to 7) of square ``images`` [..., S, S]; see :func:`quarter_turn_poses`."""
    # ONNX knows flips and transposes, but no rot90.
    posed = images.flip(-1) if number >= 4 else images
    turns = number % 4
    if turns == 1:
        return posed.transpose(-2, -1).flip(-2)
    if turns == 2:
        return posed.flip(-2).flip(-1)
    if turns == 3:
        return posed.transpose(-2, -1).flip(-1)
    return posed


def quarter_turn_poses(images: torch.Tensor) -> torch.Tensor:
    """The 8 flip and quarter-turn poses of square ``images`` [B, C, S, S] -> [8, B, C, S, S].

    Pose ``4 * f + q`` is flipped left to right if f, then turned by q quarter turns counter-clockwise.
    """
    return torch.stack([quarter_turn(images, number) for number in range(8)])


def rotated(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate ``images`` [B, C, S, S] counter-clockwise about the centre; what comes from outside is each image's minimum."""
    if degrees == 0:
        return images
    angle = math.radians(degrees)
    matrix = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
    theta = torch.tensor(matrix, dtype=images.dtype, device=images.device).expand(len(images), 2, 3)
    lowest = images.amin((1, 2, 3), keepdim=True)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images - lowest, grid, align_corners=False) + lowest


def foreground_views(images: torch.Tensor, size: int) -> torch.Tensor:
    """What the network sees of ``images`` float [B, 1, H, W]: their foreground squares, z-scored, float [B, 1, size, size].

    The same as :class:`~doppelscan.images.ForegroundSquared` and MONAI's ``NormalizeIntensityd`` make of each image.
    """
    return zscore(cut_foreground(images, size))


def whole_views(images: torch.Tensor, size: int) -> torch.Tensor:
    """What the published forms see of ``images`` float [B, 1, H, W]: all of them, padded to squares, z-scored, float [B, 1, size, size]."""
    return zscore(whole_squares(images, size))


def augment(images: torch.Tensor, strength: ViewStrength, generator: torch.Generator) -> torch.Tensor:
    """Augment ``images`` float [B, 1, S, S] in [0, 1]; the random numbers come from ``generator`` (on the CPU)."""
    count, device = len(images), images.device

    def chosen() -> torch.Tensor:
        return (torch.rand(count, generator=generator) < strength.probability).float()

    def symmetric(probability: float = strength.probability) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * (torch.rand(count, generator=generator) < probability).float()

    def per_image(values: torch.Tensor) -> torch.Tensor:
        return values.to(device).view(-1, 1, 1, 1)

    images = _elastic(images, strength, chosen(), generator)
    turn, zoom, right, down = (symmetric(strength.geometry) for _ in range(4))
    images = _move(images, strength, turn, zoom, torch.stack([right, down], 1))
    # An effect that is off draws no random number: views of a strength without it are what they were before there was one.
    if strength.cut > 0:
        images = _cut(images, strength.cut * chosen() * torch.rand(count, generator=generator), generator)
    images = images.clamp(0, 1) ** per_image(torch.exp(math.log(strength.gamma) * symmetric()))
    field = smooth_fields(count, images.shape[-1], images.shape[-1] / 4, generator)[:, None].to(device)
    images = images * torch.exp(strength.bias * per_image(chosen() * torch.rand(count, generator=generator)) * field)
    images = _soften(images, strength, generator)
    if strength.reconstruction > 2:
        images = _reconstruct(images, strength, chosen() * chosen(), generator)
    noise = per_image(strength.noise * chosen() * torch.rand(count, generator=generator))
    images = images + noise * torch.randn(images.shape, generator=generator).to(device)
    images = _occlude(images, strength, chosen() * chosen(), generator)
    if strength.background > 0:
        images = _on_background(images, torch.rand(count, generator=generator) < strength.background, generator)
    if strength.page > 0:
        images = _on_page(images, torch.rand(count, generator=generator) < strength.page, generator)
    return images


def through_window(
    images: torch.Tensor, draw: torch.Tensor, size: int, zoom: float, jitter: float, generator: torch.Generator
) -> torch.Tensor:
    """``images`` of a cohort through one window, as a field of view of its own.

    Args:
        images: float [N, 1, H, W].
        draw: float [3] in [0, 1], how narrow the window is, and where along each side.
        size: side of the result.
        zoom: of the narrowest window; the widest magnifies by its fourth root.
        jitter: by how much the window of each image lies aside (standard deviation, of half the image).
        generator: of the jitter.

    Returns:
        float [N, 1, size, size].
    """
    share = zoom ** -(0.25 + 0.75 * float(draw[0]))
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = share
    theta[:, :, 2] = (draw[1:] * 2 - 1) * (1 - share) * 0.8 + jitter * torch.randn(len(images), 2, generator=generator)
    grid = F.affine_grid(theta.to(images), [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def misalign(images: torch.Tensor, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Test-time augmentation of arXiv 2509.16582: flip on each axis, rotation up to 0.17 rad, gamma 0.5 to 1.5.

    Args:
        images: float [B, 1, S, S] in [0, 1].
        probability: of each effect, for each image.
        generator: on the CPU.
    """
    result = []
    for image in images:
        draw = torch.rand(6, generator=generator).tolist()
        if draw[0] < probability:
            image = image.flip(-1)
        if draw[1] < probability:
            image = image.flip(-2)
        if draw[2] < probability:
            image = rotated(image[None], math.degrees(0.17 * (2 * draw[3] - 1)))[0]
        if draw[4] < probability:
            image = image.clamp(0, 1) ** (0.5 + draw[5])
        result.append(image)
    return torch.stack(result)


def _elastic(images, strength, chosen, generator):
    size = images.shape[-1]
    active = chosen.nonzero().flatten()
    if not len(active) or strength.elastic <= 0:
        return images
    fields = smooth_fields(2 * len(active), size, size / 12, generator).view(len(active), 2, size, size)
    fields = fields * (strength.elastic * size / 160 * torch.rand(len(active), 1, 1, 1, generator=generator))
    result = images.clone()
    result[active] = warp(images[active], fields.to(images.device))
    return result


def _move(images, strength, turn, zoom, shift):
    angle = turn * math.radians(strength.rotation)
    scale = torch.exp(zoom * math.log(strength.scale))
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    offset = shift * 2 * strength.shift
    theta = torch.stack([torch.stack([cosine, -sine, offset[:, 0]], 1), torch.stack([sine, cosine, offset[:, 1]], 1)], 1)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _soften(images, strength, generator):
    """Blur, or sample down and up, a random part of the batch; each with one strength for its part of the batch."""
    size = images.shape[-1]
    draw = torch.rand(len(images), generator=generator)
    level = torch.rand(2, generator=generator)
    result = images.clone()
    blurred = (draw < strength.probability / 2).nonzero().flatten()
    reduced = (draw > 1 - strength.probability / 2).nonzero().flatten()
    if len(blurred) and strength.blur > 0:
        result[blurred] = gaussian_blur(images[blurred], (0.3 + float(level[0]) * strength.blur) * size / 160)
    if len(reduced) and strength.reduction > 1:
        small = max(16, round(size / (1 + float(level[1]) * (strength.reduction - 1))))
        low = F.interpolate(images[reduced], (small, small), mode="bilinear", antialias=True)
        result[reduced] = F.interpolate(low, (size, size), mode="bilinear")
    return result


def _occlude(images, strength, chosen, generator):
    size = images.shape[-1]
    result = images.clone()
    for index in chosen.nonzero().flatten().tolist():
        height, width = ((torch.rand(2, generator=generator) * strength.occlusion * size).long() + 1).tolist()
        top = int(torch.randint(0, size - height + 1, (), generator=generator))
        left = int(torch.randint(0, size - width + 1, (), generator=generator))
        level = float(torch.rand((), generator=generator)) * 0.5
        if strength.occlusion > 0:  # what is off still draws: audits whiten on views of this stream
            result[index, :, top : top + height, left : left + width] = level
    return result


def _cut(images, share, generator):
    """Cut ``share`` [B] of each side off, anywhere, and let the rest fill the field."""
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 - share
    theta[:, :, 2] = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * share[:, None]
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _reconstruct(images, strength, chosen, generator):
    size = images.shape[-1]
    result = images.clone()
    for index in chosen.nonzero().flatten().tolist():
        level, noise = torch.rand(2, generator=generator).tolist()
        small = max(8, round(size / (2 + level * (strength.reconstruction - 2))))
        low = F.interpolate(images[index : index + 1], (small, small), mode="bilinear", antialias=True)
        result[index] = F.interpolate(low, (size, size), mode="bicubic")[0]
        result[index] += 0.02 * noise * torch.randn(size, size, generator=generator).to(images.device)
    return result


def _tones(count, generator):
    """Gray levels [count, 1, 1, 1] of pages and backgrounds: a third white, the others anything."""
    level = torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 1 / 3, 1.0, level).view(-1, 1, 1, 1)


def _on_background(images, chosen, generator):
    active = chosen.nonzero().flatten()
    if not len(active):
        return images
    level = _tones(len(active), generator)
    spread = 0.15 * torch.rand(len(active), 1, 1, 1, generator=generator)
    spread = spread * (torch.rand(len(active), 1, 1, 1, generator=generator) < 0.5)
    behind = level + spread * torch.randn(images[active].shape, generator=generator)
    outside = surroundings(images[active])
    result = images.clone()
    result[active] = (1 - outside) * images[active] + outside * behind.clamp(0, 1).to(images.device)
    return result


def surroundings(images: torch.Tensor) -> torch.Tensor:
    """How far each pixel belongs to the dark that reaches the border: [B, 1, S, S] in [0, 1]; what is dark inside an anatomy does not."""
    small = F.interpolate(images.clamp_min(0), (40, 40), mode="area")
    dark = (small < 0.4 * otsu_threshold(small).view(-1, 1, 1, 1)).float()
    reached = dark.clone()
    reached[..., 1:-1, 1:-1] = 0
    for _ in range(40):
        reached = F.max_pool2d(reached, 3, 1, 1) * dark
    return F.interpolate(reached, images.shape[-2:], mode="bilinear")


def _on_page(images, chosen, generator):
    active = chosen.nonzero().flatten()
    if not len(active):
        return images
    count = len(active)
    keep = 1 - 0.3 * torch.rand(count, generator=generator)
    bars = torch.rand(count, generator=generator) < 0.5
    keep = torch.where(bars, 1.0, keep)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / keep
    theta[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * ((1 - keep) / keep)[:, None]
    grid = F.affine_grid(theta, [count, 1, *images.shape[-2:]], align_corners=False)
    # How far a pixel is from the middle of the picture, 1 at its border; bars take up to a fifth of two opposite sides.
    limit = torch.ones(count, 2)
    upright = torch.randint(2, (count,), generator=generator)
    limit[torch.arange(count), upright] -= 0.2 * bars * torch.rand(count, generator=generator)
    reach = (grid.abs() / limit[:, None, None]).amax(-1)[:, None]
    frame = (torch.rand(count, generator=generator) < 0.5) * (0.01 + 0.05 * torch.rand(count, generator=generator))
    paper, ink = _tones(count, generator), _tones(count, generator)
    page = torch.where(reach <= 1 + frame.view(-1, 1, 1, 1), ink, paper).to(images)
    picture = F.grid_sample(images[active], grid.to(images), padding_mode="border", align_corners=False)
    result = images.clone()
    result[active] = torch.where((reach <= 1).to(images.device), picture, page)
    return result
