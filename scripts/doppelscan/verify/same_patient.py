"""Same patient, another slice or film: two images compared as they lie in their frames, nothing moved.

What tells one person's slices from another's is how the head lies in the scan and the form of its outline, which the encoder's foreground square and
registration take away on purpose. The encoder knows *this image*; this knows *this person in this scan*, and at another place of the anatomy too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft
from scipy.spatial.distance import cdist
from torch import nn

from doppelscan.deepssim import load_weights
from doppelscan.digests import file_sha256
from doppelscan.errors import InputError, WeightsError
from doppelscan.images import unit_float

__all__ = ["LIKENESSES", "Framing", "SamePatientNetwork", "all_same_patient_scores", "same_patient_network", "same_patient_scores"]

WEIGHTS = Path(__file__).with_suffix(".safetensors")
# Of the shipped network: tests/real/same_patient.py made it, of half of the people of ds002748 (CC0), figshare 1512427, SPIDER and the Kermany X-rays (CC BY 4.0).
SHA256 = "dccf94e44c4261a0e681135546b9b9d5113c39c8cfb1b66ac88d3056e56f1133"
# What two images are compared by, in this order.
LIKENESSES = (
    "correlation at 16",
    "correlation at 64",
    "correlation of gradients",
    "perceptual hash",
    "overlap of the foregrounds",
    "area",
    "height of the centre",
    "sidewards place of the centre",
    "aspect",
    "direction of the axes",
    "outline",
    "form of the outline",
    "correlation of the outlines",
)
# Where values of one kind are the same, as far as that is told: -log of the difference.
SAME = 1e-4
# Foreground begins at this share of the range between the 2nd and the 99th percentile.
FOREGROUND = 0.12
ANGLES, HASH = 64, 16
COARSE, FINE = 16, 64
# That are held at once, some twenty times in float64.
PIXELS = 128 * 128 * 128
# Pairs of all images with all that are held at once.
PAIRS = 200_000
# Standard deviations of a likeness that are told apart: cohorts that training never saw lie far out.
FURTHEST = 3.0


@dataclass(frozen=True)
class Framing:
    """How each of N images lies in its frame.

    Attributes:
        coarse, fine: float32 [N, P], pixels at 16 and 64, their mean taken off, of length 1.
        gradient: float32 [N, P], of the pixels at 64, of length 1.
        hash: bool [N, 256], signs of low frequencies of the cosine transform about their median (perceptual hash, 16 x 16).
        foreground: bool [N, S * S].
        moments: float32 [N, 5], of the foreground: log of the area, height and sidewards place of its centre as shares of the side, log of the aspect, and sine
            of twice the angle of its longer axis.
        outline: float32 [N, 64], farthest foreground from that centre by angle, shares of the side.
    """

    coarse: np.ndarray
    fine: np.ndarray
    gradient: np.ndarray
    hash: np.ndarray
    foreground: np.ndarray
    moments: np.ndarray
    outline: np.ndarray

    @classmethod
    def of(cls, images: torch.Tensor) -> Framing:
        """Of images uint8 or float in [0, 1], [N, 1, S, S], padded to squares as in an audit.

        Raises:
            InputError: another shape, or no image.
        """
        if images.ndim != 4 or images.shape[1] != 1 or images.shape[2] != images.shape[3] or len(images) == 0:
            raise InputError(f"The 'images' parameter must be squares [N, 1, S, S]. Got {list(images.shape)}.")
        found = [cls._of(unit_float(part)) for part in images.split(max(1, PIXELS // images.shape[-1] ** 2))]
        return cls(*(np.concatenate(columns) for columns in zip(*found, strict=True)))

    @staticmethod
    def _of(images: torch.Tensor) -> tuple[np.ndarray, ...]:
        fine = F.interpolate(images, (FINE, FINE), mode="area")
        planes = fine[:, 0].numpy()
        slopes = np.stack(np.gradient(planes, axis=(1, 2)), 1).reshape(len(planes), -1)
        waves = fft.dctn(planes, axes=(1, 2))[:, :HASH, :HASH].reshape(len(planes), -1)
        foreground = _foreground(images)
        moments, outline = _moments_and_outline(foreground)
        return (
            _of_length_one(F.interpolate(images, (COARSE, COARSE), mode="area").flatten(1).numpy(), centred=True),
            _of_length_one(planes.reshape(len(planes), -1), centred=True),
            _of_length_one(slopes),
            waves > np.median(waves, 1, keepdims=True),
            foreground.reshape(len(foreground), -1),
            moments,
            outline,
        )

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, rows: Sequence[int] | np.ndarray | slice) -> Framing:
        return Framing(*(getattr(self, one.name)[rows] for one in fields(self)))

    def likenesses(self, other: Framing) -> np.ndarray:
        """Of each image and the one of ``other`` in the same row, float32 [N, 13]: :data:`LIKENESSES`, higher is more alike.

        Each is ``-log`` of how far from the same the two are. The order of the two does not matter.
        """
        return _likenesses(
            [np.einsum("np,np->n", one, its) for one, its in zip(self._directions, other._directions, strict=True)],
            (self.foreground & other.foreground).sum(1),
            self._areas + other._areas,
            np.abs(self.moments - other.moments),
            [np.abs(one - its).mean(1) for one, its in zip(self._outlines, other._outlines, strict=True)],
        )

    def all_likenesses(self, other: Framing) -> np.ndarray:
        """Of each image with each of ``other``, float32 [N, M, 13]; as :meth:`likenesses`, to rounding."""
        return _likenesses(
            [one @ its.T for one, its in zip(self._directions, other._directions, strict=True)],
            self.foreground.astype(np.float32) @ other.foreground.astype(np.float32).T,
            self._areas[:, None] + other._areas,
            np.abs(self.moments[:, None] - other.moments),
            [cdist(one, its, "cityblock") / ANGLES for one, its in zip(self._outlines, other._outlines, strict=True)],
        )

    @property
    def _directions(self) -> list[np.ndarray]:
        """float32 [N, P] each, of length 1: what is compared by a correlation. Of the hash it is twice the share of equal bits, less 1."""
        bits = self.hash * np.float32(2) - np.float32(1)
        return [self.coarse, self.fine, self.gradient, bits / HASH, _of_length_one(self._outlines[1], centred=True)]

    @property
    def _outlines(self) -> list[np.ndarray]:
        """float32 [N, 64] each: the outline, and its form without its size."""
        return [self.outline, self.outline / self.outline.mean(1, keepdims=True).clip(1e-6)]

    @property
    def _areas(self) -> np.ndarray:
        return self.foreground.sum(1)


class SamePatientNetwork(nn.Module):
    """:data:`LIKENESSES` of two images -> the logit that they show one person: a linear term and 16 hidden units.

    Args:
        likenesses: values of a pair.
        hidden: units.
        dropout: of likenesses and hidden units, in training only.

    Attributes:
        mean, scale: float32 [likenesses], of the pairs that it is trained on; see :meth:`standardise`.

    Shape:
        float32 [N, likenesses] -> float32 [N].
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, likenesses: int = len(LIKENESSES), hidden: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(likenesses))
        self.register_buffer("scale", torch.ones(likenesses))
        self.linear = nn.Linear(likenesses, 1)
        self.hidden = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(likenesses, hidden), nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 1)
        )

    def standardise(self, likenesses: torch.Tensor) -> SamePatientNetwork:
        """Take mean and scale of ``likenesses`` float [N, likenesses]."""
        self.mean.copy_(likenesses.mean(0))
        self.scale.copy_(likenesses.std(0) + 1e-6)
        return self

    def forward(self, likenesses: torch.Tensor) -> torch.Tensor:
        seen = ((likenesses - self.mean) / self.scale).clamp(-FURTHEST, FURTHEST)
        return (self.linear(seen) + self.hidden(seen))[:, 0]


