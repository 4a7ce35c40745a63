"""Memorization Index (arXiv 2602.13066): layer features, whitening, null, MI and ONI."""

from doppelscan.memorization.clustered import ClusteredRows, inverted_file, searched
from doppelscan.memorization.folds import patient_folds, spread_over_patients
from doppelscan.memorization.index import MemorizationIndex, moments_of
from doppelscan.memorization.mapped import MappedIndex, mapped
from doppelscan.memorization.moments import FeatureMoments
from doppelscan.memorization.mri_core import MRICoreEncoder, load_mri_core
from doppelscan.memorization.nearest import TIE, Nearest, NearestInBlocks, falling_order, interleaved, nearest_rows
from doppelscan.memorization.rows import FirstPose, HalfRows, Rows, TransformedRows, content_groups, kept, repeated
from doppelscan.memorization.scorer import MemorizationScorer
from doppelscan.memorization.scores import MemorizationScores
from doppelscan.memorization.set_metrics import SET_METRICS, set_metrics
from doppelscan.memorization.slots import SlotWhitening
from doppelscan.memorization.whitening import Whitening, unit_length

# Counts up when the same files and settings come to give other numbers: it is in the fingerprint of what is stored.
ALGORITHM = 1

__all__ = [
    "SET_METRICS",
    "TIE",
    "ClusteredRows",
    "FeatureMoments",
    "FirstPose",
    "HalfRows",
    "MRICoreEncoder",
    "MappedIndex",
    "MemorizationIndex",
    "MemorizationScorer",
    "MemorizationScores",
    "Nearest",
    "NearestInBlocks",
    "Rows",
    "SlotWhitening",
    "TransformedRows",
    "Whitening",
    "content_groups",
    "falling_order",
    "interleaved",
    "inverted_file",
    "kept",
    "load_mri_core",
    "mapped",
    "moments_of",
    "nearest_rows",
    "patient_folds",
    "repeated",
    "searched",
    "set_metrics",
    "spread_over_patients",
    "unit_length",
]
