"""Overlap: which real images are there twice and which are of one person, in one set or across two."""

from doppelscan.overlap.groups import KNOWN, Group, Grouping, Membership, grouped
from doppelscan.overlap.links import COPIES, RELATIONS, Link, Pool, link_of
from doppelscan.overlap.names import Disagreement, NamedPeople, compare_names, with_names_of_files
from doppelscan.overlap.removal import Removal, removable
from doppelscan.overlap.rules import OverlapRules, VolumeOverlapRules
from doppelscan.overlap.search import LinkSearch, NearestImage, PoolSearch, SearchedPool, same_pixels
from doppelscan.overlap.split import Split, people_apart, require_people, split_people
from doppelscan.overlap.summary import (
    FOUND,
    NOTHING,
    PEOPLE,
    UNSURE,
    Overlap,
    OverlapSummary,
    SetCounts,
    conclude_overlap,
    counted_relations,
)
from doppelscan.overlap.volume_search import VolumeLinkSearch, same_voxels

__all__ = [
    "COPIES",
    "FOUND",
    "KNOWN",
    "NOTHING",
    "PEOPLE",
    "RELATIONS",
    "UNSURE",
    "Disagreement",
    "Group",
    "Grouping",
    "Link",
    "LinkSearch",
    "Membership",
    "NamedPeople",
    "NearestImage",
    "Overlap",
    "OverlapRules",
    "OverlapSummary",
    "Pool",
    "PoolSearch",
    "Removal",
    "SearchedPool",
    "SetCounts",
    "Split",
    "VolumeLinkSearch",
    "VolumeOverlapRules",
    "compare_names",
    "conclude_overlap",
    "counted_relations",
    "grouped",
    "link_of",
    "people_apart",
    "removable",
    "require_people",
    "same_pixels",
    "same_voxels",
    "split_people",
    "with_names_of_files",
]
