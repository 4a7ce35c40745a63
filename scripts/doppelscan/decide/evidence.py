"""What tells the kinds of findings apart: measured of registered pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage
from doppelscan.search import EmbeddedSet, PatchSearch
from doppelscan.verify import AlignedPair, interpolation_losses, second_sources

__all__ = ["PairEvidence", "evidence_of_pairs"]


@dataclass(frozen=True)
class PairEvidence:
    """Of a registered pair, what tells the kinds apart.

    Attributes:
        explained: share of the structure of the image that the match explains, at the image's own sharpness and noise.
        coarse: the image is so blurred that only the coarsest band could be judged, in which slices of one person are alike.
        margin: verified score of the match minus that of the best training image of another patient.
        loss: what the match itself would lose by being moved, see :func:`~doppelscan.verify.interpolation_losses`.
        mixed: agreement of what is left with another person's training image, all over; -1 for none.
        mixed_row: which training image.
        mixed_share: its weight beside the match.
        both: share of the fine structure that both explain together.
        third: agreement of what both leave with a third training image.
        set_in: agreement of one cell with another person's training image, where the match disagrees; -1 for none.
        set_in_row: which training image.
        set_in_share: share of the structure where that image agrees and the match does not.
        agreeing: share of the cells that agree as a copy's do.
        disagreeing: share of the cells that do not agree at all.
        region_of_match: the region that agrees best is of the match as well.
        same_patient_p: share of strangers' pairs that score as high as match and image, that they show one person as they lie in the scan, see
            :func:`~doppelscan.verify.same_patient_scores`; NaN where nobody asked, as of volumes.
        same_patient_lead: by how much higher that score is than of the best image of another patient; infinite where there is none.
    """

    explained: float
    coarse: bool
    margin: float
    loss: float
    mixed: float
    mixed_row: int
    mixed_share: float
    both: float
    third: float
    set_in: float
    set_in_row: int
    set_in_share: float
    agreeing: float
    disagreeing: float
    region_of_match: bool
    same_patient_p: float = float("nan")
    same_patient_lead: float = float("nan")


def evidence_of_pairs(
    scored: Sequence[ScoredImage], pairs: Sequence[AlignedPair], training: EmbeddedSet, patches: PatchSearch, rules: Rules
) -> list[PairEvidence]:
    """Of each of ``scored`` and its registered pair; ``patches`` is fitted on ``training``."""
    rows = [s.match for s in scored]
    matches = training.thumbnails(rows)
    losses = interpolation_losses(matches, training.native_shapes(rows))
    found = second_sources(pairs, np.array(rows), matches, patches)
    result = []
    for k, s in enumerate(scored):
        mixed, set_in = int(found.mixed_row[k]), int(found.set_in_row[k])
        patient, cells = training.patients[s.match], pairs[k].cells[pairs[k].counted]
        result.append(
            PairEvidence(
                explained=pairs[k].explained,
                coarse=pairs[k].coarse,
                margin=s.margin,
                loss=float(losses[k]),
                mixed=float(found.mixed[k]) if training.patients[mixed] != patient else -1.0,
                mixed_row=mixed,
                mixed_share=float(found.mixed_share[k]),
                both=float(found.both[k]),
                third=float(found.third[k]),
                set_in=float(found.set_in[k]) if training.patients[set_in] != patient else -1.0,
                set_in_row=set_in,
                set_in_share=float(found.set_in_share[k]),
                agreeing=float((cells > rules.part_agrees).mean()),
                disagreeing=float((cells < rules.part_disagrees).mean()),
                region_of_match=s.part_match == s.match,
            )
        )
    return result
