"""What other libraries say of a bundle run is left as it is, but where it is an alarm about nothing."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doppelscan.workflows import one_line_errors
from made_files import save_png
from warm import run_warm

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_by_monai(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/python/monai/bundle/__main__.py"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    factory = logging.getLogRecordFactory()
    one_line_errors()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("Engine run resuming from iteration 0, epoch 0 until 3 epochs", "Engine run starting: 3 epochs"),
        (
            "Engine run resuming from iteration 40, epoch 2 until 3 epochs",
            "Engine run resuming from iteration 40, epoch 2 until 3 epochs",
        ),
    ],
)
def test_a_training_that_begins_is_not_said_to_be_resumed(run_by_monai, caplog, said, logged):
    with caplog.at_level(logging.INFO):
        logging.getLogger("ignite.engine.engine.SupervisedTrainer").info(said)
    assert caplog.messages == [logged]


def test_builds_of_faiss_that_are_not_there_are_no_news():
    code = "import logging; logging.basicConfig(level=logging.INFO); import doppelscan.workflows"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "faiss" not in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("own", [True, False])
def test_a_run_of_our_own_config_says_nothing_of_other_libraries(tmp_path, cohort, own):
    """MONAI's question whether a config is trusted is kept back of a config that came with the package, and of no other."""
    for number in range(2):
        save_png(tmp_path / "images" / f"{number}.png", cohort[number])
    config = ROOT / "bundles" / "deepssim_encoder" / "configs" / "inference.json"
    if not own:
        (tmp_path / "bundle" / "configs").mkdir(parents=True)
        for name in (config.name, "logging.conf", "metadata.json"):
            shutil.copy(config.with_name(name), tmp_path / "bundle" / "configs" / name)
        config = tmp_path / "bundle" / "configs" / config.name
    done = run_warm(
        ["-m", "monai.bundle", "run", "inference", "--config_file", config, "--dataset_dir", "images", "--output_dir", "out",
         "--bundle_root", ROOT / "bundles" / "deepssim_encoder", "--workflow_name", "doppelscan.workflows.CheckedWorkflow"],
        tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and (tmp_path / "out").is_dir(), done.stderr
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "|" not in line]  # bars have one
    assert bool(said) == (not own) and all("config_file" in line or "create_workflow" in line for line in said), said
    logged = [line for line in done.stdout.splitlines() if re.match(r"\d{4}-", line)]
    assert logged and all(re.search(r"INFO - (> |---|Setting logging)", line) for line in logged), (
        "options that MONAI repeats, and no more"
    )


@pytest.mark.parametrize("path", sorted(ROOT.glob("**/configs/**/logging.conf")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_logging_keeps_epochs_back_and_alarms_not(path):
    code = (
        f"import logging, logging.config; logging.config.fileConfig({str(path)!r}, disable_existing_loggers=False); "
        "engine = logging.getLogger('ignite.engine.engine.SupervisedTrainer'); engine.info('Epoch[1] Complete'); engine.error('terminating')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Epoch" not in done.stdout and done.stdout.count("terminating") == 1, done.stderr
