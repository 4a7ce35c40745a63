"""Volumes and patients say what their images say."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.calibrate import Control, TailControl, p_filter, q_values, simes_p_values


def volumes(rng, number: int, each: int, rho: float = 0.5) -> np.ndarray:
    return np.sqrt(rho) * rng.normal(size=(number, 1)) + np.sqrt(1 - rho) * rng.normal(size=(number, each))


def test_simes_is_the_formula_and_keeps_the_names_and_their_order():
    p = np.array([0.01, 0.9, 0.04, 0.5, 0.03])
    found = simes_p_values(p, ["b", "a", "b", "a", "b"])
    assert list(found) == ["b", "a"]
    assert found["b"] == pytest.approx(min(3 * 0.01 / 1, 3 * 0.03 / 2, 3 * 0.04 / 3)) and found["a"] == pytest.approx(0.9)
    assert simes_p_values(np.zeros(0), []) == {}
    with pytest.raises(ValueError, match="groups"):
        simes_p_values(p, ["a"])


def test_a_volume_of_copies_has_the_p_value_of_its_slices():
    """They came out at 0.06 to 0.13 while every slice was flagged: more slices than those of the control were corrected for."""
    rng = np.random.default_rng(0)
    null = Control(volumes(rng, 40, 4).ravel(), np.repeat(np.arange(40), 4))
    p = null.p_values(np.full(20, 9.0))
    assert simes_p_values(p, ["copied"] * 20)["copied"] == pytest.approx(1 / 41)


@pytest.mark.parametrize(("each", "own", "rho"), [(8, 8, 0.5), (8, 3, 0.9), (4, 12, 0.5), (4, 12, 0.0), (1, 1, 0.5)])
def test_p_values_of_clean_volumes_hold_whatever_their_number_of_slices(each, own, rho):
    rng = np.random.default_rng(1)
    small = []
    for _ in range(300):
        null = Control(volumes(rng, 40, each, rho).ravel(), np.repeat(np.arange(40), each))
        p = null.p_values(volumes(rng, 10, own, rho).ravel())
        small.append(np.mean(np.array(list(simes_p_values(p, np.repeat(np.arange(10), own).tolist()).values())) <= 0.1))
    assert np.mean(small) <= 0.11


def test_without_layers_the_p_filter_is_benjamini_hochberg():
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.random(200), rng.random(30) * 1e-3])
    np.testing.assert_array_equal(p_filter(p, [], 0.05), q_values(p) <= 0.05)
    np.testing.assert_array_equal(p_filter(p, [list(range(230))], 0.05), q_values(p) <= 0.05)
    assert not len(p_filter(np.zeros(0), [[]], 0.05))
    with pytest.raises(ValueError, match="rate"):
        p_filter(p, [], 5)


def test_flags_of_images_and_of_volumes_agree():
    rng = np.random.default_rng(3)
    p = rng.random((50, 10))
    p[:5] = rng.random((5, 10)) * 1e-4
    which = np.repeat(np.arange(50), 10).tolist()
    flagged = p_filter(p.ravel(), [which], 0.05)
    q_image, simes = q_values(p.ravel()), simes_p_values(p.ravel(), which)
    q_volume = dict(zip(simes, q_values(np.array(list(simes.values()))), strict=True))
    assert flagged.sum() >= 50 and (q_image[flagged] <= 0.05).all()
    assert all(q_volume[name] <= 0.05 for name, said in zip(which, flagged, strict=True) if said)
    assert {name for name, said in zip(which, flagged, strict=True) if said} == set(range(5))


def test_a_few_false_flags_do_not_become_many_false_volumes():
    """Among 100 volumes of 20 slices 10 are copied: 5 % of the images that are flagged falsely are a third of the volumes."""
    rng = np.random.default_rng(4)
    plain, filtered, images = [], [], []
    which = np.repeat(np.arange(100), 20).tolist()
    for _ in range(100):
        p = rng.random((100, 20))
        p[:10] = rng.random((10, 20)) * 1e-5
        flagged = p_filter(p.ravel(), [which], 0.05).reshape(100, 20)
        by_image = (q_values(p.ravel()) <= 0.05).reshape(100, 20)
        plain.append(by_image.any(1)[10:].sum() / by_image.any(1).sum())
        filtered.append(flagged.any(1)[10:].sum() / max(1, flagged.any(1).sum()))
        images.append(flagged[10:].sum() / max(1, flagged.sum()))
        assert flagged[:10].all()
    assert np.mean(plain) > 0.3 and np.mean(filtered) <= 0.055 and np.mean(images) <= 0.055


def test_one_copied_slice_in_a_volume_is_not_lost_where_it_is_plain():
    rng = np.random.default_rng(5)
    null = TailControl(0.25 + 0.08 * rng.normal(size=1000))
    p = null.p_values(np.append(0.25 + 0.08 * rng.normal(size=999), 0.95))
    flagged = p_filter(np.append(p, p[-1:].repeat(4)), [(np.arange(1004) // 10).tolist()], 0.05)
    assert flagged[999:].all() and flagged.sum() == 5
