"""The encoder of slices as a network of volumes: the same rows as in Python, in TorchScript and in ONNX."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, VolumeEncoder, VolumeSliceInferer, cube_slices, export_onnx, load_weights, zscore
from doppelscan.errors import InputError, WeightsError
from doppelscan.images import axis_pose, generate_volumes
from doppelscan.memorization import MemorizationIndex, MemorizationScorer


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), outputs=["deepssim", "embedding", "layer4"]).eval()


@pytest.fixture(scope="module")
def cubes():
    return generate_volumes(3, 32, 7)[0].float() / 255


def rows(encoder, cubes, poses=1):
    with torch.no_grad():
        return VolumeSliceInferer(encoder.output_slices, poses, 0.0, False)(cubes, encoder)


@pytest.mark.parametrize("poses", [1, 48])
def test_torchscript_and_onnx_give_the_rows_of_python_for_any_batch(encoder, cubes, poses):
    network = VolumeEncoder(encoder, poses).eval()
    wanted = rows(encoder, cubes, poses)
    wanted = wanted[:, 0] if poses == 1 else wanted
    with torch.no_grad():
        torch.testing.assert_close(network(cubes), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.jit.script(network)(cubes), wanted, atol=1e-5, rtol=0)
    file = io.BytesIO()
    export_onnx(network, cubes[:2], file)
    session = onnxruntime.InferenceSession(file.getvalue())
    for count in (1, 3):
        found = session.run(None, {"image": cubes[:count].numpy()})[0]
        np.testing.assert_allclose(found, wanted[:count].numpy(), atol=1e-5)


def test_one_file_of_weights_serves_slices_and_volumes(encoder, tmp_path):
    torch.save(encoder.state_dict(), tmp_path / "model.pt")
    other = DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), outputs=["deepssim", "embedding", "layer4"])
    network = load_weights(VolumeEncoder(other), tmp_path / "model.pt")
    assert list(network.state_dict()) == list(encoder.state_dict())
    assert all(torch.equal(network.state_dict()[name], value) for name, value in encoder.state_dict().items())
    torch.save({name: value for name, value in encoder.state_dict().items() if name != "reduce.bias"}, tmp_path / "less.pt")
    with pytest.raises(WeightsError, match="1 missing keys"):
        load_weights(VolumeEncoder(other), tmp_path / "less.pt")


def test_the_inferer_takes_the_slices_of_either(encoder, cubes):
    network = VolumeEncoder(encoder)
    inferer = VolumeSliceInferer(network.slice_encoder.output_slices)
    assert inferer.output_slices == network.output_slices
    with torch.no_grad():
        torch.testing.assert_close(inferer(cubes[:1], network), inferer(cubes[:1], encoder))


def test_slices_are_those_of_bilinear_interpolation(cubes):
    planes = torch.movedim(cubes[:, 0], 2, 1)[:, 15:17].mean(1, keepdim=True)
    wanted = zscore(torch.nn.functional.interpolate(planes, (80, 80), mode="bilinear"))
    torch.testing.assert_close(cube_slices(cubes, (0.0,), 80)[:, 1:2], wanted, atol=1e-4, rtol=1e-4)


def test_poses_that_there_are_not_are_refused(encoder):
    with pytest.raises(InputError, match=r"'poses'.*1 or 48. Got 8"):
        VolumeEncoder(encoder, 8)
    with pytest.raises(InputError, match=r"'poses'.*1 or 48. Got 8"):
        MemorizationScorer(VolumeEncoder(encoder), 8)
    with pytest.raises(InputError, match=r"'places'"):
        VolumeEncoder(encoder, places=(0.1, 0.2))


def test_a_scorer_of_volumes_is_the_index_in_48_poses_in_every_runtime(cubes):
    torch.manual_seed(1)
    encoder = DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), outputs=["layer3", "layer4"], feature_grid=1).eval()
    network = VolumeEncoder(encoder).eval()
    training = generate_volumes(10, 24, 5)[0].float() / 255
    inferer = VolumeSliceInferer(encoder.output_slices, 48, 0.0, False, spatial_size=128)
    with torch.no_grad():
        posed = inferer(training, network).numpy()
        queries = torch.cat([axis_pose(training[3:4], 29), generate_volumes(1, 24, 6)[0].float() / 255])
        asked = inferer(queries, network).numpy()
    parts = network.output_slices
    index = MemorizationIndex(folds=5).fit(
        {name: posed[:, 0, part] for name, part in parts.items()},
        range(10),
        {name: posed[..., part] for name, part in parts.items()},
    )
    scores = index.score({name: asked[..., part] for name, part in parts.items()})
    assert scores.match[0] == 3
    wanted = np.stack([scores.similarity, scores.mi, scores.oni], 1)
    scorer = MemorizationScorer(network, 48).fill(index).eval()
    assert network.poses == 1
    file = io.BytesIO()
    export_onnx(scorer, queries, file)
    session = onnxruntime.InferenceSession(file.getvalue())
    with torch.no_grad():
        for found in (
            scorer(queries).numpy(),
            torch.jit.script(scorer)(queries).numpy(),
            session.run(None, {"image": queries.numpy()})[0],
        ):
            np.testing.assert_allclose(found[:, 0], wanted[:, 0], atol=1e-4)
            np.testing.assert_allclose(found[:, 1:], wanted[:, 1:], atol=2e-2, rtol=1e-3)
