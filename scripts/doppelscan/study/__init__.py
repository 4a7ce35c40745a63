"""The case study: generators trained under conditions that make them memorize, sampled, audited, and compared on one page."""

from doppelscan.study.case_study import CaseStudy
from doppelscan.study.conditions import Remedy, StudyCondition, StudySizes
from doppelscan.study.measures import SampleNumbers, read_audit
from doppelscan.study.sets import StudySets, StudySource
from doppelscan.study.stages import ConditionResult
from doppelscan.study.tables import StudyResult

__all__ = [
    "CaseStudy",
    "ConditionResult",
    "Remedy",
    "SampleNumbers",
    "StudyCondition",
    "StudyResult",
    "StudySets",
    "StudySizes",
    "StudySource",
    "read_audit",
]
