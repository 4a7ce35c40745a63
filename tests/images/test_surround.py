"""Pages, bars and light backgrounds are taken off; what has none stays as it is, to the bit."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from doppelscan.images import ImageError, cut_foreground, generate_cohort, picture_box, without_light_surround
from doppelscan.images.transforms import DarkSurroundd, ForegroundSquared, SquareThumbnaild, Windowd
from PIL import Image

IMAGES = generate_cohort(6, 1, 160, 7)[0].float() / 255


def anatomy(number: int = 0, height: int = 160, width: int = 128) -> np.ndarray:
    """A generated patient in the dark, its window full."""
    inside = IMAGES[number, 0].numpy()
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    image = np.where((y / 0.85) ** 2 + (x / 0.7) ** 2 < 1, 0.1 + 0.9 * inside, 0.0).astype(np.float32)
    return image[(160 - height) // 2 :][:height, (160 - width) // 2 :][:, :width]


def on_background(image: np.ndarray, level: float) -> np.ndarray:
    return np.where(image == 0, np.float32(level), image)


def on_page(image: np.ndarray, level: float, frame: float | None = None) -> np.ndarray:
    page = np.full((image.shape[0] + 70, image.shape[1] + 50), level, np.float32)
    if frame is not None:
        page[20:-30, 10:-20] = frame
    page[30 : 30 + image.shape[0], 20 : 20 + image.shape[1]] = image
    return page


def between_bars(image: np.ndarray, level: float, axis: int) -> np.ndarray:
    return np.pad(image, [(30, 40) if one == axis else (0, 0) for one in range(2)], constant_values=level)


def taken_off(image: np.ndarray) -> np.ndarray:
    return Windowd("image")(DarkSurroundd("image")({"image": image[None]}))["image"][0]


def as_it_was(image: np.ndarray) -> np.ndarray:
    return Windowd("image")({"image": image[None]})["image"][0]


SURROUNDS = {
    "white page": lambda i: on_page(i, 1.0),
    "gray page": lambda i: on_page(i, 0.55),
    "page with a frame": lambda i: on_page(i, 1.0, 0.5),
    "bars above and below": lambda i: between_bars(i, 1.0, 0),
    "bars at the sides": lambda i: between_bars(i, 0.7, 1),
}


@pytest.mark.parametrize("surround", SURROUNDS)
def test_a_picture_on_a_page_or_between_bars_is_cut_out_to_the_pixel(surround):
    for number in range(len(IMAGES)):
        image = anatomy(number)
        np.testing.assert_allclose(taken_off(SURROUNDS[surround](image)), as_it_was(image), atol=1e-6)


@pytest.mark.parametrize(("level", "alike"), [(0.5, 0.75), (0.8, 0.93), (1.0, 0.93)])
def test_a_light_background_becomes_dark_and_the_anatomy_keeps_its_place(level, alike):
    for number in range(len(IMAGES)):
        image = anatomy(number)
        found = taken_off(on_background(image, level))
        assert found.shape == image.shape
        assert np.median(found[image == 0]) < 0.05
        # A pixel at the edge of the anatomy goes with the background, which runs on where the anatomy is as gray and touches it.
        assert np.corrcoef(found.ravel(), as_it_was(image).ravel())[0, 1] > alike
        cut = [ForegroundSquared("image", 64)({"image": one[None]})["image"][0] for one in (found, as_it_was(image))]
        assert np.corrcoef(cut[0].ravel(), cut[1].ravel())[0, 1] > alike


def test_noise_on_a_gray_background_is_background_too():
    noisy = on_background(anatomy(), 0.6)
    noisy = noisy + 0.02 * np.random.default_rng(0).standard_normal(noisy.shape).astype(np.float32)
    assert np.median(taken_off(noisy)[:10]) < 0.1


@pytest.mark.parametrize(
    "name", ["dark", "dim padding", "window full of tissue", "tissue at one side", "flat", "soft gray of an X-ray"]
)
def test_what_has_no_light_surround_stays_to_the_bit(name):
    image = {
        "dark": anatomy(),
        "dim padding": on_background(anatomy(), 0.1),
        "window full of tissue": 0.2 + 0.8 * IMAGES[1, 0].numpy()[40:-40, 40:-40],
        "tissue at one side": np.roll(anatomy(), 40, 1)
        + np.linspace(0, 0.3, 128, dtype=np.float32) * (np.arange(160) > 120)[:, None],
        "flat": np.full((64, 64), 0.7, np.float32),
        # Air beside a chest, person108 of Kermany: taken off, it left a torn outline, and noisy copies of the film were not its copies.
        "soft gray of an X-ray": np.where(anatomy() == 0, np.linspace(0.46, 0.48, 128, dtype=np.float32), anatomy()),
    }[name]
    batch = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    assert without_light_surround(batch) is batch
    assert picture_box(batch[0, 0]) is None


def test_images_of_a_batch_do_not_touch_each_other_and_scale_does_not_matter():
    images = torch.from_numpy(np.stack([on_background(anatomy(0), 0.8), anatomy(1), on_background(anatomy(2), 1.0), anatomy(3)]))[
        :, None
    ]
    together = without_light_surround(images)
    for row in range(4):
        torch.testing.assert_close(together[row], without_light_surround(images[row : row + 1])[0], rtol=0, atol=0)
    assert torch.equal(together[1], images[1]) and torch.equal(together[3], images[3]) and not torch.equal(together[0], images[0])
    torch.testing.assert_close(without_light_surround(images * 900), together * 900, rtol=1e-4, atol=1e-1)


@pytest.mark.parametrize(("offset", "dark"), [(0.0, 0.0), (10.0, 10 - 0.15), (-3.0, -2.9)])
def test_dark_is_zero_or_the_lowest_value_and_never_far_below_the_anatomy(offset, dark):
    clean = anatomy()
    image = np.maximum(on_background(clean, 1.0), 0.1) + offset
    found = without_light_surround(torch.from_numpy(image.astype(np.float32))[None, None])[0, 0].numpy()
    assert abs(np.median(found[clean == 0]) - dark) < 0.03


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_page_hides_no_pixel_that_is_not_a_number(value):
    page = on_page(anatomy(), 1.0)
    page[0, 0] = value
    with pytest.raises(ImageError, match="NaN or Inf"):
        taken_off(page)


@pytest.mark.parametrize("quality", [95, 75])
def test_a_picture_on_a_page_that_was_compressed_is_cut_out_to_a_pixel_or_two(quality):
    stream = io.BytesIO()
    Image.fromarray((on_page(anatomy(), 1.0) * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    height, width = taken_off(np.asarray(Image.open(stream), np.float32)).shape
    assert abs(height - 160) <= 2 and abs(width - 128) <= 2


def test_padding_to_a_square_does_not_hide_the_bars():
    image = anatomy()
    square = SquareThumbnaild("image", 128)({"image": between_bars(image, 1.0, 0)[None]})["thumbnail"]
    found = cut_foreground(torch.from_numpy(square)[None].float() / 255, 96)[0, 0]
    expected = cut_foreground(torch.from_numpy(image)[None, None], 96)[0, 0]
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.95
