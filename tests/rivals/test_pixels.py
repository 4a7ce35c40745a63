"""Rivals of pixels: values against libraries, and what each cannot see."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
import torch
from doppelscan.errors import DoppelscanError, MissingPackageError
from doppelscan.rivals import MeanSquaredError, mse_rival, ncc_rival, phash_rival, ssim_rival
from skimage.metrics import structural_similarity


def test_ncc_is_the_correlation_of_the_pixels(squares):
    small = torch.nn.functional.interpolate(squares.images, (64, 64), mode="bilinear", antialias=True).flatten(1).numpy()
    reference = torch.nn.functional.interpolate(squares.training, (64, 64), mode="bilinear", antialias=True).flatten(1).numpy()
    expected = np.corrcoef(small, reference)[: len(small), len(small) :]
    found = ncc_rival().rank(squares.training, squares.images)
    np.testing.assert_allclose(found.score, expected.max(1), atol=1e-5)
    assert found.match.tolist() == expected.argmax(1).tolist()


def test_mse_is_the_mean_squared_difference(squares):
    found = mse_rival().rank(squares.training, squares.images)
    small = [
        torch.nn.functional.interpolate(i, (64, 64), mode="bilinear", antialias=True) for i in (squares.images, squares.training)
    ]
    expected = (small[0][:, None] - small[1][None]).square().mean((2, 3, 4))
    np.testing.assert_allclose(found.score, -expected.amin(1).numpy(), atol=1e-7)


def test_mse_of_equal_images_is_not_negative_by_rounding(squares):
    values = MeanSquaredError().fit(squares.training).similarity(squares.training)
    assert values.max() <= 0 and np.abs(np.diag(values)).max() < 1e-12


def test_ssim_is_scikit_images_of_the_z_scored_images(squares):
    """Every other window a side is averaged, so that the two agree to a few thousandths."""
    training = torch.nn.functional.interpolate(squares.training, (128, 128), mode="bilinear", antialias=True)
    image = torch.nn.functional.interpolate(squares.images[3:4], (128, 128), mode="bilinear", antialias=True)
    z = lambda a: (a - a.mean()) / a.std()  # noqa: E731
    expected = []
    for one in training[:, 0].numpy():
        a, b = z(one), z(image[0, 0].numpy())
        span = max(a.max(), b.max()) - min(a.min(), b.min())
        expected.append(structural_similarity(a, b, data_range=span))
    found = ssim_rival().rank(squares.training, squares.images[3:4])
    assert found.score[0] == pytest.approx(max(expected), abs=0.01) and found.match[0] == int(np.argmax(expected))


@pytest.mark.parametrize("made", [ncc_rival, phash_rival])
def test_a_flipped_copy_is_found_in_8_poses_and_missed_in_one(made, squares):
    flipped = squares.training[[5, 9]].flip(-2)
    one, eight = made(), made(8)
    assert one.name != eight.name
    assert eight.rank(squares.training, flipped).match.tolist() == [5, 9]
    assert eight.rank(squares.training, flipped).score.min() > 0.95 > one.rank(squares.training, flipped).score.max()


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch, squares):
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "imagehash":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingPackageError, match=r'pip install "\.\[rivals\]"') as caught:
        phash_rival().rank(squares.training, squares.images)
    assert isinstance(caught.value, DoppelscanError) and "\n" not in str(caught.value)


def test_more_images_than_a_block_are_ranked_alike(squares, monkeypatch):
    whole = ncc_rival().rank(squares.training, squares.images)
    monkeypatch.setattr("doppelscan.rivals.pixels.BLOCK", 3)
    parts = ncc_rival().rank(squares.training, squares.images)
    np.testing.assert_allclose(parts.score, whole.score, atol=1e-5)
    assert parts.match.tolist() == whole.match.tolist()
