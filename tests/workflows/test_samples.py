"""The audit of samples while a generator trains: what is logged, what it leaves alone, and what does not end the training."""

from __future__ import annotations

import logging
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from doppelscan.calibrate import wilson
from doppelscan.images import InputError
from doppelscan.workflows import SampleAudit
from ignite.engine import Engine, Events
from monai.utils import set_determinism
from PIL import Image


@pytest.fixture
def pictures(folders) -> dict[str, np.ndarray]:
    return {
        name: np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]).astype(np.float32)
        for name, folder in folders.items()
    }


def trainer(seen: list) -> Engine:
    """An engine whose steps draw random numbers, as a training's do."""

    def step(engine: Engine, batch: int) -> None:
        seen.append(float(torch.rand(())))

    engine = Engine(step)
    engine.add_event_handler(Events.STARTED, lambda engine: torch.manual_seed(0))
    return engine


def test_samples_that_become_copies_are_logged_and_end_the_training(folders, pictures, cohort, store, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "store").symlink_to(store)
    novel = torch.from_numpy(cohort[40:46])[:, None] * 2 - 1  # a generator's range
    copies = torch.from_numpy(pictures["training"][:6])[:, None].flip(-1)
    uri = f"sqlite:///{tmp_path}/mlruns.db"
    audit = SampleAudit(
        folders["training"], lambda engine: copies if engine.state.epoch >= 4 else novel, tmp_path / "audits", folders["holdout"],
        every=2, log_dir=tmp_path / "tensorboard", tracking_uri=uri, stop=True, device="cpu", gate=True,
    )  # fmt: skip
    seen: list[float] = []
    engine = trainer(seen)
    audit.attach(engine)
    engine.run(range(3), max_epochs=8)
    assert engine.state.epoch == 4  # found then, and stopped
    assert engine.state.metrics["memorization/flagged_share"] == 1.0

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shares = {event.step: event.value for event in events.Scalars("memorization/flagged_share")}
    assert shares == {2: 0.0, 4: 1.0}
    index = {event.step: event.value for event in events.Scalars("memorization/mean_mi")}
    assert index[4] > index[2] + 3
    client = MlflowClient(uri)
    (run,) = client.search_runs(["0"])
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "memorization/flagged_share")] == [
        (2, 0.0),
        (4, 1.0),
    ]
    for epoch in (2, 4):
        assert (tmp_path / "audits" / f"epoch_{epoch:04d}" / "report.html").is_file()

    alone: list[float] = []
    trainer(alone).run(range(3), max_epochs=4)
    assert seen == alone  # the audits drew none of the training's random numbers


@pytest.mark.parametrize(
    ("count", "total", "stopped_at"),
    [(0, 3, 3), (1, 50, 3), (6, 50, 1)],  # a bound of none flagged, of few samples, is high and says nothing
)
def test_a_training_ends_when_the_upper_bound_of_what_is_flagged_is_above(tmp_path, monkeypatch, count, total, stopped_at):
    summary = {"conclusion": "cannot conclude", "flagged": vars(wilson(count, total)), "set_mi": None}
    monkeypatch.setattr(SampleAudit, "_audit", lambda self, folder, report: summary)
    audit = SampleAudit(tmp_path, lambda engine: np.zeros((1, 8, 8)), tmp_path / "audits", every=1, stop_when=0.2)
    engine = trainer([])
    audit.attach(engine)
    engine.run(range(1), max_epochs=3)
    assert engine.state.epoch == stopped_at and engine.state.metrics["memorization/flagged_upper"] == wilson(count, total).upper


def test_a_bound_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="'stop_when' parameter must be a number between 0 and 1"):
        SampleAudit(tmp_path, lambda engine: None, tmp_path, stop_when=20)


def test_samples_that_cannot_be_audited_are_a_warning_and_what_they_drew_is_not_missing(folders, tmp_path, caplog):
    def flat(engine: Engine) -> torch.Tensor:
        noise = torch.rand(4, 1, 64, 64) + np.random.rand() + random.random()
        return 0 * noise

    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    engine = trainer([])
    engine.add_event_handler(Events.STARTED, lambda engine: set_determinism(0))
    engine.run(range(1), max_epochs=1)
    alone = drawn()
    SampleAudit(folders["training"], flat, tmp_path / "audits", every=1).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run(range(1), max_epochs=1)
    assert drawn() == alone
    assert "the training goes on: doppelscan: " in caplog.text and "memorization/flagged_share" not in engine.state.metrics


