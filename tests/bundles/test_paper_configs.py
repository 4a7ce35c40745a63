"""The published forms: every point in which paper.json is the paper's, not train.json's, and what it trains and loads."""

from __future__ import annotations

import ast
import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from convnext_files import torchvision_state
from doppelscan.deepssim import ConvNeXtEncoder, published_ssim, zscore
from doppelscan.deepssim.ssim import _aligned
from doppelscan.errors import DoppelscanError, InputError
from doppelscan.workflows.errors import told_in_one_line
from made_files import save_png
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIGS = "bundles/deepssim_encoder/configs"
ENCODER = ROOT / CONFIGS
SIZE = 64
TINY = {"network_def::depths": [1, 1, 1, 1], "network_def::hidden_sizes": [4, 8, 8, 16], "freeze": []}


def paper(folder: Path, **overrides) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(ENCODER / name) for name in ("train.json", "paper.json")])
    for name, value in {"dataset_dir": [str(folder)], "spatial_size": SIZE, "thumbnail_size": SIZE, **TINY, **overrides}.items():
        parser[name] = value
    return parser


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cohort) -> Path:
    """Ten images of 64 x 64 whose anatomy lies off the centre, upper left; one is asymmetric by a bright corner."""
    folder = tmp_path_factory.mktemp("paper") / "images"
    for i in range(10):
        pixels = np.zeros((SIZE, SIZE), np.float32)
        pixels[:48, :48] = cohort[i][::2, ::2]
        pixels[2:6, 50:60] = 0.1 * (i + 1) / 2
        save_png(folder / f"p{i}.png", pixels)
    return folder


def files(folder: Path) -> torch.Tensor:
    """float32 [10, 1, 64, 64], the files' pixels, z-scored."""
    pixels = [np.asarray(Image.open(path), np.float32) for path in sorted(folder.glob("*.png"))]
    return zscore(torch.from_numpy(np.stack(pixels))[:, None])


@pytest.fixture
def clean(folder):
    """What a batch of the published form is without its augmentation: network input, targets, and the parser."""
    parser = paper(folder, **{"train::augmentation": None})
    batch = next(iter(parser.get_parsed_content("train::dataloader")))
    images, targets = parser.get_parsed_content("train::prepare_batch")(batch, "cpu")
    return images, targets, parser


