"""What a user may pass to an audit: every spelling means what it says or is refused in one line, and the config says the same."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from doppelscan import arguments
from doppelscan.arguments import parameters
from doppelscan.decide import Rules
from doppelscan.deepssim.external import RUNTIMES
from doppelscan.errors import InputError
from doppelscan.settings import NAMES, AuditSettings, audit_command, audit_overrides
from doppelscan.workflows import audit_root

CONFIG = json.loads((Path(audit_root()) / "configs" / "audit.json").read_text())


def test_settings_are_those_of_the_config_with_its_defaults():
    """Scalars are settings; what refers to others is made of them."""
    scalars = {
        name: value
        for name, value in CONFIG.items()
        if not isinstance(value, dict) and name not in ("imports", "bundle_root", "run") and "@" not in str(value)
    }
    defaults = {name: one.default for name, one in parameters(AuditSettings).items()}
    assert set(defaults) == {NAMES.get(name, name) for name in scalars}
    for name, value in scalars.items():
        default = defaults[NAMES.get(name, name)]
        expected = None if str(value).startswith("$") else value
        assert (list(default) if isinstance(default, tuple) else default) == expected, name
        assert type(default) is tuple or type(default) is type(expected), name


def test_the_configs_own_values_are_taken_as_they_are():
    given = {name: value for name, value in CONFIG.items() if name in {*parameters(AuditSettings), "output_dir"}}
    given = {name: value for name, value in given.items() if not str(value).startswith("$")}
    assert audit_overrides(given) == {name: value for name, value in given.items() if value is not None}


def test_the_config_has_every_setting_checked():
    own = {name: value for name, value in CONFIG["settings"].items() if name != "_target_"}
    ids = {name: value.removeprefix("@") for name, value in own.items()}
    assert ids.pop("synthetic") == "dataset_dir" and CONFIG["dataset_dir"] == "@synthetic_dir"
    assert {NAMES.get(one, one) for one in ids.values()} | {"synthetic"} == set(own) == set(parameters(AuditSettings))
    assert CONFIG["run"].index("$@settings") < CONFIG["run"].index("$@audit.run()")


def test_choices_are_those_of_the_code():
    scores = get_args(get_args(arguments.Score)[0])
    for name, choices in {"score": scores, "runtime": RUNTIMES}.items():
        assert all(audit_overrides({name: choice}) == {name: choice} for choice in choices)


@pytest.mark.parametrize("name", ["redact", "gate"])
def test_a_boolean_means_what_it_says_in_every_spelling(name):
    for no in (False, "false", "False", "FALSE", "no", "off", "0", 0, np.False_):
        assert audit_overrides({name: no}) == {name: False}, no
    for yes in (True, "true", "True", "yes", "on", "1", 1, np.True_):
        assert audit_overrides({name: yes}) == {name: True}, yes
    for neither in ("maybe", "", 2, "None", [], {}):
        with pytest.raises(InputError, match=rf"^The '{name}' parameter must be true or false\. Got .* instead\.$"):
            audit_overrides({name: neither})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fdr", "abc", "a number between 0 and 1. Got 'abc' instead."),
        ("fdr", 0, "between 0 and 1. Got 0 instead."),
        ("fdr", 1.0, "between 0 and 1. Got 1.0 instead."),
        ("fdr", float("nan"), "between 0 and 1. Got nan instead."),
        ("seed", "x", "an integer >= 0. Got 'x' instead."),
        ("seed", -1, "an integer >= 0. Got -1 instead."),
        ("seed", 1.5, "an integer >= 0. Got 1.5 instead."),
        ("candidates", 0, "an integer >= 1. Got 0 instead."),
        ("control_size", 0, "an integer >= 1"),
        ("index", "hnsw", "auto, exact or ivf"),
        ("limit", 0, "an integer >= 1. Got 0 instead."),
        ("limit", "some", "an integer >= 1. Got 'some' instead."),
        ("limit", 2.5, "an integer >= 1. Got 2.5 instead."),
        ("score", "ssim", "combined, verified, deepssim or mi. Got 'ssim' instead."),
        ("correction", "holm", "bh or by. Got 'holm' instead."),
        ("runtime", "tensorrt", "torch, bfloat16 or onnx"),
        ("slice_range", 3, "two shares with 0 <= start < stop <= 1, such as 0.25,0.75. Got 3 instead."),
        ("slice_range", (0.75, 0.25), "0 <= start < stop <= 1"),
        ("slice_range", (0.5, 1.5), "0 <= start < stop <= 1"),
        ("slice_axis", "oblique", "0, 1, 2, sagittal, coronal or axial. Got 'oblique' instead."),
        ("slice_axis", 3, "sagittal"),
        ("volumes", "slices", "whole or as-slices. Got 'slices' instead."),
        ("slice_step", 0, "an integer >= 1"),
        ("channel", -1, "an integer >= 0"),
        ("rotations", "steep", "degrees, such as 0,-12,12"),
        ("rotations", [], "degrees"),
        ("patient_pattern", "(x", "a regular expression with a group for the patient"),
        ("patient_pattern", "sub", "which has no group"),
        ("training", "nowhere", "an existing folder, image, .csv or .json. Got 'nowhere', which does not exist."),
        ("training", 3, "an existing folder"),
        ("encoder", "torchscript:nowhere.pt", "Got 'torchscript:nowhere.pt', which does not exist."),
        ("device", "gpu", "cpu, cuda, cuda:N or mps. Got 'gpu' instead."),
        ("device", "cuda:x", "cuda:N"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(name, value, words):
    with pytest.raises(InputError) as error:
        audit_overrides({name: value})
    told = str(error.value)
    assert told.startswith(f"The '{name}' parameter must be ") and words in told and "\n" not in told


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("close_pair", "abc", "a number from 0 to 1"), ("identical", 1.5, "a number from 0 to 1"), ("unlike", float("inf"), "a number >= 0"),
     ("beyond_control", 1.5, "an integer >= 0"), ("fdr", "abc", "between 0 and 1"), ("correction", "holm", "bh or by")],
)  # fmt: skip
def test_a_wrong_threshold_is_told_in_one_line(name, value, words):
    with pytest.raises(InputError, match=rf"^The '{name}' parameter must be .*{words}.* Got .* instead\.$"):
        Rules(**{name: value})
    assert Rules(close_pair="0.8").close_pair == 0.8, "MONAI's command line may give a string"


def test_names_beside_a_redacted_report_are_refused_before_anything_is_imported(tmp_path):
    given = {"training": tmp_path, "synthetic": tmp_path, "output": tmp_path / "out"}
    for more, words in [
        ({"key": tmp_path / "key.csv"}, "'key' parameter must come with --redact"),
        ({"redact": True, "key": tmp_path / "out" / "key.csv"}, "'key' parameter must lie outside of the output folder"),
        ({"redact": True, "store": tmp_path / "out" / "store"}, "'store' parameter must lie outside of the output folder"),
    ]:
        with pytest.raises(InputError, match=words):
            audit_overrides({**given, **more})
    audit_overrides({**given, "redact": True, "key": tmp_path / "key.csv"})
    assert AuditSettings(output=tmp_path / "out", redact=True).store_folder == tmp_path / "out-store"
    assert AuditSettings(output=tmp_path / "out").store_folder == tmp_path / "out" / "store"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "patients.xlsx").touch()
    with pytest.raises(
        InputError, match=r"a new or empty folder, or an earlier redacted report, for a redacted report.*'patients\.xlsx'"
    ):
        audit_overrides({**given, "redact": True})


def test_right_values_reach_the_config_by_its_ids(tmp_path):
    (tmp_path / "encoder.pt").touch()
    given = {
        "training": tmp_path, "store": tmp_path / "a" / "b", "encoder": f"torchscript:{tmp_path}/encoder.pt", "fdr": "0.1", "seed": np.int64(3),
        "slice_axis": "1", "slice_range": (0, 1), "device": torch.device("cpu"), "holdout": None, "network_def::channels": [8, 8, 8, 8],
        "preprocessing#transforms#2#spatial_size": 64,
    }  # fmt: skip
    assert audit_overrides(given) == {
        "training_dir": str(tmp_path), "store_dir": str(tmp_path / "a" / "b"), "ckpt_path": f"torchscript:{tmp_path}/encoder.pt", "fdr": 0.1,
        "seed": 3, "slice_axis": 1, "slice_range": [0.0, 1.0], "device": "cpu", "network_def::channels": [8, 8, 8, 8],
        "preprocessing#transforms#2#spatial_size": 64,
    }  # fmt: skip
    assert audit_overrides({"ckpt_path": "hf://lab/encoder@1.0"}) == {"ckpt_path": "hf://lab/encoder@1.0"}


def test_a_typo_is_told_with_what_was_meant():
    for typo, meant in {
        "hold_out": "holdout",
        "devcie": "device",
        "candidate": "candidates",
        "netwrk_def::channels": "network_def",
    }.items():
        with pytest.raises(InputError, match=rf"^There is no setting {typo} of an audit; did you mean {meant}\?$"):
            audit_overrides({typo: 1})
    with pytest.raises(
        InputError,
        match=r"no setting colour of an audit; known are training, synthetic, .*, encoder, roles, spatial_size, .*, num_workers\.$",
    ):
        audit_overrides({"colour": "red"})


def test_a_folder_to_write_is_looked_at_before_it_is_needed(tmp_path):
    (tmp_path / "file").touch()
    for name in ("output", "store"):
        with pytest.raises(InputError, match=rf"'{name}' parameter must be a folder that can be written.*is a file"):
            audit_overrides({name: tmp_path / "file" / "in it"})
    audit_overrides({"output": tmp_path / "new" / "folder"})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["training", "synthetic", "holdout"])
def test_a_report_is_not_written_among_the_images(tmp_path, name):
    """It was, pictures and all: a later search took them for images of the set."""
    (tmp_path / "images").mkdir()
    given = {name: tmp_path / "images", "output": tmp_path / "images" / ".." / "images"}
    with pytest.raises(
        InputError,
        match=rf"'output' parameter must be another folder than the images lie in\. Got .* for '{name}' and 'output'; pass another",
    ):
        AuditSettings(**given).require_place()
    AuditSettings(**{**given, "output": tmp_path / "images" / "report"}).require_place()


@pytest.mark.parametrize(
    ("build", "gpus", "device", "words"),
    [
        ({"cuda": None}, 0, "cuda", "built without CUDA; pass cpu"),
        ({"cuda": "12.6"}, 0, "cuda", "CUDA finds 0 GPUs; pass cpu"),
        ({"cuda": "12.6"}, 2, "cuda:2", "CUDA finds 2 GPUs; pass cuda:0 to cuda:1"),
        ({"cuda": "12.6"}, 2, "cuda:1", None),
        ({"cuda": None, "hip": "6.1"}, 0, "cuda", None),
    ],
)
def test_a_gpu_that_is_not_there_is_told(monkeypatch, build, gpus, device, words):
    class Driver:
        def cuInit(self, flags):
            return 0 if gpus else 100

        def cuDeviceGetCount(self, count):
            count._obj.value = gpus
            return 0

    monkeypatch.setattr(arguments.runpy, "run_path", lambda path: build)
    monkeypatch.setattr(arguments.ctypes, "CDLL", lambda name: Driver())
    if words is None:
        assert AuditSettings(device=device).device == device
        return
    with pytest.raises(InputError, match=words):
        AuditSettings(device=device)


def test_a_device_of_another_machine_is_told(monkeypatch):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(arguments.runpy, "run_path", lambda path: {"cuda": "12.6"})
    monkeypatch.setattr(arguments.ctypes, "CDLL", no_driver)
    with pytest.raises(InputError, match="CUDA finds 0 GPUs"):
        AuditSettings(device="cuda")
    monkeypatch.setattr(arguments, "sys", SimpleNamespace(platform="linux"))
    with pytest.raises(InputError, match="no Apple machine"):
        AuditSettings(device="mps")


def test_the_command_of_a_redacted_audit_names_no_path_and_no_patient(tmp_path):
    for name in ("anna", "berta"):
        (tmp_path / name).mkdir()
    given = {
        "training": tmp_path / "anna",
        "synthetic": tmp_path / "berta",
        "output": tmp_path / "out",
        "patient_pattern": "(anna)",
        "fdr": 0.1,
    }
    told = audit_command({**given, "network_def::channels": "[8, 16]", "rotations": (0, -12)})
    assert told.startswith(f"doppelscan audit --training {tmp_path}/anna --synthetic {tmp_path}/berta")
    assert "--patient-pattern '(anna)' --fdr 0.1" in told and "--rotations 0,-12" in told and "--network_def::channels" in told
    redacted = audit_command({**given, "redact": True, "holdout": tmp_path / "anna", "network_def::file": "/home/carl/x.pt"})
    assert "--fdr 0.1" in redacted and "--redact True" in redacted
    assert not any(name in redacted for name in ("anna", "berta", "carl", str(tmp_path)))
