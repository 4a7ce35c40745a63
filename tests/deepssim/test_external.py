"""Encoders from elsewhere: released TorchScript, exports."""

from __future__ import annotations

import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, OnnxEncoder, TorchScriptEncoder, WeightsError, load_encoder
from doppelscan.search import fingerprint


class Released(torch.nn.Module):
    """Stands for best_model_jit.pt: [B, 3, H, W] -> [B, 256]."""

    def __init__(self, size: int = 256, channels: int = 3):
        super().__init__()
        self.convolution = torch.nn.Conv2d(channels, size, 5, stride=4)

    def forward(self, image):
        return self.convolution(image).mean([2, 3])


def scripted(path, network):
    torch.jit.script(network.eval()).save(str(path))
    return path


def test_released_torchscript_is_an_encoder(tmp_path):
    network = Released()
    found = load_encoder(DeepSSIMEncoder(), f"torchscript:{scripted(tmp_path / 'best_model_jit.pt', network)}")
    image = torch.randn(3, 1, 64, 64)
    expected = torch.nn.functional.normalize(network(image.repeat(1, 3, 1, 1)), dim=1)
    torch.testing.assert_close(found(image)[:, :256], expected)
    assert found.output_slices == {"deepssim": slice(0, 256), "embedding": slice(0, 256), "layer output": slice(256, 512)}


def test_our_own_export_keeps_its_two_outputs(tmp_path):
    network = DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4).eval()
    image = torch.randn(2, 1, 64, 64)
    for declared in (network.output_slices, None):  # the file knows them too
        found = TorchScriptEncoder(scripted(tmp_path / "model.ts", network), declared)
        assert found.output_slices == network.output_slices
        torch.testing.assert_close(found(image), network(image))


class Map(torch.nn.Module):
    def forward(self, image):
        return image


class Five(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(5, 4, 3)

    def forward(self, image):
        return self.convolution(image).mean([2, 3])


@pytest.mark.parametrize(
    ("network", "message"), [(Map(), "one vector an image"), (Five(), r"must take float32 \[B, 1, 128, 128\] or \[B, 3")]
)
def test_torchscript_of_other_shapes_is_refused(tmp_path, network, message):
    with pytest.raises(WeightsError, match=message):
        TorchScriptEncoder(scripted(tmp_path / "other.pt", network))


def test_roles_can_be_given_to_a_torchscript_file(tmp_path):
    network = DeepSSIMEncoder(
        channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4, outputs=["embedding", "layer4"]
    ).eval()
    found = load_encoder(None, f"torchscript:{scripted(tmp_path / 'model.ts', network)}", roles={"deepssim": "embedding"})
    assert list(found.output_slices) == ["deepssim", "embedding", "layer4"]
    image = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(found(image), network(image))


def test_two_files_and_two_exports_have_two_fingerprints(tmp_path):
    made = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = Released(8)
        made.append((fingerprint(TorchScriptEncoder(scripted(tmp_path / f"{len(made)}.ts", network))), network))
    assert made[0][0] != made[2][0]
    assert made[0][0] == fingerprint(TorchScriptEncoder(tmp_path / "0.ts"))
    onnx = [fingerprint(load_encoder(network, None, "onnx")) for _, network in made]
    assert onnx[0] == onnx[1] != onnx[2]


def test_what_is_no_torchscript_is_refused_in_one_line(tmp_path):
    torch.save({"model": {}}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="must be a TorchScript file") as error:
        TorchScriptEncoder(tmp_path / "model.pt")
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match="does not exist"):
        load_encoder(DeepSSIMEncoder(), "torchscript:nowhere.pt")


def test_onnx_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match="must be an ONNX model"):
        OnnxEncoder(tmp_path / "model.onnx", {})