@lru_cache(maxsize=1)
def same_patient_network() -> SamePatientNetwork:
    """The shipped network, in evaluation mode.

    Raises:
        WeightsError: its file is not the one that was shipped.
    """
    found = file_sha256(WEIGHTS)
    if found != SHA256:
        raise WeightsError(
            f"The weights {str(WEIGHTS)!r} must have the sha256 {SHA256[:16]}... Got {found[:16]}...; install doppelscan again."
        )
    network = SamePatientNetwork()
    load_weights(network, WEIGHTS)
    return network


@torch.no_grad()
def same_patient_scores(first: Framing, second: Framing, network: SamePatientNetwork | None = None) -> np.ndarray:
    """The logit that each image of ``first`` and the one of ``second`` in the same row show one person, float64 [N]; None is the shipped network.

    It is no probability: how high strangers reach differs between cohorts, so compare with pairs of the cohort that are known to be of two people. Two images
    without anatomy lie alike; NaN pixels give NaN.
    """
    network = network or same_patient_network()
    return network(torch.from_numpy(first.likenesses(second))).double().numpy()


@torch.no_grad()
def all_same_patient_scores(first: Framing, second: Framing, network: SamePatientNetwork | None = None) -> np.ndarray:
    """:func:`same_patient_scores` of each image of ``first`` with each of ``second``, float64 [N, M]."""
    network = network or same_patient_network()
    rows = max(1, PAIRS // len(second))
    found = []
    for start in range(0, len(first), rows):
        likenesses = torch.from_numpy(first[start : start + rows].all_likenesses(second))
        found.append(network(likenesses.flatten(0, 1)).view(likenesses.shape[:2]).double().numpy())
    return np.concatenate(found)


def _of_length_one(values: np.ndarray, centred: bool = False) -> np.ndarray:
    values = values - values.mean(1, keepdims=True) if centred else values
    return (values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-6)).astype(np.float32)


