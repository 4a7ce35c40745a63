"""Inferer that runs the network under mixed precision on any device."""

from __future__ import annotations

import platform

import torch
from monai.inferers import Inferer, SimpleInferer

from doppelscan.errors import InputError

__all__ = ["AutocastInferer"]


class AutocastInferer(Inferer):
    """An inferer under ``torch.autocast``; what it gives, a tensor or several, comes back in float32.

    The engines' own ``amp`` switch reaches CUDA only; bfloat16 halves a training step on CPUs that compute in it, and doubles it on others.

    Args:
        enabled: "auto" for a GPU and for a CPU that computes in bfloat16, True always; False runs in the network's own precision.
        dtype: float16 or bfloat16.
        inferer: what runs the network; None is MONAI's ``SimpleInferer``.

    Raises:
        InputError: ``enabled`` is something else.
    """

    def __init__(self, enabled: bool | str = "auto", dtype: str = "bfloat16", inferer: Inferer | None = None) -> None:
        super().__init__()
        if enabled not in (True, False, "auto"):
            raise InputError(f"The 'mixed_precision' parameter must be auto, True or False. Got {enabled!r} instead.")
        self.enabled, self.dtype = enabled, getattr(torch, dtype)
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: torch.Tensor, network, *args, **kwargs):
        enabled = self.is_fast(inputs.device) if self.enabled == "auto" else bool(self.enabled)
        with torch.autocast(inputs.device.type, self.dtype, enabled=enabled):
            made = self.inferer(inputs, network, *args, **kwargs)
        return made.float() if isinstance(made, torch.Tensor) else [one.float() for one in made]

    @staticmethod
    def is_fast(device: torch.device) -> bool:
        """Whether ``device`` computes in bfloat16; others emulate it."""
        if device.type != "cpu" or platform.machine().lower() in ("arm64", "aarch64"):
            return True
        return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
