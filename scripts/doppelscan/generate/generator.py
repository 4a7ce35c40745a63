"""A trained autoencoder and a trained generator, each one file: weights, and all that is needed to use them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import LatentDiffusionInferer
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler

from doppelscan.deepssim import file_sha256, load_weights, read_checkpoint, unwrapped
from doppelscan.deepssim.weights import require_listed_sha256
from doppelscan.errors import InputError, WeightsError
from doppelscan.generate.conditioning import Condition, condition_from
from doppelscan.generate.networks import autoencoder_kl, diffusion_unet, require_size, settings_of

__all__ = ["Autoencoder", "Generator", "load_autoencoder", "load_generator"]

Values = Mapping[str, str]


class Autoencoder:
    """An autoencoder and the size of the images that it is for.

    Args:
        network: of :func:`~doppelscan.generate.autoencoder_kl`.
        spatial_size: side of the images.
        sha256: of the file that it came from; "" for one that is being trained.
        voxel_size: of volumes in mm, with which samples are written.

    Raises:
        InputError: the network cannot halve images of this size.
    """

    def __init__(self, network: torch.nn.Module, spatial_size: int, sha256: str = "", voxel_size: float | None = None) -> None:
        self.network: AutoencoderKL = unwrapped(network)
        self.spatial_size, self.sha256, self.voxel_size = int(spatial_size), sha256, voxel_size
        require_size(self.spatial_size, self.network_settings)

    @property
    def network_settings(self) -> dict[str, Any]:
        """What the network was made of."""
        return settings_of(self.network)

    @property
    def spatial_dims(self) -> int:
        """2 of images, 3 of volumes."""
        return int(self.network_settings["spatial_dims"])

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels and sides of a latent."""
        side = self.spatial_size // 2 ** (len(self.network_settings["channels"]) - 1)
        return int(self.network_settings["latent_channels"]), *[side] * self.spatial_dims

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that :func:`load_autoencoder` makes it of again."""
        told = {"network": self.network_settings, "spatial_size": self.spatial_size}
        return told if self.voxel_size is None else {**told, "voxel_size": self.voxel_size}

    def state_dict(self) -> dict[str, Any]:
        """The file's content: weights under ``model``, and ``settings``."""
        return {"kind": "autoencoder", "model": self.network.state_dict(), "settings": self.settings}

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Means of the latents of ``images`` float32 [B, 1, S, S], or volumes, in [0, 1]: float32 [B, C, h, w] on the CPU."""
        device = next(self.network.parameters()).device
        mean, _ = self.network.encode(images.to(device))
        return mean.float().cpu()


class Generator:
    """A latent diffusion model: denoising network, autoencoder, scale of the latents, schedule of the noise, condition.

    Args:
        network: of :func:`~doppelscan.generate.diffusion_unet`, the averaged one.
        autoencoder: decodes its latents.
        scale_factor: that the latents were multiplied with.
        schedule: arguments of MONAI's schedulers, such as ``{"num_train_timesteps": 1000, "schedule": "scaled_linear_beta"}``.
        condition: what samples can be asked for.
        step: training steps behind the weights; a tensor is read when it is asked for, while a training counts in it.
        sha256: of the file that it came from; "" for one that is being trained.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        autoencoder: Autoencoder,
        scale_factor: float,
        schedule: Mapping[str, Any],
        condition: Condition,
        step: int | torch.Tensor = 0,
        sha256: str = "",
    ) -> None:
        self.network: DiffusionModelUNet = unwrapped(network)
        self.autoencoder, self.scale_factor, self.schedule = autoencoder, float(scale_factor), dict(schedule)
        self.condition, self._step, self.sha256 = condition, step, sha256

    @property
    def step(self) -> int:
        """Training steps behind the weights."""
        return int(self._step)

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that :func:`load_generator` makes it of again."""
        return {
            "autoencoder": {**self.autoencoder.settings, "sha256": self.autoencoder.sha256},
            "network": settings_of(self.network),
            "scale_factor": self.scale_factor,
            "schedule": self.schedule,
            "condition": self.condition.state(),
        }

    def _networks(self) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict({"autoencoder": self.autoencoder.network, "network": self.network})

    def state_dict(self) -> dict[str, Any]:
        """The file's content: the weights of both networks under ``model``, ``settings`` and ``step``."""
        return {"kind": "generator", "model": self._networks().state_dict(), "settings": self.settings, "step": self.step}

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """float32 [N, C, h, w] on the CPU, each of its own seed, so that what a sample becomes does not depend on what is sampled beside it."""
        shape = self.autoencoder.latent_shape
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds])

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], conditions: Sequence[Values] | None = None, steps: int = 50) -> torch.Tensor:
        """Samples by DDIM (arXiv 2010.02502), deterministic once the noise is drawn.

        Args:
            seeds: one a sample.
            conditions: one a sample; None where there is no condition.
            steps: of DDIM.

        Returns:
            float32 [N, 1, S, S], or volumes [N, 1, S, S, S], in [0, 1], on the CPU.

        Raises:
            WeightsError: a sample is not finite.
        """
        device = next(self.network.parameters()).device
        scheduler = DDIMScheduler(**self.schedule, clip_sample=False)
        scheduler.set_timesteps(num_inference_steps=steps)
        tokens = torch.stack([self.condition.embed(values) for values in conditions]).to(device) if conditions else None
        inferer = LatentDiffusionInferer(scheduler, self.scale_factor)
        training = self.network.training
        self.network.eval()
        made = inferer.sample(
            self.noise(seeds).to(device), self.autoencoder.network, self.network, conditioning=tokens, verbose=False
        )
        self.network.train(training)
        images = torch.as_tensor(made).float().cpu()
        if not bool(torch.isfinite(images).all()):
            raise WeightsError(
                f"The samples of a generator must be finite. Got NaN or Inf after {self.step} training steps; train it again."
            )
        return images.clamp(0, 1)


