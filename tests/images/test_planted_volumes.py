"""Planted copies of volumes: what was done is what the record says."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.errors import InputError
from doppelscan.images.generated_volumes import generate_head
from doppelscan.images.planted_volumes import VOLUME_BENDINGS, VOLUME_TRANSFORMS, VOLUME_VISITS, plant_volume
from scipy import ndimage

SPACING = (1.5, 1.0, 2.0)
GEOMETRIC = [
    name
    for name in VOLUME_TRANSFORMS
    if name.startswith(("flip", "axes", "rotation", "shift", "crop", "zoom", "2 mm", "3 mm", "exact"))
] + ["other crop"]


def _blob(index: tuple[int, int, int]) -> np.ndarray:
    volume = np.zeros((44, 66, 34), np.float32)
    volume[index] = 1
    # Round in millimetres, so that its centre stays its centre when it is turned.
    made = ndimage.gaussian_filter(volume, [4 / step for step in SPACING])
    return made / made.max()


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("index", [(16, 40, 20), (26, 25, 14)])
def test_matrix_says_where_a_place_went_in_millimetres(name, index):
    source = _blob(index)
    planted = plant_volume(source, SPACING, name, np.random.default_rng(3))
    place = (np.array(index) - (np.array(source.shape) - 1) / 2) * SPACING
    expected = planted.matrix[:3, :3] @ place + planted.matrix[:3, 3]
    pixels = np.where(planted.pixels > 0.3, planted.pixels, 0)
    found = (np.array(ndimage.center_of_mass(pixels)) - (np.array(pixels.shape) - 1) / 2) * planted.spacing
    np.testing.assert_allclose(found, expected, atol=0.4)


@pytest.mark.parametrize("name", [*VOLUME_TRANSFORMS, *VOLUME_BENDINGS, *VOLUME_VISITS])
def test_every_copy_is_an_image_and_the_same_seed_gives_the_same(name):
    head, partner = generate_head(1, 36), (generate_head(2, 30), (1.0, 1.0, 1.0))
    one, again = (plant_volume(head, SPACING, name, np.random.default_rng(5), partner) for _ in range(2))
    assert one.pixels.dtype == np.float32
    assert 0 <= one.pixels.min() < one.pixels.max() <= 1
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert (one.pixels.shape == head.shape and np.array_equal(one.pixels, head)) == (name == "exact")


def test_coarse_resampling_keeps_the_field_of_view():
    head = generate_head(1, 40)
    coarse = plant_volume(head, SPACING, "3 mm", np.random.default_rng(0))
    np.testing.assert_allclose(np.multiply(coarse.pixels.shape, coarse.spacing), np.multiply(head.shape, SPACING))
    assert all(2.5 < step < 3.5 for step in coarse.spacing)
    back = plant_volume(head, SPACING, "3 mm and back", np.random.default_rng(0))
    assert back.pixels.shape == head.shape
    assert back.spacing == SPACING


def test_half_is_another_persons_or_empty_and_the_other_half_is_untouched():
    head, other = generate_head(1, 40), generate_head(2, 40)
    for seed in range(6):
        replaced = plant_volume(head, SPACING, "half replaced", np.random.default_rng(seed), (other, SPACING))
        emptied = plant_volume(head, SPACING, "half emptied", np.random.default_rng(seed))
        axis, upper = "xyz".index(replaced.words[-1]), replaced.words[-2] == "+"
        lost, kept = (np.moveaxis(one, axis, 0) for one in (replaced.pixels, replaced.pixels))
        lost, kept = (lost[20:], kept[:20]) if upper else (lost[:20], kept[20:])
        source, stranger = np.moveaxis(head, axis, 0), np.moveaxis(other, axis, 0)
        np.testing.assert_array_equal(kept, source[:20] if upper else source[20:])
        np.testing.assert_array_equal(lost, stranger[20:] if upper else stranger[:20])
        gone = np.moveaxis(emptied.pixels, axis, 0)
        assert (gone[20:] if upper else gone[:20]).max() == 0
        assert emptied.share == replaced.share == 0.5


@pytest.mark.parametrize(("name", "parts"), [("third kept", 3), ("quarter kept", 4)])
def test_region_is_the_sources_and_all_else_the_partners(name, parts):
    head, other = generate_head(1, 36), generate_head(2, 36)
    made = plant_volume(head, SPACING, name, np.random.default_rng(2), (other, SPACING))
    axis, place = "xyz".index(made.words.split()[-2]), int(made.words.split()[-1]) - 1
    slabs = [np.split(np.moveaxis(one, axis, 0), parts) for one in (made.pixels, head, other)]
    for number, (one, source, partner) in enumerate(zip(*slabs, strict=True)):
        np.testing.assert_array_equal(one, source if number == place else partner)
    assert made.share == pytest.approx(1 / parts)


def test_blend_is_three_quarters_of_the_source():
    head, other = generate_head(1, 32), generate_head(2, 32)
    made = plant_volume(head, SPACING, "blend 75/25", np.random.default_rng(0), (other, SPACING))
    np.testing.assert_allclose(made.pixels, 0.75 * head + 0.25 * other, atol=1e-6)


@pytest.mark.parametrize("name", ["blend 75/25", "half replaced", "third kept"])
def test_transform_of_two_volumes_asks_for_the_second(name):
    with pytest.raises(InputError, match="'partner' parameter must be a volume"):
        plant_volume(generate_head(1, 16), SPACING, name, np.random.default_rng(0))


def test_unknown_transform_is_named_with_what_there_is():
    with pytest.raises(InputError, match=r"must be one of exact, noise.*Got 'melt'"):
        plant_volume(generate_head(1, 16), SPACING, "melt", np.random.default_rng(0))
