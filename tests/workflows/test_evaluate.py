"""The evaluate workflow of the encoder, with its rivals, on generated images."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.deepssim import SSIMAgreement
from doppelscan.images import DarkSurroundd, InputError, LoadSliced, Windowd
from doppelscan.search import NormalisedCorrelation
from doppelscan.workflows import CopyDetection, EvaluationImages, EvaluationReport, evaluation_pairs
from made_files import save_png
from monai.bundle import ConfigWorkflow
from monai.transforms import Compose
from PIL import Image

ROOT = Path(__file__).parents[2]
READ = Compose([LoadSliced("image"), Windowd("image")])


@pytest.fixture
def source(tmp_path, cohort) -> Path:
    for i in range(12):
        save_png(tmp_path / "cohort" / f"p{i:02d}.png", cohort[i])
    (tmp_path / "cohort" / "broken.png").write_bytes(b"no image")
    return tmp_path / "cohort"


@pytest.fixture(scope="module")
def measured(tmp_path_factory, cohort) -> Path:
    """An evaluation of one similarity on 10 images, two copies of each transform."""
    folder = tmp_path_factory.mktemp("measured")
    for i in range(10):
        save_png(folder / "cohort" / f"p{i:02d}.png", cohort[i])
    images = EvaluationImages([str(folder / "cohort")], READ)
    detection = CopyDetection(images, {"correlation": NormalisedCorrelation(32)}, copies=2, transforms=["exact"])
    detection.run()
    metric = SSIMAgreement(key="mae")
    metric(torch.tensor([0.3, 0.5, 0.7, 0.9, 0.95, 0.7]), torch.tensor([0.2, 0.59, 0.7, 0.8, 0.9, 0.9]))
    assert abs(metric.aggregate() - 0.09) < 1e-5 and metric.result["count_similar"] == 2
    EvaluationReport(folder, {"aligned": metric, "misaligned": SSIMAgreement()}, detection).write()
    return folder


def test_tables_give_counts_as_numbers_and_shares_with_their_interval(measured):
    table = (measured / "evaluation.md").read_text()
    assert "| pairs | 6 |" in table and "| mae | 0.09 |" in table and "| recall similar | 1 of 2 (0.01-0.99) |" in table
    assert "1 transform, of each: cohort 2 copies, 2 novel images" in table
    assert "| pooled recall at 1pc | 2 of 2 (0.16-1.00) |" in table and "; 2 of 2 (0.16-1.00) |" in table
    result = json.loads((measured / "evaluation.json").read_text())
    lower, upper = result["intervals"]["cohort"]["correlation"]["exact"]["auc"]
    assert 0 < lower < 0.7 and upper == 1 and result["copies_and_novel"] == {"cohort": [2, 2]}


def test_the_log_names_each_number_and_where_the_tables_are(source, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Key metric is not a scalar")
        evaluate(source, tmp_path / "out")
    told = caplog.text + capsys.readouterr().out  # MONAI's handlers of statistics log by themselves
    assert "Key metric: aligned_mae best value: 0." in told and "pair_head_mae: 0." in told and "best value: -1" not in told
    assert "pair head, misaligned, 24 pairs: MAE 0." in told and "embedding: AUC " in told
    assert f"Tables are in {tmp_path / 'out' / 'evaluation.md'}" in told


def evaluate(source, output, **overrides) -> dict:
    workflow = ConfigWorkflow(
        str(ROOT / "bundles/deepssim_encoder/configs/evaluate.json"),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(source),
        output_dir=str(output),
        **{"spatial_size": 64, "pairs": 24, "copies": 3, "transforms": ["exact", "flip-x"], **overrides},
    )
    workflow.initialize()
    workflow.run()
    return json.loads((output / "evaluation.json").read_text())


def test_evaluation_writes_numbers_tables_and_figures(source, tmp_path):
    result = evaluate(source, tmp_path / "out", rivals=True)
    names = ["embedding", "deepssim", "SSIM", "correlation", "perceptual hash", "contrastive"]
    assert list(result["summary"]) == list(result["pooled"]) == names
    assert result["detection"]["cohort"]["embedding"]["flip-x"]["auc"] == 1.0
    assert result["images"] == {"cohort": 12} and result["skipped"] == 1
    assert {"mae", "pearson", "spearman", "macro_f1", "silhouette", "precision_similar"} <= set(result["agreement"]["misaligned"])
    assert list(result["agreement"]) == ["aligned", "misaligned", "pair head, aligned", "pair head, misaligned"]
    # At half its side an image is not what the head was trained on; it still knows an SSIM better than the cosine does.
    assert result["agreement"]["pair head, aligned"]["mae"] < result["agreement"]["aligned"]["mae"]
    table = (tmp_path / "out" / "evaluation.md").read_text()
    assert all(name in table for name in names) and "flip-x" in table
    for figure in ("agreement.png", "roc.png"):
        assert np.asarray(Image.open(tmp_path / "out" / figure)).std() > 10


def test_without_rivals_and_pair_head_only_the_encoder_is_measured(source, tmp_path):
    result = evaluate(source, tmp_path / "out", pair_ckpt="none")
    assert list(result["summary"]) == ["embedding", "deepssim"] and list(result["agreement"]) == ["aligned", "misaligned"]


def test_samples_of_a_generator_are_the_second_images(source, tmp_path, cohort):
    for i in range(30, 36):
        save_png(tmp_path / "samples" / f"s{i}.png", cohort[i])
    images, samples = (EvaluationImages([str(tmp_path / name)], READ) for name in ("cohort", "samples"))
    made = evaluation_pairs(images, pairs=8, spatial_size=64, partners=samples)
    seconds = images.squares([pixels for _, pixels in samples.cohorts["samples"]], 64)
    found = (made.pairs[:, 1] * 255).round().to(seconds.dtype)
    assert all(any((one == other).all() for other in seconds) for one in found)


def test_two_sources_stay_apart(source, tmp_path, cohort):
    for i in range(20, 30):
        save_png(tmp_path / "second" / f"q{i}.png", cohort[i])
    images = EvaluationImages([str(source), str(tmp_path / "second")], READ, most=8)
    assert {name: len(part) for name, part in images.cohorts.items()} == {"cohort": 8, "second": 8}
    detection = CopyDetection(images, {"correlation": NormalisedCorrelation(32), "left out": None}, copies=3, transforms=["exact"])
    detection.run()
    assert list(detection.results) == ["cohort", "second"] and list(detection.results["second"]) == ["correlation"]
    summary = detection.summary()["correlation"]
    assert summary["all"]["mean"]["auc"] == 1.0 == summary["second"]["worst"]["source_accuracy"]
    pairs = evaluation_pairs(images, pairs=12, spatial_size=64)
    assert pairs.pairs.shape == (12, 2, 1, 64, 64)


def test_nothing_to_evaluate_on_is_refused():
    with pytest.raises(InputError, match="dataset_dir"):
        CopyDetection(EvaluationImages(None, READ), {}).run()


def test_a_page_is_taken_off_where_the_preprocessing_does_so(source):
    with_it = Compose([LoadSliced("image"), DarkSurroundd("image"), Windowd("image")])
    own, published = EvaluationImages([str(source)], with_it), EvaluationImages([str(source)], READ)
    image = np.pad(np.tri(60, 60, dtype=np.float32) * np.linspace(0.2, 1, 60, dtype=np.float32), 4)
    page = np.pad(image, 20, constant_values=1.0)
    assert torch.equal(own.squares([page], 68), own.squares([image], 68))
    assert published.squares([page], 68)[0, 0, 0].min() == 255
