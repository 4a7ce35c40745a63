"""Calibration, statistics alone: p-values and tails, false discovery rates, power and bounds, competition, intervals, tests; arrays in, arrays out."""

from doppelscan.calibrate.competition import Competition, compete
from doppelscan.calibrate.conformal import Control, q_values
from doppelscan.calibrate.contrast import chance_unseen, share_p_value
from doppelscan.calibrate.groups import p_filter, simes_p_values
from doppelscan.calibrate.intervals import Difference, Share, clustered_share, difference, residual_risk, wilson
from doppelscan.calibrate.power import Prevalence, clopper_pearson, memorized_share, memorized_upper_bound
from doppelscan.calibrate.ranks import area_difference, area_under_curve
from doppelscan.calibrate.sampling import chance_of_one, most_in_whole
from doppelscan.calibrate.tail import StratifiedControl, TailBound, TailControl
from doppelscan.calibrate.trend import duplication_trend
from doppelscan.calibrate.two_sample import TwoSampleResult, classifier_two_sample_test

__all__ = [
    "Competition",
    "Control",
    "Difference",
    "Prevalence",
    "Share",
    "StratifiedControl",
    "TailBound",
    "TailControl",
    "TwoSampleResult",
    "area_difference",
    "area_under_curve",
    "chance_of_one",
    "chance_unseen",
    "classifier_two_sample_test",
    "clopper_pearson",
    "clustered_share",
    "compete",
    "difference",
    "duplication_trend",
    "memorized_share",
    "memorized_upper_bound",
    "most_in_whole",
    "p_filter",
    "q_values",
    "residual_risk",
    "share_p_value",
    "simes_p_values",
    "wilson",
]
