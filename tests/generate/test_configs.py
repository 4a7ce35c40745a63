"""The commands of a generator, run: autoencoder, diffusion, samples; resumed, stopped early, conditioned, refused in one line."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from doppelscan.deepssim import file_sha256
from doppelscan.errors import DoppelscanError
from doppelscan.generate import load_autoencoder, load_generator
from doppelscan.workflows.errors import told_in_one_line
from made_files import save_png
from made_generators import AUTOENCODER, UNET, tiny_autoencoder
from monai.bundle import ConfigWorkflow
from warm import run_warm

CONFIGS = Path(__file__).parents[2] / "configs" / "generator"
SHORT = ("--max_epochs", 2, "--batches", 2, "--batch_size", 2)


@pytest.fixture(scope="module")
def place(tmp_path_factory, cohort) -> Path:
    """Six images of six people with a table, two more people, and overrides that make the networks tiny."""
    folder = tmp_path_factory.mktemp("generator")
    rows = ["path,patient,repeats,sex,report"]
    for i in range(6):
        save_png(folder / "images" / f"{i}.png", cohort[i])
        rows.append(f"images/{i}.png,p{i},{1 + 3 * (i == 2)},{'FM'[i % 2]},lesion {i}")
    for i in range(2):
        save_png(folder / "others" / f"{i}.png", cohort[20 + i])
    save_png(folder / "one" / "0.png", cohort[0])
    (folder / "set.csv").write_text("\n".join(rows))
    autoencoder = {f"network_def::{name}": value for name, value in AUTOENCODER.items()}
    (folder / "tiny_autoencoder.json").write_text(
        json.dumps({**autoencoder, "spatial_size": 16, "discriminator_def::channels": 4, "discriminator_def::num_layers_d": 1})
    )
    names = ("channels", "num_res_blocks", "norm_num_groups", "attention_levels", "num_head_channels")
    (folder / "tiny.json").write_text(json.dumps({f"network_def::{name}": UNET[name] for name in names}))
    return folder


def command(place: Path, files: list[str], *settings: object) -> list[object]:
    found = [str(place / name) if name.startswith("tiny") else str(CONFIGS / name) for name in files]
    return ["-m", "monai.bundle", "run", "--config_file", str(found), "--device", "cpu", *settings]


def run(place: Path, files: list[str], *settings: object) -> subprocess.CompletedProcess:
    return run_warm(command(place, files, *settings), place)


def told(done: subprocess.CompletedProcess) -> str:
    """The one line that a refusal is."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("doppelscan: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr + done.stdout, done.stderr
    return lines[0]


def refused(place: Path, files: list[str], *settings: object) -> str:
    """What the same command raises, without a process of its own."""
    words = dict(zip(settings[::2], settings[1::2], strict=True))
    paths = ("--dataset_dir", "--output_dir", "--validation_dir", "--autoencoder", "--generator")
    given = {str(name)[2:]: str(place / str(value)) if name in paths else value for name, value in words.items()}
    found = [str(place / name) if name.startswith("tiny") else str(CONFIGS / name) for name in files]
    with pytest.raises(DoppelscanError) as error, told_in_one_line():
        made = ConfigWorkflow(found, workflow_type="train", logging_file=False, device="cpu", **given)
        made.initialize()
        made.run()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def autoencoder(place) -> Path:
    done = run(
        place, ["autoencoder.json", "tiny_autoencoder.json"], "--dataset_dir", "set.csv", "--output_dir", "stage1", *SHORT,
        "--val_interval", 2, "--adversarial_start", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "psnr" in done.stdout and "4/4" in done.stderr
    return place / "stage1" / "autoencoder.pt"


@pytest.fixture(scope="module")
def generator(place, autoencoder) -> Path:
    done = run(
        place, ["diffusion.json", "tiny.json"], "--autoencoder", autoencoder, "--dataset_dir", "set.csv", "--output_dir", "stage2", *SHORT,
        "--duplication", "column", "--snapshots", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 images of 6 patients, shown 1 to 4 times a pass of 9" in done.stdout
    return place / "stage2" / "generator.pt"


def test_a_generator_is_trained_and_sampled_by_three_commands(place, autoencoder, generator):
    made = load_generator(generator)
    assert made.step == 4 and made.autoencoder.sha256 == file_sha256(autoencoder) and made.scale_factor != 1
    weights = load_autoencoder(autoencoder).network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in made.autoencoder.network.state_dict().items())
    snapshot = load_generator(generator.with_name("generator_0001.pt"))
    assert snapshot.step == 2
    out = torch.stack([one.network.out[2].conv.weight for one in (snapshot, made)])
    assert bool((out[0] != out[1]).any()) and float(out.abs().max()) > 0  # it learns
    assert list(generator.parent.glob("events.out.tfevents*"))
    done = run(place, ["sample.json"], "--generator", generator, "--output_dir", "samples", "--count", 3, "--sampling_steps", 4)
    assert done.returncode == 0, done.stderr
    with open(place / "samples" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["checkpoint"], row["step"]) for row in rows] == [
        (str(i), file_sha256(generator), "4") for i in range(3)
    ]
    assert all((place / "samples" / row["path"]).is_file() for row in rows)
    with open(generator.parent / "training_images.csv", newline="") as file:
        assert [row["repeats"] for row in csv.DictReader(file)] == ["1", "1", "4", "1", "1", "1"]


