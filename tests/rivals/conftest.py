"""Square images of generated patients, as a benchmark hands them to a rival."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch


@dataclass(frozen=True)
class Squares:
    """float32 [N, 1, 96, 96] in [0, 1]; ``images`` are copies of training images ``sources``, then strangers."""

    training: torch.Tensor
    images: torch.Tensor
    holdout: torch.Tensor
    sources: tuple[int, ...] = (7, 2, 11)


@pytest.fixture(scope="session")
def squares(cohort) -> Squares:
    pixels = torch.from_numpy(cohort)[:, None]
    training, strangers, holdout = pixels[:16], pixels[16:24], pixels[24:36]
    return Squares(training, torch.cat([training[[7, 2, 11]], strangers]), holdout)
