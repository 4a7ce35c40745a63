"""DeepSSIM (arXiv 2509.16582): encoder, SSIM target, training pairs and loss."""

from doppelscan.deepssim.augment import ViewStrength, augment, foreground_views, quarter_turn, quarter_turn_poses, rotated, zscore
from doppelscan.deepssim.encoder import DeepSSIMEncoder
from doppelscan.deepssim.inferer import AutocastInferer
from doppelscan.deepssim.loss import DeepSSIMLoss
from doppelscan.deepssim.metrics import CopyRetrieval, SSIMError
from doppelscan.deepssim.pairs import CohortBatchSampler, CohortDataset, MakeViews
from doppelscan.deepssim.ssim import pairwise_ssim, ssim
from doppelscan.deepssim.weights import WeightsError, file_sha256, load_weights

__all__ = [
    "AutocastInferer",
    "CohortBatchSampler",
    "CohortDataset",
    "CopyRetrieval",
    "DeepSSIMEncoder",
    "DeepSSIMLoss",
    "MakeViews",
    "SSIMError",
    "ViewStrength",
    "WeightsError",
    "augment",
    "file_sha256",
    "foreground_views",
    "load_weights",
    "pairwise_ssim",
    "quarter_turn",
    "quarter_turn_poses",
    "rotated",
    "ssim",
    "zscore",
]
