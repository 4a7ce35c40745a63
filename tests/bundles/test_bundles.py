"""Each bundle as MONAI runs it: properties, schema, weights, commands from a foreign folder."""

from __future__ import annotations

import ast
import csv
import json
import shlex
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from doppelscan.deepssim import (
    DeepSSIMEncoder,
    OnnxEncoder,
    PairSSIM,
    TorchScriptEncoder,
    file_sha256,
    foreground_views,
    load_encoder,
    load_pair_head,
)
from doppelscan.images import generate_head
from doppelscan.memorization import MemorizationIndex
from made_files import save_png
from monai.bundle import ConfigWorkflow
from sam_files import sam_state
from warm import run_warm

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "configs/audit.json": "infer",
    "bundles/deepssim_encoder/configs/inference.json": "infer",
    "bundles/deepssim_encoder/configs/train.json": "train",
    "bundles/mi_scorer/configs/evaluate.json": "infer",
    "bundles/mi_scorer/configs/inference.json": "infer",
    "bundles/mi_scorer/configs/train.json": "train",
}
METADATA = ["configs/metadata.json", "bundles/deepssim_encoder/configs/metadata.json", "bundles/mi_scorer/configs/metadata.json"]


def workflow(config: str, **overrides) -> ConfigWorkflow:
    meta = ROOT / "configs" / "metadata.json" if config.startswith("configs") else None
    made = ConfigWorkflow(
        str(ROOT / config), meta_file=meta and str(meta), logging_file=False, workflow_type=CONFIGS[config], **overrides
    )
    made.initialize()
    return made


@pytest.mark.parametrize("config", list(CONFIGS))
def test_check_properties_returns_nothing(config, tmp_path):
    overrides: dict = {"generated_cohorts": 1} if "deepssim_encoder/configs/train" in config else {}
    assert workflow(config, output_dir=str(tmp_path), **overrides).check_properties() == []


@pytest.mark.parametrize("path", METADATA)
def test_metadata_follows_the_schema_and_lists_its_version(path):
    metadata = json.loads((ROOT / path).read_text())
    jsonschema.validate(metadata, json.loads((ROOT / "tests" / "bundles" / "meta_schema_20240725.json").read_text()))
    assert metadata["version"] in metadata["changelog"]


def test_root_metadata_lists_the_bundles_with_their_weights():
    for bundle in json.loads((ROOT / "configs" / "metadata.json").read_text())["bundles"]:
        folder = ROOT / "bundles" / bundle["name"]
        assert json.loads((folder / "configs" / "metadata.json").read_text())["version"] == bundle["version"]
        for name, sha256 in bundle["sha256"].items():
            assert file_sha256(folder / name) == sha256


def test_weights_are_those_of_checksums_json():
    models = ROOT / "bundles" / "deepssim_encoder" / "models"
    for name, sha256 in json.loads((models / "checksums.json").read_text()).items():
        assert file_sha256(models / name) == sha256


