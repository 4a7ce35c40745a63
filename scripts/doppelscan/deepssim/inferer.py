"""Inferer that runs the network under mixed precision on any device."""

from __future__ import annotations

import torch
from monai.inferers import SimpleInferer

__all__ = ["AutocastInferer"]


class AutocastInferer(SimpleInferer):
    """MONAI's ``SimpleInferer`` under ``torch.autocast``.

    The engines' own ``amp`` switch reaches CUDA only; bfloat16 halves a training step on recent CPUs too.

    Args:
        enabled: False runs in the network's own precision.
        dtype: float16 or bfloat16.
    """

    def __init__(self, enabled: bool = True, dtype: str = "bfloat16") -> None:
        super().__init__()
        self.enabled, self.dtype = enabled, getattr(torch, dtype)

    def __call__(self, inputs: torch.Tensor, network, *args, **kwargs) -> torch.Tensor:
        with torch.autocast(inputs.device.type, self.dtype, enabled=self.enabled):
            return super().__call__(inputs, network, *args, **kwargs).float()
