"""The one preprocessing: windows, squares, and refusals."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

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


@pytest.fixture
def volumes(tmp_path):
    """Two volumes, of 3 and of 7 everywhere."""
    paths = []
    for number in (3, 7):
        paths.append(str(tmp_path / f"{number}.npy"))
        np.save(paths[-1], np.full((9, 10, 11), number, np.float32))
    return paths


def test_slices_of_a_volume_read_it_once(volumes, monkeypatch):
    from doppelscan.images import transforms

    read = []
    monkeypatch.setattr(transforms, "read_pixels", lambda paths, channel: read.append(paths) or np.ones((9, 10, 11), np.float32))
    load = LoadSliced("image")
    for index in range(9):
        load({"image": volumes[0], "slice": index, "axis": 0})
    assert len(read) == 1
    LoadSliced("image")({"image": volumes[0]})
    assert len(read) == 2  # nothing is shared, and nothing outlives its transform
    assert pickle.loads(pickle.dumps(load))._last == (None, None)


def test_a_file_that_changes_is_read_again(volumes):
    load = LoadSliced("image")
    assert load({"image": volumes[0]})["image"].max() == 3
    np.save(volumes[0], np.full((9, 10, 12), 5, np.float32))
    assert load({"image": volumes[0]})["image"].max() == 5


def test_threads_that_share_a_transform_get_their_own_volume(volumes):
    load = LoadSliced("image")

    def right(number):
        return set(np.unique(load({"image": volumes[number % 2], "slice": 4, "axis": 2})["image"])) == {(3.0, 7.0)[number % 2]}

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(right, range(400)))


def test_a_slice_is_no_view_of_the_volume_that_is_kept(volumes):
    load = LoadSliced("image")
    load({"image": volumes[0]})["image"][:] = 99
    assert load({"image": volumes[0]})["image"].max() == 3
