"""Encoders from files and folders, against a call by hand of a model with random weights; nothing is downloaded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError, WeightsError
from doppelscan.rivals import CLIP_PREPARATION, SSCD_PREPARATION, ScriptEmbedder, TransformersEmbedder, embedder_of
from PIL import Image

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]


def preprocessor(**more):
    return {
        "do_resize": True,
        "size": {"height": 28, "width": 28},
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
        **more,
    }


def save(model, folder, **more):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(**more)))
    return folder


def by_hand(images, side=28, mean=MEAN, std=STD):
    """Resized by Pillow, repeated to RGB, normalised: what the image processors of transformers do, without their 8 bit."""
    made = [np.asarray(Image.fromarray(i).resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1) for i in images[:, 0].numpy()]
    return torch.stack([torch.stack([(torch.from_numpy(i) - m) / s for m, s in zip(mean, std, strict=True)]) for i in made])


@pytest.fixture
def images(cohort):
    return torch.from_numpy(cohort[:5])[:, None]


def seeded(made):
    torch.manual_seed(3)
    return made().eval()


@torch.no_grad()
def test_dinov2_gives_its_normalised_class_token(tmp_path, images):
    """RAD-DINO is a Dinov2Model too."""
    model = seeded(lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)))
    found = TransformersEmbedder(save(model, tmp_path))(images)
    expected = model(pixel_values=by_hand(images)).last_hidden_state[:, 0]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_dinov3_gives_its_pooled_output(tmp_path, images):
    config = transformers.DINOv3ViTConfig(
        **{**SMALL, "image_size": 32, "patch_size": 16}, intermediate_size=64, num_register_tokens=2
    )
    model = seeded(lambda: transformers.DINOv3ViTModel(config))
    found = TransformersEmbedder(save(model, tmp_path, size={"height": 32, "width": 32}))(images)
    torch.testing.assert_close(found, model(pixel_values=by_hand(images, 32)).pooler_output, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_clip_gives_its_projected_image_embedding(tmp_path, images):
    vision = {**SMALL, "intermediate_size": 64}
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = seeded(lambda: transformers.CLIPModel(config))
    folder = save(model, tmp_path, size={"shortest_edge": 28}, do_center_crop=True, crop_size={"height": 28, "width": 28})
    hidden = model.vision_model(pixel_values=by_hand(images)).pooler_output
    found = TransformersEmbedder(folder)(images)
    assert found.shape == (5, 16)
    torch.testing.assert_close(found, model.visual_projection(hidden), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_convnext_gives_its_pooled_map(tmp_path, images):
    config = transformers.ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16])
    model = seeded(lambda: transformers.ConvNextModel(config))
    found = TransformersEmbedder(save(model, tmp_path, size={"shortest_edge": 64}))(images)
    torch.testing.assert_close(found, model(pixel_values=by_hand(images, 64)).pooler_output.flatten(1), atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_a_pooler_that_the_folder_has_no_weights_for_is_not_used(tmp_path, images):
    """transformers fills it with random numbers, other ones every time."""
    config = transformers.ViTConfig(**SMALL, intermediate_size=64)
    model = seeded(lambda: transformers.ViTModel(config, add_pooling_layer=False))
    folder = save(model, tmp_path)
    found = [TransformersEmbedder(folder)(images) for _ in range(2)]
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)
    torch.testing.assert_close(found[0], model(pixel_values=by_hand(images)).last_hidden_state[:, 0], atol=2e-4, rtol=1e-3)


def test_the_middle_is_cut_out_as_the_folder_says(tmp_path, images):
    model = seeded(lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)))
    folder = save(model, tmp_path, size={"shortest_edge": 40}, do_center_crop=True, crop_size={"height": 28, "width": 28})
    prepared = TransformersEmbedder(folder).preparation(images)
    torch.testing.assert_close(prepared, by_hand(images, 40)[..., 6:34, 6:34], atol=1e-4, rtol=1e-4)


def test_more_images_than_a_batch_are_embedded_alike(tmp_path, images, monkeypatch):
    embedder = TransformersEmbedder(save(seeded(lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))), tmp_path))
    whole = embedder(images)
    monkeypatch.setattr("doppelscan.rivals.encoders.BATCH", 2)
    torch.testing.assert_close(embedder(images), whole, atol=1e-5, rtol=1e-4)


class TestFoldersThatAreRefused:
    @pytest.fixture
    def folder(self, tmp_path):
        return save(transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)), tmp_path / "model")

    def test_of_open_clip_with_what_to_do(self, tmp_path):
        (tmp_path / "open_clip_config.json").write_text("{}")
        with pytest.raises(InputError, match=r"Got one of open_clip; pass its image tower as TorchScript"):
            embedder_of(tmp_path)

    def test_empty(self, tmp_path):
        with pytest.raises(InputError, match=r"Got no config\.json"):
            embedder_of(tmp_path)

    def test_that_do_not_say_how_images_are_prepared(self, folder):
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(InputError, match=r"must hold preprocessor_config\.json"):
            embedder_of(folder)

    def test_without_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(WeightsError, match="must be of a transformers model"):
            embedder_of(folder)

    def test_with_half_the_weights(self, folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        save_file({k: v for k, v in weights.items() if "layer.1" not in k}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match="must hold all weights of the model"):
            embedder_of(folder)


class Descriptor(torch.nn.Module):
    """An encoder of RGB images, such as SSCD."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(channels, 8, 5, 4)

    def forward(self, image):
        return torch.nn.functional.adaptive_avg_pool2d(self.convolution(image), 3).flatten(1)


def script(path, network):
    torch.jit.script(network.eval()).save(str(path))
    return path


@torch.no_grad()
@pytest.mark.parametrize(("preparation", "side"), [(SSCD_PREPARATION, 288), (CLIP_PREPARATION, 224)])
def test_a_descriptor_of_photographs_gets_its_own_size_mean_and_std(tmp_path, images, preparation, side):
    network = Descriptor()
    found = ScriptEmbedder(script(tmp_path / "d.ts", network), preparation)(images)
    expected = network(by_hand(images, side, preparation.mean, preparation.std))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("channels", [1, 3])
def test_any_other_script_gets_the_whole_image_z_scored(tmp_path, images, channels):
    network = Descriptor(channels)
    found = embedder_of(script(tmp_path / "d.ts", network))(images)
    whole = torch.nn.functional.interpolate(images, (128, 128), mode="bilinear", antialias=True)
    z = (whole - whole.mean((1, 2, 3), keepdim=True)) / whole.std((1, 2, 3), keepdim=True, unbiased=False)
    expected = torch.nn.functional.normalize(network(z.expand(-1, channels, -1, -1)), dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_file_that_is_not_there_or_no_script(tmp_path):
    with pytest.raises(InputError, match="which does not exist"):
        embedder_of(tmp_path / "nowhere.ts")
    (tmp_path / "text.ts").write_text("no")
    with pytest.raises(WeightsError, match="must be a TorchScript file"):
        embedder_of(tmp_path / "text.ts")
