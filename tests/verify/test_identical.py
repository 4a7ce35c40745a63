"""The same pixels are found in every disguise that keeps them, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from doppelscan.images import DarkSurroundd, ImageRecord, SquareThumbnaild, Windowd, generate_cohort
from doppelscan.search import EmbeddedSet, content_of
from doppelscan.verify import IdenticalPixels
from monai.transforms import Compose
from PIL import Image


class Prepared:
    """Stands for the store: thumbnails of images as an audit makes them."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        prepare = Compose([DarkSurroundd("image"), Windowd("image"), SquareThumbnaild("image", 128)])
        made = [prepare({"image": image[None]}) for image in images]
        self.arrays = {
            name: np.stack([one[name] for one in made]) for name in ("thumbnail", "native_shape", "as_read", "read_shape")
        }
        contents = zip(self.arrays["thumbnail"], self.arrays["native_shape"], strict=True)
        self.arrays["content"] = np.stack([content_of(*one) for one in contents])

    def read(self, keys: Sequence[str], names: Sequence[str], keep: bool = False) -> dict[str, np.ndarray]:
        return {name: self.arrays[name][[int(key) for key in keys]] for name in names}


def embedded(images: Sequence[np.ndarray]) -> EmbeddedSet:
    store: Any = Prepared(images)
    records = [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", f"p{i}") for i in range(len(images))]
    return EmbeddedSet(records, [str(i) for i in range(len(images))], store, {})


@pytest.fixture(scope="module")
def training() -> list[np.ndarray]:
    """Neighbouring slices of 20 look-alikes, 12-bit, wide."""
    images = generate_cohort(20, 2, 128, seed=5)[0][:, 0].float()
    images = torch.nn.functional.interpolate(images[:, None], (150, 190), mode="bicubic")[:, 0].clamp_min(0)
    return [np.round(image * 16) for image in images.numpy()]


@pytest.fixture(scope="module")
def search(training) -> IdenticalPixels:
    return IdenticalPixels(embedded(training))


def resized(factor: float, how: Image.Resampling) -> Callable[[np.ndarray], np.ndarray]:
    return lambda i: np.asarray(Image.fromarray(i).resize((round(i.shape[1] * factor), round(i.shape[0] * factor)), how))


def eight_bit(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    low, high = np.percentile(image, (lower, upper))
    return np.round(np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.float32)


DISGUISES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int, bool]] = {
    "exact": (lambda i: i, 0, False),
    "turned": (lambda i: np.rot90(i), 1, False),
    "upside down": (lambda i: np.rot90(i, 2), 2, False),
    "turned back": (lambda i: np.rot90(i, 3), 3, False),
    "mirrored": (lambda i: i[:, ::-1], 4, False),
    "mirrored and turned": (lambda i: np.rot90(i[:, ::-1]), 5, False),
    "flipped": (lambda i: i[::-1], 6, False),
    "transposed": (lambda i: np.rot90(i[:, ::-1], 3), 7, False),
    "inverted": (lambda i: i.max() - i, 0, True),
    "inverted and mirrored": (lambda i: i.max() - i[:, ::-1], 4, True),
    "8 bit from minimum to maximum": (lambda i: eight_bit(i, 0, 100), 0, False),
    "8 bit by our window": (lambda i: eight_bit(i, 0.5, 99.5), 0, False),
    "8 bit by a narrower window": (lambda i: eight_bit(i, 1, 99), 0, False),
    "half size": (resized(0.5, Image.Resampling.BILINEAR), 0, False),
    "odd size": (resized(0.72, Image.Resampling.BICUBIC), 0, False),
    "enlarged": (resized(1.6, Image.Resampling.LANCZOS), 0, False),
    "pixels doubled": (resized(2, Image.Resampling.NEAREST), 0, False),
    "squeezed to a square": (lambda i: np.asarray(Image.fromarray(i).resize((128, 128), Image.Resampling.BILINEAR)), 0, False),
    "stretched to a square and turned": (
        lambda i: np.rot90(np.asarray(Image.fromarray(i).resize((256, 256), Image.Resampling.BICUBIC))),
        1,
        False,
    ),
    "64 pixels": (lambda i: np.asarray(Image.fromarray(i).resize((64, 50), Image.Resampling.BILINEAR)), 0, False),
    "48 pixels, a square": (lambda i: np.asarray(Image.fromarray(i).resize((48, 48), Image.Resampling.LANCZOS)), 0, False),
    "half size, mirrored, 8 bit, inverted": (
        lambda i: 255 - eight_bit(resized(0.5, Image.Resampling.BILINEAR)(i)[:, ::-1], 0, 100),
        4,
        True,
    ),
}


