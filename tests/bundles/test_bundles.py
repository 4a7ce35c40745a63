"""Each bundle as MONAI runs it: properties, schema, weights, commands from a foreign folder."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import torch
from doppelscan.deepssim import file_sha256
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).parents[2]
CONFIGS = {
    "configs/audit.json": "infer",
    "bundles/deepssim_encoder/configs/inference.json": "infer",
    "bundles/deepssim_encoder/configs/train.json": "train",
    "bundles/mi_scorer/configs/inference.json": "infer",
    "bundles/mi_scorer/configs/train.json": "train",
}
METADATA = ["metadata.json", "bundles/deepssim_encoder/configs/metadata.json", "bundles/mi_scorer/configs/metadata.json"]


def workflow(config: str, **overrides) -> ConfigWorkflow:
    meta = ROOT / "metadata.json" if config.startswith("configs") else None
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
    for bundle in json.loads((ROOT / "metadata.json").read_text())["bundles"]:
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
    for part in parts[1:]:
        assert part["preprocessing"] == parts[0]["preprocessing"]
        for key in ("channels", "blocks", "embedding_size", "in_channels"):
            assert part["network_def"][key] == parts[0]["network_def"][key]


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def bundle_command(*arguments, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=400
    )
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
    assert int(rows["copy.png"]["pose"]) == 4 and rows["copy.png"]["consensus"] == "3"
    assert all(float(r["mi"]) < float(rows["copy.png"]["mi"]) for n, r in rows.items() if n != "copy.png")


def test_encoder_trains_and_its_weights_load(folders, tmp_path):
    bundle_command(
        "run", "train", "--config_file", ROOT / "bundles/deepssim_encoder/configs/train.json", "--dataset_dir", "['training','holdout']",
        "--ckpt_dir", "weights", "--output_dir", "out", "--generated_cohorts", "2", "--max_epochs", "1", "--batches", "2", "--val_interval", "1",
        "--groups", "1", "--group_size", "4", cwd=tmp_path,
    )  # fmt: skip
    config = ROOT / "bundles/deepssim_encoder/configs/inference.json"
    bundle_command(
        "run",
        "--config_file",
        config,
        "--dataset_dir",
        "training",
        "--output_dir",
        "o2",
        "--ckpt_path",
        "weights/model.pt",
        cwd=tmp_path,
    )
    assert (tmp_path / "o2" / "images.csv").is_file() and list((tmp_path / "out").glob("events*"))
