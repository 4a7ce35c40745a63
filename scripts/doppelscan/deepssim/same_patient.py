"""Same patient, another slice or visit: a small head that sees what the encoder gives of both images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.deepssim.roles import columns_of
from doppelscan.errors import InputError

__all__ = ["PATIENT_OUTPUTS", "SamePatientHead", "patient_columns", "patient_loss"]

# Outputs of the encoder that the head takes, in this order: those that an audit keeps of every image.
PATIENT_OUTPUTS = ("deepssim", "embedding", "layer3", "layer4")
# Standard deviations of a feature that are told apart: sources that training never saw lie far out.
FURTHEST = 6.0


class SamePatientHead(nn.Module):
    """Features of two images -> the logit that they show one person.

    Each is projected, and a small network is given their difference, product and sum beside the cosine: all symmetric, so the order does not matter.
    A cosine alone must put a person in one place whatever slice is shown; what differs between two slices may depend on where they are.

    Args:
        features: values of each image.
        projected: values that each is projected to.
        hidden: of the network over the pair.
        dropout: of features, in training only.

    Attributes:
        mean, scale: float32 [features], of the images that it is trained on; see :meth:`standardise`.

    Shape:
        first, second float32 [..., features] -> float32 [...]; [B, 1, features] and [1, M, features] give all pairs.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int = 2048, projected: int = 64, hidden: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(features, projected)
        self.pair = nn.Sequential(nn.Linear(3 * projected + 1, hidden), nn.GELU(), nn.Linear(hidden, 1))
        self.slope = nn.Parameter(torch.tensor(5.0))

    def standardise(self, features: torch.Tensor) -> SamePatientHead:
        """Take mean and scale of ``features`` float [N, features]."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0) + 1e-4)
        return self

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [..., projected]: what has to be kept of an image."""
        if features.shape[-1] != len(self.mean):
            raise InputError(
                f"The features of an image must be {len(self.mean)} values, of the outputs {', '.join(PATIENT_OUTPUTS)}. Got {features.shape[-1]}."
            )
        seen = ((features.float() - self.mean) / self.scale).clamp(-FURTHEST, FURTHEST)
        return self.projection(self.dropout(seen))

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Logits float32 [...] of two projections."""
        first, second = torch.broadcast_tensors(first, second)
        cosine = F.cosine_similarity(first, second, dim=-1)[..., None]
        told = torch.cat([(first - second).abs(), first * second, first + second, cosine], -1)
        return (self.pair(told) + self.slope * cosine)[..., 0]

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.compare(self.project(first), self.project(second))


def patient_loss(between: torch.Tensor, first: torch.Tensor, second: torch.Tensor, calibrated: float = 0.2) -> torch.Tensor:
    """Loss of two images of each of B persons, the first ones all of one place and the second ones all of another.

    Each image has to find its person's other one among the second images of all, which lie as far away as that, and the first ones of others, which lie in
    its own place and so look more alike. Without these another patient's slice in place outranks the patient's own: AUC 0.66 where 0.84 is
    reached with them (slices 10 mm apart, docs/benchmarks.md).

    Args:
        between: float [B, B], logits of first and second images; the diagonal is of one person.
        first, second: float [B, B], of the first images among themselves, and of the second; the diagonal is left out.
        calibrated: weight of the cross entropy of each pair of ``between`` alone, in which a positive weighs as much as its row.
    """
    count = len(between)
    who, own = torch.arange(count, device=between.device), torch.eye(count, device=between.device)
    ranked = [
        F.cross_entropy(torch.cat([logits, others.masked_fill(own > 0, -1e4)], 1), who)
        for logits, others in ((between, first), (between.T, second))
    ]
    weight = torch.tensor(max(1.0, (count - 1) / 4), device=between.device)
    alone = F.binary_cross_entropy_with_logits(between, own, pos_weight=weight)
    return (ranked[0] + ranked[1]) / 2 + calibrated * alone


def patient_columns(outputs: Mapping[str, slice]) -> np.ndarray:
    """Which columns of an encoder's prediction the head takes, int64 [features].

    Raises:
        InputError: the encoder gives no such outputs.
    """
    return columns_of(outputs, PATIENT_OUTPUTS, "same-patient")
