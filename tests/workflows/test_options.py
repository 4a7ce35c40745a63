"""A mistyped option of a bundle run is refused before anything is prepared: MONAI would take it as a new id, and train in full."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from doppelscan.errors import InputError
from doppelscan.workflows.options import require_known_options
from made_bundles import VERSIONS, tiny_bundle
from warm import run_warm

ROOT = Path(__file__).parents[2]
GENERATOR = ROOT / "configs" / "generator"
DIFFUSION = str(GENERATOR / "diffusion.json")


@pytest.fixture
def command(monkeypatch):
    """Check a command line of ``python -m monai.bundle``."""

    def check(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["/python/monai/bundle/__main__.py", *map(str, words)])
        require_known_options()

    return check


@pytest.mark.parametrize(
    ("config", "option", "meant"),
    [
        ("configs/audit.json", "--training", "--training_dir"),
        ("configs/case_study.json", "--autoencoder_epoch", "--autoencoder_epochs"),
        ("configs/generator/autoencoder.json", "--max_epoch", "--max_epochs"),
        ("configs/generator/diffusion.json", "--max-epoch", "--max_epochs"),
        ("configs/generator/diffusion.json", "--train::max_epochs", "--max_epochs"),
        ("configs/generator/diffusion.json", "--train#trainr", "--train::trainer"),
        ("configs/generator/diffusion.json", "--loging_file", "--logging_file"),
        ("configs/generator/sample.json", "--sampling_step", "--sampling_steps"),
        ("bundles/deepssim_encoder/configs/train.json", "--max_epoch", "--max_epochs"),
        ("bundles/deepssim_encoder/configs/inference.json", "--datset_dir", "--dataset_dir"),
        ("bundles/mi_scorer/configs/inference.json", "--output_di", "--output_dir"),
    ],
)
def test_a_mistyped_option_is_told_with_the_one_that_was_meant(command, config, option, meant):
    with pytest.raises(InputError) as error:
        command("run", "--config_file", ROOT / config, f"{option}=1")
    assert str(error.value) == f"There is no option {option.replace('-e', '_e')} of {ROOT / config}; did you mean {meant}?"


@pytest.mark.parametrize(
    "config",
    [one for place in ("configs", "bundles/*/configs") for one in ROOT.glob(f"{place}/**/*.json") if one.stem != "metadata"],
    ids=lambda p: p.stem,
)
def test_every_id_of_a_config_is_an_option_and_every_run_checks_them_first(command, config):
    content = json.loads(config.read_text())
    if not any("::" in name for name in content):  # else it needs the file that it is laid over
        command("run", "--config_file", config, *(f"--{name}=1" for name in content if name != "+imports"))
    for name in ("run", "inference", "evaluate"):
        steps = content.get(name)
        if isinstance(steps, list):
            assert steps[0] == "$one_line_errors()"


@pytest.mark.parametrize(
    "words",
    [
        ["--train#trainer#max_epochs", 2, "--network_def::norm_num_groups=8"],
        ["--train::named_handlers::mine", "{}", "--schedule::thresholding", "True"],
        ["run", "--init_id", "a", "--final_id", "b", "--meta_file", "c", "--logging_file", "d", "--bundle_root", ".", "--workflow_type", "train"],
        ["--run_id", "run", "--tracking", "mlflow", "--experiment_name", "a", "--save_execute_config", "False"],
        ["--resume", "--_meta_::version", "2", "--seed=1"],
    ],
)  # fmt: skip
def test_what_monai_and_the_configs_take_passes(command, words):
    command("run", *words, "--config_file", DIFFUSION)


def test_options_of_several_files_and_of_an_args_file_are_known(command, tmp_path):
    files = str([DIFFUSION, str(GENERATOR / "early_stop.json")])
    command("run", "--config_file", files, "--validate::sampler::batches", 2, "--patience", 3)
    with pytest.raises(InputError, match="no option --patience of"):
        command("run", "--config_file", DIFFUSION, "--patience", 3)
    (tmp_path / "args.json").write_text(json.dumps({"config_file": DIFFUSION, "max_epoch": 1}))
    with pytest.raises(InputError, match="did you mean --max_epochs"):
        command("run", "--args_file", tmp_path / "args.json")


@pytest.mark.parametrize("name", VERSIONS)
def test_an_overlay_knows_its_own_options_and_those_of_the_bundle(command, tmp_path, name):
    tiny_bundle(name, tmp_path)
    files = str([str(tmp_path / name / "configs" / "inference.json"), str(ROOT / "configs" / "zoo" / f"{name}.json")])
    command("run", "--config_file", files, "--bundle_root", tmp_path / name, "--samples", 1, "--device", "cpu")
    with pytest.raises(InputError, match="did you mean --samples"):
        command("run", "--config_file", files, "--sample", 1)


def test_an_id_that_is_only_referred_to_is_an_option(command, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"twice": "$2 * @number", "run": ["$print(@twice)"]}))
    command("run", "--config_file", tmp_path / "one.json", "--number", 3)


def test_another_program_may_have_any_options(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "run", "--max_epoch", "1"])
    require_known_options()


def test_a_run_with_a_mistyped_option_prepares_nothing(tmp_path):
    done = run_warm(["-m", "monai.bundle", "run", "--config_file", DIFFUSION, "--max_epoch", "1", "--output_dir", "out"], tmp_path)
    lines = [line for line in done.stderr.splitlines() if line.startswith("doppelscan:")]
    assert "ERROR" not in done.stdout + done.stderr  # such as of a metadata.json that is not there
    assert done.returncode == 1 and "Traceback" not in done.stderr and not list(tmp_path.iterdir()), done.stderr[-1500:]
    assert lines == [f"doppelscan: There is no option --max_epoch of {DIFFUSION}; did you mean --max_epochs?"]
