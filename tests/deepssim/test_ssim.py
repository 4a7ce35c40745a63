"""SSIM against its formula and against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import align_to_first, foreground_views, pairwise_ssim, registered_ssim, rotated, ssim, zscore
from skimage.metrics import structural_similarity


@pytest.fixture
def pair(cohort):
    images = torch.from_numpy(cohort[:6])[:, None]
    return zscore(images[:3]), zscore(images[3:])


def test_parity_with_scikit_image(pair):
    for a, b, value in zip(*pair, ssim(*pair), strict=True):
        a, b = a[0].double().numpy(), b[0].double().numpy()
        expected = structural_similarity(a, b, data_range=max(a.max(), b.max()) - min(a.min(), b.min()))
        assert abs(float(value) - expected) < 1e-5


def test_formula_in_one_window():
    a, b = torch.rand(1, 1, 7, 7), torch.rand(1, 1, 7, 7)
    x, y = a.numpy().ravel().astype(float), b.numpy().ravel().astype(float)
    span = max(x.max(), y.max()) - min(x.min(), y.min())
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    covariance = np.cov(x, y)
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    assert abs(float(ssim(a, b)[0]) - expected) < 1e-4


def test_symmetric_and_one_on_itself(pair):
    torch.testing.assert_close(ssim(*pair), ssim(*reversed(pair)))
    torch.testing.assert_close(ssim(pair[0], pair[0]), torch.ones(3))


def test_all_pairs_are_the_pairs(pair):
    every = pairwise_ssim(*pair)
    for i in range(3):
        torch.testing.assert_close(every[i], ssim(pair[0][i : i + 1].expand(3, -1, -1, -1), pair[1]), atol=1e-5, rtol=1e-5)
    assert (pairwise_ssim(*pair, stride=2) - every).abs().max() < 0.02


def test_constant_image_is_not_a_division_by_zero():
    flat = zscore(torch.full((1, 1, 32, 32), 4.0))
    assert torch.isfinite(ssim(flat, zscore(torch.rand(1, 1, 32, 32)))).all() and flat.abs().max() == 0


def test_registration_undoes_a_rotation_and_never_lowers_the_ssim(cohort):
    images = torch.from_numpy(cohort[:4])[:, None]
    a, b = foreground_views(images, 96), foreground_views(rotated(images, 6.0), 96)
    before, after = ssim(a, b), registered_ssim(a, b)
    assert (after > 0.8).all() and (after >= before).all() and float(before.max()) < 0.8
    torch.testing.assert_close(after, registered_ssim(b, a))
    others = registered_ssim(a[:2], a[2:])
    assert (others >= ssim(a[:2], a[2:])).all() and float(others.max()) < 0.8


def test_a_variant_moves_with_its_image(cohort):
    images = foreground_views(torch.from_numpy(cohort[:1])[:, None], 96)
    group = torch.cat([images, rotated(images, 5.0)])
    aligned, variants = align_to_first(group, group * 2)
    assert float(ssim(aligned[:1], aligned[1:])[0]) > float(ssim(group[:1], group[1:])[0]) + 0.1
    torch.testing.assert_close(variants, aligned * 2)
