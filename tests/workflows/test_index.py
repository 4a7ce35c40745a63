"""Fitting and scoring as the mi_scorer bundle runs them: resumed, jittered, with poses on either side, with bad files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made_once
from doppelscan.errors import user_mistake
from doppelscan.images import InputError
from doppelscan.memorization import MemorizationIndex, MemorizationScorer
from doppelscan.search import EmbeddingStore, StoredFeatures
from doppelscan.workflows import EmbeddingEvaluator
from doppelscan.workflows.index import reference_file, reference_poses
from made_files import save_png
from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).parents[2] / "bundles" / "mi_scorer" / "configs"
QUICK = {"spatial_size": 64, "view_images": 0}  # where it does not matter how good the features are


def run(config: str, **settings) -> ConfigWorkflow:
    kind = {"train": "train", "inference": "infer"}[config]
    made = ConfigWorkflow(
        str(CONFIGS / f"{config}.json"), workflow_type=kind, logging_file=False, **{k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    )  # fmt: skip
    made.initialize()
    made.run()
    return made


def table(path: Path) -> dict[str, dict]:
    with open(path, newline="") as file:
        return {Path(row["image"]).name: row for row in csv.DictReader(file)}


def reference(folder: Path) -> MemorizationIndex:
    return MemorizationIndex.load(folder / "reference.safetensors")


def training_set(folder: Path, cohort: np.ndarray) -> Path:
    for i in range(10):
        save_png(folder / f"p{i:02d}.png", cohort[i])
    return folder


@pytest.fixture(scope="session")
def fitted(tmp_path_factory, cohort) -> Path:
    """What train writes about ten training images."""

    def make(folder: Path) -> None:
        run("train", dataset_dir=training_set(folder / "training", cohort), output_dir=folder)

    return made_once(tmp_path_factory, "fitted", make)


@pytest.fixture(scope="session")
def quickly_fitted(tmp_path_factory, cohort) -> Path:
    """The same with less to compute."""

    def make(folder: Path) -> None:
        run("train", dataset_dir=training_set(folder / "training", cohort), output_dir=folder, **QUICK)

    return made_once(tmp_path_factory, "quickly_fitted", make)


def copies_are_found(folders, index: Path, output: Path, cohort) -> None:
    save_png(folders["synthetic"] / "turned.png", np.rot90(cohort[5]))
    run("inference", dataset_dir=folders["synthetic"], output_dir=output, reference=index)
    rows = table(output / "scores.csv")
    assert Path(rows["copy.png"]["match"]).name == "p03.png" and rows["copy.png"]["pose"] == "flip-x"
    assert Path(rows["turned.png"]["match"]).name == "p05.png" and rows["turned.png"]["pose"] == "turn 90"
    assert min(float(rows[n]["mi"]) for n in ("copy.png", "turned.png")) > max(
        float(row["mi"]) for name, row in rows.items() if name.startswith("novel")
    )
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 5 and summary["memorized_share"] == pytest.approx(0.4)


def test_a_flipped_copy_is_found_with_its_pose(folders, fitted, tmp_path, cohort):
    copies_are_found(folders, fitted, tmp_path, cohort)


def test_poses_on_the_references_side_find_the_flipped_copy(folders, tmp_path, cohort):
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", pose_side="reference")
    assert reference_poses(tmp_path / "index") == 1
    copies_are_found(folders, tmp_path / "index", tmp_path / "out", cohort)


def test_the_saved_network_scores_as_the_table_does(folders, fitted, tmp_path):
    scored = run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=fitted)
    network: MemorizationScorer = scored.parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(fitted / "model.pt", weights_only=True))
    dataset = scored.parser.get_parsed_content("dataset")
    rows = list(table(tmp_path / "out" / "scores.csv").values())
    with torch.no_grad():
        found = network.eval()(torch.stack([dataset[i]["image"] for i in range(len(rows))])).numpy()
    for column, name in enumerate(("similarity", "mi", "oni")):
        np.testing.assert_allclose(found[:, column], [float(row[name]) for row in rows], atol=2e-3)


@pytest.mark.parametrize("place", ["null", "fit"])
def test_a_killed_fit_goes_on_and_gives_the_same_reference(quickly_fitted, folders, tmp_path, monkeypatch, place):
    embed = EmbeddingEvaluator.embed

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    def killed_at_the_null(self, dataset, store, poses, label):
        return killed() if label == "null" else embed(self, dataset, store, poses, label)

    if place == "null":
        monkeypatch.setattr(EmbeddingEvaluator, "embed", killed_at_the_null)
    else:
        monkeypatch.setattr(MemorizationIndex, "fit", killed)
    with pytest.raises(BaseException):  # noqa: B017
        run("train", dataset_dir=folders["training"], output_dir=tmp_path, **QUICK)
    monkeypatch.undo()
    assert not (tmp_path / "reference.safetensors").exists()
    embedded = []
    usual = EmbeddingStore.add
    monkeypatch.setattr(EmbeddingStore, "add", lambda self, key, arrays: embedded.append(key) or usual(self, key, arrays))
    run("train", dataset_dir=folders["training"], output_dir=tmp_path, **QUICK)
    assert len(embedded) == {"null": 10, "fit": 0}[place]
    np.testing.assert_array_equal(reference(quickly_fitted).null, reference(tmp_path).null)


def test_a_training_set_larger_than_memory_gives_the_same_reference(quickly_fitted, tmp_path, monkeypatch):
    usual = StoredFeatures.of.__func__
    monkeypatch.setattr(StoredFeatures, "of", classmethod(lambda cls, embedded: usual(cls, embedded, 1)))
    run("train", dataset_dir=quickly_fitted / "training", output_dir=tmp_path, **QUICK)
    first, second = reference(quickly_fitted), reference(tmp_path)
    np.testing.assert_allclose(first.null, second.null, atol=1e-6)
    for name, value in first.reference.items():
        np.testing.assert_allclose(value, second.reference[name], atol=1e-5)


def test_jitter_moves_the_null_and_nothing_else(quickly_fitted, tmp_path):
    for name in ("moved", "again"):
        run("train", dataset_dir=quickly_fitted / "training", output_dir=tmp_path / name, jitter=4, **QUICK)
    plain, moved, again = reference(quickly_fitted), reference(tmp_path / "moved"), reference(tmp_path / "again")
    assert not np.allclose(plain.null, moved.null, atol=1e-4)
    np.testing.assert_array_equal(moved.null, again.null)
    for name, value in plain.reference.items():
        np.testing.assert_array_equal(value, moved.reference[name])


def test_papers_form_runs_and_warns(folders, tmp_path):
    with pytest.warns(UserWarning, match="robust"):
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", calibration="paper", poses=1, **QUICK)
    run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index", spatial_size=64)
    rows = table(tmp_path / "out" / "scores.csv")
    assert all(np.isfinite(float(row[key])) for row in rows.values() for key in ("mi", "oni", "similarity"))


def test_the_poses_of_scoring_are_those_of_the_reference(quickly_fitted, folders, tmp_path):
    settings = {"dataset_dir": folders["synthetic"], "output_dir": tmp_path, "reference": quickly_fitted, "spatial_size": 64}
    scored = run("inference", **settings)
    inferer = scored.parser.get_parsed_content("inferer")
    assert inferer.poses == 8 == reference_poses(quickly_fitted) == scored.parser.get_parsed_content("network_def").poses
    with pytest.raises(RuntimeError) as error:
        run("inference", **settings, poses=1)
    mistake = str(user_mistake(error.value))
    assert mistake == "The 'poses' parameter must be 8, as the reference was fitted with. Got 1 instead; leave it out."


def test_unreadable_images_are_listed_and_the_rest_is_fitted_and_scored(folders, tmp_path):
    (folders["training"] / "broken.png").write_bytes(b"no image")
    (folders["synthetic"] / "broken.png").write_bytes(b"no image either")
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", **QUICK)
    run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index", spatial_size=64)
    assert "broken.png" in (tmp_path / "index" / "skipped.csv").read_text()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == 4 and "broken.png" in summary["skipped"][0]["image"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pose_side": "both"}, "'pose_side'"),
        ({"null_images": 2}, "'null_images'"),
        ({"jitter": -1}, "'jitter'"),
        ({"poses": 3}, "'poses'"),
        ({"calibration": "best"}, "'calibration'"),
        ({"train::trainer::max_epochs": 3}, "'max_epochs'"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(folders, tmp_path, settings, words):
    with pytest.raises((RuntimeError, InputError)) as error:
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", **settings)
    mistake = str(user_mistake(error.value))
    assert words in mistake and "\n" not in mistake


def test_too_few_patients_are_refused_in_one_line(folders, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", patient_pattern="(p0)", **QUICK)
    mistake = str(user_mistake(error.value))
    assert "5 patients" in mistake and "\n" not in mistake


def test_a_missing_reference_says_to_train_first(folders, tmp_path):
    with pytest.raises(InputError, match="run train"):
        reference_file(tmp_path)
    assert reference_poses(tmp_path) == 8  # a config is built and checked before its reference is there
    (tmp_path / "reference.safetensors").write_bytes(b"no reference")
    assert reference_poses(tmp_path) == 8
    with pytest.raises(RuntimeError) as error:
        run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path)
    assert "must be a file that the train workflow of mi_scorer wrote" in str(user_mistake(error.value))
