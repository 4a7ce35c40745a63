"""Training goes on after a kill as if it had not been killed, and keeps the best weights."""

from __future__ import annotations

import os
import stat

import pytest
import torch
from doppelscan.deepssim import WeightsError
from doppelscan.images import InputError
from doppelscan.workflows import BestWeights, EarlyStop, EpochSeeds, GradientClip, ResumableCheckpoint
from ignite.engine import Engine, Events
from monai.engines import IterationEvents


class Draws:
    """A sampler whose epochs are told apart."""

    def __init__(self):
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 3

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        for _ in range(3):
            yield torch.randn(4, 2, generator=generator)


class Killed(Exception):
    pass


def training(folder, epochs=4, killed_at=None, features=2, resume=True):
    """A trainer of a linear map by Adam, checkpointed; returns its weights."""
    torch.manual_seed(0)
    network, draws = torch.nn.Linear(features, 1), Draws()
    optimizer = torch.optim.Adam(network.parameters(), 0.1)

    def step(engine, batch):
        optimizer.zero_grad()
        network(batch[:, :features]).square().sum().backward()
        optimizer.step()
        if killed_at is not None and engine.state.iteration == killed_at:
            raise Killed

    engine = Engine(step)
    ResumableCheckpoint(folder, {"model": network, "optimizer": optimizer}, resume=resume).attach(engine)
    EpochSeeds([draws]).attach(engine)
    engine.run(draws, max_epochs=epochs)
    return network.weight.detach().clone()


def test_training_that_was_killed_ends_where_it_would_have_ended(tmp_path):
    whole = training(tmp_path / "whole")
    with pytest.raises(Killed):
        training(tmp_path / "killed", killed_at=8)
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == ["training_1.pt", "training_2.pt"]
    torch.testing.assert_close(training(tmp_path / "killed"), whole)
    assert not torch.equal(training(tmp_path / "whole", epochs=1, resume=False), whole)


def test_checkpoint_of_another_architecture_lists_what_differs(tmp_path):
    training(tmp_path, epochs=1)
    with pytest.raises(WeightsError, match="weight") as error:
        training(tmp_path, features=1)
    assert "\n" not in str(error.value) and "--resume False" in str(error.value)


def test_half_a_checkpoint_is_refused(tmp_path):
    training(tmp_path, epochs=1)
    file = tmp_path / "training_1.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="must be of this training"):
        training(tmp_path)


def test_no_room_for_a_checkpoint_is_told_in_one_line(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="No space left on device") as error:
        training(tmp_path, epochs=1)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("training*"))


def evaluator(values):
    engine = Engine(lambda e, b: None)
    remaining = iter(values)

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(e):
        e.state.metrics["accuracy"] = next(remaining)
        e.state.key_metric_name = "accuracy"

    return engine


def test_only_better_weights_are_written_also_after_a_restart(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    best, engine = BestWeights(tmp_path / "models" / "model.pt", network), evaluator([0.5, 0.9, 0.7])
    best.attach(engine)
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(network.weight, value)
        engine.run([0])

    def written():
        return float(torch.load(tmp_path / "models" / "model.pt", weights_only=True)["weight"])

    assert written() == 2.0 and [p.name for p in (tmp_path / "models").iterdir()] == ["model.pt"]
    again, engine = BestWeights(tmp_path / "models" / "model.pt", network), evaluator([0.8, 0.95])
    again.load_state_dict(best.state_dict())
    again.attach(engine)
    engine.run([0])
    assert written() == 2.0
    engine.run([0])
    assert written() == 3.0


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_weights_folder_that_cannot_be_written_is_told(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    best, engine = BestWeights(tmp_path / "model.pt", torch.nn.Linear(1, 1)), evaluator([0.5])
    best.attach(engine)
    with pytest.raises(InputError, match="must be writable"):
        engine.run([0])


def test_training_stops_when_validation_no_longer_improves():
    validator, trainer = evaluator([0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), Engine(lambda e, b: None)
    EarlyStop(validator, patience=2).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: validator.run([0]))
    trainer.run([0], max_epochs=7)
    assert trainer.state.epoch == 4


def test_gradient_is_clipped_between_backward_and_step():
    network, engine = torch.nn.Linear(2, 1), Engine(lambda e, b: None)
    engine.register_events(*IterationEvents)
    GradientClip(network, 1.0).attach(engine)
    (network(torch.full((1, 2), 100.0)) * 100).sum().backward()
    engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
    assert abs(float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm()) - 1.0) < 1e-4
