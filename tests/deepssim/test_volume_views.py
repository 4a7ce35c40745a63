"""Views of volumes: what changes in them and in their embedding; on generated volumes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import VolumeStrength, augment_volumes, volume_view_differences
from doppelscan.images import cut_cubes, generate_volumes

NOTHING = {"rotation": 0.0, "scale": 1.0, "shift": 0.0, "gamma": 1.0, "bias": 0.0, "noise": 0.0, "blur": 0.0, "reduction": 1.0,
           "elastic": 0.0, "crop": 0.0, "probability": 1.0, "geometry": 1.0}  # fmt: skip
AMOUNTS = {"rotation": 25.0, "scale": 1.3, "shift": 0.2, "gamma": 2.0, "bias": 0.5, "noise": 0.1, "blur": 2.0, "reduction": 3.0, "elastic": 0.05,
           "crop": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def volumes():
    return generate_volumes(8, 24, 5)[0].float() / 255


def test_views_of_no_strength_are_the_volumes(volumes):
    for still in (VolumeStrength(**NOTHING), VolumeStrength(probability=0.0, geometry=0.0)):
        view = augment_volumes(volumes, still, torch.Generator().manual_seed(1))
        torch.testing.assert_close(view, volumes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(AMOUNTS))
def test_each_effect_alone_changes_the_view_and_stays_finite(volumes, name):
    before = volumes.clone()
    view = augment_volumes(volumes, VolumeStrength(**{**NOTHING, name: AMOUNTS[name]}), torch.Generator().manual_seed(1))
    assert torch.isfinite(view).all() and float((view - volumes).abs().mean()) > 1e-3
    assert torch.equal(volumes, before)


def test_rotation_keeps_what_lies_on_a_ball(volumes):
    axis = (torch.arange(24) + 0.5) / 12 - 1
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    ball = torch.sigmoid((0.6 - radius) * 12)[None, None].expand(4, -1, -1, -1, -1)
    strength = VolumeStrength(**{**NOTHING, "rotation": 25.0})
    turned = augment_volumes(ball, strength, torch.Generator().manual_seed(2))
    assert float((turned - ball).abs().max()) < 0.05
    lopsided = ball * (axis[:, None, None] > 0)
    assert float((augment_volumes(lopsided, strength, torch.Generator().manual_seed(2)) - lopsided).abs().max()) > 0.3


def test_differences_are_those_of_each_volumes_own_views(volumes):
    def embed(cubes):
        return F.normalize(F.interpolate(cubes, (6, 6, 6), mode="area").flatten(1), dim=1)

    found = volume_view_differences(embed, volumes, views=3, batch_size=3)
    assert found.shape == (24, 216)
    generator, wanted = torch.Generator().manual_seed(0), []
    for part in volumes.split(3):
        views = [cut_cubes(augment_volumes(part, VolumeStrength(), generator), 24) for _ in range(3)]
        wanted += [embed(view) - embed(part) for view in views]
    torch.testing.assert_close(found, torch.cat(wanted))
    torch.testing.assert_close(found, volume_view_differences(embed, volumes, views=3, batch_size=3))
    assert not torch.equal(found, volume_view_differences(embed, volumes, views=3, batch_size=3, seed=1))


def test_uint8_and_float_volumes_give_the_same(volumes):
    bytes_ = (volumes * 255).round().to(torch.uint8)

    def embed(cubes):
        return cubes.flatten(1)[:, ::97]

    torch.testing.assert_close(volume_view_differences(embed, bytes_, 1), volume_view_differences(embed, bytes_.float() / 255, 1))
