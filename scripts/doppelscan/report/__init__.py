"""Report: table, summary, page, redaction; it prints the records of decide and computes nothing."""

from doppelscan.errors import ReportError
from doppelscan.report.figures import agreement_figure, contamination_figure, roc_figure
from doppelscan.report.tables import SCORE_COLUMNS, to_csv, to_json, write_atomic
from doppelscan.report.write import write_report

__all__ = [
    "SCORE_COLUMNS",
    "ReportError",
    "agreement_figure",
    "contamination_figure",
    "roc_figure",
    "to_csv",
    "to_json",
    "write_atomic",
    "write_report",
]
