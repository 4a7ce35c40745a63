"""Real images with known patients: ``make test-real DATA=DIR``. The floors are below what docs/benchmarks.md shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def mri() -> Path:
    folder = os.environ.get("DOPPELSCAN_REAL_DATA")
    if not folder or not (Path(folder) / "manifest.csv").is_file():
        pytest.skip("DOPPELSCAN_REAL_DATA names no folder with manifest.csv")
    return Path(folder)


@pytest.mark.parametrize(("source", "auc"), [("ds002748_t1:axial", 0.99), ("spider_spine_t2", 0.95), ("msd_hippocampus", 0.97)])
def test_planted_copies_of_real_patients_are_found(mri, tmp_path, source, auc):
    from benchmark import evaluate

    names = ["noise", "rotation 10", "quarter turn", "crop 15 %", "elastic", "flip, rotation, noise"]
    result = evaluate(mri, source, 16, tmp_path, 1, names, None)
    assert np.mean([e["score"]["auc"] for e in result["transforms"].values()]) >= auc


@pytest.mark.parametrize("source", ["spider_spine_t2", "msd_hippocampus"])
def test_the_embedding_alone_finds_copies_in_8_poses(mri, source):
    from benchmark import load_source
    from doppelscan.search import EncoderSimilarity
    from doppelscan.workflows import CopyDetection, EvaluationImages
    from monai.bundle import ConfigWorkflow

    config = Path(__file__).parents[2] / "bundles" / "deepssim_encoder" / "configs" / "evaluate.json"
    workflow = ConfigWorkflow(str(config), workflow_type="infer", logging_file=False)
    workflow.initialize()
    embedding: EncoderSimilarity = workflow.parser.get_parsed_content("similarities")["embedding"]
    images = EvaluationImages(None, None)
    images.cohorts[source] = load_source(mri, source)
    names = ["noise", "rotation 10", "quarter turn", "crop 15 %", "gamma 1.5", "flip, rotation, noise"]
    detection = CopyDetection(images, {"embedding": embedding}, copies=16, transforms=names)
    detection.run()
    found = detection.summary()["embedding"][source]
    assert found["mean"]["auc"] >= 0.98 and found["worst"]["auc"] >= 0.93 and found["mean"]["source_in_20"] >= 0.98


def test_audit_of_a_clean_real_cohort_flags_almost_nothing(mri, tmp_path):
    import doppelscan
    from benchmark import load_source

    images = load_source(mri, "figshare_t1ce")
    patients = sorted({p for p, _ in images})
    parts = {p: ("training", "holdout", "synthetic")[i % 3] for i, p in enumerate(patients)}
    for number, (patient, pixels) in enumerate(images):
        folder = tmp_path / parts[patient]
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(folder / f"{patient}_{number}.png")
    sets = {name: tmp_path / name for name in ("training", "holdout", "synthetic")}
    result = doppelscan.audit(**sets, output=tmp_path / "out", patient_pattern=r"(FS\d+)")
    assert result.summary["flagged"]["share"] <= 0.05 and result.conclusion.verdict.value != "memorization found"


def test_two_sets_of_generated_images_are_audited_with_real_training(mri, tmp_path):
    import doppelscan

    result = doppelscan.audit(
        training=mri / "figshare_t1ce", synthetic=mri / "generated_alimzade", output=tmp_path, patient_pattern=r"^([^_]+)__"
    )
    assert result.summary["images"]["synthetic"] == 50 and result.summary["control"].startswith("training patients")


@pytest.mark.parametrize("source", ["spider_spine_t2", "msd_hippocampus", "ds002748_t1:axial"])
def test_the_memorization_index_finds_the_papers_copies_and_keeps_its_null(mri, source):
    from benchmark import load_source
    from doppelscan.workflows import ContaminationProtocol
    from monai.bundle import ConfigWorkflow

    config = Path(__file__).parents[2] / "bundles" / "mi_scorer" / "configs" / "evaluate.json"
    workflow = ConfigWorkflow(str(config), workflow_type="infer", logging_file=False, comparisons=False, repeats=1)
    workflow.initialize()
    protocol: ContaminationProtocol = workflow.parser.get_parsed_content("evaluator")
    protocol.images.cohorts[source] = load_source(mri, source)
    protocol.run()
    found = protocol.samples[source]["ours"]
    assert min(row["auc"] for row in found.values()) >= 0.99 and found["clean"]["auc"] == pytest.approx(1.0)
    null = protocol.null[source]["ours"]
    # One split of one cohort: the bounds of the aim, +-0.3 and 0.8 to 1.25, and the noise of some tens of patients.
    assert null["training"] < 50 or (abs(null["mean"]) < 0.7 and 0.6 < null["std"] < 1.6)
