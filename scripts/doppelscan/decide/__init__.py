"""Decisions: images scored against a training set, the control, what is flagged and as what, and the words of the conclusion."""

from doppelscan.decide.conclusion import KINDS, Conclusion, Evidence, Verdict, conclude, count_kinds
from doppelscan.decide.control import ControlScorer, ScoredControl, same_kind, without_leaks
from doppelscan.decide.findings import Finding, Flags, NearDuplicate, explain, flag_images, near_duplicates
from doppelscan.decide.scoring import CLOSE_PAIR, SCORES, ScoredImage, combined_score, score_images, verified_score

__all__ = [
    "CLOSE_PAIR",
    "KINDS",
    "SCORES",
    "Conclusion",
    "ControlScorer",
    "Evidence",
    "Finding",
    "Flags",
    "NearDuplicate",
    "ScoredControl",
    "ScoredImage",
    "Verdict",
    "combined_score",
    "conclude",
    "count_kinds",
    "explain",
    "flag_images",
    "near_duplicates",
    "same_kind",
    "score_images",
    "verified_score",
    "without_leaks",
]
