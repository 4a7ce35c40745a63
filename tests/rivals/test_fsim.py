"""FSIM against what another implementation gives, and by its definition."""

from __future__ import annotations

import pytest
import torch
from doppelscan.rivals import FeatureSimilarity, fsim, phase_congruency
from doppelscan.rivals.fsim import _gradient


def waves():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return (0.5 + 0.25 * torch.sin(x / 5) + 0.25 * torch.cos(y / 9 + x / 20))[None, None]


def test_fsim_is_what_piq_gives():
    """piq 0.8.0 (which needs torchvision, so that it is no dependency): ``piq.fsim(image, other, chromatic=False)``."""
    image = waves()
    assert float(fsim(image, image**1.5)) == pytest.approx(0.958121, abs=2e-6)
    assert float(fsim(image, image.flip(-1))) == pytest.approx(0.934161, abs=2e-6)


def test_fsim_written_out_from_its_maps():
    a, b = waves(), waves().flip(-2) ** 0.7
    maps = [(phase_congruency(255 * i), _gradient(255 * i)) for i in (a, b)]
    (p, g), (q, h) = maps
    similarity = (2 * p * q + 0.85) / (p**2 + q**2 + 0.85) * (2 * g * h + 160) / (g**2 + h**2 + 160)
    weight = torch.where(p > q, p, q)
    assert float(fsim(a, b)) == pytest.approx(float((similarity * weight).sum() / weight.sum()), abs=1e-6)


def test_gradient_is_scharrs():
    ramp = torch.arange(8.0).expand(8, 8)[None, None] * 2
    assert float(_gradient(ramp)[0, 4, 4]) == pytest.approx(2 * 2 * 16 / 16), "two pixels apart, 16 sixteenths"
    assert float(_gradient(ramp.transpose(-1, -2))[0, 4, 4]) == pytest.approx(4)


def test_phase_congruency_sees_an_edge_whatever_its_contrast():
    step = torch.zeros(1, 1, 64, 64)
    step[..., 32:] = 1
    strong, weak = (phase_congruency(step * height)[0] for height in (200.0, 40.0))
    assert strong.min() >= 0 and strong.max() <= 1
    assert strong[32, 30:34].max() == strong.max() > 0.7 and strong[32, 31] > 2 * strong[32, 28]
    torch.testing.assert_close(strong, weak, atol=1e-3, rtol=0)


def test_fsim_of_a_set_is_that_of_each_pair(cohort):
    images = torch.from_numpy(cohort[:5])[:, None]
    values = FeatureSimilarity(96).fit(images).similarity(images[:3])
    assert values.shape == (3, 5)
    for i in range(3):
        expected = fsim(images[i : i + 1].expand(5, -1, -1, -1), images)
        torch.testing.assert_close(torch.from_numpy(values[i]), expected, atol=1e-5, rtol=0)


def test_large_images_are_averaged_first_as_in_the_papers_code():
    image = waves().repeat(1, 1, 8, 8)
    small = torch.nn.functional.avg_pool2d(image, 2)
    assert float(fsim(image, image.flip(-1))) == pytest.approx(float(fsim(small, small.flip(-1))), abs=1e-6)


def test_flat_images_are_no_copies_of_anything():
    flat = torch.full((1, 1, 64, 64), 0.5)
    assert float(fsim(flat * 0, flat * 0)) == 0 and float(fsim(flat * 0, waves())) < 0.5
