"""train_3d.json as MONAI runs it, on generated volumes: a few steps, what it writes, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from doppelscan.deepssim import VolumeEncoder, load_weights
from doppelscan.images import generate_volumes
from warm import run_warm

CONFIG = Path(__file__).parents[2] / "bundles/deepssim_encoder/configs/train_3d.json"


def train(folder: Path, *arguments: object) -> str:
    few = (
        "--generated_cohorts",
        1,
        "--batches",
        2,
        "--groups",
        1,
        "--group_size",
        4,
        "--val_interval",
        1,
        "--validate#sampler#batches",
        1,
    )
    where = ("--dataset_dir", "['brains']", "--ckpt_dir", "weights", "--output_dir", "out")
    done = run_warm(["-m", "monai.bundle", "run", "train", "--config_file", CONFIG, *few, *where, *arguments], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_volumes_train_an_encoder_whose_weights_load_and_training_resumes(tmp_path):
    (tmp_path / "brains").mkdir()
    for number, volume in enumerate(generate_volumes(4, 32, 1)[0]):
        image = nib.Nifti1Image(volume[0].numpy().astype(np.int16), np.diag([-1.5, 1.5, 1.5, 1.0]))
        nib.save(image, tmp_path / "brains" / f"p{number}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((16, 16, 16), np.int16), np.eye(4)), tmp_path / "brains" / "flat.nii.gz")
    train(tmp_path, "--max_epochs", 1)
    network = load_weights(VolumeEncoder(), tmp_path / "weights" / "model_3d.safetensors")
    with torch.no_grad():
        assert torch.isfinite(network(torch.randn(1, 1, 32, 32, 32))).all()
    assert "constant" in (tmp_path / "out" / "skipped.csv").read_text() and list((tmp_path / "out").glob("events*"))
    assert len((tmp_path / "out" / "training_images.csv").read_text().splitlines()) == 1 + 4 + 12
    assert "Resumed training_1.pt at epoch 1 of 2" in train(tmp_path, "--max_epochs", 2)
