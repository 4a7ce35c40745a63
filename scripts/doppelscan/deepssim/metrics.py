"""Metrics of training batches, in MONAI's form, so that ignite handlers collect them across ranks."""

from __future__ import annotations

import torch
from monai.metrics import Cumulative

__all__ = ["CopyRetrieval", "SSIMError"]


class CopyRetrieval(Cumulative):
    """Share of augmented copies whose nearest image of the batch is their source; in [0, 1], higher is better.

    Called with the prediction [2B, 2 * embedding_size] and the targets of ``MakeViews``; measured on the identity head.
    """

    def __init__(self, embedding_size: int = 256) -> None:
        super().__init__()
        self.embedding_size = embedding_size

    def __call__(self, y_pred: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        first, second = y_pred[:, self.embedding_size : 2 * self.embedding_size].float().chunk(2)
        nearest = (second @ first.T).argmax(1)
        hits = (nearest == torch.arange(len(nearest), device=nearest.device))[y["is_copy"]].float()
        self.extend(hits[:, None])
        return hits

    def aggregate(self) -> torch.Tensor:
        hits = self.get_buffer()
        return hits.mean()


class SSIMError(Cumulative):
    """Mean absolute difference between the deepssim head's cosine and the SSIM target; lower is better."""

    def __init__(self, embedding_size: int = 256) -> None:
        super().__init__()
        self.embedding_size = embedding_size

    def __call__(self, y_pred: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        target = y["ssim"]
        first, second = y_pred[:, : self.embedding_size].float().chunk(2)
        groups, members, _ = target.shape
        cosine = first.view(groups, members, -1) @ second.view(groups, members, -1).transpose(1, 2)
        error = (cosine - target).abs().flatten()
        self.extend(error[:, None])
        return error

    def aggregate(self) -> torch.Tensor:
        errors = self.get_buffer()
        return errors.mean()
