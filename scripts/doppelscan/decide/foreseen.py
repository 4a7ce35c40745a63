"""What an audit cannot say whatever it finds: known from the sizes of its sets, and told before they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from doppelscan.decide.conclusion import control_needed
from doppelscan.decide.control import FOLDS
from doppelscan.decide.power import patients_to_plant
from doppelscan.decide.rules import Rules
from doppelscan.images import ImageRecord, bids_subjects, unit_of
from doppelscan.wording import counted

__all__ = ["foreseen", "people_at_most"]


def foreseen(
    training: Sequence[ImageRecord], holdout: Sequence[ImageRecord] | None, control_size: int, self_test: bool, rules: Rules
) -> tuple[str, ...]:
    """What stands against a conclusion, as it is known before anything is embedded, and what to do: a sentence each without its full stop.

    Patients whom nothing names are counted as one a volume or image, so that there can be fewer and not more: what is told holds.

    Args:
        training: records of the training set.
        holdout: of the holdout, or None.
        control_size: images that a control from the training set, or a holdout with what it is topped up with, holds at most.
        self_test: whether copies are planted.
        rules: thresholds.
    """
    people, known = people_at_most(training)
    of = unit_of(training)
    told = []
    if people < rules.smallest_patients:
        told.append(
            f"the training set {'holds' if known else 'can hold'} {counted(people, 'patient')}{'' if known else ' at most, as nobody named them,'} and at least {rules.smallest_patients} are needed to tell a copy from a look-alike: "
            "give more training patients"
        )
    patients, ratio = _control(people, known, holdout, control_size)
    smallest = min(1.0, ratio / (patients + 1))
    if patients < rules.smallest_patients or smallest > rules.fdr:
        fewest = control_needed(patients, smallest, rules) if smallest < 1 else math.ceil(1 / rules.fdr) - 1
        needed = max(rules.smallest_patients, fewest)
        told.append(
            f"the control can hold {counted(patients, 'patient')} at most, so that by rate nothing can be flagged (no p-value falls below {smallest:.2g}, and the "
            f"false discovery rate is {rules.fdr:g}): give a holdout of at least {needed} other patients"
        )
    plantable = patients_to_plant(rules)
    if self_test and rules.smallest_patients <= people < plantable:
        told.append(
            f"the self-test can plant {of}s of {counted(people, 'patient')} and needs {plantable} for a bound: where nothing is found this audit cannot call "
            "the set clean; give more training patients"
        )
    return tuple(told)


def people_at_most(records: Sequence[ImageRecord]) -> tuple[int, bool]:
    """How many people there can be, as far as names tell before anything is embedded, and whether all are named."""
    named = [r.patient if r.patient_known else who for r, who in zip(records, bids_subjects(records), strict=True)]
    return len({who or r.volume for r, who in zip(records, named, strict=True)}), all(who is not None for who in named)


def _control(people: int, known: bool, holdout: Sequence[ImageRecord] | None, size: int) -> tuple[int, float]:
    """Patients that the control can hold, and how much larger the training set is than what it is scored against; see ControlScorer."""
    own, folds = (min(people, size), min(FOLDS, people)) if people > 1 else (0, 2)
    if holdout is None:
        return own, folds / (folds - 1)
    others, _ = people_at_most(holdout)
    more = max(0, min(size - len(holdout), own)) if known and people >= FOLDS else 0
    return others + more, (len(holdout) + more * folds / (folds - 1)) / max(1, len(holdout) + more)
