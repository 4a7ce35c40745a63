"""Each packed bundle alone in an empty folder, in a fresh process in which doppelscan is not installed; and both in one process."""

from __future__ import annotations

import csv
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doppelscan.images import generate_head
from made_files import save_png
from made_volumes import write_nifti
from warm import run_warm

BUNDLES = ("deepssim_encoder", "mi_scorer")


@pytest.fixture(scope="module")
def place(packed, cohort, tmp_path_factory) -> Path:
    """An empty folder that the bundles were copied into, and images beside them."""
    folder = tmp_path_factory.mktemp("alone")
    for bundle in BUNDLES:
        shutil.copytree(packed / bundle, folder / "bundles" / bundle)
    for i in range(12):
        save_png(folder / "training" / f"p{i:02d}.png", cohort[i])
    save_png(folder / "synthetic" / "copy.png", cohort[3][:, ::-1])
    save_png(folder / "synthetic" / "novel.png", cohort[40])
    return folder


def alone(*arguments: str, cwd: Path) -> str:
    """Run Python where packages are there, and what an editable install adds to the path is not."""
    done = run_warm(arguments, cwd, alone=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def read(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_doppelscan_is_not_there(place):
    done = run_warm(["-c", "import monai, doppelscan.images"], place, alone=True)
    assert done.returncode and "No module named 'doppelscan" in done.stderr


def test_the_encoder_runs_in_a_python_without_an_installation(place):
    """A real process without ``site``: packages are there, what an editable install adds to the path is not."""
    words = [
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        "bundles/deepssim_encoder/configs/inference.json",
        "--dataset_dir",
        "synthetic",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(site.getsitepackages())}
    done = subprocess.run(
        [sys.executable, "-S", *words, "--output_dir", "without"], cwd=place, env=environment, capture_output=True, text=True, timeout=400
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(read(place / "without" / "images.csv")) == 2


@pytest.mark.parametrize("bundle", BUNDLES)
def test_monais_checks_pass_in_the_bundles_folder(place, bundle):
    common = ("--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json")
    folder = place / "bundles" / bundle
    said = alone("-m", "monai.bundle", "verify_net_in_out", "network_def", *common, cwd=folder)
    assert "verified with no error" in said
    target = place / f"{bundle}.ts"
    alone(
        "-m",
        "monai.bundle",
        "ckpt_export",
        "network_def",
        "--filepath",
        str(target),
        "--ckpt_file",
        "models/model.pt",
        *common,
        cwd=folder,
    )
    assert target.stat().st_size > 1e6


def test_the_scorer_is_fitted_and_finds_the_copy_from_a_foreign_folder(place):
    config = "bundles/mi_scorer/configs"
    alone(
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        f"{config}/train.json",
        "--dataset_dir",
        "training",
        "--output_dir",
        "index",
        cwd=place,
    )
    alone(
        "-m", "monai.bundle", "run", "--config_file", f"{config}/inference.json", "--dataset_dir", "synthetic", "--output_dir", "scores",
        "--reference", "index", cwd=place,
    )  # fmt: skip
    rows = {Path(row["image"]).stem: row for row in read(place / "scores" / "scores.csv")}
    assert Path(rows["copy"]["match"]).stem == "p03" and float(rows["copy"]["mi"]) > float(rows["novel"]["mi"]) + 3


def test_volumes_are_embedded_fitted_and_scored_from_a_foreign_folder(place):
    for person in range(8):
        (place / "volumes").mkdir(exist_ok=True)
        write_nifti(place / "volumes" / f"{person}.nii.gz", generate_head(person, 24), np.diag([4.0, 4.0, 4.0, 1.0]))
    for bundle, run_id, name, *words in (
        ("deepssim_encoder", "inference", "inference_3d", "--output_dir", "encoded-3d"),
        ("mi_scorer", "train", "train_3d", "--output_dir", "index-3d", "--view_images", "2"),
        ("mi_scorer", "inference", "inference_3d", "--output_dir", "scores-3d", "--reference", "index-3d"),
    ):
        config = f"bundles/{bundle}/configs/{name}.json"
        alone("-m", "monai.bundle", "run", run_id, "--config_file", config, "--dataset_dir", "volumes", *words, cwd=place)
    assert len(read(place / "encoded-3d" / "images.csv")) == 8
    assert all(row["match"] == row["image"] for row in read(place / "scores-3d" / "scores.csv"))


@pytest.mark.parametrize("bundle", ["deepssim_encoder", pytest.param("mi_scorer", marks=pytest.mark.slow)])
def test_one_bundle_is_enough_for_the_audit_and_its_own_verification(place, bundle):
    folder = place / "bundles" / bundle
    said = alone(
        "-m", "doppelscan.cli", "audit", "--training", "../../training", "--synthetic", "../../synthetic", "--output", f"../../{bundle}",
        cwd=folder,
    )  # fmt: skip
    assert f"Report: {place / bundle / 'report.html'}" in said
    assert Path(read(place / bundle / "scores.csv")[0]["match"]).stem == "p03"
    assert "FAILED" not in alone("-m", "doppelscan.cli", "verify", ".", cwd=folder)


def test_both_run_in_one_process_each_with_its_own_files(place):
    code = """
from monai.bundle import ConfigWorkflow
for name, run, data, extra in [
    ("deepssim_encoder", "inference", "synthetic", {"output_dir": "both/encoder"}),
    ("mi_scorer", "train", "training", {"output_dir": "both/index"}),
    ("mi_scorer", "inference", "synthetic", {"output_dir": "both/scores", "reference": "both/index"}),
]:
    kind = "train" if run == "train" else "infer"
    made = ConfigWorkflow(f"bundles/{name}/configs/{run}.json", workflow_type=kind, logging_file=False, dataset_dir=data, **extra)
    made.initialize()
    made.run()
    print("root", made.parser.get_parsed_content("bundle_root"))
    print("weights", made.parser.get_parsed_content("ckpt_path"))
"""
    said = alone("-c", code, cwd=place).splitlines()
    roots = [line.split()[1] for line in said if line.startswith("root ")]
    assert [Path(root).name for root in roots] == ["deepssim_encoder", "mi_scorer", "mi_scorer"]
    weights = [Path(line.split()[1]).parts[-3:] for line in said if line.startswith("weights ")]
    assert weights == [("deepssim_encoder", "models", "model.pt"), *[("mi_scorer", "models", "encoder.pt")] * 2]
    assert (place / "both" / "encoder" / "images.csv").is_file() and (place / "both" / "scores" / "scores.csv").is_file()
