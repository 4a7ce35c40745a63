"""The pair head's configs as MONAI runs them: it is trained, fine-tuned and used on a few images for a few steps."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from doppelscan.deepssim import PairSSIM, load_pair_head
from warm import run_warm

CONFIGS = Path(__file__).parents[2] / "bundles" / "deepssim_encoder" / "configs"
FEW = (
    "--pairs", "12", "--validation_pairs", "4", "--max_epochs", "1", "--val_interval", "1", "--batch_size", "8", "--thumbnail_size", "64",
    "--spatial_size", "64", "--output_dir", "out",
)  # fmt: skip


def run(configs: str, *arguments: str, cwd: Path):
    return run_warm(
        ["-m", "monai.bundle", "run", "--config_file", str([str(CONFIGS / one) for one in configs.split()]), *arguments], cwd
    )


def test_the_head_is_trained_from_scratch_fine_tuned_with_samples_and_names_the_copy(folders, tmp_path):
    done = run("ssim_pairs.json", "--dataset_dir", "['training','holdout']", "--ckpt_dir", "weights", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mean_absolute_error" in done.stdout + done.stderr and (tmp_path / "out" / "training_images.csv").is_file()
    scratch = load_pair_head(PairSSIM(), tmp_path / "weights" / "pair_ssim.safetensors")
    words = ("--dataset_dir", "['training']", "--synthetic_dir", "['synthetic']", "--windows", "False")
    done = run("ssim_pairs.json ssim_pairs_finetune.json", *words, *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    told = done.stdout + done.stderr
    # Of 10 patients 2 are kept apart, and what the head knew before is told beside what it knows now.
    assert "Training on 8 images, 4 samples and 0 generated ones, validating on 2 images (none of them trained on)" in told
    assert "Before training: mean_absolute_error" in told and "are in out/models/pair_ssim.safetensors: mean_absolute_error" in told
    tuned = load_pair_head(PairSSIM(), tmp_path / "out" / "models" / "pair_ssim.safetensors")
    shipped = load_pair_head(PairSSIM(), CONFIGS.parent / "models" / "pair_ssim.safetensors")
    name = "shares.1.bias"
    assert not torch.equal(tuned.state_dict()[name], shipped.state_dict()[name])
    # It starts from the shipped weights, and goes less far from them than a head that knew nothing.
    moved, strange = (
        sum(float((one.state_dict()[key] - value).abs().sum()) for key, value in shipped.state_dict().items())
        for one in (tuned, scratch)
    )
    assert moved < 0.2 * strange
    done = run(
        "inference.json inference_pairs.json", "--dataset_dir", "synthetic", "--training_dir", "training", "--output_dir", "pairs",
        "--nearest", "2", "--pair_ckpt", "out/models/pair_ssim.safetensors", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 synthetic images and the 2 nearest of 10 training images is in pairs/ssim.csv" in done.stdout + done.stderr
    with open(tmp_path / "pairs" / "ssim.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and list(rows[0]) == ["image", "match", "ssim", "verdict"]
    copy = next(row for row in rows if Path(row["image"]).name == "copy.png")  # flipped
    assert Path(copy["match"]).name == "p03.png" and float(copy["ssim"]) > 0.95 and copy["verdict"] == "duplicate"
    assert (tmp_path / "pairs" / "skipped.csv").is_file()


def test_mistakes_are_told_in_one_line(folders, tmp_path):
    for configs, words, told in (
        ("ssim_pairs.json", ("--pairs", "0", "--dataset_dir", "['training']"), "'pairs' parameter"),
        (
            "ssim_pairs.json ssim_pairs_finetune.json",
            ("--dataset_dir", "['training']", "--init_ckpt", "nowhere.pt"),
            "does not exist",
        ),
        ("inference.json inference_pairs.json", ("--dataset_dir", "synthetic"), "pass --training_dir DIR"),
        (
            "inference.json inference_pairs.json",
            ("--dataset_dir", "synthetic", "--training_dir", "training", "--nearest", "0"),
            "'nearest'",
        ),
    ):
        done = run(configs, *words, "--output_dir", "out", cwd=tmp_path)
        assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr, done.stderr[-2000:]
        assert told in done.stderr.strip().splitlines()[-1]
        assert "pair/s" not in done.stderr, "8,000 pairs were registered before a mistyped file was told"