def _likenesses(
    correlations: Sequence[np.ndarray], common: np.ndarray, areas: np.ndarray, moments: np.ndarray, outlines: Sequence[np.ndarray]
) -> np.ndarray:
    """:data:`LIKENESSES` of pairs: five correlations, pixels of both foregrounds, the sum of their areas, differences of moments and of outlines."""
    coarse, fine, gradient, bits, form = correlations
    overlap = np.where(areas > 0, common / (areas - common).clip(1), 1.0)
    apart = [1 - coarse, 1 - fine, 1 - gradient, (1 - bits) / 2, 1 - overlap, *np.moveaxis(moments, -1, 0), *outlines, 1 - form]
    return -np.log(np.stack(apart, -1).clip(SAME)).astype(np.float32)


def _foreground(images: torch.Tensor) -> np.ndarray:
    """bool [N, S, S] of images float [N, 1, S, S]."""
    flat = images.flatten(1)
    low, high = torch.quantile(flat, torch.tensor([0.02, 0.99]), dim=1)
    return (images[:, 0] > (low + FOREGROUND * (high - low))[:, None, None]).numpy()


def _moments_and_outline(foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """See :class:`Framing`, of foregrounds bool [N, S, S]; one that is empty lies in the middle and has no outline."""
    side = foreground.shape[-1]
    area = foreground.sum((1, 2)).clip(1)
    y, x = np.mgrid[:side, :side]
    middle = np.where(foreground.any((1, 2)), 0.0, (side - 1) / 2)
    down = y - ((foreground * y).sum((1, 2)) / area + middle)[:, None, None]
    right = x - ((foreground * x).sum((1, 2)) / area + middle)[:, None, None]
    tall, wide, leaning = ((foreground * square).sum((1, 2)) / area for square in (down**2, right**2, down * right))
    direction = np.sin(np.arctan2(2 * leaning, wide - tall))
    centre = ((foreground * y).sum((1, 2)) / area / side, (foreground * x).sum((1, 2)) / area / side)
    moments = np.stack([np.log(area), *centre, 0.5 * np.log((tall + 1) / (wide + 1)), direction], 1)
    angle = ((np.arctan2(down, right) + np.pi) / (2 * np.pi) * ANGLES).astype(int) % ANGLES
    outline = np.zeros((len(foreground), ANGLES))
    held = np.nonzero(foreground)
    np.maximum.at(outline, (held[0], angle[held]), np.hypot(down[held], right[held]) / side)
    return moments.astype(np.float32), outline.astype(np.float32)
