"""Rivals that compare embeddings by their cosine: any encoder, Chen et al. on SSCD, SemDeDup's form on BiomedCLIP."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.rivals.encoders import Embedder, query_poses
from doppelscan.rivals.ranking import LastFit, Ranking, nearest_in_blocks, require_squares

__all__ = ["CHEN_CUTS", "SEMDEDUP_CUTS", "EmbeddingRival", "chen_rival", "semdedup_rival"]

# Similar and duplicate, as arXiv 2509.16582 uses the two methods.
CHEN_CUTS = (0.40, 0.60)
SEMDEDUP_CUTS = (0.97, 0.99905)
BLOCK = 512


class EmbeddingRival:
    """Cosine of an embedding with its nearest training image's, best of the poses that the encoder asks for.

    Args:
        name: as it stands in a table.
        embedder: of the images.
        threshold: cosine above which an image is a copy.
        similar: cosine above which it is similar, for methods of three classes.
    """

    def __init__(self, name: str, embedder: Embedder, threshold: float | None = None, similar: float | None = None) -> None:
        self.name, self.embedder, self.threshold, self.similar = name, embedder, threshold, similar
        self._fit = LastFit()

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D] of unit length, whose inner products are the similarity."""
        return F.normalize(self.embedder(images), dim=1)

    def similarity(self, training: torch.Tensor, images: torch.Tensor) -> np.ndarray:
        """float32 [M, N] of all pairs."""
        reference = self._fit.of(training, self.vectors)
        found = [self.vectors(view) @ reference.T for view in query_poses(self.embedder, images)]
        return torch.stack(found).amax(0).numpy()

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """See :meth:`Rival.rank <doppelscan.rivals.ranking.Rival.rank>`."""
        require_squares(training, images, holdout)
        return nearest_in_blocks(lambda part: self.similarity(training, part), images, BLOCK, self.threshold)


def chen_rival(embedder: Embedder, name: str = "Chen et al.") -> EmbeddingRival:
    """Chen, Liu and Xu (CVPR 2024): cosine of SSCD descriptors; cut as arXiv 2509.16582 applies it, 0.60 (0.40 is similar)."""
    return EmbeddingRival(name, embedder, CHEN_CUTS[1], CHEN_CUTS[0])


def semdedup_rival(embedder: Embedder, name: str = "SemDeDup") -> EmbeddingRival:
    """SemDeDup (Abbas et al. 2023) as a copy detector: cosine of the embedding, cut as arXiv 2509.16582 has it for BiomedCLIP, 0.99905 (0.97 is similar)."""
    return EmbeddingRival(name, embedder, SEMDEDUP_CUTS[1], SEMDEDUP_CUTS[0])
