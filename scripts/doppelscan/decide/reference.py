"""The stages before a decision: what a training set was fitted to, and a set that was scored against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from doppelscan.decide.scoring import ScoredImage, score_images
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore
from doppelscan.verify import AlignedPair, Registration

__all__ = ["FittedReference", "ScoredSet"]


@dataclass(frozen=True)
class FittedReference:
    """A training set that images are scored against.

    Attributes:
        training: in one pose.
        posed: some of its images in all poses: the null of the index, and the control where there is no holdout.
        search: fitted on it.
        view_differences: what the whitening was fitted with, see :meth:`~doppelscan.search.CandidateSearch.fit`.
        registration: of pairs.
        verified: where registered pairs are stored.
        score: what ranks, a name of :data:`~doppelscan.decide.SCORES`.
    """

    training: EmbeddedSet
    posed: EmbeddedSet
    search: CandidateSearch
    view_differences: Mapping[str, np.ndarray]
    registration: Registration
    verified: EmbeddingStore
    score: str = "combined"

    def scored(self, images: EmbeddedSet, label: str) -> ScoredSet:
        """``images`` in all poses, scored; ``label`` names the set in the progress bar."""
        found = score_images(images, self.training, self.search, self.registration, self.verified, label, self.score)
        return ScoredSet(images, tuple(found), self)


@dataclass(frozen=True)
class ScoredSet:
    """Images scored against a training set.

    Attributes:
        images: what was scored.
        scored: one entry an image; ``row`` is its row in ``images``, ``match`` one of the training set.
        reference: what it was scored against.
    """

    images: EmbeddedSet
    scored: tuple[ScoredImage, ...]
    reference: FittedReference

    @property
    def training(self) -> EmbeddedSet:
        """The training set."""
        return self.reference.training

    @property
    def patients(self) -> list[str]:
        """Of each entry of ``scored``."""
        return [self.images.patients[s.row] for s in self.scored]

    def pair(self, one: ScoredImage) -> AlignedPair:
        """The registered pair of an entry in full."""
        patches = self.reference.search.patches
        assert patches is not None
        return self.reference.registration.pair(
            self.images.thumbnails([one.row])[0],
            self.training.thumbnails([one.match])[0],
            one.pose,
            patches.descriptor,
            self.images.native_shapes([one.row])[0],
            self.training.native_shapes([one.match])[0],
        )
