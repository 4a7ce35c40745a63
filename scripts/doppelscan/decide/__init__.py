"""Decisions: images scored against a training set, the control, what is flagged and as what, and the words of the conclusion."""

from doppelscan.decide.conclusion import Conclusion, Evidence, Verdict, conclude, count_kinds
from doppelscan.decide.control import ControlScorer, ScoredControl, same_kind, without_leaks
from doppelscan.decide.decision import AuditedImage, Decision, decide
from doppelscan.decide.domain import other_modalities, unlike_training
from doppelscan.decide.evidence import PairEvidence
from doppelscan.decide.findings import KINDS, OF_NOBODY, Finding, NearDuplicate, explain, kind_of
from doppelscan.decide.flags import Calibration, Flag, Reason, Rule, control_as_close, wider
from doppelscan.decide.foreseen import foreseen, people_at_most
from doppelscan.decide.kept import kept_from_flag
from doppelscan.decide.owed import owed_to_training
from doppelscan.decide.pairs import PersonPair, registered_candidates, registered_pairs
from doppelscan.decide.people import People, UnnamedImages, find_people, names_of_files, person_pairs, same_people
from doppelscan.decide.posed_pairs import PosedPairs
from doppelscan.decide.power import NegativeResult, PlantedResult, SelfTest
from doppelscan.decide.preliminary import (
    FirstMatch,
    Preliminary,
    PreliminarySummary,
    nearest_by_encoder,
    ranked_so_far,
    summarize_preliminary,
)
from doppelscan.decide.reference import FittedReference, Reference, ScoredSet
from doppelscan.decide.reviewed import (
    DECISIONS,
    DISPUTED,
    ReviewCount,
    ReviewedImages,
    read_reviews,
)
from doppelscan.decide.rules import Rules, VolumeRules
from doppelscan.decide.sampled import SampleClaim, sample_words
from doppelscan.decide.scoring import ScoredImage, StoredRegistration, best_region, combined_score, score_images
from doppelscan.decide.signing import Planted, of_sample, self_tested, sign
from doppelscan.decide.summary import AuditSummary, ImageCounts, LeftOut, NearDuplicateRow, SetFacts, summarize
from doppelscan.decide.volume_domain import other_proportions, unlike_volumes
from doppelscan.decide.volume_reference import FittedVolumes, fitted_search, registered_volumes, volume_pairs
from doppelscan.decide.volume_scoring import ScoredVolume, StoredVolumes, score_volumes

__all__ = [
    "DECISIONS",
    "DISPUTED",
    "KINDS",
    "OF_NOBODY",
    "AuditSummary",
    "AuditedImage",
    "Calibration",
    "Conclusion",
    "ControlScorer",
    "Decision",
    "Evidence",
    "Finding",
    "FirstMatch",
    "FittedReference",
    "FittedVolumes",
    "Flag",
    "ImageCounts",
    "LeftOut",
    "NearDuplicate",
    "NearDuplicateRow",
    "NegativeResult",
    "PairEvidence",
    "People",
    "PersonPair",
    "Planted",
    "PlantedResult",
    "PosedPairs",
    "Preliminary",
    "PreliminarySummary",
    "Reason",
    "Reference",
    "ReviewCount",
    "ReviewedImages",
    "Rule",
    "Rules",
    "SampleClaim",
    "ScoredControl",
    "ScoredImage",
    "ScoredSet",
    "ScoredVolume",
    "SelfTest",
    "SetFacts",
    "StoredRegistration",
    "StoredVolumes",
    "UnnamedImages",
    "Verdict",
    "VolumeRules",
    "best_region",
    "combined_score",
    "conclude",
    "control_as_close",
    "count_kinds",
    "decide",
    "explain",
    "find_people",
    "fitted_search",
    "foreseen",
    "kept_from_flag",
    "kind_of",
    "names_of_files",
    "nearest_by_encoder",
    "of_sample",
    "other_modalities",
    "other_proportions",
    "owed_to_training",
    "people_at_most",
    "person_pairs",
    "ranked_so_far",
    "read_reviews",
    "registered_candidates",
    "registered_pairs",
    "registered_volumes",
    "same_kind",
    "same_people",
    "sample_words",
    "score_images",
    "score_volumes",
    "self_tested",
    "sign",
    "summarize",
    "summarize_preliminary",
    "unlike_training",
    "unlike_volumes",
    "volume_pairs",
    "wider",
    "without_leaks",
]
