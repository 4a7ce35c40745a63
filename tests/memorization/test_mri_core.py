"""MRI-CORE's file format: a randomly initialised SAM ViT-B under the original key names, with and without adapters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import WeightsError, load_encoder, require_heads
from doppelscan.memorization import MRICoreEncoder, load_mri_core
from sam_files import sam_state

SMALL = {"hidden_size": 24, "layers": 3, "heads": 3, "window": 3, "blocks": (0, 2)}


def written_out(state, image, heads=3, window=3, layers=3, blocks=(0, 2)) -> torch.Tensor:
    """The SAM image encoder of square ``image`` [1, 1, S, S], by its definition (Kirillov et al. 2023; ViTDet, Li et al. 2022)."""
    w = {name.removeprefix("image_encoder."): value for name, value in state.items()}
    linear = lambda x, name: x @ w[f"{name}.weight"].T + w[f"{name}.bias"]  # noqa: E731
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)  # noqa: E731
    adapter = lambda x, name: linear(F.gelu(linear(x, f"{name}.D_fc1")), f"{name}.D_fc2")  # noqa: E731
    scaled = (image - image.min()) / (image.max() - image.min())
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (scaled.expand(1, 3, -1, -1) - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    x = F.conv2d(pixels, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 16).permute(0, 2, 3, 1) + w["pos_embed"]
    found = []
    for i in range(layers):
        name, side = f"blocks.{i}", x.shape[1]
        h, cell = norm(x, f"{name}.norm1"), side if i % 3 == 2 else window
        cells = -(-side // cell)
        h = F.pad(h, (0, 0, 0, cells * cell - side, 0, cells * cell - side))
        out = torch.zeros_like(h)
        for r in range(0, cells * cell, cell):
            for c in range(0, cells * cell, cell):
                tokens = h[0, r : r + cell, c : c + cell].reshape(cell * cell, -1)
                q, k, v = linear(tokens, f"{name}.attn.qkv").view(cell * cell, 3, heads, -1).permute(1, 2, 0, 3)
                weight = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
                if f"{name}.attn.rel_pos_h" in w:
                    y, z = np.divmod(np.arange(cell * cell), cell)
                    down = w[f"{name}.attn.rel_pos_h"][y[:, None] - y[None] + cell - 1]
                    along = w[f"{name}.attn.rel_pos_w"][z[:, None] - z[None] + cell - 1]
                    weight = weight + torch.einsum("hqc,qkc->hqk", q, down) + torch.einsum("hqc,qkc->hqk", q, along)
                mixed = (weight.softmax(-1) @ v).permute(1, 0, 2).reshape(cell, cell, -1)
                out[0, r : r + cell, c : c + cell] = linear(mixed, f"{name}.attn.proj")
        if f"{name}.Space_Adapter.D_fc1.weight" in w:
            out = out + adapter(out, f"{name}.Space_Adapter")
        x = x + out[:, :side, :side]
        h = norm(x, f"{name}.norm2")
        mlp = linear(F.gelu(linear(h, f"{name}.mlp.lin1")), f"{name}.mlp.lin2")
        x = x + mlp + (0.5 * adapter(h, f"{name}.MLP_Adapter") if f"{name}.MLP_Adapter.D_fc1.weight" in w else 0)
        if i in blocks:
            found.append(x.mean((1, 2)))
    return torch.cat(found, 1)


@pytest.mark.parametrize(("adapters", "relative"), [((), True), ((), False), ((0, 1), True), ((2,), False)])
def test_features_are_those_of_the_original_encoder(tmp_path, adapters, relative):
    state = sam_state(adapters=adapters, relative=relative)
    torch.save(state, tmp_path / "sam.pth")
    network = load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth")
    image = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(1)) * 7 - 2
    with torch.no_grad():
        torch.testing.assert_close(network(image), written_out(state, image), atol=2e-4, rtol=1e-3)
    assert network.output_slices == {"block0": slice(0, 24), "block2": slice(24, 48)}


def test_vit_b_under_its_original_names_loads_and_gives_three_layers(tmp_path):
    torch.save(sam_state(768, 12, 16, 14, 12, adapters=(0, 1, 2, 3)), tmp_path / "vit_b.pth")
    network = load_mri_core(MRICoreEncoder(128), tmp_path / "vit_b.pth")  # saved for 256 px: positions are interpolated
    with torch.no_grad():
        found = network(torch.rand(2, 1, 128, 128))
    assert found.shape == (2, 3 * 768) and torch.isfinite(found).all()
    assert list(network.output_slices) == ["block3", "block7", "block11"]


def test_positions_are_interpolated_to_the_image_size(tmp_path):
    state = sam_state()
    ramp = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 8, 24)
    state["image_encoder.pos_embed"] = ramp
    torch.save({"model": state}, tmp_path / "sam.pth")
    found = load_mri_core(MRICoreEncoder(256, **SMALL), tmp_path / "sam.pth").sam.pos_embed
    expected = F.interpolate(torch.arange(8.0).view(1, 1, 8), 16, mode="linear", align_corners=False).flatten()
    assert found.shape == (1, 16, 16, 24)
    torch.testing.assert_close(found[0, :, 5, 3], expected)


def test_positions_with_a_class_token_are_laid_on_the_grid(tmp_path):
    state = sam_state()
    grid = state["image_encoder.pos_embed"]
    state["image_encoder.pos_embed"] = torch.cat([torch.zeros(1, 1, 24), grid.view(1, 64, 24)], 1)
    torch.save(state, tmp_path / "sam.pth")
    assert torch.equal(load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth").sam.pos_embed, grid)


def test_missing_and_unexpected_keys_are_listed(tmp_path):
    state = sam_state()
    del state["image_encoder.blocks.1.attn.qkv.weight"]
    state["image_encoder.blocks.1.attn.extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "sam.pth")
    with pytest.raises(
        WeightsError, match=r"1 missing keys \['layers.1.attn.qkv.weight'\], 1 unexpected \['layers.1.attn.extra'\]"
    ):
        load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth")


@pytest.mark.parametrize("wrong", [{"size": 48, "heads": 3}, {"layers": 4}, {"window": 5}])
def test_another_architecture_is_refused(tmp_path, wrong):
    torch.save(sam_state(**wrong), tmp_path / "sam.pth")
    with pytest.raises(WeightsError, match="another architecture"):
        load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth")


def test_files_that_are_no_weights_are_told_in_one_line(tmp_path):
    (tmp_path / "text").write_text("no weights")
    torch.save({"model": {"a": "text"}}, tmp_path / "other.pth")
    for name in ("text", "other.pth", "missing"):
        with pytest.raises(WeightsError) as error:
            load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / name)
        assert "\n" not in str(error.value)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="multiple of 16"):
        MRICoreEncoder(100, **SMALL)
    with pytest.raises(ValueError, match="from 0 to 2"):
        MRICoreEncoder(128, **{**SMALL, "blocks": (3,)})


def test_mri_core_plays_every_role_of_an_audit(tmp_path):
    torch.save(sam_state(), tmp_path / "sam.pth")
    found = load_encoder(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth", spatial_size=128)
    require_heads(found.output_slices)
    assert list(found.output_slices) == ["deepssim", "embedding", "layer block0", "layer block2"]
    image = torch.rand(2, 1, 128, 128)
    with torch.no_grad():
        made, expected = found(image), load_mri_core(MRICoreEncoder(128, **SMALL), tmp_path / "sam.pth")(image)
    torch.testing.assert_close(made[:, found.output_slices["embedding"]], F.normalize(expected[:, 24:], dim=1))
    torch.testing.assert_close(made[:, found.output_slices["layer block0"]], expected[:, :24])
