"""The foreground square follows the anatomy."""

from __future__ import annotations

import torch
from doppelscan.images import foreground_square
from doppelscan.images.foreground import otsu_threshold


def disc(x: float, y: float, radius: float, size: int = 128, background: float = 0.0) -> torch.Tensor:
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.where((columns - x) ** 2 + (rows - y) ** 2 < radius**2, 0.8, background)[None, None]


def test_centre_and_side_follow_shift_and_zoom():
    for x, y, radius in ((0.0, 0.0, 0.5), (0.2, -0.1, 0.4), (-0.15, 0.2, 0.3)):
        found = foreground_square(disc(x, y, radius))[0]
        assert abs(found[0] - x) < 0.01 and abs(found[1] - y) < 0.01
        # The blur before the threshold widens a small disc by up to a tenth.
        assert abs(found[2] / radius - 3.3 / 2**0.5) < 0.25


def test_a_background_that_is_not_black_is_still_background():
    found = foreground_square(disc(0.2, 0.1, 0.4, background=0.3))[0]
    assert abs(found[0] - 0.2) < 0.02 and abs(found[1] - 0.1) < 0.02


def test_flat_image_gives_the_whole_image():
    assert foreground_square(torch.full((1, 1, 64, 64), 0.4))[0].tolist() == [0.0, 0.0, 2.0]


def test_scale_of_intensities_does_not_matter():
    image = disc(0.1, 0.0, 0.5) + 0.05 * torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(foreground_square(image), foreground_square(image * 1000 + 50), atol=1e-3, rtol=1e-3)


def test_otsu_splits_two_levels():
    values = torch.cat([torch.full((1, 50), 0.2), torch.full((1, 50), 0.9)], 1)
    assert 0.2 < float(otsu_threshold(values)[0]) < 0.9
