"""Search: the embedding store on disk, and which training images could be the source of an image."""

from doppelscan.search.describe import describe, fingerprint
from doppelscan.search.embedded import (
    EmbeddedSet,
    EmbeddedVolumes,
    StoredFeatures,
    StoredThumbnails,
    content_of,
    frame_row,
    output_columns,
    rounded,
)
from doppelscan.search.patches import PatchDescriptor, PatchMatches, PatchSearch, mean_agreement
from doppelscan.search.proposals import CandidateSearch, Proposals, likely_poses, view_similarity
from doppelscan.search.shards import part_of
from doppelscan.search.similarity import (
    EncoderSimilarity,
    NormalisedCorrelation,
    PerceptualHash,
    PlainSSIM,
    PoseEmbedder,
    Similarity,
)
from doppelscan.search.store import EmbeddingStore, StoreError
from doppelscan.search.volumes import VolumeProposals, VolumeSearch

# Counts up when the same files and settings come to give other numbers: it is in the fingerprint of what is stored.
ALGORITHM = 2

__all__ = [
    "CandidateSearch",
    "EmbeddedSet",
    "EmbeddedVolumes",
    "EmbeddingStore",
    "EncoderSimilarity",
    "NormalisedCorrelation",
    "PatchDescriptor",
    "PatchMatches",
    "PatchSearch",
    "PerceptualHash",
    "PlainSSIM",
    "PoseEmbedder",
    "Proposals",
    "Similarity",
    "StoreError",
    "StoredFeatures",
    "StoredThumbnails",
    "VolumeProposals",
    "VolumeSearch",
    "content_of",
    "describe",
    "fingerprint",
    "frame_row",
    "likely_poses",
    "mean_agreement",
    "output_columns",
    "part_of",
    "rounded",
    "view_similarity",
]
