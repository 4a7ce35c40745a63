"""Handlers of a generator's training: what MONAI's engines do not do, and what must not be lost."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError, NotFiniteError, WeightsError
from doppelscan.generate import (
    AdversarialLoss,
    DiscriminatorLoss,
    ReconstructionLoss,
    TrainingImages,
    Unconditional,
    autoencoder_kl,
    fit_condition,
    kl_divergence,
    moving_average,
)
from doppelscan.images import read_pixels
from doppelscan.workflows import (
    EpochRandomness,
    FiniteLoss,
    KLPenalty,
    LatestWeights,
    ListOutput,
    MovingAverage,
    ResumableCheckpoint,
    SameTraining,
    TrainingProgress,
    TrainingSetFiles,
)
from ignite.engine import Engine, Events
from made_files import save_png
from made_generators import AUTOENCODER
from monai.engines import AdversarialTrainer, SupervisedTrainer
from monai.networks.nets import PatchDiscriminator
from monai.utils import AdversarialKeys


def batches(count: int, value: float = 0.5) -> list[dict[str, torch.Tensor]]:
    images = torch.full((2, 1, 16, 16), value)
    return [{"image": images, "label": images, "index": torch.tensor([4, 7])}] * count


def adversarial(weight: float, data, handlers=()) -> AdversarialTrainer:
    torch.manual_seed(0)
    network = autoencoder_kl(**AUTOENCODER)
    discriminator = PatchDiscriminator(spatial_dims=2, channels=4, in_channels=1, num_layers_d=1, norm="INSTANCE")
    return AdversarialTrainer(
        "cpu", 1, data, network, torch.optim.SGD(network.parameters(), 1e-3), AdversarialLoss(0.1), ReconstructionLoss(), discriminator,
        torch.optim.SGD(discriminator.parameters(), 1e-3), DiscriminatorLoss(), train_handlers=[KLPenalty(weight), *handlers], decollate=False,
    )  # fmt: skip


def test_the_autoencoder_pays_for_its_latents_and_the_discriminator_sees_the_reconstruction():
    losses = {}
    for weight in (0.0, 0.5):
        trainer = adversarial(weight, batches(1))
        network = trainer.state.g_network
        torch.manual_seed(3)
        with torch.no_grad():
            mean, sigma = network.encode(batches(1)[0]["image"])
        trainer.add_event_handler(Events.STARTED, lambda: torch.manual_seed(3))
        trainer.run()
        output = trainer.state.output
        losses[weight] = float(output["loss"].detach())
        assert output["pred"].shape == (2, 1, 16, 16) and output[AdversarialKeys.FAKES] is output["pred"]
        assert float(output["kl"].detach()) == pytest.approx(float(kl_divergence(mean, sigma)), rel=1e-4)
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * float(kl_divergence(mean, sigma)), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_both_trainings_before_the_weights_are_touched():
    trainer = adversarial(1e-6, batches(1) + batches(1, float("nan")))
    kept = {}
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: kept.update(e.state.g_network.state_dict()))
    with pytest.raises(NotFiniteError, match=r"loss is nan at step 2 on the batch of images \[4, 7\].*learning_rate") as error:
        trainer.run()
    assert "\n" not in str(error.value)
    assert all(torch.isfinite(value).all() for value in trainer.state.g_network.state_dict().values()) and kept

    network = torch.nn.Conv2d(1, 1, 1)
    supervised = SupervisedTrainer(
        "cpu", 1, batches(1, float("inf")), network, torch.optim.SGD(network.parameters(), 1.0), torch.nn.MSELoss(),
        train_handlers=[FiniteLoss()], decollate=False,
    )  # fmt: skip
    with pytest.raises(NotFiniteError, match=r"at step 1 on the batch of images \[4, 7\]"):
        supervised.run()
    assert torch.isfinite(network.weight).all()


def walk(folder, epochs: int, killed_at: int | None = None) -> dict[str, torch.Tensor]:
    """A training whose steps are random, with its average: what is left at the end."""
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    handler = MovingAverage(moving_average(network, 0.9), network)

    def step(engine, batch):
        if engine.state.iteration == killed_at:
            raise KeyboardInterrupt
        with torch.no_grad():
            network.weight += torch.randn(1, 2)
        return {"loss": network.weight.sum()}

    engine = Engine(step)
    handler.attach(engine)
    ResumableCheckpoint(folder, {"model": network, "average": handler}).attach(engine)
    EpochRandomness(5).attach(engine)
    engine.run(range(3), max_epochs=epochs)
    return {**handler.state_dict(), "weight": network.weight}


def test_a_resumed_training_draws_and_averages_as_if_it_had_not_been_killed(tmp_path):
    whole = walk(tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "killed", 4, killed_at=8)
    again = walk(tmp_path / "killed", 4)
    assert int(again["n_averaged"]) == 12 and list(again) == list(whole)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name


def test_validations_draw_alike_and_trainings_by_their_epoch():
    drawn: list[float] = []
    for epoch in (0, None):
        engine = Engine(lambda e, b: drawn.append(float(torch.rand(()))))
        EpochRandomness(1, epoch).attach(engine)
        engine.run(range(2), max_epochs=2)
    assert drawn[:2] == drawn[2:4] and len(set(drawn)) == 6


def test_other_sizes_are_not_resumed_and_nothing_is_written_over(tmp_path):
    def run(size: int) -> None:
        engine, network = Engine(lambda e, b: None), torch.nn.Linear(1, 1)
        same = SameTraining(images="abc" * 30, network={"blocks": 1, "channels": [size]})
        ResumableCheckpoint(tmp_path, {"same": same, "model": network}).attach(engine)
        engine.run([0], max_epochs=size)

    run(2)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(WeightsError, match=r"a training with network channels \[2\], not \[3\]; pass --resume False") as error:
        run(3)
    assert "\n" not in str(error.value)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_the_latest_file_is_kept_up_and_snapshots_stay(tmp_path):
    network, engine = torch.nn.Linear(1, 1, bias=False), Engine(lambda e, b: None)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda e: torch.nn.init.constant_(network.weight, e.state.epoch))
    LatestWeights(tmp_path / "out" / "generator.pt", network, interval=3, snapshots=2).attach(engine)
    latest = []

    @engine.on(Events.EPOCH_COMPLETED)
    def look(e):
        file = tmp_path / "out" / "generator.pt"
        latest.append(float(torch.load(file)["weight"]) if file.exists() else None)

    engine.run([0], max_epochs=5)
    assert latest == [None, None, 3, 3, 3]
    files = {one.name: float(torch.load(one)["weight"]) for one in (tmp_path / "out").iterdir()}
    assert files == {"generator.pt": 5, "generator_0002.pt": 2, "generator_0004.pt": 4}
    with pytest.raises(InputError, match=r"'snapshots' parameter must be an integer >= 1. Got 0"):
        LatestWeights(tmp_path, network, snapshots=0)


def test_a_full_disk_leaves_the_file_before_it(tmp_path, monkeypatch):
    network, engine = torch.nn.Linear(1, 1), Engine(lambda e, b: None)
    LatestWeights(tmp_path / "generator.pt", network).attach(engine)
    engine.run([0], max_epochs=1)
    before = (tmp_path / "generator.pt").read_bytes()

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"No space left on device; make room") as error:
        engine.run([0], max_epochs=2)
    assert "\n" not in str(error.value)
    assert [one.name for one in tmp_path.iterdir()] == ["generator.pt"] and (tmp_path / "generator.pt").read_bytes() == before


def test_what_is_trained_on_is_written_as_a_set_that_an_audit_takes(tmp_path, cohort):
    rows = ["path,patient,repeats,sex"]
    for i in range(4):
        save_png(tmp_path / f"{i}.png", cohort[i])
        rows.append(f"{i}.png,p{i // 2},{i + 1},{'FM'[i % 2]}")
    save_png(tmp_path / "flat.png", np.zeros((16, 16)))
    (tmp_path / "set.csv").write_text("\n".join([*rows, "flat.png,p9,1,F"]))

    def prepare(item):
        pixels = read_pixels(item["image"])
        if pixels.max() == 0:
            raise OSError("nothing there")
        return {"thumbnail": pixels[None, ::6, ::6].astype(np.uint8)}

    images = TrainingImages(tmp_path / "set.csv", prepare, duplication="column")
    engine = Engine(lambda e, b: None)
    TrainingSetFiles(images, fit_condition("variables", ["sex"], images.values), tmp_path / "out").attach(engine)
    engine.run([0])
    with open(tmp_path / "out" / "training_images.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["index"] for row in table] == ["0", "1", "2", "3"]
    assert table[2] == {
        "path": "training_images/000002.png", "patient": "p1", "repeats": "3", "index": "2", "source": str(tmp_path / "2.png"),
        "condition": '{"sex": "F"}',
    }  # fmt: skip
    assert (tmp_path / "out" / "skipped.csv").read_text() == f"image,reason\n{tmp_path / 'flat.png'},nothing there\n"
    from doppelscan.images import find_images

    found = find_images(tmp_path / "out" / "training_images.csv").records
    assert [(one.patient, one.repeats) for one in found] == [("p0", 1), ("p0", 2), ("p1", 3), ("p1", 4)]
    assert np.array_equal(read_pixels([found[3].paths[0]]), images.images[3, 0].numpy())


def test_only_the_first_process_writes_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    engine = Engine(lambda e, b: {"loss": torch.zeros(())})
    for handler in (
        ListOutput(),
        TrainingSetFiles(None, Unconditional(), tmp_path / "out"),
        LatestWeights(tmp_path / "out" / "generator.pt", torch.nn.Linear(1, 1), snapshots=1),
        TrainingProgress("generator"),
    ):
        handler.attach(engine)
    engine.run([0, 1], max_epochs=2)
    assert not (tmp_path / "out").exists() and "generator" not in capsys.readouterr().err


def test_the_bar_counts_all_steps_and_goes_on_after_a_resume(capsys):
    def run(fails: bool = False) -> str:
        def step(engine, batch):
            if fails and engine.state.iteration == 5:
                raise NotFiniteError("told")
            return {"loss": torch.tensor(0.25)}

        engine = Engine(step)
        ListOutput().attach(engine)
        TrainingProgress("generator").attach(engine)
        engine.load_state_dict({"epoch_length": 2, "max_epochs": 4, "iteration": 2})
        engine.run([0, 1], max_epochs=4)
        return capsys.readouterr().err

    shown = run()
    assert "8/8" in shown and "loss 0.2500" in shown and "2/8" in shown and "0/8" not in shown
    with pytest.raises(NotFiniteError, match=r"told"):
        run(fails=True)
