"""The whole way of a step and of a sample: what is trained on two images gives these two back."""

from __future__ import annotations

import pytest
import torch
from doppelscan.generate import (
    Generator,
    Latents,
    NoisyLatents,
    RepeatSampler,
    TrainingImages,
    Unconditional,
    diffusion_unet,
    moving_average,
)
from doppelscan.images import read_pixels
from doppelscan.workflows import EpochRandomness, EpochSeeds, MovingAverage
from made_files import save_png
from made_generators import tiny_autoencoder
from monai.engines import SupervisedTrainer
from monai.inferers import DiffusionInferer
from monai.networks.schedulers import DDPMScheduler

UNET = {
    "spatial_dims": 2, "in_channels": 2, "out_channels": 2, "channels": [16, 32], "num_res_blocks": 1, "norm_num_groups": 4,
    "attention_levels": [False, False], "num_head_channels": [0, 8],
}  # fmt: skip
# A tenth of the usual steps, so ten times their noise.
SCHEDULE = {"num_train_timesteps": 100, "schedule": "scaled_linear_beta", "beta_start": 0.015, "beta_end": 0.205}


def prepare(item):
    return {"thumbnail": torch.from_numpy(read_pixels(item["image"])[None].astype("uint8"))}


@pytest.mark.slow
def test_a_generator_of_two_images_gives_them_back(tmp_path, cohort):
    for i in range(2):
        save_png(tmp_path / f"{i}.png", cohort[i, ::6, ::6])
    images = TrainingImages(tmp_path, prepare)
    autoencoder = tiny_autoencoder()
    torch.manual_seed(0)
    network = diffusion_unet(**UNET)
    average = moving_average(network, 0.99)
    latents = Latents(images, autoencoder, UNET, Unconditional())
    scheduler = DDPMScheduler(**SCHEDULE)
    sampler = RepeatSampler(images.repeats, batch_size=16, batches=400)
    trainer = SupervisedTrainer(
        "cpu", 4, torch.utils.data.DataLoader(latents, batch_sampler=sampler), network, torch.optim.AdamW(network.parameters(), 3e-3),
        torch.nn.MSELoss(), prepare_batch=NoisyLatents(scheduler), inferer=DiffusionInferer(scheduler), decollate=False,
        train_handlers=[EpochSeeds([sampler]), EpochRandomness(), MovingAverage(average, network)],
    )  # fmt: skip
    trainer.run()
    generator = Generator(average.module, autoencoder, latents.scale_factor, SCHEDULE, Unconditional(), average.n_averaged)
    with torch.no_grad():
        decoded = autoencoder.network.decode(latents.latents / latents.scale_factor).clamp(0, 1)
    samples = generator.sample(range(16), steps=20)
    apart = (decoded[0] - decoded[1]).square().mean()
    distances = torch.stack([(samples - one).square().mean((1, 2, 3)) for one in decoded], 1) / apart
    assert generator.step == 1600
    assert float(distances.amin(1).max()) < 0.1
    assert set(distances.argmin(1).tolist()) == {0, 1}
