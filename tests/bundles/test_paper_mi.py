"""The published Memorization Index as a config: its formulas written out on what the config computes, and what it asks for."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.deepssim import whole_views
from doppelscan.errors import DoppelscanError
from doppelscan.images import InputError, generate_cohort, unit_float
from doppelscan.workflows import EvaluationImages
from doppelscan.workflows.errors import told_in_one_line
from made_files import save_png
from monai.bundle import ConfigParser, ConfigWorkflow
from sam_files import sam_state

SCORER = Path(__file__).parents[2] / "bundles/mi_scorer/configs"
EPS = 1e-6
FEW = {"repeats": 1, "comparisons": False, "transforms": ["clean", "h-flip"], "patient_pattern": r"(p\d\d)"}


@pytest.fixture(scope="module")
def cohort_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "cohort"
    for i, image in enumerate(generate_cohort(40, 1, 64, seed=5)[0][:, 0].numpy()):
        save_png(folder / f"p{i:02d}.png", image / 255)
    return folder


def protocol(files: list[str], folder: Path, output: Path, **overrides):
    made = ConfigWorkflow(
        [str(SCORER / name) for name in files], workflow_type="infer", logging_file=False, dataset_dir=str(folder),
        output_dir=str(output), **{**FEW, **overrides},
    )  # fmt: skip
    made.initialize()
    made.run()
    return made.parser.get_parsed_content("evaluator")


def documented(last: str) -> list[str]:
    """Names of the config files of the model card's command whose last one is ``last``."""
    page = (SCORER.parent / "docs/README.md").read_text()
    lists = [ast.literal_eval(one) for one in re.findall(r'--config_file "(\[[^"]+\])"', page)]
    return next([Path(name).name for name in one] for one in lists if Path(one[-1]).name == last)