def windows_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of Wang et al. 2004, eq. 13, every 7 x 7 window, sample covariance, with the range of the first image."""
    c1, c2 = ((k * (a.max() - a.min())) ** 2 for k in (0.01, 0.03))
    values = []
    for y in range(a.shape[0] - 6):
        for x in range(a.shape[1] - 6):
            p, q = a[y : y + 7, x : x + 7].ravel(), b[y : y + 7, x : x + 7].ravel()
            cov = np.cov(p, q)
            over = (2 * p.mean() * q.mean() + c1) * (2 * cov[0, 1] + c2)
            values.append(over / ((p.mean() ** 2 + q.mean() ** 2 + c1) * (cov[0, 0] + cov[1, 1] + c2)))
    return float(np.mean(values))


# The ten points of METHODS, section 8.


def test_1_no_near_duplicates_every_second_image_is_a_file(clean, folder):
    images, targets, _ = clean
    second = images[len(images) // 2 :]
    distance = (second[:, None] - files(folder)[None]).abs().amax((2, 3, 4))
    assert (distance.amin(1) < 0.05).all() and "is_copy" not in targets


def test_2_no_generated_cohorts(clean):
    dataset = clean[2].get_parsed_content("train::dataset")
    assert len(dataset.paths) == 10 and all(dataset.paths)
    assert all(clean[2].get_parsed_content("validate::dataset").paths)


def test_3_no_look_alikes_pairs_are_drawn_from_all_alike(clean):
    sampler = clean[2].get_parsed_content("train::sampler")
    sampler.set_epoch(0)
    drawn = np.concatenate([batch for _ in range(4) for batch in sampler])
    counts = np.bincount(drawn, minlength=100)
    expected = len(drawn) / 100
    assert len(counts) == 100 and ((counts - expected) ** 2 / expected).sum() < 150  # chi square of 99 degrees: 0.999 lies at 149
    sampler.dataset.images = sampler.dataset.images.flip(0)  # what the images show changes nothing
    sampler.set_epoch(0)
    assert np.concatenate([*sampler]).tolist() == drawn[: 100 * 32].tolist()


def test_4_no_quarter_turns(clean, folder):
    images, targets, _ = clean
    rows = targets["index"].T.flatten()
    assert (images - files(folder)[rows]).abs().amax() < 0.05


def test_5_no_foreground_centring_the_whole_image_is_seen(clean, folder):
    images, _, _ = clean
    border = images[..., 56:, 56:]
    assert images.shape[-2:] == (SIZE, SIZE) and float((border - border[..., :1, :1]).abs().max()) < 1e-5  # what was empty is
    assert (images[..., 2:6, 50:60] > border[..., :1, :1]).all()  # what lies far from the anatomy is seen


def test_6_no_extra_loss_term_only_the_mean_square_over_the_pairs(clean):
    images, targets, parser = clean
    assert set(targets) == {"ssim", "index"} and len(images) == 64
    prediction = torch.nn.functional.normalize(torch.randn(64, 256, generator=torch.Generator().manual_seed(0)), dim=1)
    cosine = (prediction[:32] * prediction[32:]).sum(1)
    expected = ((cosine - targets["ssim"].flatten()) ** 2).mean()
    torch.testing.assert_close(parser.get_parsed_content("loss_function")(prediction, targets), expected)


def test_7_targets_are_pairwise_whatever_else_is_in_the_batch(clean):
    _, targets, parser = clean
    dataset, prepare = (parser.get_parsed_content(f"train::{name}") for name in ("dataset", "prepare_batch"))
    for place in (3, 17):
        a, b = targets["index"][place].tolist()
        alone = torch.utils.data.default_collate([dataset[a * 10 + b]])
        torch.testing.assert_close(prepare(alone, "cpu")[1]["ssim"].flatten(), targets["ssim"].flatten()[place : place + 1])


def test_8_targets_are_of_every_window_at_the_size_of_the_images(clean, folder):
    _, targets, _ = clean
    whole = files(folder)
    for place in range(3):
        a, b = (whole[row : row + 1] for row in targets["index"][place].tolist())
        (moved,) = _aligned(a, b)  # phi: b registered on a
        expected = windows_ssim(a[0, 0].double().numpy(), moved[0, 0].double().numpy())
        assert abs(float(targets["ssim"].flatten()[place]) - expected) < 0.01  # 8 bit on the way


def test_9_augmentation_is_the_papers_with_the_noise_of_its_figure(folder):
    parser = paper(folder)
    prepare = parser.get_parsed_content("train::prepare_batch")
    # An image without symmetry, with equal pixels in its empty corner: what noise alone can change.
    image = files(folder)[5:6].expand(600, -1, -1, -1)
    seen = prepare._augmented(image)
    corner = (
        seen[:, 0, 60:, 60:].flatten(1),
        seen[:, 0, :4, :4].flatten(1),
        seen[:, 0, :4, 60:].flatten(1),
        seen[:, 0, 60:, :4].flatten(1),
    )
    spread = torch.stack([part.std(1) for part in corner]).amin(0)
    noisy = float((spread > 1e-4).float().mean())
    assert abs(noisy - 0.33) < 0.07 and 0.05 < float(spread.amax()) < 0.2
    # Flips: where the mass lies.
    mass = (seen - seen.amin((2, 3), keepdim=True)).squeeze(1)
    for axis in (1, 2):
        first, second = (part.sum((1, 2)) for part in mass.split(32, axis))
        assert abs(float((second > first).float().mean()) - 0.33) < 0.07
    changes = parser["train::augmentation"]["transforms"]
    assert [one["prob"] for one in changes] == [0.33] * 5
    assert changes[2]["range_x"] == 0.17 and changes[3]["gamma"] == [0.5, 1.5]
    a, b = prepare._augmented(image[:8]), prepare._augmented(image[:8])
    assert not torch.equal(a, b)  # the two of a pair are augmented independently
    prepare.set_epoch(0)
    torch.testing.assert_close(prepare._augmented(image[:8]), seen[:8])  # and an epoch is the same after a restart


def test_10_freezing_random_weights_is_an_error(folder):
    with pytest.raises(InputError, match=r"'freeze'.*--pretrained FILE"), told_in_one_line():
        paper(folder, freeze=["stem", "stage1", "stage2"]).get_parsed_content("network")
    network = paper(folder, freeze=[]).get_parsed_content("network")  # what the message says to do
    assert all(parameter.requires_grad for name, parameter in network.named_parameters() if "backbone.layernorm" not in name)


# What else the recipe is.


def test_recipe_is_the_papers(folder):
    parser = paper(folder)
    network, optimizer = parser.get_parsed_content("network"), parser.get_parsed_content("optimizer")
    assert type(optimizer).__name__ == "AdamW" and optimizer.defaults["lr"] == optimizer.defaults["weight_decay"] == 1e-3
    plain = json.loads((ENCODER / "paper.json").read_text())
    assert (plain["max_epochs"], plain["batch_size"], plain["network_def"]["dropout"]) == (40, 32, 0.33)
    assert plain["freeze"] == ["stem", "stage1", "stage2"] and plain["network_def"]["hidden_sizes"] == [128, 256, 512, 1024]
    assert parser.get_parsed_content("train::named_handlers::clip").max_norm == 1.0
    schedule = parser.get_parsed_content("lr_scheduler")
    for _ in range(5):
        schedule.step()
    assert schedule.get_last_lr() == [1e-3] and not any(p.requires_grad for p in network.backbone.layernorm.parameters())


def test_second_images_may_be_a_generators(folder, cohort, tmp_path):
    for i in range(3):
        save_png(tmp_path / "made" / f"s{i}.png", cohort[20 + i])
    dataset = paper(folder, synthetic_dir=[str(tmp_path / "made")]).get_parsed_content("train::dataset")
    assert (dataset.rows, dataset.columns, len(dataset)) == (10, 3, 30) and dataset.cohorts.tolist() == [0] * 10 + [1] * 3
    assert [Path(dataset.paths[row]).name for row in dataset[3 * 3 + 1]["index"]] == ["p3.png", "s1.png"]


def test_ssim_depends_on_the_order_as_published():
    a = zscore(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) ** 4)
    b = zscore(torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(2)))
    assert float(published_ssim(a, a)) == pytest.approx(1.0) and abs(float(published_ssim(a, b) - published_ssim(b, a))) > 1e-4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "'batch_size'.*batch_size=0"),
        ({"batches": 2.5}, "'batches'.*batches=2.5"),
        ({"dataset_dir": []}, "'dataset_dir'.*Got 0"),
        ({"synthetic_dir": "one"}, "'synthetic_dir'.*Got 1"),
        ({"pretrained": "nowhere.pth"}, "'pretrained'.*does not exist"),
        ({"freeze": ["stage9"]}, "'freeze'.*stage9"),
    ],
)
def test_options_are_refused_in_one_line(folder, tmp_path, cohort, change, words):
    save_png(tmp_path / "one" / "s.png", cohort[1])
    change = {name: str(tmp_path / "one") if value == "one" else value for name, value in change.items()}
    parser = paper(folder, **change)
    with pytest.raises(DoppelscanError, match=words) as error, told_in_one_line():
        for name in ("train::sampler", "network"):
            parser.get_parsed_content(name)
    assert "\n" not in str(error.value)


SMALL = {"network_def::depths": [1, 1, 1, 1], "network_def::hidden_sizes": [4, 8, 8, 16], "spatial_size": SIZE}
FEW = {"pairs": 24, "copies": 3, "transforms": ["exact", "flip-x"], "spatial_size": SIZE}


def run(kind: str, files: list[str], cwd: Path, **overrides) -> None:
    """What ``python -m monai.bundle run --config_file FILES ...`` runs, in this process and from ``cwd``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        workflow = ConfigWorkflow([str(ROOT / one) for one in files], workflow_type=kind, logging_file=False, **overrides)
        workflow.initialize()
        workflow.run()


