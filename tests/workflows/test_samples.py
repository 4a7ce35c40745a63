"""The audit of samples while a generator trains: what is logged, what it leaves alone, and what does not end the training."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from doppelscan.images import InputError
from doppelscan.workflows import SampleAudit
from ignite.engine import Engine, Events
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


def test_samples_that_become_copies_are_logged_and_end_the_training(folders, pictures, cohort, tmp_path, monkeypatch):
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
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


def test_samples_that_cannot_be_audited_are_a_warning(folders, tmp_path, caplog):
    engine = trainer([])
    SampleAudit(folders["training"], lambda engine: torch.zeros(4, 1, 64, 64), tmp_path / "audits", every=1).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run(range(1), max_epochs=1)
    assert "the training goes on: doppelscan: " in caplog.text and "memorization/flagged_share" not in engine.state.metrics


def test_only_the_first_process_audits(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    engine = trainer([])
    SampleAudit(folders["training"], lambda engine: pytest.fail("sampled"), tmp_path / "audits", every=1).attach(engine)
    engine.run(range(1), max_epochs=1)
    assert not (tmp_path / "audits").exists()


def test_samples_of_another_shape_are_told(tmp_path):
    with pytest.raises(InputError, match=r"must give \[N, 1, H, W\].*Got an array of shape \[4, 3, 64, 64, 2, 2\]"):
        SampleAudit._write(torch.zeros(4, 3, 64, 64, 2, 2), tmp_path)
    with pytest.raises(InputError, match="'every' parameter"):
        SampleAudit("t", lambda engine: None, tmp_path, every=0)
