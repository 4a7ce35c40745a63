"""A head that sees both images of a pair: their registered SSIM from what the encoder gives of each."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from doppelscan.deepssim.roles import columns_of
from doppelscan.deepssim.texture import FLOOR, TEXTURE_GRID, TEXTURE_SIZE, laid_on, look, texture_views
from doppelscan.deepssim.weights import load_weights, state_digest
from doppelscan.errors import InputError, WeightsError

__all__ = ["PAIR_OUTPUTS", "PairSSIM", "load_pair_head", "pair_columns", "predicted_ssim"]

# Outputs of the encoder that the head takes, in this order.
PAIR_OUTPUTS = ("deepssim", "texture")
TERMS = 7
# Pairs a block, and second images of which all views are held.
PAIRS, HELD = 512, 16


class PairSSIM(nn.Module):
    """Features of two images -> the SSIM of the two after registration.

    A cosine has to put all that decides SSIM into each image alone; this head compares. The textures give, at each cell, SSIM but for two
    things: how far the windows covary, and how far registration will bring the means together. A small convolutional network says these, each as a
    share from 0 to 1, from the terms that are known there, from the whole image and from the cosine of the deepssim head, which a turn or another contrast
    changes little; SSIM's own formula does the rest, and the mean over the cells is corrected by at most 0.1. All terms are symmetric in the images and
    bounded, and none is of an anatomy.

    Args:
        embedding_size: values of the deepssim head.
        channels: of the network.

    Shape:
        first, second float32 [B, embedding_size + 2050], the outputs :data:`PAIR_OUTPUTS` of the encoder, of z-scored images -> float32 [B], at most
        1; of equal ones 1.
    """

    def __init__(self, embedding_size: int = 256, channels: int = 32) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.grid = TEXTURE_GRID
        self.floor = FLOOR
        self.maps = nn.Sequential(
            nn.Conv2d(TERMS, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GELU(),
        )
        self.whole = nn.Sequential(nn.Linear(2 * channels + TERMS + 1, 64), nn.GELU(), nn.Linear(64, channels + 1))
        self.shares = nn.Sequential(nn.GELU(), nn.Conv2d(channels, 2, 3, padding=1))

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        # Written so that torch.jit.script takes it.
        size = self.embedding_size
        cosine = (F.normalize(first[:, :size], dim=1) * F.normalize(second[:, :size], dim=1)).sum(1, keepdim=True)
        terms = self.terms(first[:, size:], second[:, size:])
        found = self.maps(terms)
        whole = self.whole(torch.cat([found.mean([2, 3]), found.amax([2, 3]), terms.mean([2, 3]), cosine], 1))
        shares = torch.sigmoid(self.shares(found + whole[:, :-1, None, None]))
        shares = F.interpolate(shares, scale_factor=2.0, mode="nearest")
        unrelated, contrast, luminance = terms[:, 0], terms[:, 1], terms[:, 2]
        cells = (luminance + shares[:, 0] * (1 - luminance)) * (unrelated + shares[:, 1] * (contrast - unrelated))
        lacking = (1 - cells.mean([1, 2]) + 0.1 * torch.tanh(whole[:, -1])).clamp_min(0.0)
        # Nothing lacks where nothing differs.
        differing = terms[:, 5:7].mean([1, 2, 3]) * 8 + (1 - cosine[:, 0])
        return 1 - lacking * (1 - torch.exp(-4 * differing.clamp_min(0.0)))

    def terms(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """What is known of SSIM, of textures [B, 2050] at each cell: float [B, 7, 32, 32], each from -1 to 1.

        Contrast and structure where the windows do not covary, and where they do wholly; luminance; SSIM of structure that is larger than a cell, and
        its correlation; the differences of the means, of the joint range, and of the log variances, of 8.
        """
        cells = self.grid * self.grid
        shape = [-1, 1, self.grid, self.grid]
        mean_a, log_a = first[:, :cells].reshape(shape), first[:, cells : 2 * cells].reshape(shape)
        mean_b, log_b = second[:, :cells].reshape(shape), second[:, cells : 2 * cells].reshape(shape)
        high = torch.maximum(first[:, -1], second[:, -1])
        low = torch.minimum(first[:, -2], second[:, -2])
        joint = (high - low).clamp_min(1e-3).reshape([-1, 1, 1, 1])
        c1, c2 = (0.01 * joint) ** 2, (0.03 * joint) ** 2
        var_a, var_b = (log_a.exp() - self.floor).clamp_min(0.0), (log_b.exp() - self.floor).clamp_min(0.0)
        both = var_a + var_b + c2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        unrelated = c2 / both
        contrast = (2 * (var_a * var_b + 1e-12).sqrt() + c2) / both
        wide_a, wide_b = self.around(mean_a), self.around(mean_b)
        covariance = self.around(mean_a * mean_b) - wide_a * wide_b
        spread_a = (self.around(mean_a**2) - wide_a**2).clamp_min(0.0)
        spread_b = (self.around(mean_b**2) - wide_b**2).clamp_min(0.0)
        coarse = (2 * covariance + c2) / (spread_a + spread_b + c2)
        correlation = covariance / (spread_a * spread_b + c2 * c2).sqrt()
        apart = (mean_a - mean_b).abs() / joint
        rougher = ((log_a - log_b).abs() / 8).clamp_max(1.0)
        return torch.cat([unrelated, contrast, luminance, coarse, correlation, apart, rougher], 1)

    def around(self, maps: torch.Tensor) -> torch.Tensor:
        """Means over 3 x 3 cells, at the border over those that are there."""
        return F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)


def load_pair_head(
    network: PairSSIM, path: str | os.PathLike | None, device: str | torch.device = "cpu", encoder: Any = None
) -> PairSSIM | None:
    """``network`` with the weights of ``path``, in evaluation mode on ``device``; None for None or "none", which leaves the cosine alone (a
    command line cannot say None: MONAI takes it for nothing said).

    ``encoder`` is whose cosine it will take, of as many values as its output ``deepssim`` has; a file that says it was trained on another's is told
    by a warning.

    Raises:
        WeightsError: see :func:`~doppelscan.deepssim.load_weights`; or it was trained on another encoder, of another width.
    """
    if path is None or path == "none":
        return None
    loaded = load_weights(network, path).to(device)
    trained_on, given = _metadata(path).get("encoder"), state_digest(encoder)
    strange = bool(trained_on and given and trained_on != given)
    cosine = getattr(encoder, "output_slices", {}).get("deepssim")
    if cosine is not None and cosine.stop - cosine.start != network.embedding_size:
        width = cosine.stop - cosine.start
        if strange:
            raise WeightsError(
                f"The 'pair_ckpt' parameter must be a pair head of an encoder of {width} values. Got {os.fspath(path)!r}, trained on another one of "
                f"{network.embedding_size}: pass --pair_ckpt none for the cosine alone, or a head trained on this encoder (ssim_pairs.json with --ckpt_path FILE "
                f"and --encoder_def::embedding_size {width})."
            )
        network.embedding_size = width  # no weight of the head depends on it
    if strange:
        warnings.warn(
            f"The pair head {os.fspath(path)!r} was trained on the cosine of another encoder, so its SSIM may be off: train one on yours "
            "(ssim_pairs.json, or ssim_pairs_finetune.json, with --ckpt_path), or pass --pair_ckpt none for the cosine alone.",
            stacklevel=2,
        )
    return loaded  # type: ignore[return-value]


def _metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a .safetensors file says of itself; of another file nothing."""
    if os.path.splitext(path)[1] != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def pair_columns(outputs: Mapping[str, slice]) -> torch.Tensor:
    """Which columns of an encoder's prediction the head takes, int64 [D].

    Raises:
        InputError: the encoder gives no such outputs.
    """
    todo = ", or pass --pair_ckpt none for the cosine alone"
    return torch.from_numpy(columns_of(outputs, PAIR_OUTPUTS, "pair", " and ", todo))


