"""Verification: registration of candidate pairs, aligned agreement and pose."""

from doppelscan.verify.agreement import explained_share, match_intensity, verified_score
from doppelscan.verify.full_size import FullSizePair, SeenVolume, laid_planes, laid_square
from doppelscan.verify.identical import IdenticalImage, IdenticalPixels
from doppelscan.verify.identical_volumes import IdenticalVolume, IdenticalVoxels
from doppelscan.verify.pose import Pose
from doppelscan.verify.registration import AlignedPair, PairAgreement, Registration
from doppelscan.verify.same_patient import Framing, all_same_patient_scores, same_patient_scores
from doppelscan.verify.sources import SecondSources, interpolation_losses, second_sources
from doppelscan.verify.stages import STAGES, Stages
from doppelscan.verify.volume_pose import VolumePose
from doppelscan.verify.volume_regions import VolumeRegion, VolumeRegions
from doppelscan.verify.volume_sources import SecondVolume, coarse_structures, second_volume
from doppelscan.verify.volumes import AlignedVolume, VolumeAgreement, VolumeRegistration

__all__ = [
    "STAGES",
    "AlignedPair",
    "AlignedVolume",
    "Framing",
    "FullSizePair",
    "IdenticalImage",
    "IdenticalPixels",
    "IdenticalVolume",
    "IdenticalVoxels",
    "PairAgreement",
    "Pose",
    "Registration",
    "SecondSources",
    "SecondVolume",
    "SeenVolume",
    "Stages",
    "VolumeAgreement",
    "VolumePose",
    "VolumeRegion",
    "VolumeRegions",
    "VolumeRegistration",
    "all_same_patient_scores",
    "coarse_structures",
    "explained_share",
    "interpolation_losses",
    "laid_planes",
    "laid_square",
    "match_intensity",
    "same_patient_scores",
    "second_sources",
    "second_volume",
    "verified_score",
]
