"""Report: table, summary, page, redaction; it prints the records of decide and computes nothing."""

from doppelscan.errors import ReportError
from doppelscan.report.figures import agreement_figure, contamination_figure, roc_figure
from doppelscan.report.inline import CONTROL, FLAGGED, INK, inline_picture, inline_svg
from doppelscan.report.overlap import (
    GROUP_COLUMNS,
    PAIR_COLUMNS,
    SPLIT_COLUMNS,
    split_rows,
    strongest_pair,
    surest_words,
    write_overlap,
)
from doppelscan.report.results import ResultTable, audit_facts, closing_lines, overlap_facts
from doppelscan.report.tables import SCORE_COLUMNS
from doppelscan.report.write import write_preliminary, write_report

__all__ = [
    "CONTROL",
    "FLAGGED",
    "GROUP_COLUMNS",
    "INK",
    "PAIR_COLUMNS",
    "SCORE_COLUMNS",
    "SPLIT_COLUMNS",
    "ReportError",
    "ResultTable",
    "agreement_figure",
    "audit_facts",
    "closing_lines",
    "contamination_figure",
    "inline_picture",
    "inline_svg",
    "overlap_facts",
    "roc_figure",
    "split_rows",
    "strongest_pair",
    "surest_words",
    "write_overlap",
    "write_preliminary",
    "write_report",
]
