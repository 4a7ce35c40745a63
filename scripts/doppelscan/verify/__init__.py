"""Verification: registration of candidate pairs, aligned agreement, pose and class."""

from doppelscan.verify.classes import VERDICTS, verdict
from doppelscan.verify.pose import Pose
from doppelscan.verify.registration import PairAgreement, Registration

__all__ = ["VERDICTS", "PairAgreement", "Pose", "Registration", "verdict"]
