"""The same-patient score: formulas written out, and that it knows a person by another slice and nobody by a copy's pixels alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.errors import InputError, WeightsError
from doppelscan.images import generate_head
from doppelscan.verify import Framing, all_same_patient_scores, same_patient, same_patient_scores
from doppelscan.verify.same_patient import LIKENESSES, SamePatientNetwork
from scipy import fft

SIDE = 64


def slices(people: int = 8, apart: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two slices of each of some generated heads, uint8 [people, 1, SIDE, SIDE]."""
    heads = [generate_head(seed, SIDE) for seed in range(people)]
    middle = SIDE // 2
    pair = [np.stack([head[:, :, place] for head in heads])[:, None] for place in (middle, middle + apart)]
    first, second = (torch.from_numpy((255 * one / max(1e-6, one.max())).clip(0, 255).astype(np.uint8)) for one in pair)
    return first, second


@pytest.fixture(scope="module")
def pair() -> tuple[Framing, Framing]:
    first, second = slices()
    return Framing.of(first), Framing.of(second)


def test_likenesses_are_the_formulas(pair):
    first, second = slices()
    found = dict(zip(LIKENESSES, pair[0].likenesses(pair[1])[2], strict=True))
    a, b = (one[2, 0].double().numpy() / 255 for one in (first, second))

    def log(apart: float) -> float:
        return -np.log(max(apart, 1e-4))

    def small(image: np.ndarray, side: int) -> np.ndarray:
        step = SIDE // side
        return image.reshape(side, step, side, step).mean((1, 3))

    def correlation(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])

    assert found["correlation at 16"] == pytest.approx(log(1 - correlation(small(a, 16), small(b, 16))), abs=1e-3)
    assert found["correlation at 64"] == pytest.approx(log(1 - correlation(a, b)), abs=1e-3)
    slopes = [np.concatenate([g.ravel() for g in np.gradient(one)]) for one in (a, b)]
    cosine = float(slopes[0] @ slopes[1] / np.linalg.norm(slopes[0]) / np.linalg.norm(slopes[1]))
    assert found["correlation of gradients"] == pytest.approx(log(1 - cosine), abs=1e-3)
    low = [fft.dctn(one)[:16, :16].ravel() for one in (a, b)]
    bits = [one > np.median(one) for one in low]
    assert found["perceptual hash"] == pytest.approx(log(float((bits[0] != bits[1]).mean())), abs=1e-3)
    inside = []
    for one in (a, b):
        bottom, top = np.quantile(one, [0.02, 0.99])
        inside.append(one > bottom + 0.12 * (top - bottom))
    assert found["overlap of the foregrounds"] == pytest.approx(
        log(1 - (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()), abs=1e-3
    )
    assert found["area"] == pytest.approx(log(abs(np.log(inside[0].sum() / inside[1].sum()))), abs=1e-3)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centres = [(rows[one].mean() / SIDE, columns[one].mean() / SIDE) for one in inside]
    assert found["height of the centre"] == pytest.approx(log(abs(centres[0][0] - centres[1][0])), abs=1e-3)
    assert found["sidewards place of the centre"] == pytest.approx(log(abs(centres[0][1] - centres[1][1])), abs=1e-3)
    aspects = [0.5 * np.log((rows[one].var() + 1) / (columns[one].var() + 1)) for one in inside]
    assert found["aspect"] == pytest.approx(log(abs(aspects[0] - aspects[1])), abs=1e-3)


def test_the_order_of_two_images_does_not_matter_and_all_pairs_are_the_pairs(pair):
    first, second = pair
    np.testing.assert_allclose(first.likenesses(second), second.likenesses(first), atol=1e-5)
    every = first.all_likenesses(second)
    assert every.shape == (8, 8, len(LIKENESSES))
    np.testing.assert_allclose(every[np.arange(8), np.arange(8)], first.likenesses(second), atol=1e-2)
    scores = all_same_patient_scores(first, second)
    np.testing.assert_allclose(np.diag(scores), same_patient_scores(first, second), atol=1e-2)


def test_all_pairs_are_the_same_in_blocks(pair, monkeypatch):
    whole = all_same_patient_scores(*pair)
    monkeypatch.setattr(same_patient, "PAIRS", 8)
    np.testing.assert_allclose(all_same_patient_scores(*pair), whole, atol=1e-2)


def test_a_person_is_known_by_another_slice(pair):
    scores = all_same_patient_scores(*pair)
    assert (scores.argmax(1) == np.arange(8)).all() and np.diag(scores).min() > 0


def test_images_are_compared_as_they_lie():
    first, _ = slices(2)
    moved = torch.roll(first, (6, 6), (2, 3))
    still, shifted = Framing.of(first), Framing.of(moved)
    assert (same_patient_scores(still, still) > same_patient_scores(still, shifted) + 2).all()


def test_an_image_without_anatomy_is_no_error():
    flat = Framing.of(torch.zeros(2, 1, 32, 32))
    assert np.isfinite(same_patient_scores(flat, Framing.of(torch.rand(2, 1, 32, 32)))).all()


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 8), (8, 8), (0, 1, 8, 8)])
def test_what_is_no_square_is_told(shape):
    with pytest.raises(InputError, match=r"'images' parameter must be squares \[N, 1, S, S\]"):
        Framing.of(torch.zeros(shape))


def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    changed = tmp_path / "same_patient.safetensors"
    changed.write_bytes(same_patient.WEIGHTS.read_bytes()[:-4] + b"junk")
    monkeypatch.setattr(same_patient, "WEIGHTS", changed)
    same_patient.same_patient_network.cache_clear()
    try:
        with pytest.raises(WeightsError, match="install doppelscan again"):
            same_patient.same_patient_network()
    finally:
        same_patient.same_patient_network.cache_clear()


def test_the_network_is_a_linear_term_and_hidden_units():
    network = SamePatientNetwork().standardise(torch.randn(50, len(LIKENESSES))).eval()
    given = torch.randn(3, len(LIKENESSES)) * 4
    seen = ((given - network.mean) / network.scale).clamp(-3, 3)
    _, first, _, _, last = network.hidden
    expected = seen @ network.linear.weight[0] + network.linear.bias
    expected = expected + torch.tanh(seen @ first.weight.T + first.bias) @ last.weight[0] + last.bias
    torch.testing.assert_close(network(given), expected)
