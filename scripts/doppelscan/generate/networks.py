"""The networks of a latent diffusion model: MONAI's, each with the settings that it was made of, and the moving average of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from torch.optim.swa_utils import AveragedModel

from doppelscan.deepssim import unwrapped
from doppelscan.errors import InputError

__all__ = ["Reconstruction", "autoencoder_kl", "diffusion_unet", "moving_average", "require_size", "settings_of"]


def _made(kind: Callable[..., torch.nn.Module], settings: Mapping[str, Any]) -> torch.nn.Module:
    try:
        network = kind(**settings)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"The settings of the network must be those of MONAI's {kind.__name__}. Got: {reason}.") from error
    network.settings = dict(settings)  # type: ignore[assignment]
    return network


def autoencoder_kl(**settings: Any) -> AutoencoderKL:
    """MONAI's ``AutoencoderKL`` of ``settings``, which its weights are stored with.

    Raises:
        InputError: they fit no such network.
    """
    return _made(AutoencoderKL, settings)  # type: ignore[return-value]


def diffusion_unet(**settings: Any) -> DiffusionModelUNet:
    """MONAI's ``DiffusionModelUNet`` of ``settings``, which its weights are stored with.

    Raises:
        InputError: they fit no such network.
    """
    return _made(DiffusionModelUNet, settings)  # type: ignore[return-value]


class Reconstruction(Inferer):
    """What an autoencoder makes of images, from the means of their latents: float32 [B, 1, H, W], or volumes."""

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        return unwrapped(network).reconstruct(inputs).float()


def settings_of(network: torch.nn.Module) -> dict[str, Any]:
    """What ``network`` was made of by :func:`autoencoder_kl` or :func:`diffusion_unet`."""
    return unwrapped(network).settings


def require_size(spatial_size: int, *networks: Mapping[str, Any]) -> None:
    """Refuse a size that ``networks`` (settings, one behind the other) cannot halve as often as they do.

    Raises:
        InputError: it is none of their multiples, or leaves less than two pixels.
    """
    factor = 2 ** sum(len(settings["channels"]) - 1 for settings in networks)
    if spatial_size % factor or spatial_size < 2 * factor:
        raise InputError(
            f"The 'spatial_size' parameter must be a multiple of {factor}, at least {2 * factor}, for networks of these channels. Got "
            f"{spatial_size}; the nearest is {max(2, round(spatial_size / factor)) * factor}."
        )


def moving_average(network: torch.nn.Module, decay: float = 0.999) -> AveragedModel:
    """An exponential moving average of the weights of ``network``, to be updated after each step.

    The decay rises to ``decay`` as (1 + n) / (10 + n) over the first steps n, so that an early average is not of the initial weights.
    """
    if not 0 < decay < 1:
        raise InputError(f"The 'decay' parameter must be a number between 0 and 1. Got {decay!r} instead.")

    def average(averaged: torch.Tensor, current: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
        steps = int(count)
        return torch.lerp(averaged, current, 1 - min(decay, (1 + steps) / (10 + steps)))

    averaged = AveragedModel(unwrapped(network), avg_fn=average)
    return averaged.requires_grad_(False).eval()
