"""The scoring network: the same numbers as the index, in PyTorch, TorchScript and onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, foreground_views, quarter_turn_poses
from doppelscan.memorization import MemorizationIndex, MemorizationScorer


def small_encoder(outputs=("layer2", "layer3")) -> DeepSSIMEncoder:
    torch.manual_seed(0)
    return DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=8, outputs=outputs).eval()


@pytest.fixture(scope="module")
def images(cohort) -> torch.Tensor:
    return foreground_views(torch.from_numpy(cohort[:40])[:, None], 64)


def fitted(images, side):
    """Index and network on the first 30 images; the others are novel."""
    encoder = small_encoder()
    with torch.no_grad():
        posed = torch.stack([encoder(view) for view in quarter_turn_poses(images)], 1).numpy()
    layers = {name: np.ascontiguousarray(posed[..., part]) for name, part in encoder.output_slices.items()}
    training = {name: value[:30, 0] if side == "query" else value[:30] for name, value in layers.items()}
    queries = {name: value if side == "query" else value[:, :1] for name, value in layers.items()}
    null = {name: value[:30] for name, value in queries.items()}
    index = MemorizationIndex().fit(training, null_features=null, null_rows=range(30))
    network = MemorizationScorer(encoder, 8 if side == "query" else 1).fill(index).eval()
    return index.score(queries), network


@pytest.mark.parametrize("side", ["query", "reference"])
def test_network_gives_what_the_index_gives(images, side):
    scores, network = fitted(images, side)
    with torch.no_grad():
        found = network(images).numpy()
    assert found.shape == (40, 3) and found.dtype == np.float32
    for column, expected in enumerate((scores.similarity, scores.mi, scores.oni)):
        np.testing.assert_allclose(found[:, column], expected, atol=2e-4)
    assert scores.mi[:30].min() > scores.mi[30:].max()


@pytest.mark.parametrize("side", ["query", "reference"])
def test_exports_give_what_the_network_gives(images, side, tmp_path):
    _, network = fitted(images, side)
    with torch.no_grad():
        expected = network(images).numpy()
        torch.jit.save(torch.jit.script(network), tmp_path / "scorer.ts")
        np.testing.assert_allclose(torch.jit.load(tmp_path / "scorer.ts")(images).numpy(), expected, atol=1e-4)
        torch.onnx.export(
            network, (images[:1],), tmp_path / "scorer.onnx", input_names=["image"], output_names=["pred"], dynamo=False,
            dynamic_axes={"image": {0: "batch"}, "pred": {0: "batch"}},
        )  # fmt: skip
    session = onnxruntime.InferenceSession(str(tmp_path / "scorer.onnx"))
    for batch in (1, 40):
        (found,) = session.run(None, {"image": images[:batch].numpy()})
        np.testing.assert_allclose(found, expected[:batch], atol=1e-3)


def test_state_dict_holds_a_reference_of_any_size(images):
    _, network = fitted(images, "query")
    again = MemorizationScorer(small_encoder(), 8)
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network(images))


def test_network_that_was_not_fitted_does_not_guess(images):
    with torch.no_grad():
        assert torch.isnan(MemorizationScorer(small_encoder(), 8).eval()(images[:2])[:, 1:]).all()


def test_index_of_other_layers_and_other_poses_are_refused():
    index = MemorizationIndex().fit({"layer4": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)})
    with pytest.raises(ValueError, match="layer4"):
        MemorizationScorer(small_encoder()).fill(index)
    with pytest.raises(ValueError, match="1 or 8"):
        MemorizationScorer(small_encoder(), 4)