@pytest.fixture(scope="module")
def published(cohort_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluation")
    with pytest.warns(UserWarning, match="calibration='paper' with 20 training images"):
        made = protocol(documented("stand_in.json"), cohort_folder, output, spatial_size=64)
    return made, output


def similarity(queries: list[np.ndarray], reference: list[np.ndarray], training: list[np.ndarray]) -> np.ndarray:
    """Eq. 1 to 3 of arXiv 2602.13066: layers [M, C] against [N, C], whitened by all of the training features."""
    logs = []
    for g, f, x in zip(queries, reference, training, strict=True):
        values, vectors = np.linalg.eigh(np.cov(x.T))
        w = vectors @ np.diag((values.clip(0) + EPS) ** -0.5) @ vectors.T
        g, f = (g - x.mean(0)) @ w, (f - x.mean(0)) @ w
        cosine = (g / np.linalg.norm(g, axis=1, keepdims=True)) @ (f / np.linalg.norm(f, axis=1, keepdims=True)).T
        logs.append(np.log(np.clip(cosine.max(1), 0, 1) + EPS))
    return np.exp(np.mean(logs, 0))


def test_the_configs_null_and_mi_are_the_formulas(published):
    made, _ = published
    parts = made.split(made.images.cohorts["cohort"])

    def layers(images) -> list[np.ndarray]:
        squares = made.images.squares([pixels for _, pixels in images], made.spatial_size)
        with torch.no_grad():
            found = made.embedder.network(whole_views(unit_float(squares), 64)).double().numpy()
        return [found[:, part] for part in made.slices.values()]

    training, novel = layers(parts.training), layers(parts.novel)
    rng, null = np.random.default_rng(0), []
    for _ in range(10):  # eq. 4: disjoint halves of the training set, scored against each other
        order = rng.permutation(20)
        null.append(similarity([x[order[:10]] for x in training], [x[order[10:]] for x in training], training))
    null = np.concatenate(null)
    mean, std = null.mean(), np.sqrt(null.var() + 1e-8)
    mi = (similarity(novel, training, training) - mean) / std  # eq. 5
    found = made.null["cohort"]["published form"]
    np.testing.assert_allclose([found["null mean"], found["null std"]], [mean, std], rtol=0.02, atol=1e-3)
    np.testing.assert_allclose([found["mean"], found["std"]], [mi.mean(), mi.std()], rtol=0.02, atol=0.05)


def test_the_published_form_has_one_pose_whole_images_and_no_views(published):
    made, output = published
    assert not made.images.surround  # nothing is taken off: the published form looks at whole slices
    assert made.poses == 1 and made.view_images == 0 and made.embedder.view is whole_views and made.images.window == (0, 100)
    assert list(made.levels) == [0.05, 0.15, 0.30, 0.45]
    first = made.variants["published form"].index
    assert (first.calibration, first.draws, first._whitening().estimator, first._whitening().eps) == ("paper", 10, "zca", 1e-6)
    assert next(iter(made.variants)) == "published form"
    text = (output / "evaluation.md").read_text()
    assert "Features: DeepSSIMEncoder: layer2 (64), layer3 (128), layer4 (256)." in text  # the stand-in is named
    samples = json.loads((output / "evaluation.json").read_text())["samples"]["cohort"]
    assert samples["published form"]["clean"]["auc"] == 1.0 > samples["published form"]["h-flip"]["auc"]


def test_mri_core_at_the_blocks_of_the_paper_takes_the_protocol(cohort_folder, tmp_path):
    plain = json.loads((SCORER / "paper_mi.json").read_text())
    assert plain["encoder_def"]["blocks"] == [3, 7, 11] and plain["spatial_size"] == 1024
    torch.save(sam_state(), tmp_path / "mri_foundation.pth")
    small = {"hidden_size": 24, "layers": 3, "heads": 3, "window": 3, "blocks": [0, 2]}
    made = protocol(
        documented("paper_mi.json"), cohort_folder, tmp_path / "out", ckpt_path=str(tmp_path / "mri_foundation.pth"),
        spatial_size=64, **{f"encoder_def::{name}": value for name, value in small.items()},
    )  # fmt: skip
    assert made.features == "MRICoreEncoder: block0 (24), block2 (24)"
    assert made.samples["cohort"]["published form"]["clean"]["auc"] == 1.0


def test_without_mri_cores_weights_it_says_so_in_one_line(cohort_folder, tmp_path):
    parser = ConfigParser()
    parser.read_config([str(SCORER / name) for name in ("evaluate.json", "paper_mi.json")])
    parser["ckpt_path"], parser["spatial_size"] = str(tmp_path / "none.pth"), 64
    with pytest.raises(DoppelscanError, match=r"MRI-CORE's weights.*does not exist") as error, told_in_one_line():
        parser.get_parsed_content("network")
    assert "\n" not in str(error.value)


def test_a_window_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"'window'.*\[100, 0\]"):
        EvaluationImages(None, None, window=[100, 0])


@pytest.mark.parametrize("name", ["train", "inference"])
def test_train_and_inference_take_the_same_overlay(name, cohort_folder):
    parser = ConfigParser()
    more = ["paper_mi_train.json"] if name == "train" else []
    parser.read_config([str(SCORER / one) for one in (f"{name}.json", "paper_mi.json", *more, "stand_in.json")])
    parser["dataset_dir"], parser["spatial_size"] = str(cohort_folder), 64
    dataset = parser.get_parsed_content("train::dataset" if name == "train" else "dataset")
    expected = whole_views(torch.as_tensor(dataset[3]["thumbnail"])[None].float(), 64)[0]
    assert dataset[3]["image"].shape == (1, 64, 64) and dataset.foreground_size == 0
    assert float((torch.as_tensor(dataset[3]["image"]) - expected).abs().mean()) < 0.1
    if name == "train":
        assert parser.get_parsed_content("train::index").calibration == "paper"
        assert parser.get_parsed_content("train::trainer").query_poses == 1
