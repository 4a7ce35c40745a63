"""Calibration: conformal p-values, false discovery rate, intervals, conclusion."""

from doppelscan.calibrate.conclusion import Conclusion, Evidence, Verdict, conclude
from doppelscan.calibrate.conformal import conformal_p_values, q_values
from doppelscan.calibrate.intervals import Share, residual_risk, wilson

__all__ = ["Conclusion", "Evidence", "Share", "Verdict", "conclude", "conformal_p_values", "q_values", "residual_risk", "wilson"]
