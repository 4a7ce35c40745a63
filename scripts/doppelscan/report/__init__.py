"""Report: table, summary, page, redaction."""

from doppelscan.report.tables import SCORE_COLUMNS, AuditTables, to_csv, write_atomic
from doppelscan.report.write import ReportError, write_report

__all__ = ["SCORE_COLUMNS", "AuditTables", "ReportError", "to_csv", "write_atomic", "write_report"]