def test_a_training_is_resumed_and_refuses_other_sizes_with_nothing_lost(place, autoencoder, generator):
    shutil.copytree(generator.parent, place / "resumed")
    settings = (
        "--autoencoder",
        autoencoder,
        "--dataset_dir",
        "set.csv",
        "--output_dir",
        "resumed",
        "--batches",
        2,
        "--max_epochs",
        3,
    )
    torch.save(tiny_autoencoder().state_dict(), place / "other.pt")
    before = {one.name: one.read_bytes() for one in (place / "resumed").glob("*.[pc]*")}
    for other, words in (
        (("--batch_size", 2), "images '"),  # the column is not asked for: each image is shown once
        (("--batch_size", 3, "--duplication", "column"), "batch_size 2, not 3"),
        (("--batch_size", 2, "--duplication", "column", "--learning_rate", 0.1), "learning_rate 0.0006, not 0.1"),
        (("--batch_size", 2, "--duplication", "column", "--autoencoder", "other.pt"), "generator autoencoder sha256 '"),
        (
            ("--batch_size", 2, "--duplication", "column", "--network_def::channels", [8, 16]),
            "generator network channels [8, 8], not [8, 16]",
        ),
    ):
        line = refused(place, ["diffusion.json", "tiny.json"], *settings, *other)
        assert "must be of this training" in line and words in line and "--resume False" in line
    assert {one.name: one.read_bytes() for one in (place / "resumed").glob("*.[pc]*")} == before
    done = run(place, ["diffusion.json", "tiny.json"], *settings, "--batch_size", 2, "--duplication", "column")
    assert done.returncode == 0 and "Resumed training_2.pt at epoch 2 of 3" in done.stdout, done.stderr
    assert load_generator(place / "resumed" / "generator.pt").step == 6


def test_bad_input_is_one_line(place, autoencoder, generator):
    stage1, stage2 = ["autoencoder.json", "tiny_autoencoder.json"], ["diffusion.json", "tiny.json"]
    for files, settings, words in (
        (stage1, ("--dataset_dir", "one"), "at least 2 images to train on. Got 1"),
        (stage1, ("--dataset_dir", "set.csv", "--spatial_size", 17), "must be a multiple of 2"),
        (stage1, (), "pass --dataset_dir DIR"),
        (stage2, ("--dataset_dir", "set.csv"), "'autoencoder' parameter must be a file"),
        (stage2, ("--dataset_dir", "set.csv", "--autoencoder", generator), "a file of another kind"),
        (stage2, ("--dataset_dir", "set.csv", "--autoencoder", autoencoder, "--duplication", "much"), "must be none, low, high or column"),
        (stage1, ("--dataset_dir", "set.csv", "--max_epochs", 0), "'max_epochs' parameter must be an integer >= 1. Got 0"),
        (stage2, ("--dataset_dir", "set.csv", "--batch_size", 0), "'batch_size' parameter must be an integer >= 1. Got 0"),
        (stage2, ("--dataset_dir", "set.csv", "--conditioning", "words"), "must be none, variables or text"),
        (stage2, ("--dataset_dir", "nowhere", "--autoencoder", "nowhere.pt"), "'dataset_dir' parameter must be an existing"),
        ([*stage2, "early_stop.json"], ("--dataset_dir", "set.csv", "--validation_dir", "nowhere"), "'validation_dir' parameter must be an existing"),
        (["sample.json"], ("--generator", "nowhere.pt"), "which does not exist"),
    ):  # fmt: skip
        assert words in refused(place, files, *settings, "--output_dir", "refused")
    assert "at least 2 images" in told(run(place, stage1, "--dataset_dir", "one", "--output_dir", "refused"))


def test_a_loss_that_is_not_finite_is_one_line_and_what_was_trained_stays(place, autoencoder):
    line = refused(
        place, ["diffusion.json", "tiny.json"], "--autoencoder", autoencoder, "--dataset_dir", "set.csv", "--output_dir", "diverging",
        "--max_epochs", 30, "--batches", 1, "--batch_size", 2, "--learning_rate", 1e30, "--warmup_steps", 1,
    )  # fmt: skip
    assert "The loss is" in line and "training_images.csv" in line and "lower 'learning_rate'" in line
    files = sorted(one.name for one in (place / "diverging").glob("*.pt"))
    assert "generator.pt" in files and len(files) == 3
    for name in files:
        torch.load(place / "diverging" / name, weights_only=True)


