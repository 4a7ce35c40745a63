"""A generator of volumes: the three commands, samples that an audit of volumes takes, and files that are the same every time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from doppelscan.errors import InputError
from doppelscan.generate import TrainingImages, gradient_difference, load_autoencoder, load_generator
from doppelscan.generate.files import encode_pixels
from doppelscan.images import ForegroundCubed, LoadVolumed, Windowd, find_images, generate_head, read_volume
from made_generators import AUTOENCODER, UNET
from made_volumes import write_nifti
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose

CONFIGS = Path(__file__).parents[2] / "configs" / "generator"
SHORT = {"max_epochs": 1, "batches": 2, "batch_size": 2, "device": "cpu"}


def run(files: list[str], folder: Path, **settings) -> None:
    found = [str(folder / name) if name.startswith("tiny") else str(CONFIGS / name) for name in files]
    made = ConfigWorkflow(found, workflow_type="train", logging_file=False, **settings)
    made.initialize()
    made.run()


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Four heads of 1.5 mm, networks made tiny, and a generator that was trained on them for two steps, with three samples."""
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "training").mkdir()
    for i in range(4):
        write_nifti(folder / "training" / f"p{i}.nii.gz", generate_head(i, 24), np.diag([1.5, 1.5, 1.5, 1.0]))
    tiny = {"spatial_size": 16, "discriminator_def::channels": 4, "discriminator_def::num_layers_d": 1, "val_interval": 1}
    autoencoder = {f"network_def::{name}": value for name, value in AUTOENCODER.items() if name != "spatial_dims"}
    (folder / "tiny_autoencoder.json").write_text(json.dumps({**tiny, **autoencoder}))
    names = ("channels", "num_res_blocks", "norm_num_groups", "attention_levels", "num_head_channels")
    (folder / "tiny.json").write_text(json.dumps({f"network_def::{name}": UNET[name] for name in names}))
    given = {"dataset_dir": str(folder / "training"), "output_dir": str(folder / "generator"), **SHORT}
    run(["autoencoder.json", "autoencoder_3d.json", "tiny_autoencoder.json"], folder, **given)
    file = str(folder / "generator" / "autoencoder.pt")
    run(["diffusion.json", "diffusion_3d.json", "tiny.json"], folder, autoencoder=file, **given)
    run(
        ["sample.json"], folder, generator=str(folder / "generator" / "generator.pt"), output_dir=str(folder / "samples"), count=3,
        sampling_steps=2, device="cpu",
    )  # fmt: skip
    return folder


def test_samples_are_volumes_in_the_millimetres_of_the_training_set(place):
    generator = load_generator(place / "generator" / "generator.pt")
    assert generator.autoencoder.latent_shape == (2, 8, 8, 8)
    voxel = generator.autoencoder.voxel_size
    assert 1.5 <= voxel <= 3  # 24 voxels of 1.5 mm, cut to the head, in 16
    records = find_images(place / "samples" / "manifest.csv", name="synthetic", volumes="whole").records
    assert len(records) == 3 and all(record.whole for record in records)
    volume = read_volume(records[1])
    assert volume.pixels.shape == (16, 16, 16) and volume.geometry.spacing == pytest.approx((voxel,) * 3, rel=1e-5)
    wanted = np.round(generator.sample([1], steps=2)[0, 0].numpy() * 255)
    assert np.abs(volume.pixels - wanted).max() <= 1
    np.testing.assert_allclose(nib.load(records[1].paths[0]).affine @ [7.5, 7.5, 7.5, 1], [0, 0, 0, 1], atol=1e-5)


def test_the_training_set_is_written_as_it_was_seen(place):
    with open(place / "generator" / "training_images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["source"]).name for row in rows] == [f"p{i}.nii.gz" for i in range(4)]
    seen = find_images(place / "generator" / "training_images.csv", volumes="whole").records
    assert len(seen) == 4 and read_volume(seen[0]).pixels.max() > 200


def brains(folder: Path, size: int, number: int) -> None:
    """``number`` heads of ``size`` voxels of 1.5 mm."""
    folder.mkdir(parents=True)
    for i in range(number):
        write_nifti(folder / f"p{i}.nii.gz", generate_head(i, size), np.diag([1.5, 1.5, 1.5, 1.0]))


def likeness(some: torch.Tensor, others: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Correlation [N, M] of what is left of volumes without ``mean``."""
    one, two = ((volumes.float() - mean).flatten(1) for volumes in (some, others))
    one, two = (left - left.mean(1, keepdim=True) for left in (one, two))
    return torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(two).T


@pytest.mark.slow
def test_an_autoencoder_of_three_volumes_gives_each_back_and_not_their_mean(tmp_path):
    brains(tmp_path / "training", 24, 3)
    brains(tmp_path / "others", 24, 12)
    given = {
        "dataset_dir": str(tmp_path / "training"),
        "output_dir": str(tmp_path / "made"),
        "device": "cpu",
        "max_epochs": 4,
        "mixed_precision": False,
    }
    run(["autoencoder.json", "autoencoder_3d.json"], tmp_path, spatial_size=16, batches=250, val_interval=4, **given)
    autoencoder = load_autoencoder(tmp_path / "made" / "autoencoder.pt")
    prepare = Compose([LoadVolumed("image"), Windowd("image"), ForegroundCubed("image", 16)])
    trained, others = (TrainingImages(tmp_path / name, prepare, volumes="whole").images / 255 for name in ("training", "others"))
    mean = others[3:].mean(0)
    decoded = autoencoder.network.reconstruct(trained).detach()
    assert float(likeness(decoded, trained, mean).diagonal().min()) > 0.8


def test_a_file_of_somebody_is_not_written_over(place, tmp_path):
    (tmp_path / "sample_000000.nii.gz").write_bytes(b"mine")
    with pytest.raises((InputError, RuntimeError)):
        run(
            ["sample.json"],
            place,
            generator=str(place / "generator" / "generator.pt"),
            output_dir=str(tmp_path),
            count=1,
            device="cpu",
        )
    assert (tmp_path / "sample_000000.nii.gz").read_bytes() == b"mine"


def test_a_volume_is_the_same_bytes_every_time():
    pixels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    assert encode_pixels(pixels, 2.0) == encode_pixels(pixels, 2.0) != encode_pixels(pixels, 2.5)


def test_gradients_along_all_axes_of_a_volume_count():
    volume = torch.rand(1, 1, 6, 6, 6)
    for axis in (2, 3, 4):
        striped = volume.clone()
        striped.narrow(axis, 0, 3).add_(1)
        wanted = (striped - volume).diff(dim=axis).abs().mean() / 3
        torch.testing.assert_close(gradient_difference(striped, volume), wanted)
