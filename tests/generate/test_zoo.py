"""Overlays of the model zoo's generators, run as commands on bundles of the same layout: seeds, files, manifest, resumed, refused in one line, audited."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from doppelscan import audit
from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError, WeightsError
from doppelscan.generate import BrightestToOne, GanImages, PngFiles, SampleRequest, load_bundle_weights
from doppelscan.images import find_images
from doppelscan.workflows import AuditOfSamples
from made_bundles import VERSIONS, old_names, tiny_bundle
from made_files import save_png
from monai.bundle import ConfigParser
from monai.networks.nets import AutoencoderKL
from monai.transforms import Randomizable
from PIL import Image
from warm import run_warm

CONFIGS = Path(__file__).parents[2] / "configs" / "zoo"
SLICES, VOLUMES, GAN, MAISI = VERSIONS
CHECKPOINTS = {
    SLICES: ("model_autoencoder.pt", "model.pt"), VOLUMES: ("model_autoencoder.pt", "model.pt"), GAN: ("model.pt",),
    MAISI: (
        "autoencoder_epoch273.pt", "diff_unet_ckpt_epoch19350.pt", "controlnet_current.pt", "mask_generation_autoencoder.pt",
        "mask_generation_diffusion_unet.pt",
    ),
}  # fmt: skip
STEPS = {SLICES: "4", VOLUMES: "4", GAN: "", MAISI: "3"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    for name in VERSIONS:
        tiny_bundle(name, folder)
    return folder


def run(root: Path, output: Path, *settings: object, overlays: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """The documented command, in another folder than the bundle's."""
    files = [str(root / "configs" / "inference.json"), *(str(CONFIGS / f"{name}.json") for name in (root.name, *overlays))]
    fewer = ("--sampling_steps", 4) if STEPS[root.name] == "4" else ()
    words = ["-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(root), "--output_dir", str(output)]
    return run_warm([*words, *fewer, *settings], root.parent)


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="") as table:
        return list(csv.DictReader(table))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(float) if path.suffix == ".png" else nib.load(path).get_fdata()


@pytest.fixture(scope="module")
def sampled(place):
    """Folder of three samples of a bundle, made once."""

    def samples(name: str) -> Path:
        folder = place / f"samples-{name}"
        if not folder.exists():
            done = run(place / name, folder, "--samples", 3, *(() if name == MAISI else ("--batch_size", 2)))
            assert done.returncode == 0, done.stderr[-3000:]
            assert "3/3" in done.stderr and "image" in done.stderr  # the bar
        return folder

    return samples


@pytest.mark.parametrize("name", VERSIONS)
def test_samples_are_files_with_a_manifest_that_says_what_makes_them_again(place, sampled, name):
    rows = manifest(sampled(name))
    suffix = ".png" if name in (SLICES, GAN) else ".nii.gz"
    assert [(row["seed"], row["path"]) for row in rows] == [(str(i), f"sample_{i:06d}{suffix}") for i in range(3)]
    sums = " ".join(file_sha256(place / name / "models" / file) for file in CHECKPOINTS[name])
    assert {(row["checkpoint"], row["sampling_steps"], row["step"]) for row in rows} == {(sums, STEPS[name], "")}
    made = [pixels(sampled(name) / row["path"]) for row in rows]
    assert all(one.std() > 0.01 for one in made)
    assert min(np.abs(made[0] - made[1]).max(), np.abs(made[1] - made[2]).max()) > 0.01  # seeds differ
    assert len({record.volume for record in find_images(sampled(name) / "manifest.csv", name="synthetic").records}) == 3


@pytest.mark.parametrize("name", VERSIONS)
def test_a_seed_alone_is_the_same_image_and_a_killed_sampling_goes_on(place, sampled, tmp_path, name):
    whole = sampled(name)
    alone = run(place / name, tmp_path / "alone", "--samples", 1, "--seed", 2)
    assert alone.returncode == 0, alone.stderr[-3000:]
    (row,) = manifest(tmp_path / "alone")
    assert row == manifest(whole)[2]
    grey = 1 if name in (SLICES, GAN) else 1e-4 if name == VOLUMES else 0  # rounding of another batch size
    assert np.abs(pixels(tmp_path / "alone" / row["path"]) - pixels(whole / row["path"])).max() <= grey
    left = Path(shutil.copytree(whole, tmp_path / "left"))
    lost = left / manifest(whole)[1]["path"]
    kept = {one: one.stat().st_mtime_ns for one in left.glob("sample_*") if one != lost}
    lost.unlink()
    again = run(place / name, left, "--samples", 4)
    assert again.returncode == 0, again.stderr[-3000:]
    assert len(manifest(left)) == 4 and {one: one.stat().st_mtime_ns for one in kept} == kept
    assert np.abs(pixels(lost) - pixels(whole / lost.name)).max() <= grey
    assert not [one for one in left.iterdir() if one.name.startswith((".", "doppelscan"))]


