"""Does the synthetic set owe more to the training patients than to strangers? Both are searched alike, so sharpness and noise cancel out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from doppelscan.calibrate import Competition, compete
from doppelscan.decide.reference import Reference
from doppelscan.images import evenly_chosen
from doppelscan.search import EmbeddedSet

__all__ = ["FEWEST", "owed_to_training"]

# People on either side from which on a permutation of who is who can tell anything.
FEWEST = 10
IMAGES, PER_PATIENT = 150, 3


def owed_to_training(
    synthetic: EmbeddedSet, reference: Reference, holdout: EmbeddedSet | None, seed: int = 0
) -> Competition | None:
    """Let training and holdout patients compete for synthetic images (Elias and Gygi 2007), see :func:`~doppelscan.calibrate.compete`.

    Both sides have equally many images a patient, are whitened together and searched by one search.

    Args:
        synthetic: in 8 poses; of more than 150 images that many, evenly.
        reference: the training set.
        holdout: real images of other patients in 8 poses, or None.
        seed: of draws.

    Returns:
        None without a holdout of at least 10 patients beside as many of training: who could have been in training is not known then; and where
        the score is not defined for so few images.
    """
    training = reference.posed
    if holdout is None:
        return None
    each = int(min(PER_PATIENT, *(np.median(list(Counter(one.patients).values())) for one in (training, holdout))))
    own, other = (_alike(one.patients, each, seed) for one in (training, holdout))
    people = [len({one.patients[row] for row in rows}) for one, rows in ((training, own), (holdout, other))]
    if min(people) < FEWEST:
        return None
    training.store.refresh()
    first, second = training.subset(own), holdout.subset(other)
    both = replace(first, records=first.records + second.records, keys=first.keys + second.keys)
    # Patients of the two sides are different people, whatever they are called.
    names = [f"training {p}" for p in first.patients] + [f"holdout {p}" for p in second.patients]
    both = replace(both, records=[replace(r, patient=name) for r, name in zip(both.records, names, strict=True)])
    asked = synthetic.subset(evenly_chosen(len(synthetic), IMAGES).tolist())
    scored = reference.of(both).scored(asked, "competition").scored
    score = np.array([one.score for one in scored])
    if np.isnan(score).any():
        return None  # Too few images for an index to give this score.
    won = np.array([one.match < len(first) for one in scored])
    matched = [both.patients[one.match] for one in scored]
    # Who lost, and by how much, does not matter.
    ours, theirs = (
        [name if hit else side.patients[0] for name, hit in zip(matched, hits, strict=True)]
        for side, hits in ((both.subset([0]), won), (both.subset([len(first)]), ~won))
    )
    return compete(np.where(won, score, score - 1), np.where(won, score - 1, score), ours, theirs, *people, seed=seed)


def _alike(patients: Sequence[str], each: int, seed: int) -> list[int]:
    """Rows of ``each`` images of every patient who has so many."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row in np.random.default_rng(seed).permutation(len(patients)).tolist():
        rows[patients[row]].append(row)
    return sorted(row for own in rows.values() if len(own) >= each for row in own[:each])