@pytest.mark.parametrize("name", DISGUISES)
def test_the_same_pixels_are_found_in_their_pose(search, training, name):
    make, pose, inverted = DISGUISES[name]
    found = search.find(embedded([np.ascontiguousarray(make(image)) for image in training[::3]]))
    assert [one and (one.row, one.pose, one.inverted) for one in found] == [(row, pose, inverted) for row in range(0, 40, 3)]


def test_neighbours_strangers_and_changed_copies_are_not_the_same_pixels(search, training):
    rng = np.random.default_rng(0)
    strangers = generate_cohort(20, 1, 128, seed=6)[0][:, 0].numpy().astype(np.float32)
    assert search.find(embedded(list(strangers))) == [None] * 20
    assert [one.row for one in search.find(embedded(training)) if one] == list(range(40)), "no image is its neighbour"
    noisy = [image + 0.1 * image.max() * rng.standard_normal(image.shape).astype(np.float32) for image in training[:6]]
    shifted = [np.roll(image, 6, 1) for image in training[:6]]
    assert search.find(embedded(noisy)) == [None] * 6 and search.find(embedded(shifted)) == [None] * 6


def test_of_the_same_image_twice_in_training_the_first_is_named(training):
    twice = IdenticalPixels(embedded([training[0], training[1], training[0], np.ascontiguousarray(training[1][:, ::-1])]))
    found = twice.find(embedded([training[0], training[1], np.ascontiguousarray(training[1][:, ::-1])]))
    assert [(one.row, one.pose) for one in found] == [(0, 0), (1, 0), (1, 4)]


def test_an_image_without_an_own_direction_keeps_the_plain_pose():
    disc = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 20
    found = IdenticalPixels(embedded([disc.astype(np.float32)])).find(embedded([disc.astype(np.float32)]))
    assert found[0] is not None and (found[0].row, found[0].pose, found[0].inverted) == (0, 0, False)


def test_within_one_set_each_image_names_the_first_before_it_and_never_itself(training):
    images = [training[0], training[1], np.rot90(training[0]), training[4], training[0], training[0].max() - training[4]]
    found = IdenticalPixels(embedded(images)).repeats()
    assert [None if one is None else one.row for one in found] == [None, None, 0, None, 0, 3]
    assert found[2] is not None and found[2].pose == 1 and found[5] is not None and found[5].inverted


def test_a_hundred_copies_of_one_file_are_compared_with_the_first_of_them_alone(training, monkeypatch):
    asked: list[int] = []
    plain = IdenticalPixels._compared

    def counting(self, image, shape, rows):
        asked.append(len(rows))
        return plain(self, image, shape, rows)

    monkeypatch.setattr(IdenticalPixels, "_compared", counting)
    found = IdenticalPixels(embedded([training[0]] * 100)).repeats()
    assert found[0] is None and all(one is not None and one.row == 0 for one in found[1:]) and max(asked) == 1


def on_ground(image: np.ndarray, level: float) -> np.ndarray:
    """An oval of the image on a ground of one level."""
    y, x = (np.linspace(-1, 1, side) for side in image.shape)
    return np.where((y[:, None] / 0.8) ** 2 + (x / 0.7) ** 2 < 1, 900 + 0.6 * image, level)


@pytest.mark.parametrize("level", [0.0, 4095.0, 3000.0])
def test_a_ground_that_is_taken_for_a_surround_hides_no_disguise(training, level):
    images = [on_ground(image, level) for image in training[::4]]
    disguises = {
        "inverted": lambda i: 4095 - i,
        "8 bit": lambda i: np.round((i - i.min()) / (i.max() - i.min()) * 255),
        "half size": lambda i: np.asarray(Image.fromarray(i.astype(np.float32)).resize((95, 75), Image.Resampling.LANCZOS)),
    }
    for name, disguise in disguises.items():
        found = IdenticalPixels(embedded(images)).find(embedded([disguise(image) for image in images]))
        assert [one and (one.row, one.inverted) for one in found] == [(row, name == "inverted") for row in range(len(images))], name
