"""Rivals: published ways to find copies, each as a ranking of images against the training set."""

from doppelscan.rivals.cosine import CHEN_CUTS, SEMDEDUP_CUTS, EmbeddingRival, chen_rival, semdedup_rival
from doppelscan.rivals.dar import DarRival, FittedDarRival, fit_contrastive, memorized_training_images, n_copies, n_mem
from doppelscan.rivals.distances import CalibratedDistance, M3Memorization, PixelVectors
from doppelscan.rivals.encoders import (
    CLIP_PREPARATION,
    SSCD_PREPARATION,
    ContrastiveEmbedder,
    Embedder,
    Preparation,
    ScriptEmbedder,
    TransformersEmbedder,
    embedder_of,
)
from doppelscan.rivals.fsim import FeatureSimilarity, fsim, phase_congruency
from doppelscan.rivals.pixels import (
    MeanSquaredError,
    PixelRival,
    fsim_rival,
    mse_rival,
    ncc_rival,
    phash_rival,
    ssim_rival,
)
from doppelscan.rivals.ranking import Ranking, Rival, nearest, require_squares
from doppelscan.rivals.registry import FILE_RIVALS, RIVALS, rivals

__all__ = [
    "CHEN_CUTS",
    "CLIP_PREPARATION",
    "FILE_RIVALS",
    "RIVALS",
    "SEMDEDUP_CUTS",
    "SSCD_PREPARATION",
    "CalibratedDistance",
    "ContrastiveEmbedder",
    "DarRival",
    "Embedder",
    "EmbeddingRival",
    "FeatureSimilarity",
    "FittedDarRival",
    "M3Memorization",
    "MeanSquaredError",
    "PixelRival",
    "PixelVectors",
    "Preparation",
    "Ranking",
    "Rival",
    "ScriptEmbedder",
    "TransformersEmbedder",
    "chen_rival",
    "embedder_of",
    "fit_contrastive",
    "fsim",
    "fsim_rival",
    "memorized_training_images",
    "mse_rival",
    "n_copies",
    "n_mem",
    "ncc_rival",
    "nearest",
    "phase_congruency",
    "phash_rival",
    "require_squares",
    "rivals",
    "semdedup_rival",
    "ssim_rival",
]
