"""Fitting and scoring as the mi_scorer bundle runs them: resumed, jittered, with poses on either side, with bad files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.errors import user_mistake
from doppelscan.images import InputError
from doppelscan.memorization import MemorizationIndex, MemorizationScorer
from doppelscan.workflows import scoring
from doppelscan.workflows.index import reference_file
from made_files import save_png
from monai.bundle import ConfigWorkflow

CONFIGS = Path(__file__).parents[2] / "bundles" / "mi_scorer" / "configs"


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


@pytest.mark.parametrize("side", ["query", "reference"])
def test_a_flipped_copy_is_found_with_its_pose(folders, tmp_path, cohort, side):
    save_png(tmp_path / "synthetic" / "turned.png", np.rot90(cohort[5]))
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", pose_side=side)
    run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index")
    rows = table(tmp_path / "out" / "scores.csv")
    assert Path(rows["copy.png"]["match"]).name == "p03.png" and rows["copy.png"]["pose"] == "flip-x"
    assert Path(rows["turned.png"]["match"]).name == "p05.png" and rows["turned.png"]["pose"] == "turn 90"
    assert min(float(rows[n]["mi"]) for n in ("copy.png", "turned.png")) > max(
        float(row["mi"]) for name, row in rows.items() if name.startswith("novel")
    )
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == 5 and summary["memorized_share"] == pytest.approx(0.4)


def test_the_saved_network_scores_as_the_table_does(folders, tmp_path):
    trained = run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index")
    scored = run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index")
    network: MemorizationScorer = scored.parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(tmp_path / "index" / "model.pt", weights_only=True))
    dataset = scored.parser.get_parsed_content("dataset")
    rows = list(table(tmp_path / "out" / "scores.csv").values())
    with torch.no_grad():
        found = network.eval()(torch.stack([dataset[i]["image"] for i in range(len(rows))])).numpy()
    for column, name in enumerate(("similarity", "mi", "oni")):
        np.testing.assert_allclose(found[:, column], [float(row[name]) for row in rows], atol=2e-3)
    assert trained.parser.get_parsed_content("train::trainer").state.epoch == 1


def test_a_killed_fit_goes_on_and_gives_the_same_reference(folders, tmp_path, monkeypatch):
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "whole")

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(MemorizationIndex, "fit", killed)
    with pytest.raises(BaseException):  # noqa: B017
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "again")
    monkeypatch.undo()
    assert not (tmp_path / "again" / "reference.safetensors").exists()
    embedded = []
    usual = scoring.EmbeddingStore.add
    monkeypatch.setattr(scoring.EmbeddingStore, "add", lambda self, key, arrays: embedded.append(key) or usual(self, key, arrays))
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "again")
    assert embedded == []
    first, second = (MemorizationIndex.load(tmp_path / name / "reference.safetensors") for name in ("whole", "again"))
    np.testing.assert_array_equal(first.null, second.null)


def test_a_training_set_larger_than_memory_gives_the_same_reference(folders, tmp_path, monkeypatch):
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "whole")
    usual = scoring.StoredFeatures.of.__func__
    monkeypatch.setattr(scoring.StoredFeatures, "of", classmethod(lambda cls, embedded: usual(cls, embedded, 1)))
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "streamed")
    first, second = (MemorizationIndex.load(tmp_path / name / "reference.safetensors") for name in ("whole", "streamed"))
    np.testing.assert_allclose(first.null, second.null, atol=1e-6)
    for name, value in first.reference.items():
        np.testing.assert_allclose(value, second.reference[name], atol=1e-5)


def test_jitter_moves_the_null_and_nothing_else(folders, tmp_path):
    for name, jitter in (("plain", 0), ("moved", 4), ("again", 4)):
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / name, jitter=jitter)
    plain, moved, again = (MemorizationIndex.load(tmp_path / n / "reference.safetensors") for n in ("plain", "moved", "again"))
    assert not np.allclose(plain.null, moved.null, atol=1e-4)
    np.testing.assert_array_equal(moved.null, again.null)
    for name, value in plain.reference.items():
        np.testing.assert_array_equal(value, moved.reference[name])


def test_papers_form_runs_and_warns(folders, tmp_path):
    with pytest.warns(UserWarning, match="robust"):
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", calibration="paper", poses=1)
    run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index")
    rows = table(tmp_path / "out" / "scores.csv")
    assert all(np.isfinite(float(row[key])) for row in rows.values() for key in ("mi", "oni", "similarity"))


def test_unreadable_images_are_listed_and_the_rest_is_fitted_and_scored(folders, tmp_path):
    (folders["training"] / "broken.png").write_bytes(b"no image")
    (folders["synthetic"] / "broken.png").write_bytes(b"no image either")
    run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index")
    run("inference", dataset_dir=folders["synthetic"], output_dir=tmp_path / "out", reference=tmp_path / "index")
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
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(folders, tmp_path, settings, words):
    with pytest.raises((RuntimeError, InputError)) as error:
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", **settings)
    mistake = str(user_mistake(error.value))
    assert words in mistake and "\n" not in mistake


def test_too_few_patients_are_refused_in_one_line(folders, tmp_path):
    with pytest.raises(RuntimeError) as error:
        run("train", dataset_dir=folders["training"], output_dir=tmp_path / "index", patient_pattern="(p0)")
    mistake = str(user_mistake(error.value))
    assert "5 patients" in mistake and "\n" not in mistake


def test_a_missing_reference_says_to_train_first(tmp_path):
    with pytest.raises(InputError, match="run train"):
        reference_file(tmp_path)
