"""Training goes on after a kill as if it had not been killed, and keeps the best weights."""

from __future__ import annotations

import csv
import json
import logging
import operator
import os
import stat
from pathlib import Path

import pytest
import torch
from doppelscan.deepssim import CohortBatchSampler, CohortDataset, MakeViews, WeightsError
from doppelscan.images import InputError, SkippedImage
from doppelscan.workflows import (
    BestWeights,
    EarlyStop,
    EpochSeeds,
    GradientClip,
    NamedHandlers,
    ResumableCheckpoint,
    TrainingTables,
    Validation,
    WeightsTold,
)
from ignite.engine import Engine, Events
from monai.bundle import ConfigWorkflow
from monai.engines import Evaluator, IterationEvents
from safetensors import safe_open
from safetensors.torch import load_file

CONFIGS = Path(__file__).parents[2] / "bundles" / "deepssim_encoder" / "configs"


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


def validated(epochs: int, interval: int, at_start: bool = False, values=(0.1,) * 9) -> list[int | str]:
    """After which epochs a training of ``epochs`` validates."""
    engine, seen = metric_evaluator(values), []
    engine.add_event_handler(
        Events.COMPLETED, lambda e: seen.append("before" if getattr(e.state, "before_training", False) else e.state.epoch)
    )
    trainer = Engine(lambda e, b: None)
    Validation(engine, interval, at_start).attach(trainer)
    trainer.run([0], max_epochs=epochs)
    return seen


def metric_evaluator(values) -> Evaluator:
    """MONAI's evaluator, whose metric takes one of ``values`` after the other."""
    engine, remaining = Evaluator("cpu", [0], epoch_length=1), iter(values)

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(e):
        e.state.metrics["error"], e.state.key_metric_name = next(remaining), "error"

    engine._process_function = lambda e, b: None
    return engine


def test_a_training_shorter_than_the_interval_is_validated_and_any_other_at_its_end():
    assert validated(1, 3) == [1]
    assert validated(2, 3) == [2]
    assert validated(3, 3) == [3]
    assert validated(4, 3) == [3, 4]
    assert validated(2, 1, at_start=True) == ["before", 1, 2]
    with pytest.raises(InputError, match="val_interval"):
        validated(1, 0)


def told_of(tmp_path, values, step: float, at_start: bool = True) -> tuple[list[float], WeightsTold]:
    """Weights that were written, of a training that adds ``step`` to one weight in each epoch."""
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)

    def add(engine, batch):
        network.weight.data += step

    trainer, engine = Engine(add), metric_evaluator(values)
    best = BestWeights(tmp_path / "head.safetensors", network, operator.lt, {"encoder": "abc"})
    told = WeightsTold(best, network)
    NamedHandlers({"validation": Validation(engine, 1, at_start), "weights": told}).attach(trainer)
    best.attach(engine)
    trainer.run([0], max_epochs=len(values) - at_start)
    written = load_file(tmp_path / "head.safetensors") if (tmp_path / "head.safetensors").is_file() else {}
    return [float(one) for one in written.values()], told


