"""Calibration, statistics alone: conformal p-values, false discovery rate, intervals, two-sample test, trend; arrays in, arrays out."""

from doppelscan.calibrate.conformal import Control, q_values
from doppelscan.calibrate.intervals import Share, residual_risk, wilson
from doppelscan.calibrate.trend import duplication_trend
from doppelscan.calibrate.two_sample import TwoSampleResult, classifier_two_sample_test

__all__ = [
    "Control",
    "Share",
    "TwoSampleResult",
    "classifier_two_sample_test",
    "duplication_trend",
    "q_values",
    "residual_risk",
    "wilson",
]
