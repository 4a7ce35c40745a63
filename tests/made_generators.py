"""Tiny autoencoders and generators: networks that say something although nothing trained them."""

from __future__ import annotations

import torch
from doppelscan.generate import Autoencoder, Condition, Generator, Unconditional, autoencoder_kl, diffusion_unet, moving_average

AUTOENCODER = {
    "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 2, "channels": [4, 8], "num_res_blocks": 1, "norm_num_groups": 4,
    "attention_levels": [False, False], "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
}  # fmt: skip
UNET = {
    "spatial_dims": 2, "in_channels": 2, "out_channels": 2, "channels": [8, 8], "num_res_blocks": 1, "norm_num_groups": 4,
    "attention_levels": [False, True], "num_head_channels": [0, 8],
}  # fmt: skip
SCHEDULE = {"num_train_timesteps": 100, "schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0205}
SIZE = 16


def tiny_autoencoder(spatial_size: int = SIZE) -> Autoencoder:
    torch.manual_seed(1)
    return Autoencoder(autoencoder_kl(**AUTOENCODER), spatial_size)


def tiny_generator(condition: Condition | None = None, step: int = 7) -> Generator:
    condition = condition or Unconditional()
    attended = {"with_conditioning": True, "cross_attention_dim": condition.size} if condition.conditional else {}
    network = diffusion_unet(**UNET, **attended)
    torch.manual_seed(2)
    for parameter in network.parameters():  # the last layer starts at 0, so an untrained network says nothing
        torch.nn.init.normal_(parameter, std=0.2)
    return Generator(moving_average(network).module, tiny_autoencoder(), 0.5, SCHEDULE, condition, step)