def test_the_best_of_an_error_is_the_lowest_and_the_end_says_where_it_is_and_what_it_was_before(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        written, _ = told_of(tmp_path, [0.5, 0.3, 0.2, 0.4], 1.0)
    assert written == [3.0]
    assert "Before training: error 0.5000." in caplog.text and "Epoch 2: error 0.2000, the best so far." in caplog.text
    assert (
        f"The best weights (epoch 2 of 3) are in {tmp_path / 'head.safetensors'}: error 0.2000, 0.5000 before training."
        in caplog.text
    )
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert file.metadata() == {"encoder": "abc"}


@pytest.mark.parametrize(
    ("values", "step", "said"),
    [([0.5, 0.5], 0.0, "Training changed no weight"), ([0.5, 0.6], 1.0, "No epoch was better"), ([0.5, float("nan")], 1.0, "No weights were written")],
)  # fmt: skip
def test_a_training_that_made_nothing_better_is_warned_of(tmp_path, caplog, values, step, said):
    written, _ = told_of(tmp_path, values, step)
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert said in warning.getMessage()
    assert written == ([] if values[1] != values[1] else [1.0 + step])


def test_no_warm_up_begins_at_learning_rate_zero():
    """One step is a training too: at a rate of 0 it would write back the weights that it started from."""
    scheduled = [path for path in CONFIGS.glob("*.json") if "WarmupCosineSchedule" in path.read_text()]
    assert len(scheduled) == 2
    for path in scheduled:
        assert 0 < json.loads(path.read_text())["lr_scheduler"]["warmup_multiplier"] <= 0.01, path


def validations(folder, epochs: list[int]) -> list[list[torch.Tensor]]:
    """What train.json's evaluator looks at in validations after ``epochs``: of each, its views and targets."""
    made = ConfigWorkflow(
        str(CONFIGS / "train.json"), workflow_type="train", logging_file=False, output_dir=str(folder), ckpt_dir=str(folder), device="cpu",
        groups=1, group_size=4, thumbnail_size=32, spatial_size=32,
        **{"network_def::channels": [4, 4, 4, 4], "network_def::blocks": [1, 1, 1, 1], "validate::sampler::batches": 2,
           "validate::prepare_batch::working_size": 32},
    )  # fmt: skip
    made.initialize()
    evaluator = made.parser.get_parsed_content("validate::evaluator")
    seen: list[list[torch.Tensor]] = []
    evaluator.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: seen[-1].extend(
            [e.state.output["image"].clone(), *(value.clone() for value in e.state.output["label"].values())]
        ),
    )
    for epoch in epochs:
        seen.append([])
        evaluator.run(epoch)
    return seen


def test_every_validation_looks_at_the_same_batches_and_views_also_after_a_resume(tmp_path):
    first, second = validations(tmp_path, [1, 4])
    (resumed,) = validations(tmp_path, [7])
    assert len(first) == len(second) == len(resumed) == 2 * 8
    assert not torch.equal(first[0], first[8])  # the batches of one validation differ
    for one, other, third in zip(first, second, resumed, strict=True):
        assert torch.equal(one, other) and torch.equal(one, third)


def test_validation_is_seeded_where_it_starts_and_training_by_its_epoch():
    dataset = CohortDataset(generated_cohorts=2, generated_patients=4, spatial_size=32)
    sampler, views = CohortBatchSampler(dataset, groups=1, group_size=4, batches=2), MakeViews(4, 32, 32)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler)

    def run(epoch: int | None) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []
        engine = Engine(lambda e, batch: seen.append(views(batch)[0]))
        EpochSeeds([sampler, views], epoch).attach(engine)
        engine.run(loader, max_epochs=2)
        return seen

    assert all(map(torch.equal, run(0)[:2], run(0)[2:])) and all(map(torch.equal, run(0), run(0)))
    assert not torch.equal(run(None)[0], run(None)[2]) and all(map(torch.equal, run(None), run(None)))


def test_weights_are_the_best_of_validations_on_one_set(tmp_path):
    """A metric that is what the batches happen to hold: no weights are better than the first."""
    dataset = CohortDataset(generated_cohorts=2, generated_patients=4, spatial_size=32)
    sampler = CohortBatchSampler(dataset, groups=1, group_size=4, batches=1)
    engine = Engine(lambda e, batch: float(batch["image"].float().mean()))

    @engine.on(Events.EPOCH_COMPLETED)
    def measure(e):
        e.state.metrics["luck"], e.state.key_metric_name = e.state.output, "luck"

    named = {"seeds": EpochSeeds([sampler], 0), "best": BestWeights(tmp_path / "model.pt", torch.nn.Linear(1, 1))}
    NamedHandlers(named).attach(engine)
    written = []
    for _ in range(6):
        engine.run(torch.utils.data.DataLoader(dataset, batch_sampler=sampler))
        written.append((tmp_path / "model.pt").stat().st_mtime_ns)
    assert len(set(written)) == 1


def test_no_config_names_a_handler_by_its_position():
    for path in sorted(CONFIGS.parents[1].glob("*/configs/*.json")) + sorted(CONFIGS.parents[2].glob("configs/*.json")):
        text = path.read_text()
        for counted in ("handlers::", "handlers#"):
            assert not any(part[:1].isdigit() for part in text.split(counted)[1:]), (path, counted)
        assert "handlers[" not in text, path


