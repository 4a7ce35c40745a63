"""The training loss: regress SSIM by the cosine of one head, tell images apart by the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.errors import InputError, NotFiniteError

__all__ = ["DeepSSIMLoss", "require_head_sizes"]


def require_head_sizes(prediction: torch.Tensor, size: int, with_identity: bool) -> None:
    """Refuse a prediction [B, D] whose heads are not of ``size`` values, of which the first would else be taken for a whole head.

    Raises:
        InputError: D is neither ``size`` (without the identity head) nor twice that.
    """
    width = prediction.shape[1]
    if width != 2 * size and (with_identity or width != size):
        raise InputError(
            f"The 'embedding_size' parameter must be that of the network's heads. Got {size}, and a network that gives {width} values: "
            "pass --network_def::embedding_size, which loss and metrics follow."
        )


class DeepSSIMLoss(nn.Module):
    """``ssim_weight`` * MSE(cos, SSIM) + ``identity_weight`` * InfoNCE.

    The first term is the loss of arXiv 2509.16582 over all pairs of a group, of first views with second and with first views;
    pairs are weighted so that each tenth of the SSIM range that occurs counts by the root of its share, or unrelated pairs, of
    which there are most, would be all that is learned. The second is InfoNCE (van den Oord et al. 2018)
    between the two views of an image with every other image of the batch as negative, those of the same cohort included, but for the
    other image of a blend (``other`` of the targets); averages of others (``averaged``) are negatives of all.

    Args:
        embedding_size: size of each head; the prediction holds the deepssim head first.
        ssim_weight: weight of the SSIM regression.
        identity_weight: weight of InfoNCE.
        temperature: of InfoNCE.
        balanced: weight the pairs; False is the paper's plain mean.
        neighbour_ssim: pairs of one patient above this SSIM are no negatives of each other.

    Shape:
        prediction float [2B, 2 * embedding_size] ([2B, embedding_size] without identity), first views before second views; targets as
        :class:`~doppelscan.deepssim.MakeViews` gives them -> scalar.

    Raises:
        InputError: the prediction is not of one or two heads of ``embedding_size``.
        NotFiniteError: the loss is not finite.
    """

    def __init__(
        self,
        embedding_size: int = 256,
        ssim_weight: float = 10.0,
        identity_weight: float = 1.0,
        temperature: float = 0.07,
        balanced: bool = True,
        neighbour_ssim: float = 0.7,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.ssim_weight, self.identity_weight = ssim_weight, identity_weight
        self.temperature, self.neighbour_ssim, self.balanced = temperature, neighbour_ssim, balanced

    def forward(self, prediction: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        prediction = prediction.float()
        first, second = prediction.chunk(2)
        size = self.embedding_size
        require_head_sizes(prediction, size, with_identity=self.identity_weight > 0)
        regression = self._regression(first[:, :size], second[:, :size], targets["ssim"])
        if "ssim_first" in targets:
            near = self._regression(first[:, :size], first[:, :size], targets["ssim_first"])
            regression = (regression + near) / 2
        identity = regression * 0
        if self.identity_weight > 0:
            identity = self._identity(first[:, size : 2 * size], second[:, size : 2 * size], targets)
        loss = self.ssim_weight * regression + self.identity_weight * identity
        if not torch.isfinite(loss):
            images = targets["index"].tolist() if "index" in targets else []
            raise NotFiniteError(
                f"The loss is {float(loss.detach())} (regression {float(regression.detach())}, identity {float(identity.detach())}) "
                f"on the batch of images {images} of training_images.csv in the output folder; lower 'learning_rate' or look at these images."
            )
        return loss

    def _regression(self, first: torch.Tensor, second: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        groups, members, _ = target.shape
        a, b = first.view(groups, members, -1), second.view(groups, members, -1)
        error = (a @ b.transpose(1, 2) - target) ** 2
        if not self.balanced:
            return error.mean()
        place = (target.clamp(0, 1) * 10).long().clamp_max(9).flatten()
        counts = torch.bincount(place, minlength=10).to(error)
        weight = counts.clamp_min(1).rsqrt()[place]
        return (error.flatten() * weight).sum() / weight.sum()

    def _identity(self, first: torch.Tensor, second: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        is_copy = targets["is_copy"]
        if not bool(is_copy.any()):
            return first.sum() * 0
        logits = first @ second.T / self.temperature
        patient = targets["patient"]
        likeness = torch.block_diag(*targets["ssim"])
        # Neighbouring slices and repeat visits that look alike are neither: what a generator gives back of one is as like the other, and who
        # is named is the same. Registration tells which. As negatives they would be told apart by noise; as positives, a patient's slices
        # would become one. Other levels and visits that do not look alike are other images.
        ignored = (patient[:, None] == patient[None]) & (likeness > self.neighbour_ssim)
        # A near-duplicate is neither a copy nor another image; the mean of several others is another image.
        ignored = ignored | ~(is_copy | targets["averaged"] if "averaged" in targets else is_copy)[None]
        if "other" in targets:  # a blend holds some of it: neither a copy of it nor another image
            ignored[targets["other"], torch.arange(len(logits), device=logits.device)] = True
        ignored.fill_diagonal_(False)
        logits = logits.masked_fill(ignored, -1e4)
        label = torch.arange(len(logits), device=logits.device)
        forward = F.cross_entropy(logits[is_copy], label[is_copy])
        backward = F.cross_entropy(logits.T[is_copy], label[is_copy])
        return (forward + backward) / 2
