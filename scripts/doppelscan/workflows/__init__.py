"""Workflows: MONAI datasets, evaluators and handlers, and the audit that uses them all."""

from doppelscan.workflows.audit import Audit, AuditResult
from doppelscan.workflows.embed import EmbeddingEvaluator, EmbeddingWriter, PoseInferer, RecordDataset
from doppelscan.workflows.errors import one_line_errors
from doppelscan.workflows.index import FeatureCollector, IndexFitter, IndexScoreWriter
from doppelscan.workflows.locations import audit_root, bundle_root
from doppelscan.workflows.run import audit

__all__ = [
    "Audit",
    "AuditResult",
    "EmbeddingEvaluator",
    "EmbeddingWriter",
    "FeatureCollector",
    "IndexFitter",
    "IndexScoreWriter",
    "PoseInferer",
    "RecordDataset",
    "audit",
    "audit_root",
    "bundle_root",
    "one_line_errors",
]
