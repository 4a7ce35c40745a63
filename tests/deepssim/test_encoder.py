"""The encoder: sizes, poses, weights."""

from __future__ import annotations

import json

import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, WeightsError, file_sha256, load_weights, quarter_turn_poses
from doppelscan.publish import list_checksum


def small(**changes):
    return DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4, **changes)


def test_outputs_lie_where_their_slices_say():
    network = small(outputs=["layer2", "embedding", "deepssim"], feature_grid=2).eval()
    out = network(torch.randn(3, 1, 64, 64))
    assert out.shape == (3, 8 * 4 + 12 + 12)
    for name in ("embedding", "deepssim"):
        torch.testing.assert_close(out[:, network.output_slices[name]].norm(dim=1), torch.ones(3))


def test_outputs_do_not_depend_on_what_else_is_asked_for():
    both, one = small().eval(), small(outputs=["embedding"]).eval()
    one.load_state_dict(both.state_dict())
    image = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(one(image), both(image)[:, both.output_slices["embedding"]])


def test_unknown_output_is_refused():
    with pytest.raises(ValueError, match="layer9"):
        small(outputs=["layer9"])


def test_an_embedding_does_not_depend_on_its_batch():
    network = small().eval()
    images = torch.randn(5, 1, 64, 64)
    together = network(images)
    alone = torch.cat([network(i[None]) for i in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_8_poses_are_different_and_complete():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    poses = quarter_turn_poses(image)
    assert poses.shape == (8, 1, 1, 3, 3) and len({tuple(p.flatten().tolist()) for p in poses}) == 8
    torch.testing.assert_close(poses[0], image)
    torch.testing.assert_close(poses[4], image.flip(-1))
    torch.testing.assert_close(poses[1], torch.rot90(image, 1, (-2, -1)))


def test_weights_with_another_sha256_are_refused(tmp_path):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    list_checksum(tmp_path / "model.pt")
    load_weights(small(), tmp_path / "model.pt")
    assert json.loads((tmp_path / "checksums.json").read_text())["model.pt"] == file_sha256(tmp_path / "model.pt")
    changed = bytearray((tmp_path / "model.pt").read_bytes())
    changed[-200] ^= 1
    (tmp_path / "model.pt").write_bytes(changed)
    with pytest.raises(WeightsError, match="sha256"):
        load_weights(small(), tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n" * 3, b"junk\n", b""])
def test_damaged_weights_are_told_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="plain state dict") as error:
        load_weights(small(), tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    state = small().state_dict()
    state["stem.0.weight"].view(-1)[3] = value
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"must be finite.*1 tensors, such as stem\.0\.weight"):
        load_weights(small(), tmp_path / "model.pt")


def test_a_value_that_is_not_fitted_yet_is_no_damage(tmp_path):
    class Scorer(torch.nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("null", torch.full((3,), torch.nan))

    torch.save(Scorer().state_dict(), tmp_path / "model.pt")
    assert load_weights(Scorer(), tmp_path / "model.pt").null.isnan().all()


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_list_of_checksums_is_told_in_one_line(tmp_path, text):
    torch.save(small().state_dict(), tmp_path / "model.pt")
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(WeightsError, match=r"checksums\.json.*restore it") as error:
        load_weights(small(), tmp_path / "model.pt")
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_list_their_keys(tmp_path):
    torch.save(DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 2), embedding_size=12).state_dict(), tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="another architecture") as error:
        load_weights(small(), tmp_path / "a.pt")
    assert "stages.3.1" in str(error.value) and "\n" not in str(error.value)


def test_weights_of_another_width_say_how_to_build_their_network(tmp_path):
    torch.save(DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), embedding_size=20).state_dict(), tmp_path / "wide.pt")
    with pytest.raises(WeightsError, match=r"as they were trained \(--network_def::embedding_size 20;"):
        load_weights(small(), tmp_path / "wide.pt")


class Attack:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickled_code_and_missing_files_are_refused(tmp_path, capsys):
    torch.save({"model": Attack()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError):
        load_weights(small(), tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out
    with pytest.raises(WeightsError, match="does not exist"):
        load_weights(small(), tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(WeightsError):
        load_weights(small(), tmp_path / "text.pt")


def test_only_what_is_not_frozen_is_trained():
    network = small(freeze=["stem", "stages", "reduce", "neck", "heads.embedding"])
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("heads.deepssim") for name in trained)
    with pytest.raises(ValueError, match="'head'"):
        small(freeze=["head"])


@pytest.mark.parametrize(
    ("backbone", "channels", "blocks"), [("bottleneck", (4, 8, 8, 16), (1, 1, 1, 1)), ("densenet", (8,), (2, 2, 2, 2))]
)
def test_other_backbones_have_the_same_outputs_and_can_be_scripted(backbone, channels, blocks):
    network = DeepSSIMEncoder(
        backbone=backbone, channels=channels, blocks=blocks, embedding_size=12, outputs=["embedding", "layer2"]
    ).eval()
    out = torch.jit.script(network)(torch.randn(2, 1, 64, 64))
    assert out.shape[1] == sum(network.output_sizes.values())
    with pytest.raises(ValueError, match="vgg"):
        DeepSSIMEncoder(backbone="vgg")
