"""What a step of diffusion training is made of: noise, a time step, and what the network has to say of them."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import DiffusionPrepareBatch
from monai.networks.schedulers import Scheduler

from doppelscan.errors import InputError

__all__ = ["NoisyLatents"]


class NoisyLatents(DiffusionPrepareBatch):
    """MONAI's ``DiffusionPrepareBatch``, with the target that the scheduler's ``prediction_type`` asks for, and a condition where a batch has one.

    Args:
        scheduler: of the training; its ``prediction_type`` is epsilon or v_prediction.

    Raises:
        InputError: another prediction type.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        kind = str(scheduler.prediction_type)
        if kind not in ("epsilon", "v_prediction"):
            raise InputError(f"The schedule's 'prediction_type' must be epsilon or v_prediction. Got {kind!r} instead.")
        super().__init__(scheduler.num_train_timesteps)
        self.scheduler, self.velocity = scheduler, kind == "v_prediction"

    def get_target(self, images: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The noise, or the velocity (arXiv 2202.00512)."""
        return self.scheduler.get_velocity(images, noise, timesteps) if self.velocity else noise

    def __call__(self, batchdata: dict[str, torch.Tensor], device=None, non_blocking: bool = False, **kwargs: Any) -> Any:
        images, target, args, inferer = super().__call__(batchdata, device, non_blocking, **kwargs)
        if "condition" in batchdata:
            inferer["condition"] = batchdata["condition"].to(device, non_blocking=non_blocking)
        return images, target, args, inferer
