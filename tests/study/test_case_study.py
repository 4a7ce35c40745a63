"""The command, whole and tiny: trained, killed, gone on with, audited, shown."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from doppelscan.errors import InputError
from doppelscan.study import stages
from doppelscan.workflows import samples
from doppelscan.workflows.errors import told_in_one_line
from filelock import FileLock
from made_files import save_png
from made_generators import AUTOENCODER, UNET
from monai.bundle import ConfigWorkflow
from warm import run_warm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path, cohort, monkeypatch) -> Path:
    """An image each of 24 people, overrides that make the networks tiny, and audits in the loop that start warm."""
    rows = ["path,patient,sex"]
    for i in range(24):
        save_png(tmp_path / "images" / f"{i:02d}.png", cohort[i])
        rows.append(f"images/{i:02d}.png,p{i:02d},{'FM'[i % 2]}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    tiny = {f"network_def::{name}": value for name, value in AUTOENCODER.items()}
    (tmp_path / "tiny_autoencoder.json").write_text(
        json.dumps({**tiny, "discriminator_def::channels": 4, "discriminator_def::num_layers_d": 1})
    )
    names = ("channels", "num_res_blocks", "norm_num_groups", "attention_levels", "num_head_channels")
    (tmp_path / "tiny.json").write_text(json.dumps({f"network_def::{name}": UNET[name] for name in names}))

    def warm(command, env, **_):
        return run_warm(command[1:], tmp_path, env)

    monkeypatch.setattr(samples.subprocess, "run", warm)
    return tmp_path


def study(place: Path, **settings) -> None:
    sizes = {
        "spatial_size": 32,
        "autoencoder_epochs": 1,
        "autoencoder_batches": 2,
        "max_epochs": 2,
        "batches": 2,
        "batch_size": 2,
        "audit_count": 4,
    }
    sizes |= {"audit_interval": 2, "samples": 4, "sampling_steps": 2, "self_test": False, "device": "cpu"}
    files = {
        "autoencoder_configs": ["autoencoder.json", str(place / "tiny_autoencoder.json")],
        "diffusion_configs": ["diffusion.json", str(place / "tiny.json")],
    }
    given = {"dataset_dir": str(place / "set.csv"), "output_dir": str(place / "study"), **sizes, **files, **settings}
    with told_in_one_line():
        made = ConfigWorkflow(str(ROOT / "configs" / "case_study.json"), workflow_type="train", logging_file=False, **given)
        made.initialize()
        made.run()


def told(audit: Path) -> list[tuple[str, str, float]]:
    with open(audit / "scores.csv", newline="") as file:
        return [(row["image"], row["match"], pytest.approx(float(row["mi"]), abs=1e-4)) for row in csv.DictReader(file)]


def test_a_study_is_run_killed_and_gone_on_with(place, monkeypatch):
    with pytest.raises(InputError, match="Got 'age'; known are position, sex"):
        study(place, condition_columns=["age"])
    study(place, only=["none"], condition_columns=["sex"])
    folder = place / "study"
    page = (folder / "case_study.html").read_text()
    assert "none: copies among the samples" in page and "No column for text was named: text." in page
    assert "Not run yet: low, high, early, audited, more, variables." in page
    with open(folder / "numbers.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["stage"], row["step"]) for row in rows if row["condition"] == "none"} == {("training", "4"), ("finished", "4")}

    # Nothing is done twice, and an audit in the loop that a kill interrupted is made of its snapshot.
    audit = folder / "conditions" / "none" / "generator" / "audits" / "epoch_0002"
    first = told(audit)
    (audit / "report.html").unlink()
    kept = {one: one.stat().st_mtime_ns for one in folder.rglob("*.pt")}
    trained = stages._run_configs

    def refuse(*names, **settings):
        raise AssertionError("trained again")

    monkeypatch.setattr(stages, "_run_configs", refuse)
    study(place, only=["none"], condition_columns=["sex"])
    assert (audit / "report.html").is_file() and told(audit) == first
    assert {one: one.stat().st_mtime_ns for one in folder.rglob("*.pt")} == kept

    # What another process is at is not touched, and said.
    (folder / "conditions" / "none" / "audit" / "summary.json").rename(place / "kept.json")  # reading it would fail
    with FileLock(folder / "conditions" / "none" / ".lock"):
        study(place, only=[], condition_columns=["sex"])
    assert "Another process is at it: none." in (folder / "case_study.html").read_text()
    (place / "kept.json").rename(folder / "conditions" / "none" / "audit" / "summary.json")

    # Other sizes are refused before anything is trained.
    with pytest.raises(InputError, match="has samples 4, not 5; pass another --output_dir"):
        study(place, samples=5)

    # One condition that cannot be trained does not lose the others.
    def fail(names, **settings):
        if settings["conditioning"] == "variables":
            raise InputError("This one fails")
        trained(names, **settings)

    monkeypatch.setattr(stages, "_run_configs", fail)
    study(place, only=["none", "variables"], condition_columns=["sex"])
    page = (folder / "case_study.html").read_text()
    assert "This one fails: variables." in page and "none: copies among the samples" in page
    with pytest.raises(InputError, match="Every condition failed; the first, 'variables': This one fails"):
        study(place, only="variables", condition_columns=["sex"])


@pytest.mark.slow
def test_the_remedies_of_a_study_are_run(place):
    study(
        place, only=["early", "audited", "more", "variables"], condition_columns=["sex", "position"], max_epochs=3, audit_interval=1
    )
    kept = json.loads((place / "study" / "study.json").read_text())
    done = {one["condition"]["name"]: one for one in kept["conditions"]}
    assert set(done) == {"early", "audited", "more", "variables"}
    assert done["more"]["audit"]["memorized"]["total"] == 2 * done["early"]["audit"]["memorized"]["total"] == 16
    assert done["audited"]["trained"]["note"] and len(done["early"]["curve"]) == 3
    assert not [one for one in (place / "study").rglob("training_*.pt") if "conditions" in one.parts]


def test_the_papers_sizes_are_those_of_the_generators_configs():
    study, paper = (json.loads((ROOT / "configs" / name).read_text()) for name in ("case_study.json", "paper_case_study.json"))
    assert set(paper) <= set(study) and len(paper) <= 10
    first, second = (
        json.loads((ROOT / "configs" / "generator" / paper[name][-1]).read_text())
        for name in ("autoencoder_configs", "diffusion_configs")
    )
    assert (paper["spatial_size"], paper["autoencoder_epochs"], paper["autoencoder_batches"]) == (
        first["spatial_size"],
        first["max_epochs"],
        first["batches"],
    )
    assert all(paper[name] == second[name] for name in ("max_epochs", "batches", "batch_size"))
