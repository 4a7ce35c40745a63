"""The one preprocessing: windows, squares, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.images import ForegroundSquared, ImageError, LoadSliced, SquareThumbnaild, Windowd
from doppelscan.images.transforms import window
from made_files import save_png


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_are_refused_with_their_number(bad):
    pixels = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    pixels[3, 4] = bad
    with pytest.raises(ImageError, match="1 of 400 pixels"):
        window(pixels)


def test_constant_image_is_refused():
    with pytest.raises(ImageError, match="constant"):
        window(np.full((20, 20), 3.0, np.float32))


def test_one_bright_pixel_is_an_image():
    pixels = np.zeros((50, 50), np.float32)
    pixels[3, 3] = 9
    assert window(pixels).max() == 1


def test_one_pixel_image_is_refused(tmp_path):
    save_png(tmp_path / "a.png", np.ones((1, 1), np.float32))
    with pytest.raises(ImageError, match="at least 8"):
        LoadSliced("image")({"image": str(tmp_path / "a.png")})


def test_thumbnail_keeps_the_aspect():
    image = np.ones((1, 40, 80), np.float32)
    made = SquareThumbnaild("image", 64)({"image": image})
    thumbnail = made["thumbnail"][0]
    assert thumbnail.shape == (64, 64) and thumbnail[:14].max() == 0 and thumbnail[20:44].min() == 255
    assert made["native_shape"].tolist() == [40, 80]


def test_a_shifted_anatomy_is_cut_to_the_same_square(cohort):
    image = np.zeros((160, 160), np.float32)
    image[30:126, 20:116] = cohort[0]
    moved = np.roll(image, (12, 16), (0, 1))
    cut = [ForegroundSquared("image", 128)(Windowd("image")({"image": i[None]}))["image"][0] for i in (image, moved)]
    assert np.corrcoef(cut[0].ravel(), cut[1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("shape", [(8, 8), (31, 57), (256, 256)])
def test_percentiles_by_counting_are_those_of_numpy(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32) ** 1.0
    pixels[0, 0] = 255
    low, high = np.percentile(pixels, (0.5, 99.5))
    np.testing.assert_allclose(window(pixels), np.clip((pixels - low) / (high - low), 0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(96, 96), (60, 100), (100, 33)])
def test_a_map_comes_back_on_the_pixels_that_the_thumbnail_was_made_of(shape):
    from doppelscan.images import SquareThumbnaild, from_thumbnail

    y, x = np.mgrid[: shape[0], : shape[1]]
    pixels = (0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 7)).astype(np.float32)
    thumbnail = SquareThumbnaild("image", 128)({"image": pixels[None]})["thumbnail"][0] / 255.0
    assert np.abs(from_thumbnail(thumbnail.astype(np.float32), shape) - pixels)[4:-4, 4:-4].max() < 0.06


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_put_where_it_was_taken(axis):
    from doppelscan.images import put_slice
    from doppelscan.images.transforms import take_slice

    volume = np.random.default_rng(0).normal(size=(9, 11, 13))
    made = np.zeros_like(volume)
    for index in range(volume.shape[axis]):
        put_slice(made, take_slice(volume, axis, index), axis, index)
    np.testing.assert_array_equal(made, volume)