TWO = """
import os, sys
import numpy as np, torch
import torch.distributed as dist
from doppelscan.workflows import SampleAudit
from ignite.engine import Engine
from PIL import Image
from pathlib import Path

training, holdout, output = map(Path, sys.argv[1:])
dist.init_process_group("gloo")
copies = np.stack([np.asarray(Image.open(path)) for path in sorted(training.glob("*.png"))[:6]])

def step(engine, batch):
    dist.all_reduce(torch.ones(1))  # as the gradients of a training: a process that is alone waits for ever

def samples(engine):
    assert dist.get_rank() == 0
    return copies[:, None, :, ::-1]

engine = Engine(step)
SampleAudit(training, samples, output / "audits", holdout, every=1, stop=True, device="cpu").attach(engine)
engine.run(range(3), max_epochs=3)
share = engine.state.metrics["memorization/flagged_share"]
(output / f"rank{dist.get_rank()}").write_text(f"{engine.state.epoch} {share}")
dist.destroy_process_group()  # or gloo's threads are still running when Python ends, and one time in four end it by abort()
"""


@pytest.mark.slow
def test_two_processes_stop_together_on_what_one_found(folders, store, tmp_path):
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "store").symlink_to(store)
    (tmp_path / "two.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "two.py"]
    done = subprocess.run(
        [*command, folders["training"], folders["holdout"], tmp_path], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)] == ["1 1.0", "1 1.0"]


def test_only_the_first_process_audits(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    engine = trainer([])
    SampleAudit(folders["training"], lambda engine: pytest.fail("sampled"), tmp_path / "audits", every=1).attach(engine)
    engine.run(range(1), max_epochs=1)
    assert not (tmp_path / "audits").exists()


def test_samples_of_another_shape_are_told(tmp_path):
    with pytest.raises(InputError, match=r"must give \[N, 1, H, W\].*Got an array of shape \[4, 3, 64, 64, 2, 2\]"):
        SampleAudit._write(torch.zeros(4, 3, 64, 64, 2, 2), tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": 0}, "'every' parameter must be an integer >= 1"),
        ({"stop": "perhaps"}, "'stop' parameter must be true or false"),
        ({"redcat": True}, "no setting redcat of an audit; did you mean redact?"),
        ({"fdr": 5}, "'fdr' parameter must be a number between 0 and 1"),
        ({"holdout": "nowhere"}, "'holdout' parameter must be an existing folder"),
    ],
)
def test_a_wrong_setting_is_told_before_the_training_starts(folders, tmp_path, settings, words):
    with pytest.raises(InputError) as error:
        SampleAudit(folders["training"], lambda engine: None, tmp_path, **settings)
    assert words in str(error.value)


@pytest.mark.parametrize("redact", [False, True, "false", "no"])
def test_settings_reach_the_audit_as_they_were_given(folders, tmp_path, monkeypatch, redact):
    """The audit is a process of its own: a command line lies between."""
    from doppelscan import cli
    from doppelscan.workflows import run
    from doppelscan.workflows import samples as samples_module

    arrived = {}

    def audit(**settings):
        arrived.update(settings)
        raise InputError("far enough")

    def process(command, **kwargs):
        monkeypatch.setattr(sys, "argv", ["doppelscan", *command[3:]])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return subprocess.CompletedProcess(command, end.value.code, "", "far enough")

    monkeypatch.setattr(run, "audit", audit)
    monkeypatch.setattr(samples_module.subprocess, "run", process)
    engine = trainer([])
    SampleAudit(
        folders["training"], lambda engine: np.zeros((2, 16, 16)), tmp_path / "audits", every=1, redact=redact, fdr=np.float64(0.1),
        slice_range=(0, 0.5), device=torch.device("cpu"), patient_pattern=r"([a-z]+)\d", **{"network_def::channels": [8, 8, 8, 8]},
    ).attach(engine)  # fmt: skip
    engine.run(range(1), max_epochs=1)
    assert arrived == {
        "training": str(folders["training"]), "synthetic": str(tmp_path / "audits/epoch_0001/samples"), "holdout": None,
        "output": str(tmp_path / "audits/epoch_0001" / ("report" if redact is True else "")), "store": str(tmp_path / "audits/store"), "redact": redact is True, "self_test": False, "fdr": 0.1,
        "slice_range": [0.0, 0.5], "device": "cpu", "patient_pattern": r"([a-z]+)\d", "network_def::channels": [8, 8, 8, 8],
    }  # fmt: skip
