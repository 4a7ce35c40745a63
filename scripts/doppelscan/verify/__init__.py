"""Verification: registration of candidate pairs, aligned agreement and pose."""

from doppelscan.verify.pose import Pose
from doppelscan.verify.registration import PairAgreement, Registration

__all__ = ["PairAgreement", "Pose", "Registration"]
