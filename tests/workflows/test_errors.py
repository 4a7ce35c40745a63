"""What other libraries say of a bundle run is left as it is, but where it is an alarm about nothing."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from doppelscan.workflows import one_line_errors


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
