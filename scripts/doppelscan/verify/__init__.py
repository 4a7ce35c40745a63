"""Verification: registration of candidate pairs, aligned agreement and pose."""

from doppelscan.verify.agreement import explained_share, match_intensity
from doppelscan.verify.pose import Pose
from doppelscan.verify.registration import AlignedPair, PairAgreement, Registration

__all__ = ["AlignedPair", "PairAgreement", "Pose", "Registration", "explained_share", "match_intensity"]
