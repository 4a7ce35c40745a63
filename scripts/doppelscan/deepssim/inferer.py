"""Inferers: under mixed precision on any device, and what those have in common that run the network on views."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from monai.inferers import Inferer, SimpleInferer

from doppelscan.errors import InputError

__all__ = ["AutocastInferer", "ViewInferer", "in_parts"]

Viewed = TypeVar("Viewed", bound="ViewInferer")
# Images of 128 x 128 that the network sees at a time on a CPU: of 64 what a stage gives leaves the processor's cache (4.1 ms an image for 3.2).
CPU_BATCH = 16


class ViewInferer(Inferer):
    """An inferer of views: of what is looked for in all of ``known`` poses, of what is searched in its own pose, as it is and turned.

    Attributes:
        known: how many poses there are.
        straight: what ``turned`` is where nothing is turned.
        poses: how many are seen.
        turned: how far what is in its own pose is turned, too: :attr:`turns` of the class, or ``straight``.
    """

    known: ClassVar[int]
    straight: ClassVar[Any]

    @property
    def turns(self) -> Any:
        """How far what is in its own pose is turned."""
        raise NotImplementedError

    def _set_poses(self, poses: int) -> None:
        if poses not in (1, self.known):
            raise InputError(f"The 'poses' parameter of {type(self).__name__} must be 1 or {self.known}. Got {poses!r} instead.")
        self.poses, self.turned = poses, self.turns if poses == 1 else self.straight

    def with_poses(self: Viewed, poses: int) -> Viewed:
        """The same inferer with 1 or all poses; this one stays as it is."""
        made = copy.copy(self)
        made._set_poses(poses)
        return made

    @staticmethod
    def _of_views(views: torch.Tensor, network: Callable, size: int, layout: torch.memory_format) -> torch.Tensor:
        """float32 [B, V, D] of ``views`` [V, B, ...], ``size`` at a time."""
        out = in_parts(views.flatten(0, 1).contiguous(memory_format=layout), network, size)
        return out.view(*views.shape[:2], -1).transpose(0, 1)


def in_parts(images: torch.Tensor, network: Callable, size: int = CPU_BATCH) -> torch.Tensor:
    """``network`` of ``images`` [N, ...], ``size`` at a time, on a CPU fewer: float32 [N, D]."""
    size = min(size, CPU_BATCH) if images.device.type == "cpu" else size
    return torch.cat([network(part).float() for part in images.split(size)])


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
