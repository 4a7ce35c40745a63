"""Workflows: MONAI datasets, evaluators and handlers, and the audit that uses them all."""

from doppelscan.locations import audit_root, bundle_id, bundle_root, encoder_weights
from doppelscan.workflows.audit import Audit, AuditResult
from doppelscan.workflows.checked import CheckedWorkflow
from doppelscan.workflows.embed import EmbeddingEvaluator, EmbeddingWriter, PoseInferer, RecordDataset, embedding_fingerprint
from doppelscan.workflows.errors import one_line_errors
from doppelscan.workflows.evaluate import CopyDetection, EvaluationImages, EvaluationReport, evaluation_pairs, pair_head_metrics
from doppelscan.workflows.generate import (
    EpochRandomness,
    FiniteLoss,
    KLPenalty,
    LatestWeights,
    MovingAverage,
    SameTraining,
    TrainingProgress,
    TrainingSetFiles,
)
from doppelscan.workflows.index import IndexFitter, IndexScoreWriter, reference_poses
from doppelscan.workflows.overlap_run import OverlapResult
from doppelscan.workflows.predicted_ssim import PredictedSSIMTable
from doppelscan.workflows.protocol import ContaminationProtocol, IndexVariant
from doppelscan.workflows.protocol_report import ProtocolReport
from doppelscan.workflows.review import Review, ReviewedImage
from doppelscan.workflows.run import audit
from doppelscan.workflows.samples import AuditOfSamples, SampleAudit
from doppelscan.workflows.training import (
    BestWeights,
    EarlyStop,
    EpochSeeds,
    GradientClip,
    ListOutput,
    NamedHandlers,
    ResumableCheckpoint,
    TrainingTables,
    Validation,
    WeightsTold,
)
from doppelscan.workflows.volume_audit import VolumeAudit, audit_of
from doppelscan.workflows.volume_embed import VolumeEmbedder
from doppelscan.workflows.volume_review import VolumeReview
from doppelscan.workflows.whole_volumes import WholeVolumes

__all__ = [
    "Audit",
    "AuditOfSamples",
    "AuditResult",
    "BestWeights",
    "CheckedWorkflow",
    "ContaminationProtocol",
    "CopyDetection",
    "EarlyStop",
    "EmbeddingEvaluator",
    "EmbeddingWriter",
    "EpochRandomness",
    "EpochSeeds",
    "EvaluationImages",
    "EvaluationReport",
    "FiniteLoss",
    "GradientClip",
    "IndexFitter",
    "IndexScoreWriter",
    "IndexVariant",
    "KLPenalty",
    "LatestWeights",
    "ListOutput",
    "MovingAverage",
    "NamedHandlers",
    "OverlapResult",
    "PoseInferer",
    "PredictedSSIMTable",
    "ProtocolReport",
    "RecordDataset",
    "ResumableCheckpoint",
    "Review",
    "ReviewedImage",
    "SameTraining",
    "SampleAudit",
    "TrainingProgress",
    "TrainingSetFiles",
    "TrainingTables",
    "Validation",
    "VolumeAudit",
    "VolumeEmbedder",
    "VolumeReview",
    "WeightsTold",
    "WholeVolumes",
    "audit",
    "audit_of",
    "audit_root",
    "bundle_id",
    "bundle_root",
    "embedding_fingerprint",
    "encoder_weights",
    "evaluation_pairs",
    "one_line_errors",
    "pair_head_metrics",
    "reference_poses",
]
