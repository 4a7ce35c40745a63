"""DeepSSIM (arXiv 2509.16582): encoder, SSIM target, training pairs and loss."""

from doppelscan.deepssim.augment import (
    ViewStrength,
    augment,
    foreground_views,
    misalign,
    quarter_turn,
    quarter_turn_poses,
    rotated,
    whole_views,
    zscore,
)
from doppelscan.deepssim.classes import THRESHOLDS, VERDICTS, verdict, verdict_number
from doppelscan.deepssim.convnext import ConvNeXtEncoder
from doppelscan.deepssim.encoder import DeepSSIMEncoder
from doppelscan.deepssim.evaluation import PairDataset, PairInferer, PreparePairs
from doppelscan.deepssim.external import OnnxEncoder, TorchScriptEncoder, encoder_file, export_onnx, load_encoder
from doppelscan.deepssim.hub import HubError, hub_client, hub_encoder, hub_errors, hub_file, hub_versions, repository_and_version
from doppelscan.deepssim.inferer import AutocastInferer, ViewInferer, in_parts
from doppelscan.deepssim.loss import DeepSSIMLoss
from doppelscan.deepssim.metrics import CopyDetectionMetric, CopyRetrieval, SSIMAgreement, SSIMError
from doppelscan.deepssim.nuisance import view_differences
from doppelscan.deepssim.pair_features import PairFeatures, even_sampler, prepare_features, zoomed_cohorts
from doppelscan.deepssim.pair_head import PAIR_OUTPUTS, PairSSIM, load_pair_head, pair_columns, predicted_ssim
from doppelscan.deepssim.pairs import CohortBatchSampler, CohortDataset, MakeViews, held_out_share
from doppelscan.deepssim.published_pairs import ImagePairs, PairSampler, PairViews
from doppelscan.deepssim.roles import Encoder, RoleEncoder, require_heads
from doppelscan.deepssim.ssim import align_to_first, pairwise_ssim, published_ssim, registered_ssim, ssim
from doppelscan.deepssim.texture import TEXTURE_SIZE, best_views, laid_on, texture, texture_poses, texture_views
from doppelscan.deepssim.volume_encoder import VolumeEncoder
from doppelscan.deepssim.volume_slices import VolumeSliceInferer, cube_slices, halved_cubes, turned_cubes
from doppelscan.deepssim.volume_views import VolumeStrength, augment_volumes, volume_view_differences
from doppelscan.deepssim.weights import (
    WeightsError,
    file_sha256,
    load_weights,
    read_checkpoint,
    start_from,
    state_digest,
    unwrapped,
)

# Counts up when the same files and settings come to give other numbers: it is in the fingerprint of what is stored.
ALGORITHM = 1

__all__ = [
    "PAIR_OUTPUTS",
    "TEXTURE_SIZE",
    "THRESHOLDS",
    "VERDICTS",
    "AutocastInferer",
    "CohortBatchSampler",
    "CohortDataset",
    "ConvNeXtEncoder",
    "CopyDetectionMetric",
    "CopyRetrieval",
    "DeepSSIMEncoder",
    "DeepSSIMLoss",
    "Encoder",
    "HubError",
    "ImagePairs",
    "MakeViews",
    "OnnxEncoder",
    "PairDataset",
    "PairFeatures",
    "PairInferer",
    "PairSSIM",
    "PairSampler",
    "PairViews",
    "PreparePairs",
    "RoleEncoder",
    "SSIMAgreement",
    "SSIMError",
    "TorchScriptEncoder",
    "ViewInferer",
    "ViewStrength",
    "VolumeEncoder",
    "VolumeSliceInferer",
    "VolumeStrength",
    "WeightsError",
    "align_to_first",
    "augment",
    "augment_volumes",
    "best_views",
    "cube_slices",
    "encoder_file",
    "even_sampler",
    "export_onnx",
    "file_sha256",
    "foreground_views",
    "halved_cubes",
    "held_out_share",
    "hub_client",
    "hub_encoder",
    "hub_errors",
    "hub_file",
    "hub_versions",
    "in_parts",
    "laid_on",
    "load_encoder",
    "load_pair_head",
    "load_weights",
    "misalign",
    "pair_columns",
    "pairwise_ssim",
    "predicted_ssim",
    "prepare_features",
    "published_ssim",
    "quarter_turn",
    "quarter_turn_poses",
    "read_checkpoint",
    "registered_ssim",
    "repository_and_version",
    "require_heads",
    "rotated",
    "ssim",
    "start_from",
    "state_digest",
    "texture",
    "texture_poses",
    "texture_views",
    "turned_cubes",
    "unwrapped",
    "verdict",
    "verdict_number",
    "view_differences",
    "volume_view_differences",
    "whole_views",
    "zoomed_cohorts",
    "zscore",
]
