"""The paper's ConvNeXt: the forward pass of torchvision's file written out, and files that are refused in one line."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from convnext_files import DEPTHS, SIZES, torchvision_state
from doppelscan.deepssim import ConvNeXtEncoder, DeepSSIMEncoder, WeightsError, file_sha256, start_from
from doppelscan.images import InputError
from safetensors.torch import save_file


def convnext(**changes):
    return ConvNeXtEncoder(**{"depths": DEPTHS, "hidden_sizes": SIZES, **changes})


def written_out(w: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """What torchvision's ``convnext.features`` computes of [B, 3, H, W] (Liu et al. 2022)."""

    def norm(x, name):  # over channels, at each place
        return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6).permute(0, 3, 1, 2)

    x = norm(F.conv2d(image, w["features.0.0.weight"], w["features.0.0.bias"], stride=4), "features.0.1")
    for stage, depth in enumerate(DEPTHS):
        if stage:
            name = f"features.{2 * stage}"
            x = F.conv2d(norm(x, f"{name}.0"), w[f"{name}.1.weight"], w[f"{name}.1.bias"], stride=2)
        for block in range(depth):
            name = f"features.{2 * stage + 1}.{block}"
            h = F.conv2d(x, w[f"{name}.block.0.weight"], w[f"{name}.block.0.bias"], padding=3, groups=x.shape[1])
            h = norm(h, f"{name}.block.2").permute(0, 2, 3, 1)
            h = F.linear(F.gelu(F.linear(h, w[f"{name}.block.3.weight"], w[f"{name}.block.3.bias"])), w[f"{name}.block.5.weight"])
            x = x + w[f"{name}.layer_scale"] * (h + w[f"{name}.block.5.bias"]).permute(0, 3, 1, 2)
    return x


def test_torchvisions_file_gives_torchvisions_features(tmp_path, caplog):
    state = torchvision_state()
    torch.save(state, tmp_path / "convnext.pth")
    with caplog.at_level(logging.INFO):
        network = convnext(pretrained=str(tmp_path / "convnext.pth")).eval()
    assert file_sha256(tmp_path / "convnext.pth") in caplog.text
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        found = network.backbone(image.expand(-1, 3, -1, -1)).last_hidden_state
        torch.testing.assert_close(found, written_out(state, image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)
        # Average pool, BatchNorm, Linear 512, GELU, (Dropout), Linear 256.
        pooled = (found.mean((2, 3)) - 0) / (1 + 1e-5) ** 0.5
        head = network.head[4](F.gelu(network.head[1](pooled)))
        torch.testing.assert_close(network(image), F.normalize(head, dim=1), atol=1e-5, rtol=1e-4)
    assert network(image).shape == (2, 256) and [type(m).__name__ for m in network.head] == [
        "BatchNorm1d", "Linear", "GELU", "Dropout", "Linear"
    ]  # fmt: skip


def test_a_transformers_file_and_its_folder_are_taken_too(tmp_path):
    backbone = convnext().backbone.state_dict()
    (tmp_path / "model").mkdir()
    saved = {f"convnext.{name}": value for name, value in backbone.items()} | {"classifier.weight": torch.zeros(3, 16)}
    save_file(saved, tmp_path / "model" / "model.safetensors")
    for path in ("model", "model/model.safetensors"):
        found = convnext(pretrained=str(tmp_path / path)).backbone.state_dict()
        assert all(torch.equal(found[name], value) for name, value in backbone.items())


def test_files_that_are_no_such_weights_are_refused_in_one_line(tmp_path):
    state = torchvision_state()
    torch.save(state, tmp_path / "convnext_base-00000000.pth")
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    (tmp_path / "text.pth").write_text("no weights")
    state["features.0.0.weight"] = torch.zeros(5, 3, 4, 4)
    torch.save(state, tmp_path / "other.pth")
    for name, words in {
        "missing.pth": "'pretrained'.*does not exist",
        "convnext_base-00000000.pth": "begins with 00000000",
        "resnet.pth": r"unexpected \['fc.weight'\]",
        "text.pth": "plain state dict",
        "other.pth": r"embeddings.patch_embeddings.weight \(5, 3, 4, 4\) not \(4, 3, 4, 4\)",
    }.items():
        with pytest.raises(WeightsError, match=words) as error:
            convnext(pretrained=str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_freezing_random_weights_is_refused_where_training_starts(tmp_path):
    frozen = convnext(freeze=("stem", "stage1"))
    with pytest.raises(InputError, match=r"'freeze'.*Got stem, stage1 with random ones: pass --pretrained FILE.*--freeze \"\[\]\""):
        start_from(frozen, None)
    assert start_from(convnext(), None) is not None
    torch.save(torchvision_state(), tmp_path / "convnext.pth")
    assert start_from(convnext(freeze=("stem",), pretrained=str(tmp_path / "convnext.pth")), None) is not None
    torch.save(frozen.state_dict(), tmp_path / "model.pt")
    assert start_from(frozen, tmp_path / "model.pt") is frozen
    with pytest.raises(InputError, match="--init_ckpt FILE"):  # the same of the other encoder
        start_from(DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), freeze=["stem"]), None)


def test_the_list_freezes_what_it_names_and_nothing_else():
    network = convnext(freeze=("stem", "stage1", "stage2"))
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    inside = ("backbone.embeddings", "backbone.encoder.stages.0", "backbone.encoder.stages.1", "backbone.layernorm")
    assert frozen == {name for name, _ in network.named_parameters() if name.startswith(inside)}
    assert all(p.requires_grad for p in network.head.parameters())
    with pytest.raises(InputError, match="stage9"):
        convnext(freeze=("stage9",))


@pytest.mark.parametrize("wrong", [{"depths": (1, 1)}, {"dropout": 1.0}, {"drop_path": -0.1}])
def test_sizes_and_rates_that_cannot_be_are_refused(wrong):
    with pytest.raises(InputError, match="must be"):
        convnext(**wrong)


def test_stochastic_depth_rises_to_the_rate_of_the_last_block():
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in convnext().backbone.encoder.stages for block in stage.layers]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.5, 5))
