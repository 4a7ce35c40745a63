"""``runtime``: onnxruntime in PyTorch's place gives the same table, says what ran, and does not mix its embeddings with PyTorch's."""

from __future__ import annotations

import sys
from typing import ClassVar

import doppelscan
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, OnnxEncoder, WeightsError
from doppelscan.errors import InputError
from torch import nn

NUMBERS = ("score", "deepssim", "embedding", "similarity", "mi", "oni", "ssim", "p_value", "q_value", "explained", "part")


def by_image(result) -> list[dict]:
    """Rows of the table; its own order is that of the scores, which differ a little."""
    return sorted(result.scores, key=lambda row: row["image"])


def test_the_table_is_the_same_to_a_ten_thousandth(folders, store, tmp_path):
    results = {
        runtime: doppelscan.audit(**folders, output=tmp_path / runtime, store=kept, runtime=runtime, device="cpu")
        for runtime, kept in (("torch", store), ("onnx", tmp_path / "own"))
    }
    for ours, theirs in zip(*(by_image(results[name]) for name in ("torch", "onnx")), strict=True):
        assert all(ours[name] == theirs[name] for name in ("image", "match", "pose", "verdict", "flagged"))
        for name in NUMBERS:
            assert float(ours[name]) == pytest.approx(float(theirs[name]), abs=1e-4, nan_ok=True), name
    told = [results[name].summary["settings"]["runtime"] for name in ("torch", "onnx")]
    assert told[0].startswith("torch ") and told[1].startswith("onnxruntime ") and told[1].endswith("CPUExecutionProvider")


def test_embeddings_of_two_runtimes_are_not_mixed(warm, tmp_path):
    doppelscan.audit(**warm, output=tmp_path / "report", device="cpu")
    with pytest.raises(RuntimeError, match="other weights, preprocessing or runtime"):
        doppelscan.audit(**warm, output=tmp_path / "report", runtime="onnx", device="cpu")


def test_half_precision_finds_the_same_and_is_not_mixed_with_the_whole(folders, store, tmp_path):
    whole = doppelscan.audit(**folders, output=tmp_path / "whole", store=store, device="cpu")
    half = doppelscan.audit(**folders, output=tmp_path / "half", store=tmp_path / "own", runtime="bfloat16", device="cpu")
    assert half.summary["settings"]["runtime"].endswith(" bfloat16")
    for ours, theirs in zip(by_image(whole), by_image(half), strict=True):
        assert ours["flagged"] == theirs["flagged"] and float(ours["score"]) == pytest.approx(float(theirs["score"]), abs=0.02)
        assert float(ours["embedding"]) != float(theirs["embedding"]), "it was computed in half precision"
    with pytest.raises(RuntimeError, match="other weights, preprocessing or runtime"):
        doppelscan.audit(**folders, output=tmp_path / "mixed", store=store, runtime="bfloat16", device="cpu")


def test_the_provider_is_the_one_that_the_session_started():
    network = DeepSSIMEncoder(channels=(8, 8, 8, 8), blocks=(1, 1, 1, 1))
    encoder = OnnxEncoder.of(network, device="cuda")  # there is no GPU here: the session falls back, and says so
    provider = encoder.session.get_providers()[0]
    assert encoder.runtime.endswith(provider)
    image = torch.randn(3, 1, 128, 128)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), network(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("missing", ["onnxruntime", "onnx"])
def test_a_missing_package_is_told_with_its_extra(folders, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(WeightsError, match=r'pip install "\.\[onnx\]"'):
        doppelscan.audit(**folders, output=tmp_path / "report", runtime="onnx")


def test_an_unknown_runtime_is_told(folders, tmp_path):
    with pytest.raises(InputError, match=r"'runtime' parameter must be torch, bfloat16 or onnx. Got 'tensorrt'"):
        doppelscan.audit(**folders, output=tmp_path / "report", runtime="tensorrt")


def test_a_network_that_onnx_cannot_express_is_told_in_one_line():
    class Odd(nn.Module):
        output_slices: ClassVar = {"embedding": slice(0, 4)}

        def forward(self, image):
            return torch.linalg.eigh(image[:, 0, :4, :4])[0]

    with pytest.raises(WeightsError, match="must be one that ONNX can express") as told:
        OnnxEncoder.of(Odd())
    assert "\n" not in str(told.value)