def documented(begin: str) -> tuple[list[str], dict]:
    """Config files and options of the command of docs/training.md that holds ``begin``."""
    page = (ROOT / "docs/training.md").read_text().replace("\\\n", " ")
    words = shlex.split(next(line for line in page.splitlines() if line.startswith("python -m monai.bundle run") and begin in line))
    options = dict(zip([one.removeprefix("--") for one in words[4::2]], words[5::2], strict=True))
    return ast.literal_eval(options.pop("config_file")), options


@pytest.fixture(scope="module")
def trained(folder) -> Path:
    """A small network of the published form, trained by the documented command from a file of ImageNet weights."""
    place = folder.parent
    torch.save(torchvision_state((1, 1, 1, 1), (4, 8, 8, 16)), place / "convnext.pth")
    files, options = documented("configs/paper.json")
    assert options == {"dataset_dir": "['DIR']", "pretrained": "FILE", "ckpt_dir": "weights", "output_dir": "published"}
    options |= {"dataset_dir": ["images"], "pretrained": "convnext.pth"}
    run("train", files, place, **options, max_epochs=1, batches=2, batch_size=4, **SMALL)
    return place


def test_published_form_trains_and_keeps_what_is_frozen(trained):
    state = torch.load(trained / "weights" / "model.pt", weights_only=True)
    given = torch.load(trained / "convnext.pth", weights_only=True)
    assert state["head.4.weight"].shape == (256, 512) and (trained / "published" / "training_1.pt").is_file()
    for stage, place in ((0, 1), (1, 3)):
        same = state[f"backbone.encoder.stages.{stage}.layers.0.dwconv.weight"], given[f"features.{place}.0.block.0.weight"]
        torch.testing.assert_close(*same, rtol=0, atol=0)
    assert not torch.equal(state["backbone.encoder.stages.3.layers.0.dwconv.weight"], given["features.7.0.block.0.weight"])


