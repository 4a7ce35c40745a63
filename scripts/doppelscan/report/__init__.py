"""Report: table, summary, page, redaction."""

from doppelscan.report.figures import agreement_figure, contamination_figure, roc_figure
from doppelscan.report.tables import SCORE_COLUMNS, AuditTables, source_row, to_csv, to_json, write_atomic
from doppelscan.report.write import ReportError, write_report

__all__ = [
    "SCORE_COLUMNS",
    "AuditTables",
    "ReportError",
    "agreement_figure",
    "contamination_figure",
    "roc_figure",
    "source_row",
    "to_csv",
    "to_json",
    "write_atomic",
    "write_report",
]
