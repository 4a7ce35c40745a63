"""Filing: finished audits read back from their folders, compared with each other, and filed as a dossier."""

from doppelscan.filing.audits import FinishedAudit, read_audit
from doppelscan.filing.decisions import Review, ReviewerDecision, read_decisions
from doppelscan.filing.details import Details, read_details, write_template
from doppelscan.filing.run import FiledDossier, check, compare, dossier
from doppelscan.filing.seal import Checked

__all__ = [
    "Checked",
    "Details",
    "FiledDossier",
    "FinishedAudit",
    "Review",
    "ReviewerDecision",
    "check",
    "compare",
    "dossier",
    "read_audit",
    "read_decisions",
    "read_details",
    "write_template",
]