def embeddings(trained: Path, output: str, **overrides) -> np.ndarray:
    """float32 [10, D], in the order of the files."""
    files = [f"{CONFIGS}/{name}" for name in ("inference.json", "paper_inference.json")]
    run("infer", files, trained, dataset_dir="images", output_dir=output, **overrides)
    shard = pq.read_table(next((trained / output / "embeddings").glob("*.parquet"))).to_pydict()
    found = dict(zip(shard["key"], shard["embedding"], strict=True))
    table = csv.DictReader((trained / output / "images.csv").read_text().splitlines())
    return np.stack([np.ravel(found[key]) for _, key in sorted((row["image"], row["key"]) for row in table)])


def test_what_was_trained_embeds_whole_images_and_is_evaluated_as_documented(trained):
    network = ConvNeXtEncoder((1, 1, 1, 1), (4, 8, 8, 16)).eval()
    network.load_state_dict(torch.load(trained / "weights" / "model.pt", weights_only=True))
    with torch.no_grad():
        expected = network(files(trained / "images"))
    found = embeddings(trained, "embedded", ckpt_path="weights/model.pt", **SMALL)
    np.testing.assert_allclose(found[:, :256], expected, atol=5e-3)
    configs, options = documented("configs/paper_evaluate.json")
    run("infer", configs, trained, **{**options, "dataset_dir": ["images"]}, **{**FEW, **SMALL})
    assert (trained / "evaluation" / "evaluation.md").is_file()


class Released(torch.nn.Module):
    """Stands for best_model_jit.pt: [B, 3, H, W], z-scored and repeated, -> [B, 256], not of unit length."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 256, 5, stride=4)

    def forward(self, image):
        return self.convolution(image).mean([2, 3])


def test_authors_torchscript_embeds_and_is_evaluated_by_the_published_pairs(trained):
    torch.manual_seed(0)
    network = Released().eval()
    torch.jit.script(network).save(str(trained / "best_model_jit.pt"))
    weights = {"ckpt_path": "torchscript:best_model_jit.pt"}
    with torch.no_grad():
        expected = torch.nn.functional.normalize(network(files(trained / "images").expand(-1, 3, -1, -1)), dim=1)
    np.testing.assert_allclose(embeddings(trained, "theirs", **weights, spatial_size=SIZE)[:, :256], expected, atol=5e-3)
    configs, _ = documented("configs/paper_evaluate.json")
    run("infer", configs, trained, dataset_dir=["images"], output_dir="evaluated", **weights, **FEW)
    result = json.loads((trained / "evaluated" / "evaluation.json").read_text())
    assert list(result["summary"]) == ["deepssim"] and {"mae", "macro_f1"} <= set(result["agreement"]["misaligned"])
    assert result["detection"]["images"]["deepssim"]["exact"]["auc"] == 1.0