def _read(path: str | os.PathLike | None, kind: str) -> dict[str, Any]:
    if path is None or not Path(path).is_file():
        raise InputError(
            f"The '{kind}' parameter must be a file that the training of one wrote. Got {None if path is None else str(path)!r}, which does not "
            f"exist; pass --{kind} FILE."
        )
    require_listed_sha256(path)
    state = read_checkpoint(path)
    if state.get("kind") != kind or not isinstance(state.get("settings"), dict):
        found = state.get("kind")
        what = f"a file of another kind ({found})" if isinstance(found, str) else "a file of another kind"
        raise WeightsError(f"The '{kind}' parameter must be a file that the training of one wrote. Got {str(path)!r}, {what}.")
    return state


def load_autoencoder(path: str | os.PathLike | None, device: str | torch.device = "cpu") -> Autoencoder:
    """The autoencoder of a file that configs/generator/autoencoder.json wrote, frozen, in evaluation mode.

    Raises:
        InputError: no such file.
        WeightsError: a file of another kind, damaged, or of another sha256 than ``checksums.json`` beside it lists.
    """
    settings = _read(path, "autoencoder")["settings"]
    network = load_weights(autoencoder_kl(**settings["network"]), str(path)).to(device).requires_grad_(False)
    return Autoencoder(network, settings["spatial_size"], file_sha256(str(path)), settings.get("voxel_size"))


def load_generator(path: str | os.PathLike | None, device: str | torch.device = "cpu") -> Generator:
    """The generator of a file that configs/generator/diffusion.json wrote, in evaluation mode.

    Raises:
        InputError: no such file.
        WeightsError: a file of another kind, damaged, or of another sha256 than ``checksums.json`` beside it lists.
    """
    state = _read(path, "generator")
    settings = state["settings"]
    kept = dict(settings["autoencoder"])
    sha256 = kept.pop("sha256")
    autoencoder = Autoencoder(autoencoder_kl(**kept["network"]), kept["spatial_size"], sha256, kept.get("voxel_size"))
    network = diffusion_unet(**settings["network"])
    made = Generator(
        network, autoencoder, settings["scale_factor"], settings["schedule"], condition_from(settings["condition"]), state["step"],
        file_sha256(str(path)),
    )  # fmt: skip
    load_weights(made._networks(), str(path)).to(device).requires_grad_(False)
    return made
