"""Losses of the autoencoder: L1, of the gradients too, perceptual where there is such a network; patch adversarial; KL."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from torch import nn

__all__ = ["AdversarialLoss", "DiscriminatorLoss", "NegativeError", "ReconstructionLoss", "gradient_difference", "kl_divergence"]


def gradient_difference(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the differences of neighbouring pixels, float [B, C, H, W], or volumes, both; a scalar. Blur costs, brightness does not."""
    axes = range(2, prediction.ndim)
    return sum(((prediction.diff(dim=axis) - target.diff(dim=axis)).abs().mean() for axis in axes), prediction.new_zeros(())) / len(
        axes
    )


def kl_divergence(mean: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, sigma^2) || N(0, 1)), summed over a latent, mean over the batch; both float [B, C, h, w] or [B, C, h, w, d]; in float32 (arXiv 2112.10752)."""
    mean, variance = mean.float(), sigma.float() ** 2
    return 0.5 * (mean**2 + variance - variance.clamp_min(1e-30).log() - 1).flatten(1).sum(1).mean()


class ReconstructionLoss(nn.Module):
    """L1 + ``gradient_weight`` * :func:`gradient_difference` + ``perceptual_weight`` * ``perceptual``.

    Args:
        gradient_weight: stands for the perceptual term where no pretrained network is at hand; 0 leaves it out.
        perceptual: loss of (prediction, target), such as MONAI's ``PerceptualLoss``; None leaves it out.
        perceptual_weight: METHODS: 0.1 in arXiv 2509.16582.

    Shape:
        prediction and target float [B, 1, H, W], or volumes, -> scalar.
    """

    def __init__(self, gradient_weight: float = 1.0, perceptual: nn.Module | None = None, perceptual_weight: float = 0.1) -> None:
        super().__init__()
        self.gradient_weight, self.perceptual, self.perceptual_weight = gradient_weight, perceptual, perceptual_weight

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = F.l1_loss(prediction, target)
        if self.gradient_weight:
            loss = loss + self.gradient_weight * gradient_difference(prediction, target)
        if self.perceptual is not None:
            loss = loss + self.perceptual_weight * self.perceptual(prediction, target)
        return loss


class AdversarialLoss(nn.Module):
    """``weight`` times what a discriminator's logits say of reconstructions that want to look real; least squares.

    Args:
        weight: METHODS: 0.125 in arXiv 2509.16582.
        start: epochs (from 0) without it: reconstructions that are still blurred teach a discriminator nothing. Until then, and of weight 0, it is 0
            whatever the logits are.
    """

    def __init__(self, weight: float = 0.125, start: int = 0) -> None:
        super().__init__()
        self.weight, self.start, self.epoch = weight, start, 0
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def set_epoch(self, epoch: int) -> None:
        """The epoch (from 0) that comes next."""
        self.epoch = epoch

    def forward(self, fake_logits: list[torch.Tensor]) -> torch.Tensor:
        if not self.weight or self.epoch < self.start:
            # Not 0 times it: a discriminator that nobody asks must not cost a backward pass, and its NaN would be the autoencoder's.
            return fake_logits[-1].new_zeros(())
        return self.weight * self.adversarial(fake_logits[-1], target_is_real=True, for_discriminator=False)


class DiscriminatorLoss(nn.Module):
    """Mean of the least squares of real and reconstructed patches; logits as MONAI's ``PatchDiscriminator`` gives them, the last is the verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.adversarial = PatchAdversarialLoss(criterion="least_squares")

    def forward(self, real_logits: list[torch.Tensor], fake_logits: list[torch.Tensor]) -> torch.Tensor:
        real = self.adversarial(real_logits[-1], target_is_real=True, for_discriminator=True)
        return (real + self.adversarial(fake_logits[-1], target_is_real=False, for_discriminator=True)) / 2


class NegativeError(nn.Module):
    """Minus the mean squared error: a metric that rises, as :class:`~doppelscan.workflows.EarlyStop` and ``BestWeights`` want it."""

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -F.mse_loss(prediction, target)
