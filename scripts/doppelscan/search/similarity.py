"""Similarities of every query with every training image: the encoder's heads, and the rivals that it is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from doppelscan.deepssim import foreground_views, pairwise_ssim, quarter_turn_poses, view_differences, whole_views, zscore
from doppelscan.errors import MissingPackageError
from doppelscan.images import evenly_chosen, unit_float
from doppelscan.memorization import Whitening

__all__ = ["EncoderSimilarity", "NormalisedCorrelation", "PerceptualHash", "PlainSSIM", "PoseEmbedder", "Similarity"]


class Similarity(Protocol):
    """What all have: ``fit`` on the training images, then ``similarity`` of queries; both float or uint8 [N, 1, S, S], square."""

    def fit(self, images: torch.Tensor) -> Any:
        """Keep what is needed of the training images."""

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N], higher is more alike."""


def _best_pose(images: torch.Tensor, poses: int, similar: Callable[[torch.Tensor], np.ndarray]) -> np.ndarray:
    """Largest similarity over the first ``poses`` poses of the queries."""
    views = quarter_turn_poses(images) if poses == 8 else images[None]
    best = similar(views[0])
    for view in views[1:]:
        best = np.maximum(best, similar(view))
    return best


class PoseEmbedder:
    """Embeddings of the query poses of square images, prepared as in an audit; the last call is kept for a second head.

    Args:
        network: z-scored [B, 1, size, size] -> [B, D].
        poses: 1 or 8.
        spatial_size: the network's input.
        device: of the network.
        whole: embed whole images, as the published forms do, not their foreground squares.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        poses: int = 8,
        spatial_size: int = 128,
        device: str | torch.device = "cpu",
        whole: bool = False,
    ) -> None:
        self.view = whole_views if whole else foreground_views
        self.network, self.poses, self.spatial_size, self.device = network, poses, spatial_size, torch.device(device)
        self.kept: tuple[Any, torch.Tensor] = (None, torch.zeros(0))

    @torch.no_grad()
    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """float32 [B, D] of z-scored views [B, 1, size, size]."""
        batches = views.to(self.device).contiguous(memory_format=torch.channels_last).split(64)
        return torch.cat([self.network(batch).float().cpu() for batch in batches])

    def __call__(self, images: torch.Tensor, poses: int | None = None) -> torch.Tensor:
        """float32 [poses, N, D] of ``images`` uint8 or float [N, 1, S, S]."""
        poses = poses or self.poses
        if self.kept[0] is not images or len(self.kept[1]) != poses:
            views = torch.cat([self.view(unit_float(part), self.spatial_size) for part in images.split(64)])
            posed = quarter_turn_poses(views) if poses == 8 else views[None]
            self.kept = images, torch.stack([self.forward(view) for view in posed])
        return self.kept[1]


class EncoderSimilarity:
    """Cosine of an encoder's embedding, best of the query's poses.

    Args:
        embedder: of the images; two similarities of one network share it.
        part: which columns of the output; None takes all.
        whiten: whiten on the training images and views of them first.
    """

    def __init__(self, embedder: PoseEmbedder, part: slice | None = None, whiten: bool = False) -> None:
        self.embedder, self.part = embedder, part or slice(None)
        self.whitening = Whitening() if whiten else None

    def _vectors(self, found: torch.Tensor) -> np.ndarray:
        values = F.normalize(found[..., self.part], dim=-1).numpy()
        return values if self.whitening is None or not len(self.whitening.mean) else self.whitening.transform(values)

    def fit(self, images: torch.Tensor) -> EncoderSimilarity:
        """Embed the training images, as they are."""
        if self.whitening is not None:
            self.whitening = Whitening()
            values = self._vectors(self.embedder(images, 1)[0])
            chosen = evenly_chosen(len(images), 300)
            differences = view_differences(
                lambda views: F.normalize(self.embedder.forward(views)[:, self.part], dim=1),
                images[chosen],
                self.embedder.spatial_size,
            )
            self.whitening.fit(values, differences.numpy())
        self.reference = self._vectors(self.embedder(images, 1)[0])
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N]."""
        return (self._vectors(self.embedder(images)) @ self.reference.T).max(0)


class PlainSSIM:
    """SSIM of the z-scored whole images, not registered and in one pose, as a first look would do."""

    def __init__(self, size: int = 128) -> None:
        self.size = size

    def _ready(self, images: torch.Tensor) -> torch.Tensor:
        return zscore(F.interpolate(unit_float(images), (self.size, self.size), mode="bilinear", antialias=True))

    def fit(self, images: torch.Tensor) -> PlainSSIM:
        """Keep the training images."""
        self.reference = self._ready(images)
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N]."""
        return pairwise_ssim(self._ready(images), self.reference, stride=2).numpy()


class NormalisedCorrelation:
    """Pearson correlation of the whole images at ``size`` pixels, best of 8 flip and quarter-turn ``poses`` or of 1."""

    def __init__(self, size: int = 64, poses: int = 8) -> None:
        self.size, self.poses = size, poses

    def _ready(self, images: torch.Tensor) -> torch.Tensor:
        small = F.interpolate(unit_float(images), (self.size, self.size), mode="bilinear", antialias=True).flatten(1)
        return F.normalize(small - small.mean(1, keepdim=True), dim=1)

    def fit(self, images: torch.Tensor) -> NormalisedCorrelation:
        """Keep the training images."""
        self.reference = self._ready(images)
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N]."""
        return _best_pose(images, self.poses, lambda view: (self._ready(view) @ self.reference.T).numpy())


class PerceptualHash:
    """Share of equal bits of the DCT hash of ``imagehash``, best of 8 flip and quarter-turn ``poses`` or of 1."""

    def __init__(self, hash_size: int = 16, poses: int = 8) -> None:
        self.hash_size, self.poses = hash_size, poses

    def _ready(self, images: torch.Tensor) -> np.ndarray:
        try:
            import imagehash
        except ImportError as error:
            raise MissingPackageError('PerceptualHash needs imagehash: pip install ".[rivals]"') from error

        pixels = (unit_float(images)[:, 0] * 255).round().to(torch.uint8).numpy()
        bits = [imagehash.phash(Image.fromarray(p), hash_size=self.hash_size).hash.flatten() for p in pixels]
        return np.where(np.stack(bits), 1.0, -1.0).astype(np.float32)

    def fit(self, images: torch.Tensor) -> PerceptualHash:
        """Hash the training images."""
        self.reference = self._ready(images)
        return self

    def similarity(self, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N]."""
        bits = self.hash_size**2
        return _best_pose(images, self.poses, lambda view: (self._ready(view) @ self.reference.T / bits + 1) / 2)
