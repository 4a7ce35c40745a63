"""Views of images: what each effect does, and that those which only training uses are off elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import ViewStrength, augment
from doppelscan.deepssim.augment import surroundings
from doppelscan.images import generate_cohort

NOTHING = {"rotation": 0.0, "scale": 1.0, "shift": 0.0, "gamma": 1.0, "bias": 0.0, "noise": 0.0, "blur": 0.0, "reduction": 1.0,
           "elastic": 0.0, "occlusion": 0.0, "probability": 1.0, "geometry": 1.0}  # fmt: skip
HARDER = {"cut": 0.3, "reconstruction": 5.0, "page": 1.0, "background": 1.0}


@pytest.fixture(scope="module")
def images():
    return generate_cohort(6, 1, 96, seed=3)[0].float() / 255


@pytest.fixture(scope="module")
def ring():
    """Four bright rings, dark within and without."""
    axis = (torch.arange(96) + 0.5) / 48 - 1
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    return (0.7 * ((radius > 0.25) & (radius < 0.7)).float()).expand(4, 1, -1, -1).clone()


def view(images, seed=1, **fields):
    return augment(images, ViewStrength(**{**NOTHING, **fields}), torch.Generator().manual_seed(seed))


def test_views_that_audits_whiten_on_are_drawn_as_before(images):
    """Weights and thresholds were measured with them: an effect that is off must not draw a random number."""
    generator = torch.Generator().manual_seed(5)
    augment(images, ViewStrength(occlusion=0.0), generator)
    assert float(torch.rand((), generator=generator)) == pytest.approx(0.36071717739105225, abs=1e-7)


@pytest.mark.parametrize("name", list(HARDER))
def test_each_harder_effect_alone_changes_the_view_and_stays_finite(images, name):
    before = images.clone()
    assert float((view(images) - images).abs().mean()) < 1e-3
    changed = view(images, **{name: HARDER[name]})
    assert torch.isfinite(changed).all() and float((changed - images).abs().mean()) > 3e-3
    assert torch.equal(images, before)
    assert not torch.equal(changed, view(images, seed=2, **{name: HARDER[name]}))


def test_what_is_left_of_a_cut_field_fills_it():
    ramp = ((torch.arange(96) + 0.5) / 96).expand(8, 1, 96, 96)
    cut = view(ramp, cut=0.3)
    reach = cut.amax((1, 2, 3)) - cut.amin((1, 2, 3))
    assert (reach > 0.69).all() and (reach < 1.0).all() and float(reach.min()) < 0.9
    rising = (cut[..., 1:] > cut[..., :-1]).float().mean((1, 2, 3))
    assert (rising > 0.999).all()  # no border of nothing; one pixel is blanked


def test_a_reconstruction_loses_the_fine_and_keeps_the_coarse(images):
    images = (images + 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found = view(images, reconstruction=6.0)

    def fine(batch):
        return (batch - F.avg_pool2d(batch, 3, 1, 1)).square().mean((1, 2, 3))

    assert (fine(found) < 0.3 * fine(images)).all()
    pairs = torch.stack([F.interpolate(batch, (8, 8), mode="area").flatten(1) for batch in (found, images)], 1)
    assert all(float(torch.corrcoef(pair)[0, 1]) > 0.98 for pair in pairs)


def test_a_background_changes_and_a_dark_inside_stays(ring):
    assert float(surroundings(ring)[..., 48, 48].max()) == 0 and float(surroundings(ring)[..., 0, 0].min()) == 1
    found = view(ring, background=1.0)
    assert float(found[..., 44:52, 44:52].abs().max()) < 0.02
    torch.testing.assert_close(found[:, :, 48, 20:30], ring[:, :, 48, 20:30], atol=0.02, rtol=0)
    corners = found[..., :6, :6].mean((1, 2, 3))
    assert float(corners.max()) > 0.5 and float(corners.std()) > 0.05


def test_an_image_that_fills_the_field_has_no_background():
    whole = 0.4 + 0.2 * torch.rand(4, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view(whole, background=1.0), view(whole), atol=1e-5, rtol=0)


def test_a_page_surrounds_the_whole_picture_or_covers_two_sides():
    picture = torch.full((40, 1, 96, 96), 0.437)
    found = view(picture, page=1.0)
    shown = (found - 0.437).abs() < 1e-4
    rows, columns = (shown.any(axis).sum(-1).flatten() for axis in (-1, -2))
    assert (shown[:, 0, 48, 48]).all() and (rows >= 64).all() and (columns >= 64).all()
    bars = (rows == 96) ^ (columns == 96)
    smaller = (rows < 96) & (columns < 96)
    assert bars.sum() > 8 and smaller.sum() > 8 and ((rows - columns).abs()[smaller] <= 2).all()