def test_validation_on_other_people_stops_a_training_and_keeps_the_best(place, autoencoder):
    settings = (
        "--autoencoder", autoencoder, "--dataset_dir", "set.csv", "--output_dir", "early", *SHORT, "--max_epochs", 9, "--patience", 2,
        "--validate::sampler::batches", 2, "--learning_rate", 0.0,
    )  # fmt: skip
    files = ["diffusion.json", "tiny.json", "early_stop.json"]
    assert "must name other patients than training" in refused(place, files, *settings, "--validation_dir", "set.csv")
    done = run(place, files, *settings, "--validation_dir", "others")
    assert done.returncode == 0, done.stderr
    assert "negative_error" in done.stdout and "EarlyStopping: Stop training" in done.stdout + done.stderr
    assert load_generator(place / "early" / "generator.pt").step == 2  # nothing was learned, so the first stays
    assert (place / "early" / "training_3.pt").is_file() and not (place / "early" / "training_9.pt").exists()


def test_conditions_are_trained_on_and_sampled_and_mlflow_follows(place, autoencoder):
    for kind, columns in (("variables", "['sex']"), ("text", "report")):
        done = run(
            place, ["diffusion.json", "tiny.json"], "--autoencoder", autoencoder, "--dataset_dir", "set.csv", "--output_dir", kind, *SHORT,
            "--conditioning", kind, "--condition_columns", columns, *(("--tracking", "mlflow") if kind == "text" else ()),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (place / "text" / "mlruns.db").is_file()
    made = load_generator(place / "text" / "generator.pt")
    assert made.condition.size == 512 and len(made.condition.known) == 6
    one = ("--count", 2, "--sampling_steps", 3)
    done = run(
        place,
        ["sample.json"],
        "--generator",
        "variables/generator.pt",
        "--output_dir",
        "women",
        *one,
        "--condition",
        "{'sex': 'F'}",
    )
    assert done.returncode == 0, done.stderr
    with open(place / "women" / "manifest.csv", newline="") as file:
        assert {row["condition"] for row in csv.DictReader(file)} == {'{"sex": "F"}'}


def test_samples_are_audited_while_the_generator_trains(place, autoencoder):
    """The handler and its samples; what an audit of them says is tested with the handler."""
    files = [str(CONFIGS / "diffusion.json"), str(place / "tiny.json"), str(CONFIGS / "audited.json")]
    made = ConfigWorkflow(
        files, workflow_type="train", logging_file=False, autoencoder=str(autoencoder), dataset_dir=str(place / "set.csv"), device="cpu",
        output_dir=str(place / "audited"), holdout_dir=str(place / "others"), audit_count=3, audit_interval=4, stop_when_found=True,
    )  # fmt: skip
    made.initialize()
    handlers = made.parser.get_parsed_content("train::handlers")[0].handlers
    audit = handlers["audit"]
    assert audit.every == 4 and audit.stop and audit.settings["holdout"] == str(place / "others")
    names = list(handlers)
    assert names.index("average") < names.index("weights") < names.index("audit") < names.index("seeds")
    samples = audit.samples(None)
    assert samples.shape == (3, 1, 16, 16)
    average = made.parser.get_parsed_content("average")
    torch.nn.init.normal_(average.module.out[2].conv.weight)
    assert abs(audit.samples(None) - samples).max() > 1e-3  # of the average as it is


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "generator"])
def test_two_processes_train_one_network(place, autoencoder, stage):
    settings = ("--dataset_dir", "set.csv", "--output_dir", f"two_{stage}", *SHORT, "--backend", "gloo")
    files = ["autoencoder.json", "tiny_autoencoder.json"]
    if stage == "generator":
        files, settings = ["diffusion.json", "tiny.json"], (*settings, "--autoencoder", autoencoder)
    words = command(place, [*files, "multi_gpu_train.json"], *settings)
    words = [word for word in words[1:] if word not in ("--device", "cpu")]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", *map(str, words)]
    done = subprocess.run(
        program, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    file = place / f"two_{stage}" / f"{stage}.pt"
    assert load_autoencoder(file) if stage == "autoencoder" else load_generator(file).step == 4
    assert done.stdout.count("Training on 6 images") == (stage == "generator")


@pytest.mark.slow
def test_the_papers_sizes_run_a_step(place):
    short = ("--max_epochs", 1, "--batches", 1, "--batch_size", 1, "--dataset_dir", "set.csv", "--output_dir", "paper")
    done = run(place, ["autoencoder.json", "paper_autoencoder.json"], *short, "--adversarial_start", 0)
    assert done.returncode == 0, done.stderr[-3000:]
    files = ["diffusion.json", "paper.json"]
    done = run(
        place, files, *short, "--autoencoder", "paper/autoencoder.pt", "--conditioning", "text", "--condition_columns", "report"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = load_generator(place / "paper" / "generator.pt")
    network = made.settings["network"]
    assert made.autoencoder.latent_shape == (3, 32, 32) and network["channels"] == [256, 512, 768]
    assert (
        network["attention_levels"] == [False, True, True] and network["resblock_updown"] and network["cross_attention_dim"] == 512
    )