def test_a_named_handler_is_disabled_and_the_others_are_attached_in_their_order(tmp_path):
    files = [str(CONFIGS / name) for name in ("train.json", "multi_gpu_train.json")]
    made = ConfigWorkflow(
        files, workflow_type="train", logging_file=False, output_dir=str(tmp_path), ckpt_dir=str(tmp_path), device="cpu", not_first=True,
        generated_cohorts=2, thumbnail_size=32, network="$start_from(@network_def, @init_ckpt)",
    )  # fmt: skip
    made.initialize()
    names = [list(made.parser.get_parsed_content(f"{part}::handlers")[0].handlers) for part in ("train", "validate")]
    assert names == [
        ["tables", "list_output", "schedule", "validation", "clip", "early_stop", "weights", "checkpoint", "seeds"],
        ["seeds", "best_weights"],
    ]
    resumed = made.parser.get_parsed_content("train::resumable")
    assert isinstance(resumed["early_stop"], EarlyStop) and isinstance(resumed["best_weights"], BestWeights)
    assert made.parser.get_parsed_content("train::handlers")[0].handlers["early_stop"] is resumed["early_stop"]
    order = []
    NamedHandlers({name: Named(name, order) for name in ("b", "a")}).attach(Engine(lambda e, b: None))
    assert order == ["b", "a"]


class Named:
    def __init__(self, name, order):
        self.name, self.order = name, order

    def attach(self, engine):
        self.order.append(self.name)


def test_what_is_trained_on_and_what_is_left_out_is_written_and_counted(tmp_path, caplog):
    training, validation = (CohortDataset(generated_cohorts=1, generated_patients=2, spatial_size=32, seed=s) for s in (0, 1))
    training.paths[:2] = ["data/a.png", "data/b,c.png"]
    training.skipped = [SkippedImage("data/d.png", "a constant image")]
    validation.skipped = [SkippedImage("data/d.png", "a constant image"), SkippedImage("held out/e.png", "no image")]
    engine = Engine(lambda e, b: None)
    TrainingTables(training, validation, tmp_path / "out").attach(engine)
    with caplog.at_level(logging.INFO):
        engine.run([0])
    assert (
        "2 images and 2 generated ones, validating on 0 images (none of them trained on) and 4 generated ones" in caplog.text
        and "2 could not be used" in caplog.text
    )
    tables = []
    for name in ("training_images.csv", "skipped.csv"):
        with open(tmp_path / "out" / name, newline="") as file:
            tables.append([list(row.values()) for row in csv.DictReader(file)])
    assert tables[0] == [["0", "data/a.png", "0"], ["1", "data/b,c.png", "0"], ["2", "", "0"], ["3", "", "0"]]
    assert tables[1] == [["data/d.png", "a constant image"], ["held out/e.png", "no image"]]


def test_samples_are_counted_and_images_that_are_trained_and_validated_on_are_said(tmp_path, caplog):
    training, samples = (CohortDataset(generated_cohorts=1, generated_patients=2, spatial_size=32, seed=s) for s in (0, 1))
    training.paths = ["a.png", "b.png", "c.png", "d.png"]
    samples.paths, samples.skipped = ["s.png", "t.png", "u.png"], [SkippedImage("v.png", "no image")]
    with caplog.at_level(logging.INFO):
        TrainingTables(training, training, tmp_path, samples)(Engine(lambda e, b: None))
    told = "Training on 4 images, 3 samples and 0 generated ones, validating on 4 images (4 of them trained on, too) and 0 generated ones; 1 could"
    assert told in caplog.text and "v.png" in (tmp_path / "skipped.csv").read_text()


def test_only_the_first_process_writes_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    dataset = CohortDataset(generated_cohorts=1, generated_patients=2, spatial_size=32)
    TrainingTables(dataset, dataset, tmp_path / "out")(Engine(lambda e, b: None))
    assert not (tmp_path / "out").exists()


def test_gradient_is_clipped_between_backward_and_step():
    network, engine = torch.nn.Linear(2, 1), Engine(lambda e, b: None)
    engine.register_events(*IterationEvents)
    GradientClip(network, 1.0).attach(engine)
    (network(torch.full((1, 2), 100.0)) * 100).sum().backward()
    engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
    assert abs(float(torch.cat([p.grad.flatten() for p in network.parameters()]).norm()) - 1.0) < 1e-4