@pytest.mark.parametrize("bundle", ["deepssim_encoder", "mi_scorer"])
def test_network_gives_what_the_metadata_says(bundle):
    metadata = json.loads((ROOT / "bundles" / bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    network = workflow(f"bundles/{bundle}/configs/inference.json").network_def.eval()
    image = metadata["inputs"]["image"]
    out = network(torch.randn(2, image["num_channels"], *image["spatial_shape"]))
    assert out.shape == (2, metadata["outputs"]["pred"]["num_channels"]) and out.dtype == torch.float32


def test_preprocessing_and_network_are_the_same_in_every_config():
    parts = []
    for config in (
        "configs/audit.json",
        "bundles/deepssim_encoder/configs/inference.json",
        "bundles/mi_scorer/configs/inference.json",
    ):
        parts.append(json.loads((ROOT / config).read_text()))
    parts.append(json.loads((ROOT / "bundles/mi_scorer/configs/train.json").read_text()))
    parts[-1]["preprocessing"] = parts[-1]["train"]["preprocessing"]

    def resolved(part: dict) -> dict:
        return json.loads(json.dumps(part["preprocessing"]).replace('"@spatial_size"', str(part.get("spatial_size"))))

    for part in parts[1:]:
        assert resolved(part) == resolved(parts[0])
        network = part.get("encoder_def", part.get("network_def"))
        for key in ("channels", "blocks", "embedding_size", "in_channels"):
            assert network[key] == parts[0]["network_def"][key]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def bundle_command(*arguments, cwd: Path) -> None:
    done = run_warm(["-m", "monai.bundle", *arguments], cwd)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("run_id", ["inference", None])
def test_encoder_inference_from_a_foreign_folder(folders, tmp_path, run_id):
    config = ROOT / "bundles/deepssim_encoder/configs/inference.json"
    bundle_command(
        "run",
        *([run_id] if run_id else []),
        "--config_file",
        config,
        "--dataset_dir",
        "training",
        "--output_dir",
        "out",
        cwd=tmp_path,
    )
    table = read(tmp_path / "out" / "images.csv")
    shard = pq.read_table(next((tmp_path / "out" / "embeddings").glob("*.parquet")))
    assert len(table) == 10 and set(shard["key"].to_pylist()) == {r["key"] for r in table}
    assert len(shard["embedding"][0]) == 512


def test_index_is_fitted_and_scores_from_a_foreign_folder(folders, tmp_path):
    configs = ROOT / "bundles/mi_scorer/configs"
    bundle_command(
        "run", "train", "--config_file", configs / "train.json", "--dataset_dir", "training", "--output_dir", "out", cwd=tmp_path
    )
    bundle_command(
        "run",
        "inference",
        "--config_file",
        configs / "inference.json",
        "--dataset_dir",
        "synthetic",
        "--output_dir",
        "out",
        cwd=tmp_path,
    )
    rows = {Path(r["image"]).name: r for r in read(tmp_path / "out" / "scores.csv")}
    assert Path(rows["copy.png"]["match"]).name == "p03.png" and float(rows["copy.png"]["similarity"]) > 0.95
    assert rows["copy.png"]["pose"] == "flip-x" and rows["copy.png"]["consensus"] == "3"
    assert all(float(r["mi"]) < float(rows["copy.png"]["mi"]) for n, r in rows.items() if n != "copy.png")


ENCODER = ROOT / "bundles/deepssim_encoder"
FEW = (
    "--dataset_dir", "['training','holdout']", "--generated_cohorts", "2", "--max_epochs", "1", "--batches", "2", "--val_interval", "1",
    "--thumbnail_size", "64", "--ckpt_dir", "weights", "--output_dir", "out",
)  # fmt: skip


def train(configs: str, *arguments, cwd: Path, launcher: tuple = ()) -> str:
    files = [str(ENCODER / "configs" / name) for name in configs.split()]
    words = ["-m", "monai.bundle", "run", "--config_file", str(files), *FEW, *map(str, arguments)]
    if launcher:
        done = subprocess.run([sys.executable, *launcher, *words], cwd=cwd, capture_output=True, text=True, timeout=400)
    else:
        done = run_warm(words, cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_encoder_trains_its_weights_load_and_training_resumes_under_mlflow(folders, tmp_path):
    train("train.json", "--groups", "1", "--group_size", "4", cwd=tmp_path)
    assert list((tmp_path / "out").glob("events*")) and (tmp_path / "out" / "training_images.csv").is_file()
    bundle_command(
        "run", "--config_file", ENCODER / "configs/inference.json", "--dataset_dir", "training", "--output_dir", "o2",
        "--ckpt_path", "weights/model.pt", cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "o2" / "images.csv").is_file()
    again = train("train.json", "--groups", 1, "--group_size", 4, "--max_epochs", 2, "--tracking", "mlflow", cwd=tmp_path)
    assert "Resumed training_1.pt at epoch 1 of 2" in again and (tmp_path / "out" / "training_2.pt").is_file()
    assert (tmp_path / "out" / "mlruns.db").stat().st_size > 0


@pytest.mark.parametrize("config", ["contrastive.json", "second_cycle.json", "third_cycle.json ssim_head.json"])
def test_other_ways_to_train_run(folders, tmp_path, config):
    small = ("--groups", "2" if config.startswith("contrastive") else "1", "--group_size", "5")
    start = () if config.startswith("contrastive") else ("--init_ckpt", ENCODER / "models" / "model.pt")
    told = train(f"train.json {config}", *small, *start, cwd=tmp_path)
    # What trains the deepssim head alone keeps the best of that head: the other, which is frozen, is the same in each validation.
    assert ("negative_ssim_error" in told) == config.endswith("ssim_head.json")
    assert (tmp_path / "weights" / "model.pt").is_file()


@pytest.mark.slow
def test_two_processes_train_one_network(folders, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    log = train(
        "train.json multi_gpu_train.json", "--backend", "gloo", "--device", "cpu", "--groups", "1", "--group_size", "4",
        cwd=tmp_path, launcher=launcher,
    )  # fmt: skip
    assert log.count("Key metric") == 1  # one process tells, though both validate
    state = torch.load(tmp_path / "weights" / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)
    train("train.json", "--groups", 1, "--group_size", 4, "--max_epochs", 2, cwd=tmp_path)  # and one process resumes it


def test_weights_of_another_architecture_stop_training_in_one_line(folders, tmp_path):
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "other.pt")
    files = str(ENCODER / "configs/train.json")
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, *FEW, "--init_ckpt", "other.pt"],
        cwd=tmp_path, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "unexpected ['other']" in done.stderr.strip().splitlines()[-1]


def test_a_loss_that_is_not_finite_stops_training_in_one_line(folders, tmp_path):
    done = run_warm(
        ["-m", "monai.bundle", "run", "--config_file", ENCODER / "configs/train.json", *FEW, "--batches", "8", "--groups", "1",
         "--group_size", "4", "--learning_rate", "1e30", "--lr_scheduler::warmup_steps", "0"], tmp_path,
    )  # fmt: skip
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("doppelscan: The loss is nan") and "training_images.csv" in last


def make_lines(target: str, **variables) -> list[list[str]]:
    """The words of a make target's commands."""
    words = [f"{name}={value}" for name, value in variables.items()]
    made = subprocess.run(["make", "-n", "--no-print-directory", target, *words], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [shlex.split(line) for line in made.stdout.replace("\\\n", " ").splitlines()]


def make(target: str, **variables) -> list[str]:
    """Run a make target's commands in this environment; what they printed."""
    told = []
    for program, *arguments in make_lines(target, **variables):
        if program == "mkdir":
            Path(arguments[-1]).mkdir(parents=True, exist_ok=True)
        elif program == "test":  # of the target's variables, which are given
            continue
        elif "pip" not in arguments and "venv" not in arguments and program != "touch":
            command = arguments if program.endswith("/python") else ["-m", "doppelscan.cli", *arguments]
            assert program in (".venv/bin/python", ".venv/bin/doppelscan"), program
            done = run_warm(command, ROOT)
            assert done.returncode == 0, done.stderr[-3000:]
            told.append(done.stdout + done.stderr)
    return told


def test_each_stage_of_make_train_starts_from_the_one_before(tmp_path):
    stages = [words for words in make_lines("train", DATA=tmp_path, OUT=tmp_path / "run") if "monai.bundle" in words]
    assert len(stages) == 5 and "--init_ckpt" not in stages[0]
    *options, pair_head = [dict(pairwise(words)) for words in stages]
    # The pair head is of the encoder that was trained, and lies beside it.
    assert (
        pair_head["--ckpt_path"] == options[-1]["--ckpt_dir"] + "/model.pt" and pair_head["--ckpt_dir"] == options[-1]["--ckpt_dir"]
    )
    assert pair_head["--dataset_dir"] == options[0]["--dataset_dir"]
    for before, after in pairwise(options):
        assert after["--init_ckpt"] == before["--ckpt_dir"] + "/model.pt"
    assert len({one["--dataset_dir"] for one in options}) == 1 and len({one["--output_dir"] for one in options}) == 4
    assert "hippocampus" not in options[0]["--dataset_dir"]
    assert len(ast.literal_eval(options[0]["--dataset_weights"])) == len(ast.literal_eval(options[0]["--dataset_dir"]))


@pytest.mark.slow
def test_make_train_trains_from_scratch_and_goes_on_where_it_was(tmp_path, cohort):
    places = [
        ("mri", "ds002748_t1", "axial"),
        ("mri", "ds002748_t1", "coronal"),
        ("mri", "figshare_t1ce", ""),
        ("mri", "spider_spine_t2", ""),
    ]
    for folder, source, plane in [*places, ("cxr", "kermany", "")]:
        (tmp_path / folder).mkdir(exist_ok=True)
        table = tmp_path / folder / "manifest.csv"
        if not table.is_file():
            table.write_text("path,subject,plane\n")
        for i in range(12):
            save_png(tmp_path / folder / source / f"{plane}{i}.png", cohort[i])
            with open(table, "a") as file:
                file.write(f"{source}/{plane}{i}.png,s{i},{plane}\n")
    steps = "--generated_cohorts 2 --max_epochs 1 --batches 2 --val_interval 1 --groups 1 --group_size 5 --thumbnail_size 64"
    pairs = "--pairs 12 --validation_pairs 4 --max_epochs 1 --val_interval 1 --thumbnail_size 64"
    make("train", DATA=tmp_path, OUT=tmp_path / "run", STEPS=steps, PAIR_STEPS=pairs)
    weights = tmp_path / "run-weights" / "model.pt"
    before = file_sha256(weights)
    again = make("train", DATA=tmp_path, OUT=tmp_path / "run", STEPS=steps, PAIR_STEPS=pairs)
    assert sum("Resumed training_1.pt at epoch 1 of 1" in told for told in again) == 4 and file_sha256(weights) == before
    make("train", DATA=tmp_path, OUT=tmp_path / "other", STEPS=steps, PAIR_STEPS=pairs)
    assert file_sha256(tmp_path / "other-weights" / "model.pt") == before
    with warnings.catch_warnings():  # the head knows its encoder
        warnings.simplefilter("error")
        load_pair_head(
            PairSSIM(), tmp_path / "run-weights" / "pair_ssim.safetensors", encoder=load_encoder(DeepSSIMEncoder(), weights)
        )


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The files of ``make export``, by its commands."""
    folder = tmp_path_factory.mktemp("export")
    make("export", EXPORT=folder)
    return folder


@pytest.mark.parametrize("batch", [1, 64])
def test_exports_give_the_embeddings_of_pytorch(exported, batch, cohort):
    network = workflow("bundles/deepssim_encoder/configs/inference.json").parser.get_parsed_content("network").cpu()
    image = foreground_views(torch.from_numpy(cohort[np.arange(batch) % len(cohort)])[:, None], 128)
    with torch.no_grad():
        expected = network(image)
        for found in (
            TorchScriptEncoder(exported / "model.ts", network.output_slices)(image),
            OnnxEncoder(exported / "model.onnx", network.output_slices)(image),
        ):
            assert float((found - expected).abs().max()) < 1e-4


def test_eight_bits_say_the_same_of_which_image_is_which(exported, cohort):
    views = foreground_views(torch.from_numpy(cohort[:24])[:, None], 128)
    both = [
        onnxruntime.InferenceSession(str(exported / name)).run(None, {"image": views.numpy()})[0]
        for name in ("model.onnx", "model-int8.onnx")
    ]
    whole, rounded = (torch.nn.functional.normalize(torch.from_numpy(one[:, 256:512]), dim=1) for one in both)
    assert float((whole * rounded).sum(1).min()) > 0.97
    assert ((rounded @ whole.T).argmax(1) == torch.arange(24)).all()
    assert float((rounded @ rounded.T - whole @ whole.T).abs().max()) < 0.1


def test_exports_of_volumes_give_the_rows_of_python(exported):
    network = ConfigWorkflow(
        str(ROOT / "bundles/deepssim_encoder/configs/inference_3d.json"), workflow_type="infer", logging_file=False, device="cpu"
    )
    network.initialize()
    cubes = torch.from_numpy(np.stack([generate_head(i, 64) for i in range(3)]))[:, None]
    inferer, encoder = (network.parser.get_parsed_content(name) for name in ("inferer", "network"))
    session = onnxruntime.InferenceSession(str(exported / "model_3d.onnx"))
    with torch.no_grad():
        expected = inferer(cubes, encoder)[:, 0]
        assert float((torch.jit.load(exported / "model_3d.ts")(cubes) - expected).abs().max()) < 1e-5
    assert np.abs(session.run(None, {"image": cubes.numpy()})[0] - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize(("config", "key", "file"), [("torchscript", "ts_path", "model.ts"), ("onnx", "onnx_path", "model.onnx")])
def test_exports_run_the_inference_workflow(exported, folders, tmp_path, config, key, file):
    for name, extra in (("exported", (f"configs/inference_{config}.json",)), ("plain", ())):
        files = [str(ENCODER / p) for p in ("configs/inference.json", *extra)]
        run = ConfigWorkflow(
            files, workflow_type="infer", logging_file=False, dataset_dir=str(folders["training"]), output_dir=str(tmp_path / name),
            **({key: str(exported / file)} if extra else {}),
        )  # fmt: skip
        run.initialize()
        run.run()
    tables = [pq.read_table(next((tmp_path / n / "embeddings").glob("*.parquet"))).to_pydict() for n in ("exported", "plain")]
    rows = [dict(zip(t["key"], t["embedding"], strict=True)) for t in tables]
    assert rows[0].keys() == rows[1].keys()
    assert max(np.abs(np.subtract(rows[0][k], rows[1][k])).max() for k in rows[0]) < 1e-4


@pytest.mark.parametrize("bundle", ["deepssim_encoder", "mi_scorer"])
def test_monais_own_checks_pass_offline(bundle, tmp_path):
    from monai.bundle import verify_metadata, verify_net_in_out

    configs = ROOT / "bundles" / bundle / "configs"
    schema = ROOT / "tests/bundles/meta_schema_20240725.json"
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))
    verify_net_in_out(
        "network_def", meta_file=str(configs / "metadata.json"), config_file=str(configs / "inference.json"), device="cpu"
    )


SCORER = ROOT / "bundles/mi_scorer/configs"


def test_a_fitted_scorer_is_exported_as_one_file_that_stands_as_a_gate(folders, tmp_path):
    bundle_command(
        "run", "train", "--config_file", SCORER / "train.json", "--dataset_dir", "training", "--output_dir", "index", cwd=tmp_path
    )
    bundle_command(
        "run", "inference", "--config_file", SCORER / "inference.json", "--dataset_dir", "synthetic", "--output_dir", "out",
        "--reference", "index/reference.safetensors", cwd=tmp_path,
    )  # fmt: skip
    make("export-scorer", REFERENCE=tmp_path / "index", EXPORT=tmp_path / "export")
    table = read(tmp_path / "out" / "scores.csv")
    dataset = workflow(
        "bundles/mi_scorer/configs/inference.json", dataset_dir=str(tmp_path / "synthetic")
    ).parser.get_parsed_content("dataset")
    image = torch.stack([dataset[i]["image"] for i in range(len(table))])
    session = onnxruntime.InferenceSession(str(tmp_path / "export" / "scorer.onnx"))
    with torch.no_grad():
        outputs = [session.run(None, {"image": image.numpy()})[0], torch.jit.load(tmp_path / "export" / "scorer.ts")(image).numpy()]
    for found in outputs:
        for column, name in enumerate(("similarity", "mi", "oni")):
            np.testing.assert_allclose(found[:, column], [float(row[name]) for row in table], atol=5e-3)


@pytest.mark.slow
def test_two_processes_fit_the_same_reference(folders, tmp_path):
    for output, launcher, configs in (
        ("one", ["-m", "monai.bundle"], [SCORER / "train.json"]),
        ("two", ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle"],
         [SCORER / "train.json", SCORER / "multi_gpu_train.json"]),
    ):  # fmt: skip
        extra = ["--backend", "gloo", "--device", "cpu"] if output == "two" else []
        command = [sys.executable, *launcher, "run", "--config_file", str([str(c) for c in configs]), "--dataset_dir", "training"]
        words = [*command, "--output_dir", output, *extra]
        if output == "one":
            done = run_warm(words[1:], tmp_path)
        else:
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr[-3000:]
        assert (done.stdout + done.stderr).count("Fitted on 10 images") == 1  # one process fits
    first, second = (MemorizationIndex.load(tmp_path / name / "reference.safetensors") for name in ("one", "two"))
    np.testing.assert_allclose(first.null, second.null, atol=1e-5)
    assert (tmp_path / "one" / "images.csv").read_text() == (tmp_path / "two" / "images.csv").read_text()


def test_mri_core_takes_the_encoders_place(folders, tmp_path):
    torch.save(sam_state(768, 12, 8, 14, 12, adapters=(0, 1)), tmp_path / "mri_foundation.pth")
    common = ("--ckpt_path", "mri_foundation.pth", "--spatial_size", "64", "--poses", "1", "--batch_size", "10")
    for run_id, config, data in (("train", "train.json", "training"), ("inference", "inference.json", "synthetic")):
        files = str([str(SCORER / config), str(SCORER / "mri_core.json")])
        bundle_command("run", run_id, "--config_file", files, "--dataset_dir", data, "--output_dir", "out", *common, cwd=tmp_path)
    table = read(tmp_path / "out" / "scores.csv")
    assert len(table) == 4 and {"match_block3", "match_block7", "match_block11"} <= set(table[0])
    assert all(np.isfinite(float(row["mi"])) for row in table)
