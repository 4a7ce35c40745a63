"""Embedded sets: what is read of a store, and how much of it at a time."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from doppelscan.images import ImageRecord
from doppelscan.search import EmbeddedSet, EmbeddingStore, StoredFeatures, content_of, output_columns, rounded

OUTPUTS = {"deepssim": slice(0, 4), "embedding": slice(4, 8), "layer4": slice(8, 14)}


@pytest.fixture(params=[1, 3], ids=["one view", "three views"])
def values(request):
    return np.random.default_rng(0).standard_normal((10, request.param, 14)).astype(np.float16).astype(np.float32)


@pytest.fixture
def images(values, tmp_path):
    store = EmbeddingStore(tmp_path, "f", shard_size=3)
    for i, value in enumerate(values):
        thumbnail, native_shape = np.full((1, 4, 4), i // 2, np.uint8), np.array([20, 30], np.int32)
        features = {name: value[:, part] for name, part in OUTPUTS.items()}
        pixels = {"thumbnail": thumbnail, "native_shape": native_shape, "content": content_of(thumbnail, native_shape)}
        store.add(f"k{i}", {**features, **pixels})
    store.flush()
    records = [ImageRecord(f"{i}.png", (f"{i}.png",), f"{i}.png", f"p{i}") for i in range(10)]
    return EmbeddedSet(records, [f"k{i}" for i in range(10)], store, OUTPUTS)


@pytest.fixture
def reads(monkeypatch):
    asked, usual = [], EmbeddingStore.read

    def read(self, keys, names, keep=False):
        asked.append((len(keys), list(names)))
        return usual(self, keys, names, keep)

    monkeypatch.setattr(EmbeddingStore, "read", read)
    return asked


def test_outputs_come_back_in_float32_and_in_the_order_asked(images, values):
    found = images.features([7, 0, 7])
    for name, part in OUTPUTS.items():
        assert found[name].dtype == np.float32 and (found[name] == values[[7, 0, 7]][..., part]).all()
    assert (images.features()["layer4"] == values[..., OUTPUTS["layer4"]]).all()


def test_outputs_that_were_not_asked_for_are_not_read(images, values, reads):
    assert list(images.features([1], ["embedding"])) == ["embedding"]
    assert list(images.single_pose(["layer4"])) == ["layer4"]
    StoredFeatures(images, "deepssim", values.shape[1], 4)[:2]
    assert [names for _, names in reads] == [["embedding"], ["layer4"], ["deepssim"]]


def test_outputs_on_the_same_place_are_stored_and_read_once(images, values, reads):
    shared = {"deepssim": slice(0, 4), "embedding": slice(0, 4), "layer4": slice(8, 14)}
    assert output_columns(shared) == {"deepssim": "deepssim", "embedding": "deepssim", "layer4": "layer4"}
    found = replace(images, outputs=shared).features([2])
    assert (found["embedding"] == values[[2], :, :4]).all() and reads == [(1, ["deepssim", "layer4"])]


def test_images_as_they_are_come_by_the_block_and_without_their_other_views(images, values, reads, monkeypatch):
    blocks = EmbeddedSet.blocks
    monkeypatch.setattr(EmbeddedSet, "blocks", lambda self: blocks(self, 4))
    found = images.single_pose()
    for name, part in OUTPUTS.items():
        assert (found[name] == values[:, 0, part]).all() and found[name].base is None
    assert [count for count, _ in reads] == [4, 4, 2]


def test_rows_of_the_store_are_what_an_array_would_be(images, values):
    whole = StoredFeatures.of(images)["embedding"]
    rows = StoredFeatures.of(images, most=1)["embedding"]
    assert isinstance(whole, np.ndarray) and isinstance(rows, StoredFeatures) and rows.shape == whole.shape and len(rows) == 10
    for some in (slice(3, 8), slice(None, None, 4), [9, 0, 9], np.array([5, 4]), np.arange(10) > 6, slice(4, 4)):
        assert (rows[some] == whole[some]).all() and rows[some].shape == whole[some].shape and rows[some].dtype == np.float32
    assert [len(block) for block in rows.blocks(4)] == [4, 4, 2]
    assert (np.concatenate(list(rows.blocks(4))) == whole).all()


def test_images_of_the_same_pixels_have_one_content_and_no_pixel_is_read_for_it(images, reads):
    assert len(set(images.contents)) == 5 and images.contents[2] == images.contents[3]
    expected = hashlib.sha256(np.full((1, 4, 4), 1, np.uint8).tobytes() + np.array([20, 30], np.int32).tobytes()).hexdigest()
    assert images.contents[2] == expected and reads == [(10, ["content"])]


def test_the_same_thumbnail_of_another_native_shape_is_another_content():
    thumbnail = np.zeros((1, 4, 4), np.uint8)
    first, second = (content_of(thumbnail, np.array(shape, np.int32)) for shape in ((20, 30), (30, 20)))
    assert first.shape == (32,) and (first != second).any()


@pytest.mark.parametrize("scale", [1.0, -1e-9, 1e30])
def test_rounding_keeps_seventeen_digits_of_every_value_whatever_its_scale(scale):
    values = np.random.default_rng(0).standard_normal((50, 3, 8)).astype(np.float32) * np.float32(scale)
    found = rounded(values[..., 2:6])
    assert found.dtype == np.float32 and found.shape == (50, 3, 4)
    assert (np.abs(found - values[..., 2:6]) <= 2.0**-17 * np.abs(values[..., 2:6])).all()
    assert not (found.view(np.uint32) & 0x7F).any() and (found != values[..., 2:6]).any()
    assert (rounded(found) == found).all()


def test_rounding_goes_to_the_nearest_and_what_is_not_finite_stays_so():
    one, digit = np.float32(1), np.float32(2.0**-16)
    given = np.array([one + 0.4 * digit, one + 0.6 * digit, one + 0.5 * digit, one + 1.5 * digit, -one - 0.6 * digit], np.float32)
    assert rounded(given).tolist() == [1, 1 + digit, 1, 1 + 2 * digit, -1 - digit]
    odd = np.array([np.nan, np.inf, -np.inf, -0.0, np.uint32(0x7FFFFFFF).view(np.float32)], np.float32)
    found = rounded(odd)
    assert np.isnan(found[[0, 4]]).all() and found[1] == np.inf and found[2] == -np.inf and np.signbit(found[3])
