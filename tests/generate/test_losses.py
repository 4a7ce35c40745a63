"""The autoencoder's losses against formulas written out."""

from __future__ import annotations

import pytest
import torch
from doppelscan.generate import (
    AdversarialLoss,
    DiscriminatorLoss,
    NegativeError,
    ReconstructionLoss,
    gradient_difference,
    kl_divergence,
)


def test_kl_is_that_of_normal_distributions():
    mean, sigma = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4) + 0.1
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(normal(mean, sigma), normal(0.0, 1.0)).sum((1, 2, 3)).mean()
    torch.testing.assert_close(kl_divergence(mean, sigma), wanted)
    assert torch.isfinite(kl_divergence(mean, torch.zeros_like(sigma)))


def test_gradient_term_sees_blur_and_not_brightness():
    image = torch.rand(1, 1, 16, 16)
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    assert float(gradient_difference(image + 0.2, image)) < 1e-6 < float(gradient_difference(blurred, image))
    rows, columns = (blurred - image).diff(dim=2).abs().mean(), (blurred - image).diff(dim=3).abs().mean()
    torch.testing.assert_close(gradient_difference(blurred, image), (rows + columns) / 2)


def test_reconstruction_adds_what_it_is_given():
    prediction, target = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    plain = ReconstructionLoss(gradient_weight=0.0)(prediction, target)
    torch.testing.assert_close(plain, (prediction - target).abs().mean())
    both = ReconstructionLoss(gradient_weight=2.0, perceptual=torch.nn.MSELoss(), perceptual_weight=0.1)(prediction, target)
    wanted = plain + 2 * gradient_difference(prediction, target) + 0.1 * ((prediction - target) ** 2).mean()
    torch.testing.assert_close(both, wanted)


def test_the_adversarial_term_starts_late_and_scores_the_verdict_alone():
    logits = [torch.full((1, 1, 2, 2), 9.0), torch.full((1, 1, 2, 2), 0.25)]  # features, then the verdict
    loss = AdversarialLoss(weight=0.5, start=2)
    assert float(loss(logits)) == 0
    loss.set_epoch(2)
    assert float(loss(logits)) == pytest.approx(0.5 * 0.75**2)
    assert float(DiscriminatorLoss()([torch.ones(1, 1, 2, 2)], [torch.zeros(1, 1, 2, 2)])) == 0
    assert float(DiscriminatorLoss()([torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)])) == 1


@pytest.mark.parametrize("loss", [AdversarialLoss(weight=0.5, start=2), AdversarialLoss(weight=0.0)])
def test_a_discriminator_that_is_not_asked_cannot_spoil_the_loss(loss):
    # bfloat16 gradients of a 4 x 4 x 4 kernel over 3 x 3 x 3 voxels are uninitialized memory on a CPU (PyTorch 2.13): a small discriminator gets them.
    logits = torch.full((1, 1, 2, 2), float("nan"), requires_grad=True)
    found = loss([logits])
    assert float(found) == 0 and not found.requires_grad


def test_the_error_that_rises():
    assert float(NegativeError()(torch.zeros(4), torch.full((4,), 2.0))) == -4
