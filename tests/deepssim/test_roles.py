"""Any network as an encoder: which of its outputs plays which role, or one line that says what is missing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import DeepSSIMEncoder, OnnxEncoder, RoleEncoder, WeightsError, load_encoder, require_heads
from doppelscan.errors import InputError
from monai.networks.nets import DenseNet121, EfficientNetBN, ResNet, ResNetFeatures, ViT

IMAGE = torch.randn(3, 1, 64, 64)


def resnet(channels=1, size=10):
    torch.manual_seed(0)
    return ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 16], spatial_dims=2, n_input_channels=channels, num_classes=size)


def small(**changes):
    return DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4, **changes)


@pytest.mark.parametrize("channels", [1, 3])
def test_one_pooled_output_plays_every_role(channels):
    network = resnet(channels).eval()
    found = load_encoder(network, None, spatial_size=64)
    expected = network(IMAGE.expand(-1, channels, -1, -1))
    made = {role: found(IMAGE)[:, part] for role, part in found.output_slices.items()}
    assert list(made) == ["deepssim", "embedding", "layer output"]
    torch.testing.assert_close(made["deepssim"], F.normalize(expected, dim=1))
    torch.testing.assert_close(made["embedding"], made["deepssim"])
    torch.testing.assert_close(made["layer output"], expected)
    assert found(IMAGE).shape == (3, 20)  # both heads lie at one place
    require_heads(found.output_slices)


def efficientnet():
    network = EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=3, num_classes=16)
    torch.nn.init.normal_(network._fc.bias)  # untrained it gives zeros
    return network


NETWORKS = {
    "DenseNet": lambda: DenseNet121(2, 1, 16, init_features=8, growth_rate=4, block_config=(1, 1, 1, 1)),
    "EfficientNet": lambda: efficientnet(),
    "features of a ResNet": lambda: ResNetFeatures("resnet10", pretrained=False, spatial_dims=2, in_channels=1),
    "ViT": lambda: ViT(1, (64, 64), (16, 16), 24, 48, 2, 3, classification=False, spatial_dims=2),
    "own class": lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 8, 5, 4), torch.nn.Tanh()),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_other_networks_are_taken_as_they_are(make):
    found = RoleEncoder(make(), spatial_size=64)
    with torch.no_grad():
        out = found(IMAGE)
    assert out.shape == (3, max(part.stop for part in found.output_slices.values())) and torch.isfinite(out).all()
    require_heads(found.output_slices)
    for role in ("deepssim", "embedding"):
        torch.testing.assert_close(out[:, found.output_slices[role]].norm(dim=1), torch.ones(3))


def test_modules_are_layers_by_their_path_and_maps_are_averaged():
    network = resnet().eval()
    found = RoleEncoder(network, {"layers": ["layer2", "layer3.0.conv1"]}, 64)
    seen = {}
    network.layer2.register_forward_hook(lambda module, inputs, output: seen.update(layer2=output))
    out = found(IMAGE)
    assert list(found.output_slices) == ["deepssim", "embedding", "layer2", "layer3.0.conv1"]
    torch.testing.assert_close(out[:, found.output_slices["layer2"]], seen["layer2"].mean((2, 3)))
    assert not [hook for module in (network.layer3[0].conv1,) for hook in module._forward_hooks]


def test_roles_are_given_to_declared_outputs():
    network = small(outputs=["embedding", "layer3", "layer4"]).eval()
    with pytest.raises(InputError, match=r"without deepssim, with embedding, layer3, layer4; .*--roles") as told:
        require_heads(load_encoder(network, None).output_slices)
    assert "\n" not in str(told.value)
    found = load_encoder(network, None, roles={"deepssim": "embedding", "layers": ["layer4"]})
    assert list(found.output_slices) == ["deepssim", "embedding", "layer4"] and found.channels == 1
    out, expected = found(IMAGE), network(IMAGE)
    for role in ("deepssim", "embedding"):
        torch.testing.assert_close(out[:, found.output_slices[role]], expected[:, network.output_slices["embedding"]])
    torch.testing.assert_close(out[:, found.output_slices["layer4"]], expected[:, network.output_slices["layer4"]])


def test_an_encoder_with_its_roles_is_taken_as_it_is():
    network = small()
    assert load_encoder(network, None) is network and not network.training


class Odd(torch.nn.Module):
    """Gives what no encoder gives."""

    def __init__(self, give):
        super().__init__()
        self.give = give

    def forward(self, image):
        return self.give(image)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x, "one vector an image"),
        (lambda x: x.mean(), r"one vector an image.* Got \[\] for 2 images"),
        (lambda x: x.mean(0), "one vector an image"),
        (lambda x: None, "one vector an image.* Got NoneType"),
        (lambda x: x @ torch.zeros(5, 5), r"must take float32 \[B, 1, 64, 64\] or \[B, 3, 64, 64\]. Got an error"),
    ],
)
def test_what_is_no_embedding_network_is_told_in_one_line(give, message):
    with pytest.raises(WeightsError, match=message) as told:
        RoleEncoder(Odd(give), None, 64)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"head": "output"}, "must map some of deepssim, embedding, layers. Got head"),
        ({"layers": ["layer9"]}, r"Got 'layer9' for layers; its outputs are output\."),
        ({"deepssim": 3}, "Got '3' for deepssim"),
    ],
)
def test_roles_that_do_not_exist_are_told_in_one_line(roles, message):
    with pytest.raises(InputError, match=message) as told:
        RoleEncoder(resnet(), roles, 64)
    assert "\n" not in str(told.value)


def test_a_volume_network_is_refused():
    with pytest.raises(WeightsError, match="must take float32"):
        load_encoder(ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 16], n_input_channels=1), None)


def test_what_is_no_network_is_told():
    with pytest.raises(InputError, match=r"'network_def' parameter must be a PyTorch network. Got dict"):
        load_encoder({"spatial_dims": 2}, None)


def test_weights_of_another_network_say_how_to_name_its_own(tmp_path):
    torch.save(small().state_dict(), tmp_path / "ours.pt")
    with pytest.raises(
        WeightsError, match=r"another architecture: build the network as they were trained \(--network_def;"
    ) as told:
        load_encoder(resnet(), tmp_path / "ours.pt")
    assert "\n" not in str(told.value)
    torch.save({"state_dict": resnet().state_dict(), "epoch": 3}, tmp_path / "own.pt")
    assert load_encoder(resnet(), tmp_path / "own.pt", spatial_size=64).output_slices["embedding"] == slice(0, 10)


def test_a_plain_network_runs_in_onnxruntime():
    plain = load_encoder(resnet(3), None, roles={"layers": ["layer3"]}, spatial_size=64)
    found = load_encoder(resnet(3), None, "onnx", roles={"layers": ["layer3"]}, spatial_size=64)
    assert isinstance(found, OnnxEncoder) and found.output_slices == plain.output_slices
    with torch.no_grad():
        torch.testing.assert_close(found(IMAGE), plain(IMAGE), atol=1e-5, rtol=1e-4)
