"""The training loss: regress SSIM by the cosine of one head, tell images apart by the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["DeepSSIMLoss"]


class DeepSSIMLoss(nn.Module):
    """``ssim_weight`` * MSE(cos, SSIM) + ``identity_weight`` * InfoNCE.

    The first term is the loss of arXiv 2509.16582 over all pairs of a group; the second is InfoNCE (van den Oord et al. 2018)
    between the two views of an image with every other image of the batch as negative, those of the same cohort included.

    Args:
        embedding_size: size of each head; the prediction holds the deepssim head first.
        ssim_weight: weight of the SSIM regression.
        identity_weight: weight of InfoNCE.
        temperature: of InfoNCE.
        neighbour_ssim: pairs of one patient above this SSIM are no negatives of each other.

    Shape:
        prediction float [2B, 2 * embedding_size], first views before second views; targets as
        :class:`~doppelscan.deepssim.MakeViews` gives them -> scalar.

    Raises:
        FloatingPointError: the loss is not finite.
    """

    def __init__(
        self,
        embedding_size: int = 256,
        ssim_weight: float = 10.0,
        identity_weight: float = 1.0,
        temperature: float = 0.07,
        neighbour_ssim: float = 0.7,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.ssim_weight, self.identity_weight = ssim_weight, identity_weight
        self.temperature, self.neighbour_ssim = temperature, neighbour_ssim

    def forward(self, prediction: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        prediction = prediction.float()
        first, second = prediction.chunk(2)
        size = self.embedding_size
        regression = self._regression(first[:, :size], second[:, :size], targets["ssim"])
        identity = self._identity(first[:, size : 2 * size], second[:, size : 2 * size], targets)
        loss = self.ssim_weight * regression + self.identity_weight * identity
        if not torch.isfinite(loss):
            patients = targets["patient"].unique().tolist()
            raise FloatingPointError(
                f"The loss is {float(loss.detach())} (regression {float(regression.detach())}, identity {float(identity.detach())}) "
                f"on the batch of patients {patients[:8]}; lower the learning rate or look at these images."
            )
        return loss

    @staticmethod
    def _regression(first: torch.Tensor, second: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        groups, members, _ = target.shape
        a, b = first.view(groups, members, -1), second.view(groups, members, -1)
        return F.mse_loss(a @ b.transpose(1, 2), target)

    def _identity(self, first: torch.Tensor, second: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        is_copy = targets["is_copy"]
        if not bool(is_copy.any()):
            return first.sum() * 0
        logits = first @ second.T / self.temperature
        patient = targets["patient"]
        likeness = torch.block_diag(*targets["ssim"])
        ignored = (patient[:, None] == patient[None]) & (likeness > self.neighbour_ssim)
        ignored = ignored | ~is_copy[None]  # a near-duplicate is neither a copy nor another image
        ignored.fill_diagonal_(False)
        logits = logits.masked_fill(ignored, -1e4)
        label = torch.arange(len(logits), device=logits.device)
        forward = F.cross_entropy(logits[is_copy], label[is_copy])
        backward = F.cross_entropy(logits.T[is_copy], label[is_copy])
        return (forward + backward) / 2