def parts(root: Path, *ids: str) -> list[torch.nn.Module]:
    parser = ConfigParser({**json.loads((root / "configs" / "inference.json").read_text()), "bundle_root": str(root)})
    return [parser.get_parsed_content(name) for name in ids]


def test_a_slice_is_what_the_bundle_makes_of_the_noise(place, sampled):
    """arXiv 2010.02502, eq. 12 with sigma 0, and the bundle's picture (>= 0, brightest to white, turned) written out."""
    root = place / SLICES
    autoencoder, network = parts(root, "autoencoder_def", "network_def")
    autoencoder.load_old_state_dict(torch.load(root / "models" / "model_autoencoder.pt"))
    network.load_old_state_dict(torch.load(root / "models" / "model.pt"))
    x = torch.randn(1, 12, 12, generator=torch.Generator().manual_seed(1))[None]
    alphas = torch.cumprod(1 - torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2, 0)
    with torch.no_grad():
        for t in (999, 666, 333, 0):
            before = alphas[t - 250] if t else torch.tensor(1.0)
            noise = network(x, torch.tensor([t]))
            x = before.sqrt() * (x - (1 - alphas[t]).sqrt() * noise) / alphas[t].sqrt() + (1 - before).sqrt() * noise
        image = autoencoder.decode(x)[0, 0].numpy().transpose(1, 0)[::-1, ::-1].clip(min=0)
    assert np.abs(pixels(sampled(SLICES) / "sample_000001.png") - 255 * image / image.max()).max() <= 1


