"""Dar et al. (arXiv 2402.01054; Nature Biomedical Engineering 2025): correlation of a self-supervised embedding, cut on a validation set."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import ContrastiveLoss
from torch import nn

from doppelscan.deepssim import DeepSSIMEncoder, ViewStrength, augment, foreground_views
from doppelscan.errors import InputError
from doppelscan.images import unit_float
from doppelscan.progress import progress
from doppelscan.rivals.cosine import EmbeddingRival
from doppelscan.rivals.encoders import ContrastiveEmbedder, Embedder
from doppelscan.rivals.ranking import LastFit, Ranking

__all__ = ["DarRival", "FittedDarRival", "fit_contrastive", "memorized_training_images", "n_copies", "n_mem"]

PERCENTILE = 95.0
FITTED_SIZE = 64


class DarRival(EmbeddingRival):
    """Pearson correlation of a contrastive embedding with that of the nearest training image.

    The threshold is the 95th percentile of the correlation of each training image with its nearest validation image; without a
    holdout there is none.

    Args:
        embedder: of the images; None takes the shipped contrastive encoder, which stands in for the method's own, trained on each cohort.
        name: as it stands in a table.
    """

    def __init__(self, embedder: Embedder | None = None, name: str = "Dar et al.") -> None:
        super().__init__(name, ContrastiveEmbedder() if embedder is None else embedder)
        self._cut: tuple[torch.Tensor, torch.Tensor, float] | None = None

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D], centred and of unit length: inner products are Pearson correlations."""
        found = self.embedder(images)
        return F.normalize(found - found.mean(1, keepdim=True), dim=1)

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`."""
        found = super().rank(training, images, holdout)
        return Ranking(found.score, found.match, None if holdout is None else self.cut(training, holdout))

    def cut(self, training: torch.Tensor, holdout: torch.Tensor) -> float:
        """95th percentile over the training images of the correlation with the nearest image of ``holdout``."""
        if self._cut is None or self._cut[0] is not training or self._cut[1] is not holdout:
            closest = self.similarity(training, holdout).max(0)
            self._cut = training, holdout, float(np.percentile(closest, PERCENTILE))
        return self._cut[2]


class FittedDarRival(DarRival):
    """:class:`DarRival` with an encoder that is trained on the training set, as the authors do, at our scale; see :func:`fit_contrastive`.

    Args:
        steps: of training.
        seed: of weights, batches and views.
        device: where it is trained and runs.
    """

    def __init__(
        self, steps: int = 400, seed: int = 0, device: str | torch.device = "cpu", name: str = "Dar et al., fitted"
    ) -> None:
        super().__init__(ContrastiveEmbedder(nn.Identity(), 1, FITTED_SIZE, device), name)
        self.steps, self.seed, self.device = steps, seed, device
        self._trained = LastFit()

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`; the first call with a training set trains on it."""
        network = self._trained.of(training, lambda t: fit_contrastive(t, self.steps, self.seed, device=self.device))
        assert isinstance(self.embedder, ContrastiveEmbedder)
        if self.embedder.network is not network:
            self.embedder.network, self._fit, self._cut = network, LastFit(), None
        return super().rank(training, images, holdout)


def fit_contrastive(
    training: torch.Tensor,
    steps: int = 400,
    seed: int = 0,
    batch_size: int = 32,
    spatial_size: int = FITTED_SIZE,
    device: str | torch.device = "cpu",
) -> DeepSSIMEncoder:
    """Train an encoder to tell the training images apart: two views of each image, the batch's others as negatives.

    Theirs is a ResNet-50; this is a residual network of 8 blocks, so that it trains on a CPU. Views are flipped, moved and changed
    in intensity as ours are; the loss is MONAI's ``ContrastiveLoss`` (Chen et al. 2020).

    Args:
        training: float32 [N, 1, S, S] in [0, 1], N >= 2.
        steps: of AdamW, at a learning rate of 0.001 that falls to 0 by a cosine.
        seed: of weights, batches and views.
        batch_size: images a step, at most N.
        spatial_size: side of the network's input.
        device: where it is trained.

    Returns:
        The network in evaluation mode, image float32 [B, 1, spatial_size, spatial_size] -> float32 [B, 128].

    Raises:
        InputError: fewer than 2 training images.
    """
    if len(training) < 2:
        raise InputError(f"The 'training' parameter of a contrastive fit must hold 2 images or more. Got {len(training)}.")
    draw, side = torch.Generator().manual_seed(seed), spatial_size * 5 // 4
    # Views are made at little more than the size that is looked at: they are a third of the time.
    pixels = torch.cat([F.interpolate(unit_float(p), (side, side), mode="bilinear", antialias=True) for p in training.split(256)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DeepSSIMEncoder(channels=(16, 32, 64, 128), embedding_size=128, outputs=("embedding",)).to(device).train()
    count = min(batch_size, len(training))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_function = ContrastiveLoss(temperature=0.1)
    with progress(None, "contrastive encoder", "step", total=steps) as bar:
        for _ in range(steps):
            images = pixels[torch.randperm(len(pixels), generator=draw)[:count]]
            views = [network(_view(images, spatial_size, draw).to(device)) for _ in range(2)]
            optimizer.zero_grad()
            loss_function(*views).backward()
            optimizer.step()
            schedule.step()
            bar.update(1)
    return network.eval()


def _view(images: torch.Tensor, size: int, draw: torch.Generator) -> torch.Tensor:
    flipped = images
    for axis in (-1, -2):
        chosen = torch.rand(len(images), generator=draw) < 0.5
        flipped = torch.where(chosen.view(-1, 1, 1, 1), flipped.flip(axis), flipped)
    return foreground_views(augment(flipped, ViewStrength(), draw), size)


def n_copies(ranking: Ranking) -> int:
    """N_copies: images whose score lies above the threshold."""
    return int(_copies(ranking).sum())


def memorized_training_images(ranking: Ranking) -> np.ndarray:
    """int64, rows of the training images that a copy is nearest to, each once."""
    return np.unique(ranking.match[_copies(ranking)])


def n_mem(ranking: Ranking) -> int:
    """N_mem: training images that a copy is nearest to; a sample counts for the one image that it is nearest to."""
    return len(memorized_training_images(ranking))


def _copies(ranking: Ranking) -> np.ndarray:
    if ranking.threshold is None:
        raise InputError("The 'ranking' parameter of N_copies and N_mem must have a threshold. Got None; rank with a holdout set.")
    return ranking.copies
