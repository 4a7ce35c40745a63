"""Calibration: conformal p-values, false discovery rate, intervals, conclusion."""

from doppelscan.calibrate.conclusion import KINDS, Conclusion, Evidence, Verdict, conclude, count_kinds
from doppelscan.calibrate.conformal import Control, q_values
from doppelscan.calibrate.intervals import Share, residual_risk, wilson
from doppelscan.calibrate.trend import duplication_trend
from doppelscan.calibrate.two_sample import TwoSampleResult, classifier_two_sample_test

__all__ = [
    "KINDS",
    "Conclusion",
    "Control",
    "Evidence",
    "Share",
    "TwoSampleResult",
    "Verdict",
    "classifier_two_sample_test",
    "conclude",
    "count_kinds",
    "duplication_trend",
    "q_values",
    "residual_risk",
    "wilson",
]