def test_a_gan_is_asked_with_the_latents_of_its_own_inference_unless_told(place, sampled):
    (network,) = parts(place / GAN, "network_def")
    network.load_state_dict(torch.load(place / GAN / "models" / "model.pt")["model"])
    latent = torch.rand(6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        wanted = torch.sigmoid(network(latent[None]))[0, 0].T.numpy() * 255
    assert np.abs(pixels(sampled(GAN) / "sample_000002.png") - wanted).max() <= 1
    assert {row["condition"] for row in manifest(sampled(GAN))} == {'{"latent": "uniform"}'}
    normal = torch.randn(6, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(GanImages(network, 6, "normal")([2]), network(normal[None]))
    with pytest.raises(InputError, match=r"must be uniform or normal. Got 'gaussian'"):
        GanImages(network, 6, "gaussian")


def test_volumes_have_the_spacing_that_the_bundle_was_trained_at(sampled):
    header = nib.load(sampled(VOLUMES) / "sample_000000.nii.gz").header
    assert np.allclose(header.get_zooms(), 1.1) and header.get_xyzt_units()[0] == "mm" and header.get_data_dtype() == np.float32


def test_maisi_gives_hounsfield_units_a_label_map_and_what_was_asked(sampled):
    shapes = set()
    for row in manifest(sampled(MAISI)):
        asked = json.loads(row["condition"])
        assert (
            asked["anatomy_list"] == ["hepatic tumor"]
            and asked["spacing"] == [1.5, 1.5, 2.0]
            and asked["output_size"] == [32, 32, 16]
        )
        image, label = nib.load(sampled(MAISI) / row["path"]), nib.load(sampled(MAISI) / asked["label"])
        # The bundle's own files would have it divided by the zoom of the mask.
        assert np.allclose(image.header.get_zooms(), [1.5, 1.5, 2.0]) and np.allclose(image.affine, label.affine)
        values, mask = image.get_fdata(), label.get_fdata()
        assert image.header.get_data_dtype() == np.int16 and values.min() == -1000 and -1000 < values.max() <= 1000
        assert (values[mask == 0] == -1000).all() and set(np.unique(mask)) <= {0, 1, 3, 4}
        shapes.add(int(mask.sum()))
    assert len(shapes) == 3  # a mask of its own for each seed


def test_the_random_state_of_monais_transforms_is_given_back(tmp_path):
    from doppelscan.generate import MaisiFiles

    class Sampler:
        def sample_multiple_images(self, count):
            self.drawn = Randomizable.R.rand()
            raise ValueError("nothing\nfits")

    before, sampler = Randomizable.R, Sampler()
    with pytest.raises(InputError, match="Got from it: nothing fits"):
        MaisiFiles(sampler, [1, 1, 1])([5], [tmp_path / "a.nii.gz"])
    assert Randomizable.R is before and sampler.drawn == np.random.RandomState(5).rand()


def told(done: subprocess.CompletedProcess) -> str:
    """The one line that a refusal is."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("doppelscan: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-3000:]
    return lines[0]


def test_what_cannot_be_sampled_is_told_in_one_line(place, tmp_path):
    root = place / SLICES
    assert "'samples' parameter must be an integer >= 1. Got 0" in told(run(root, tmp_path / "out", "--samples", 0))
    line = told(run(root, tmp_path / "out", "--bundle_root", tmp_path / "no"))
    assert "'bundle_root' parameter must be the folder of a bundle" in line and "no'" in line
    newer = tmp_path / root.name
    shutil.copytree(root, newer)
    config = json.loads((newer / "configs" / "inference.json").read_text())
    config["scheduler"] = config.pop("noise_scheduler")
    (newer / "configs" / "inference.json").write_text(json.dumps(config))
    (newer / "configs" / "metadata.json").write_text('{"version": "2.0.0"}')
    line = told(run(newer, tmp_path / "out"))
    assert "Got version 2.0.0" in line and "without noise_scheduler; take version 1.1.2" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [SLICES, MAISI])
def test_a_bundle_without_its_weights_is_told_in_one_line(place, tmp_path, name):
    root = Path(shutil.copytree(place / name, tmp_path / name))
    lost = root / "models" / CHECKPOINTS[name][1]
    lost.unlink()
    line = told(run(root, tmp_path / "out"))
    assert "must have its weights" in line and str(lost) in line and "download" in line


def test_what_a_bundle_refuses_is_told_in_one_line(place, tmp_path):
    line = told(run(place / MAISI, tmp_path / "out", "--samples", 1, "--output_size", "[33,32,16]"))
    assert "The first two components of output_size differ" in line
    line = told(run(place / MAISI, tmp_path / "out", "--samples", 1, "--anatomy_list", "['brain']"))
    assert "Got from it: Cannot find body region with given anatomy list." in line


def test_a_bundle_that_is_not_there_is_told_in_one_line_with_its_download(place, tmp_path):
    """MONAI reads the configs before anything of doppelscan is imported, unless it is told of our workflow."""
    done = run(tmp_path / SLICES, tmp_path / "out", "--workflow_name", "doppelscan.workflows.CheckedWorkflow")
    line = told(done)
    assert f"python -m monai.bundle download --name {SLICES} --bundle_dir {tmp_path}" in line and "Traceback" not in done.stderr
    without = run(tmp_path / SLICES, tmp_path / "out")
    assert without.returncode != 0 and "inference.json" in without.stderr.strip().splitlines()[-1]


def test_our_workflow_samples_as_monais_does_and_names_an_option_before_monai_reads_it(place, sampled, tmp_path):
    checked = ("--workflow_name", "doppelscan.workflows.CheckedWorkflow")
    done = run(place / GAN, tmp_path / "out", "--samples", 1, *checked)
    assert done.returncode == 0 and "Not all config files" not in done.stdout + done.stderr, done.stderr[-2000:]
    assert manifest(tmp_path / "out") == manifest(sampled(GAN))[:1]
    line = told(run(place / GAN, tmp_path / "out", "--imges::latent", "normal", *checked))
    assert "There is no option --imges::latent of" in line


def test_numbers_and_folders_are_checked_first(place, sampled, tmp_path):
    root, ids = place / SLICES, ("noise_scheduler",)
    for name, value in (("samples", -1), ("samples", "many"), ("seed", -1), ("batch_size", 0)):
        with pytest.raises(InputError, match=rf"'{name}' parameter must be an integer"):
            SampleRequest(root, "1.1.2", ids, tmp_path / "out", **{"samples": 1, name: value})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="'output_dir' parameter must be a folder that can be written"):
        SampleRequest(root, "1.1.2", ids, tmp_path / "file" / "out", 1)
    assert "'sampling_steps' parameter must be an integer >= 1 and <= 1000. Got 1001" in told(
        run(root, tmp_path / "out", "--samples", 1, "--sampling_steps", 1001)
    )
    assert "made otherwise" in told(run(root, sampled(SLICES), "--samples", 3, "--sampling_steps", 5))


def autoencoder(**settings: object) -> AutoencoderKL:
    defaults = {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 1, "channels": [4, 8], "num_res_blocks": 1,
        "norm_num_groups": 4, "attention_levels": [False, True], "include_fc": False,
    }  # fmt: skip
    return AutoencoderKL(**{**defaults, **settings})


def test_weights_of_before_monai_had_generative_networks_are_renamed(tmp_path):
    made, other = autoencoder(), autoencoder()
    torch.save(old_names(made.state_dict()), tmp_path / "old.pt")
    torch.save({"model": made.state_dict()}, tmp_path / "new.pt")
    assert set(old_names(made.state_dict())) != set(made.state_dict())
    for file in ("old.pt", "new.pt"):
        loaded = load_bundle_weights(autoencoder(), tmp_path / file).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in made.state_dict().items())
    assert not torch.equal(other.encoder.blocks[0].conv.weight, made.encoder.blocks[0].conv.weight)


def test_weights_of_another_network_are_refused_and_none_stays_random(tmp_path):
    torch.save(old_names(autoencoder().state_dict()), tmp_path / "weights.pt")
    for settings in ({"num_res_blocks": 2}, {"channels": [4, 12]}, {"attention_levels": [True, True]}):
        with pytest.raises(WeightsError, match=r"must fit the bundle's network AutoencoderKL. Got") as error:
            load_bundle_weights(autoencoder(**settings), tmp_path / "weights.pt")
        assert "\n" not in str(error.value)
    torch.save({"other": torch.zeros(2)}, tmp_path / "alien.pt")
    with pytest.raises(WeightsError, match="Got no "):
        load_bundle_weights(autoencoder(), tmp_path / "alien.pt")
    (tmp_path / "damaged.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be read as one"):
        load_bundle_weights(autoencoder(), tmp_path / "damaged.pt")


def test_samples_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"must be finite. Got NaN or Inf of seed 4"):
        PngFiles(lambda seeds: torch.full((1, 1, 4, 4), float("nan")))([4], [tmp_path / "a.png"])
    assert not list(tmp_path.iterdir())


def test_pictures_are_scaled_as_the_brats_bundle_scales_them():
    image = torch.tensor([[[-1.0, 0.5], [2.0, 1.0]]])
    assert BrightestToOne()(image).tolist() == [[[0.0, 0.25], [1.0, 0.5]]]
    assert BrightestToOne()(image / 40).tolist() == (image / 40).clamp_min(0).tolist()  # dark ones are left dark


def test_the_audit_reads_what_was_sampled(sampled, warm, tmp_path):
    result = audit(
        training=warm["training"],
        synthetic=sampled(SLICES) / "manifest.csv",
        holdout=warm["holdout"],
        output=tmp_path,
        store=warm["store"],
    )
    assert sorted(Path(row["image"]).name for row in result.scores) == [f"sample_{i:06d}.png" for i in range(3)]
    assert not result.summary["skipped"] and (tmp_path / "report.html").is_file()


def test_an_audit_that_cannot_follow_is_told_before_anything_is_sampled(place, tmp_path):
    settings = ("--samples", 2, "--audit_dir", tmp_path / "audit")
    assert "'training_dir' parameter must be an existing folder" in told(
        run(place / GAN, tmp_path / "out", *settings, overlays=("audited",))
    )
    assert not (tmp_path / "out").exists()
    save_png(tmp_path / "training" / "a.png", np.eye(8))
    with pytest.raises(InputError, match="There is no setting fdrr of an audit; did you mean fdr"):
        AuditOfSamples(tmp_path / "training", tmp_path / "audit", fdrr=0.1)


@pytest.mark.slow
def test_one_command_samples_and_audits(place, folders, tmp_path):
    done = run(
        place / SLICES, tmp_path / "out", "--samples", 3, "--training_dir", folders["training"], "--holdout_dir", folders["holdout"],
        "--audit_dir", tmp_path / "audit", "--audit::self_test", False, "--audit::candidates", 5, overlays=("audited",),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "audit" / "summary.json").read_text())
    assert summary["settings"]["candidates"] == 5 and len(manifest(tmp_path / "out")) == 3
    assert "Report: " in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [VOLUMES, MAISI])
def test_the_audit_reads_the_volumes(sampled, tmp_path, name):
    for number in range(12):
        volume = nib.Nifti1Image(np.random.RandomState(number).rand(32, 32, 16).astype(np.float32), np.eye(4))
        (tmp_path / ("training" if number < 6 else "holdout")).mkdir(exist_ok=True)
        nib.save(volume, tmp_path / ("training" if number < 6 else "holdout") / f"p{number}.nii.gz")
    result = audit(
        training=tmp_path / "training",
        synthetic=sampled(name) / "manifest.csv",
        holdout=tmp_path / "holdout",
        output=tmp_path / "audit",
    )
    assert len({row["image"].split("#")[0] for row in result.scores}) == 3 and not result.summary["skipped"]
