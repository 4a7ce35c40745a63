"""Report: table, summary, page, redaction."""

from doppelscan.report.tables import SCORE_COLUMNS, AuditTables
from doppelscan.report.write import ReportError, write_report

__all__ = ["SCORE_COLUMNS", "AuditTables", "ReportError", "write_report"]
