"""A sample can be made again: one file is a generator, a seed is an image, and the manifest says which."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError, WeightsError
from doppelscan.generate import (
    NoisyLatents,
    Sampler,
    SeededSamples,
    autoencoder_kl,
    diffusion_unet,
    fit_condition,
    load_autoencoder,
    load_generator,
    moving_average,
)
from doppelscan.images import find_images, read_pixels
from made_generators import AUTOENCODER, SCHEDULE, SIZE, UNET, tiny_autoencoder, tiny_generator
from monai.networks.schedulers import DDPMScheduler

PEOPLE = [{"age": "30", "sex": "F"}, {"age": "50", "sex": "M"}]


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "generator.pt"
    torch.save(tiny_generator().state_dict(), path)
    return path


@pytest.fixture
def conditional(tmp_path) -> Path:
    path = tmp_path / "conditional.pt"
    torch.save(tiny_generator(fit_condition("variables", ["age", "sex"], PEOPLE)).state_dict(), path)
    return path


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as table:
        return list(csv.DictReader(table))


def test_a_generator_is_one_file(file):
    made, loaded = tiny_generator(), load_generator(file)
    assert loaded.settings == made.settings and loaded.step == 7 and loaded.sha256 == file_sha256(file)
    assert torch.equal(loaded.sample([3, 4], steps=4), made.sample([3, 4], steps=4))


def test_a_seed_is_an_image_whatever_is_sampled_beside_it(file):
    sampler = Sampler(load_generator(file), steps=8, batch_size=5)
    together = sampler(range(5))
    assert together.shape == (5, 1, SIZE, SIZE) and together.min() >= 0 and together.max() <= 1
    assert together.std((0, 1)).max() > 0.05  # seeds differ
    assert np.array_equal(sampler(range(5)), together)
    for batch_size, seeds in ((1, [2]), (2, [4, 2, 0])):
        alone = Sampler(load_generator(file), steps=8, batch_size=batch_size)(seeds)
        assert np.abs(alone - together[seeds]).max() < 1e-4
    assert np.array_equal(SeededSamples(sampler, 2, 3)(None), sampler([3, 4]))


def test_the_scale_that_was_measured_is_undone_and_the_schedule_is_followed(file):
    generator = load_generator(file)
    images = generator.sample([0], steps=4)
    generator.scale_factor *= 2
    assert float((generator.sample([0], steps=4) - images).abs().max()) > 0.01
    generator.scale_factor /= 2
    generator.schedule["beta_end"] = 0.5
    assert float((generator.sample([0], steps=4) - images).abs().max()) > 0.01


def test_ddim_is_its_formula(file):
    """arXiv 2010.02502, eq. 12 with sigma 0, written out."""
    generator, steps = load_generator(file), 4
    x = generator.noise([5])
    alphas = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0205**0.5, 100) ** 2, 0)
    for t in torch.linspace(99, 0, steps).round().long().tolist():
        before = alphas[t - 100 // steps] if t >= 100 // steps else torch.tensor(1.0)
        with torch.no_grad():
            noise = generator.network(x, torch.tensor([t]))
        clean = (x - (1 - alphas[t]).sqrt() * noise) / alphas[t].sqrt()
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    with torch.no_grad():
        wanted = generator.autoencoder.network.decode(x / generator.scale_factor).clamp(0, 1)
    torch.testing.assert_close(generator.sample([5], steps=steps), wanted, rtol=1e-4, atol=1e-5)


def test_samples_are_written_with_all_that_makes_them_again(file, tmp_path):
    path = Sampler(load_generator(file), steps=4, batch_size=2).write(tmp_path / "out", count=5, seed=10)
    assert path == tmp_path / "out" / "manifest.csv"
    rows = manifest(tmp_path / "out")
    assert [row["seed"] for row in rows] == ["10", "11", "12", "13", "14"]
    assert {row["checkpoint"] for row in rows} == {file_sha256(file)}
    assert {(row["step"], row["sampling_steps"], row["condition"]) for row in rows} == {("7", "4", "")}
    row = rows[3]
    again = Sampler(load_generator(file), int(row["sampling_steps"]))([int(row["seed"])])
    pixels = read_pixels([str(tmp_path / "out" / row["path"])])
    assert np.abs(np.round(again[0, 0] * 255) - pixels).max() <= 1
    assert len(find_images(path, name="synthetic").records) == 5


def test_a_sampling_that_was_killed_goes_on_and_loses_nothing(file, tmp_path, monkeypatch):
    whole = Sampler(load_generator(file), 4, 2).write(tmp_path / "whole", 5).parent
    generator = load_generator(file)
    sample, calls = type(generator).sample, []

    def killed(self, seeds, *args):
        calls.append(list(seeds))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(self, seeds, *args)

    monkeypatch.setattr(type(generator), "sample", killed)
    with pytest.raises(KeyboardInterrupt):
        Sampler(generator, 4, 2).write(tmp_path / "out", 5)
    assert [row["seed"] for row in manifest(tmp_path / "out")] == ["0", "1"]
    (tmp_path / "out" / "sample_000002.png").write_bytes(b"half")  # what a kill between an image and the manifest leaves
    Sampler(generator, 4, 2).write(tmp_path / "out", 5)
    assert calls[2:] == [[2, 3], [4]]
    for one in sorted(whole.iterdir()):
        assert (tmp_path / "out" / one.name).read_bytes() == one.read_bytes()
    (tmp_path / "out" / "sample_000003.png").unlink()
    Sampler(generator, 4, 2).write(tmp_path / "out", 5)
    assert calls[4:] == [[3]]


def test_other_samples_are_not_written_over(file, conditional, tmp_path):
    Sampler(load_generator(file), 4).write(tmp_path / "out", 2)
    before = {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()}
    for other in (Sampler(load_generator(file), 5), Sampler(load_generator(conditional), 4)):
        with pytest.raises(InputError, match=r"new folder, or one with samples of the same generator") as error:
            other.write(tmp_path / "out", 2)
        assert "\n" not in str(error.value)
    assert {one.name: one.read_bytes() for one in (tmp_path / "out").iterdir()} == before
    (tmp_path / "out" / "manifest.csv").unlink()
    with pytest.raises(InputError, match=r"holds sample_000000.png and no manifest.csv"):
        Sampler(load_generator(file), 4).write(tmp_path / "out", 2)


def test_a_full_disk_keeps_what_was_sampled(file, tmp_path, monkeypatch):
    from doppelscan.generate import sampling

    write = sampling.write_atomic

    def full(path, content):
        if path.name == "sample_000003.png":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(sampling, "write_atomic", full)
    with pytest.raises(InputError, match=r"No space left on device; make room") as error:
        Sampler(load_generator(file), 4, 2).write(tmp_path / "out", 5)
    assert "\n" not in str(error.value) and [row["seed"] for row in manifest(tmp_path / "out")] == ["0", "1"]


def test_conditions_of_training_are_taken_in_turn_or_one_is_asked_for(conditional, tmp_path):
    generator = load_generator(conditional)
    sampler = Sampler(generator, 4)
    sampler.write(tmp_path / "out", 4)
    assert [json.loads(row["condition"]) for row in manifest(tmp_path / "out")] == [*PEOPLE, *PEOPLE]
    women = Sampler(generator, 4, condition={"age": 30, "sex": "F"})
    assert np.array_equal(women([1]), Sampler(generator, 4, condition={"age": "30", "sex": "F"})([1]))
    assert np.abs(women([1]) - sampler([1])).max() > 1e-3  # which takes a man of 50
    (tmp_path / "wanted.csv").write_text("sex,age,note\nM,40,x\n")
    assert Sampler(generator, 4, condition=str(tmp_path / "wanted.csv")).condition_of(9) == {"age": "40", "sex": "M"}
    (tmp_path / "other.csv").write_text("sex,Age\nM,40\n")  # not all at the mean age
    with pytest.raises(InputError, match=r"columns age, sex. Got '.*other.csv', which has no 'age' but sex, Age"):
        Sampler(generator, 4, condition=str(tmp_path / "other.csv"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"condition": {"sex": "X"}}, "'sex' must be one of 'F', 'M'"),
        ({"condition": "a woman"}, "must be a mapping of age, sex, or a .csv"),
        ({"condition": "no.csv"}, "which does not exist"),
        ({"steps": 101}, "'steps' parameter must be an integer >= 1 and <= 100. Got 101"),
        ({"batch_size": 0}, "'batch_size' parameter must be an integer >= 1. Got 0"),
    ],
)
def test_what_cannot_be_sampled_is_told_before_anything_is(conditional, settings, words):
    with pytest.raises(InputError, match=words) as error:
        Sampler(load_generator(conditional), **settings)
    assert "\n" not in str(error.value)


def test_a_condition_is_refused_where_there_is_none(file, tmp_path):
    sampler = Sampler(load_generator(file))
    with pytest.raises(InputError, match=r"this generator is unconditional"):
        Sampler(load_generator(file), condition={"age": 3})
    for name, value in (("count", 0), ("seed", -1)):
        with pytest.raises(InputError, match=rf"'{name}' parameter must be an integer"):
            sampler.write(tmp_path / "out", **{"count": 1, name: value})


def test_files_of_another_kind_are_refused_in_one_line(file, tmp_path):
    torch.save(tiny_autoencoder().state_dict(), tmp_path / "autoencoder.pt")
    assert load_autoencoder(tmp_path / "autoencoder.pt").settings == tiny_autoencoder().settings
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    (tmp_path / "damaged.pt").write_bytes(file.read_bytes()[:200])
    for path, words in (
        ("autoencoder.pt", r"a file of another kind \(autoencoder\)"),
        ("other.pt", "a file of another kind"),
        ("damaged.pt", "cannot be read as one"),
        ("missing.pt", "which does not exist"),
    ):
        with pytest.raises((InputError, WeightsError), match=words) as error:
            load_generator(tmp_path / path)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"Got None"):
        load_autoencoder(None)
    (tmp_path / "checksums.json").write_text(json.dumps({"generator.pt": "0" * 64}))
    with pytest.raises(WeightsError, match=r"must have the sha256"):
        load_generator(file)


def test_samples_that_are_not_finite_are_refused():
    generator = tiny_generator()
    torch.nn.init.constant_(generator.network.out[2].conv.bias, float("nan"))
    with pytest.raises(WeightsError, match=r"must be finite. Got NaN or Inf after 7 training steps"):
        generator.sample([0], steps=2)


def test_networks_that_monai_does_not_make_are_refused_in_one_line():
    with pytest.raises(InputError, match=r"must be those of MONAI's AutoencoderKL. Got: .*norm_num_groups") as error:
        autoencoder_kl(**{**AUTOENCODER, "channels": [5, 8]})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"DiffusionModelUNet. Got: .*depth"):
        diffusion_unet(**UNET, depth=3)


def test_the_average_follows_the_weights_early_and_slowly_later():
    network = torch.nn.Linear(1, 1, bias=False)
    average = moving_average(network, 0.9)
    seen, wanted = [], None
    for step in range(200):
        torch.nn.init.constant_(network.weight, float(step < 100))
        average.update_parameters(network)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = 1.0 if wanted is None else decay * wanted + (1 - decay) * float(step < 100)
        seen.append(float(average.module.weight))
    assert seen[99] == 1 and seen[-1] == pytest.approx(wanted, abs=1e-6) and int(average.n_averaged) == 200
    assert not average.module.weight.requires_grad
    with pytest.raises(InputError, match=r"'decay' parameter must be a number between 0 and 1. Got 1"):
        moving_average(network, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_network_is_asked_for_what_the_schedule_says(kind):
    scheduler = DDPMScheduler(**SCHEDULE, prediction_type=kind)
    prepare = NoisyLatents(scheduler)
    latents = torch.randn(3, 2, 8, 8)
    images, target, args, inferer = prepare({"image": latents, "condition": torch.ones(3, 1, 4)}, torch.device("cpu"))
    noise, t = inferer["noise"], inferer["timesteps"]
    share = scheduler.alphas_cumprod[t].view(3, 1, 1, 1)
    wanted = noise if kind == "epsilon" else share.sqrt() * noise - (1 - share).sqrt() * latents
    torch.testing.assert_close(target, wanted)
    assert images is latents and args == () and inferer["condition"].shape == (3, 1, 4)
    with pytest.raises(InputError, match=r"must be epsilon or v_prediction. Got 'sample'"):
        NoisyLatents(DDPMScheduler(**SCHEDULE, prediction_type="sample"))
