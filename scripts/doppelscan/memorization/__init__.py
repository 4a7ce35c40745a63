"""Memorization Index (arXiv 2602.13066): layer features, whitening, null, MI and ONI."""

from doppelscan.memorization.index import MemorizationIndex, MemorizationScores, patient_folds
from doppelscan.memorization.whitening import Whitening

__all__ = ["MemorizationIndex", "MemorizationScores", "Whitening", "patient_folds"]