@torch.no_grad()
def predicted_ssim(head: PairSSIM, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The SSIM that ``head`` predicts of all pairs of two sets, by the block.

    Args:
        head: in evaluation mode.
        first: float [N, D], such as training images, each as it is.
        second: float [M, P, D] in P poses, or [M, D], such as synthetic images. Pose and turn are those in which the textures correlate best;
            there the second is laid on the first, see :func:`~doppelscan.deepssim.laid_on`.

    Returns:
        float32 [N, M].

    Raises:
        InputError: D is not the head's.
    """
    size, device = head.embedding_size, next(head.parameters()).device
    views = second[:, None] if second.ndim == 2 else second
    for name, vectors in (("first", first), ("second", views)):
        if vectors.shape[-1] != size + TEXTURE_SIZE:
            raise InputError(
                f"The '{name}' parameter must be features of {size + TEXTURE_SIZE} values: the encoder's outputs {' and '.join(PAIR_OUTPUTS)}. "
                f"Got {list(vectors.shape)}."
            )
    features = first.to(device).float()
    looks = look(features[:, size:])
    result = torch.empty(len(first), len(views))
    for start in range(0, len(views), HELD):
        held = views[start : start + HELD].to(device).float()
        # [N, 9, m, P] -> the best of turn and pose of each pair
        correlation = torch.einsum("nt,kmpt->nkmp", looks, look(texture_views(held[..., size:])))
        turns, count, poses = correlation.shape[1], len(held), held.shape[1]
        best = correlation.permute(0, 2, 1, 3).reshape(len(first) * count, turns * poses).argmax(1)
        rows = torch.arange(len(first), device=device).repeat_interleave(count)
        columns = torch.arange(count, device=device).repeat(len(first))
        found = []
        for part in torch.arange(len(best), device=device).split(PAIRS):
            turn, pose, column = best[part] // poses, best[part] % poses, columns[part]
            one, other = features[rows[part]], held[column, pose]
            laid = laid_on(one[:, size:], other[:, size:], turn)
            found.append(head(one, torch.cat([other[:, :size], laid], 1)).cpu())
        result[:, start : start + count] = torch.cat(found).view(len(first), count)
    return result
