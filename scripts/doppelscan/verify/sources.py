"""What else a matched image holds: a second training image mixed in or set in, and whether the match is the image or only the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.images import gaussian_blur, sampling_grid, unit_float
from doppelscan.search import PatchSearch
from doppelscan.verify.agreement import explained_share
from doppelscan.verify.registration import AlignedPair

__all__ = ["SecondSources", "interpolation_losses", "second_sources"]

# A cell that agrees less than this with the match is asked of the other training images.
UNLIKE = 0.5


@dataclass(frozen=True)
class SecondSources:
    """Of K registered pairs, what the match does not explain.

    Attributes:
        mixed: float32 [K], mean agreement, over all cells, of the residual with its nearest other training image.
        mixed_row: int64 [K], which.
        mixed_share: float32 [K], weight of that image beside the match, 0 to 1, by least squares on the fine structure.
        both: float32 [K], share of the fine structure that the match and that image explain together, by least squares.
        third: float32 [K], of what both leave, the same with a third: of a mean of several training images it agrees too.
        set_in: float32 [K], highest agreement of one cell with another training image, where the match disagrees.
        set_in_row: int64 [K], which.
        set_in_share: float32 [K], share of the structure where that image agrees and the match does not.
    """

    mixed: np.ndarray
    mixed_row: np.ndarray
    mixed_share: np.ndarray
    both: np.ndarray
    third: np.ndarray
    set_in: np.ndarray
    set_in_row: np.ndarray
    set_in_share: np.ndarray


@torch.no_grad()
def second_sources(
    pairs: Sequence[AlignedPair], matches: np.ndarray, thumbnails: torch.Tensor, search: PatchSearch
) -> SecondSources:
    """Look for a second training image in registered pairs.

    Args:
        pairs: of :meth:`~doppelscan.verify.Registration.pairs`.
        matches: int64 [K], training row of each match.
        thumbnails: uint8 [K, 1, S, S] of the matches.
        search: fitted on the training set.
    """
    descriptor = search.descriptor
    queries = descriptor.structure(torch.from_numpy(np.stack([p.query for p in pairs]))[:, None])
    matched = descriptor.structure(thumbnails)
    counted, cells = np.stack([p.counted for p in pairs]), np.stack([p.cells for p in pairs])
    residual = queries - _local_gain(matched, queries) * matched
    mixed = search.search_structure(residual, counted, matches)
    set_in = search.search_structure(queries, counted & (cells < UNLIKE), matches)
    others = search.structure_of(mixed.rows[:, 0])
    third = search.search_structure(residual - _local_gain(others, residual) * others, counted, matches)
    weights, both = _mixture(queries, matched, others)
    agree = (set_in.part_cells > 0.8) & (cells < UNLIKE) & counted
    return SecondSources(
        mixed.mean[:, 0],
        mixed.rows[:, 0],
        weights,
        both,
        third.mean[:, 0],
        set_in.part,
        set_in.part_row,
        (agree.sum(1) / counted.sum(1).clip(1)).astype(np.float32),
    )


def _local_gain(matched: torch.Tensor, queries: torch.Tensor, sigma: float = 8.0) -> torch.Tensor:
    """Gain of the match that changes slowly over the image, as gamma and bias field make it."""
    power = gaussian_blur(matched * matched, sigma)
    return gaussian_blur(matched * queries, sigma) / (power + 1e-5)


def _mixture(queries: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Share of ``second`` in the mixture of both that fits ``queries`` best, and what it explains: float32 [K] each, at most 1."""
    columns, wanted = torch.stack([first.flatten(1), second.flatten(1)], 2), queries.flatten(1)[..., None]
    normal = columns.transpose(1, 2) @ columns + 1e-6 * torch.eye(2, device=columns.device)
    weights = torch.linalg.solve(normal, columns.transpose(1, 2) @ wanted).clamp_min(0)
    left = (wanted - columns @ weights).square().sum((1, 2)) / wanted.square().sum((1, 2)).clamp_min(1e-6)
    weights = weights[..., 0]
    return (weights[:, 1] / weights.sum(1).clamp_min(1e-6)).cpu().numpy(), (1 - left).cpu().numpy()


@torch.no_grad()
def interpolation_losses(thumbnails: torch.Tensor, shapes: np.ndarray) -> np.ndarray:
    """Fine structure that images lose when they are moved by half a native pixel and back: 1 - explained share.

    What a copy of a small image loses by being turned or shifted is no sign of another image.

    Args:
        thumbnails: uint8 or float [B, 1, S, S].
        shapes: int [B, 2], native heights and widths.

    Returns:
        float32 [B].
    """
    images, size = unit_float(thumbnails), thumbnails.shape[-1]
    longer = np.minimum(size, shapes.max(1))
    losses = np.zeros(len(images), np.float32)
    for native in np.unique(longer):
        rows = np.flatnonzero(longer == native)
        small = F.interpolate(images[rows], (int(native), int(native)), mode="bilinear", antialias=True)
        moved = _shifted(F.interpolate(_shifted(small, 1 / native), (size, size), mode="bilinear"), -1 / native)
        losses[rows] = 1 - explained_share(images[rows], moved, torch.ones_like(moved)).numpy()
    return losses


def _shifted(images: torch.Tensor, offset: float) -> torch.Tensor:
    """Sampled ``offset`` to the right and below, in [-1, 1] coordinates."""
    matrix = torch.eye(2, 3)[None].repeat(len(images), 1, 1)
    matrix[:, :, 2] = float(offset)
    return F.grid_sample(images, sampling_grid(matrix, images.shape[-1]), align_corners=False)
