"""Target-decoy competition: does the synthetic set owe more to the training patients than to others that the generator never saw?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, permutation_test, rankdata

from doppelscan.calibrate.intervals import exact_limits
from doppelscan.errors import InputError

__all__ = ["Competition", "compete"]

BATCH = 250


@dataclass(frozen=True)
class Competition:
    """Of a synthetic set that searched training patients and decoys alike.

    Attributes:
        wins: bool [m], the training set is nearer than the decoys.
        expected: share of wins of a set that owes training nothing, T / (T + D) with T training and D decoy patients.
        owed: share of the images that is owed to training, (wins / m - expected) / (1 - expected); wins minus losses over m where T = D.
            May be negative.
        owed_lower, owed_upper: its interval, exact for the effective number of patients who won (Korn and Graubard 1998).
        binomial_p_value: of the wins against Binomial(m, expected). Right only if no two images owe their match to the same patient; with
            hubs or modes it is far too small.
        wins_p_value: that training patients win more images than decoys by accident; permutation of patients.
        top_p_value: that the highest scores are won by training patients by accident; permutation of patients.
        p_value: of the set, twice the smaller of the last two, at most 1.
        q_values: float64 [m], (T / D) (1 + decoy wins at or above) / (training wins at or above), 1 for what decoys win: the false discovery
            rate among images, if no two of them owe their match to the same patient.
        patient_q_values: float64 [m], the same counted in patients, by the highest score that each has won: the false discovery rate among the
            training patients who are named by flagging this image and all that score higher. Holds however images depend on each other.
    """

    wins: np.ndarray
    expected: float
    owed: float
    owed_lower: float
    owed_upper: float
    binomial_p_value: float
    wins_p_value: float
    top_p_value: float
    p_value: float
    q_values: np.ndarray
    patient_q_values: np.ndarray


def compete(
    training: np.ndarray,
    decoys: np.ndarray,
    training_matches: Sequence[Hashable],
    decoy_matches: Sequence[Hashable],
    training_patients: int,
    decoy_patients: int,
    *,
    confidence: float = 0.95,
    permutations: int = 9_999,
    seed: int = 0,
) -> Competition:
    """Let the best match in training compete with the best match among decoys (Elias and Gygi 2007; He et al. 2015; Barber and Candes 2015).

    **What is exchangeable.** If the generator owes nothing to who was in training, training and decoy patients are draws of one population
    that could have changed places, whatever the synthetic images are and however they depend on each other. Each image has one nearest patient
    among all T + D; so labels of patients are permuted, and all images that one patient has won change sides together. This is exact for any
    sharpness, noise, mode collapse or hubs, and for unequal numbers: no subsets of equal size are needed.

    It holds if training and decoys are of one kind and were treated alike: equally many images a patient, and every whitening or normalisation
    fitted on both or on neither. It says that the set depends on its training patients, by copies or by averages of them; it names
    no copy.

    Args:
        training: float [m], score of each synthetic image against its best match in training.
        decoys: float [m], against its best match among the decoys.
        training_matches: patient of the best match in training, of each image.
        decoy_matches: the same among the decoys.
        training_patients: T, how many patients were searched.
        decoy_patients: D, the same of the decoys.
        confidence: of the interval of ``owed``.
        permutations: how many are drawn, where there are more; no p-value is below 1 / (permutations + 1).
        seed: of ties and permutations.
    """
    training, decoys = np.asarray(training, dtype=np.float64), np.asarray(decoys, dtype=np.float64)
    _check(training, decoys, training_matches, decoy_matches, training_patients, decoy_patients)
    rng = np.random.default_rng(seed)
    wins = np.where(training == decoys, rng.random(len(training)) < 0.5, training > decoys)
    score = np.maximum(training, decoys)
    own, own_top = _by_patient(score, training_matches, wins, training_patients)
    other, other_top = _by_patient(score, decoy_matches, ~wins, decoy_patients)
    expected = training_patients / (training_patients + decoy_patients)
    # Kish: labels of patients who won unequally many images vary as those of so many who won equally many.
    won = np.concatenate([own, other])
    effective = float(won.sum() ** 2 / (won**2).sum())
    limits = exact_limits(effective * float(wins.mean()), effective, confidence)
    tops = _savage(np.concatenate([own_top, other_top]))
    by_wins = _permuted(own, other, permutations, rng)
    by_top = _permuted(tops[:training_patients], tops[training_patients:], permutations, rng)
    best = np.sort(own_top[np.isfinite(own_top)]), np.sort(other_top[np.isfinite(other_top)])
    return Competition(
        wins=wins,
        expected=expected,
        owed=(float(wins.mean()) - expected) / (1 - expected),
        owed_lower=(limits[0] - expected) / (1 - expected),
        owed_upper=(limits[1] - expected) / (1 - expected),
        binomial_p_value=float(binomtest(int(wins.sum()), len(wins), expected, alternative="greater").pvalue),
        wins_p_value=by_wins,
        top_p_value=by_top,
        p_value=min(1.0, 2 * min(by_wins, by_top)),
        q_values=_rates(score, wins, np.sort(score[wins]), np.sort(score[~wins]), training_patients / decoy_patients),
        # Decoy patients are the control, training patients the tests: conformal p-values and Benjamini and Hochberg's procedure.
        patient_q_values=_rates(score, wins, *best, training_patients / (1 + decoy_patients)),
    )


def _by_patient(score: np.ndarray, matches: Sequence[Hashable], won: np.ndarray, patients: int) -> tuple[np.ndarray, np.ndarray]:
    """How many images each patient won, and with what highest score; of those that won none 0 and -inf."""
    codes = np.unique([str(name) for name in matches], return_inverse=True)[1][won]
    top = np.full(patients, -np.inf)
    np.maximum.at(top, codes, score[won])
    return np.bincount(codes, minlength=patients).astype(np.float64), top


def _permuted(own: np.ndarray, other: np.ndarray, permutations: int, rng: np.random.Generator) -> float:
    """That the mean of ``own`` is so much larger than that of ``other`` by accident of who is who."""

    def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return x.mean(axis=axis) - y.mean(axis=axis)

    found = permutation_test(
        (own, other),
        statistic,
        permutation_type="independent",
        vectorized=True,
        n_resamples=permutations,
        batch=BATCH,
        alternative="greater",
        random_state=rng,
    )
    return float(found.pvalue)


def _savage(values: np.ndarray) -> np.ndarray:
    """Exponential scores of the ranks (Savage 1956): the few highest weigh most. Ties have that of their mean rank."""
    count = len(values)
    of_rank = np.cumsum(1 / np.arange(count, 0, -1))
    return np.interp(rankdata(values), np.arange(1, count + 1), of_rank)


def _rates(score: np.ndarray, wins: np.ndarray, own: np.ndarray, other: np.ndarray, ratio: float) -> np.ndarray:
    """``ratio`` (1 + decoys at or above t) / (training at or above t), the least over t up to the score; ``own`` and ``other`` ascending."""
    result = np.ones(len(score))
    if not len(own):
        return result

    def rate(cut: np.ndarray) -> np.ndarray:
        return np.minimum(1, ratio * (1 + len(other) - np.searchsorted(other, cut)) / (len(own) - np.searchsorted(own, cut)))

    cuts = np.unique(own)
    least = np.append(1.0, np.minimum.accumulate(rate(cuts)))
    result[wins] = np.minimum(rate(score[wins]), least[np.searchsorted(cuts, score[wins], side="right")])
    return result


def _check(
    training: np.ndarray,
    decoys: np.ndarray,
    training_matches: Sequence[Hashable],
    decoy_matches: Sequence[Hashable],
    training_patients: int,
    decoy_patients: int,
) -> None:
    sizes = {
        "training": training.size,
        "decoys": decoys.size,
        "training_matches": len(training_matches),
        "decoy_matches": len(decoy_matches),
    }
    if len(set(sizes.values())) > 1 or not training.size or training.ndim != 1:
        raise InputError(
            f"The arrays of a competition must have one entry for each of at least one synthetic image. Got {sizes} instead."
        )
    for name, values in (("training", training), ("decoys", decoys)):
        if np.isnan(values).any():
            raise InputError(
                f"The '{name}' parameter must hold numbers. Got NaN for {int(np.isnan(values).sum())} images instead; leave them out."
            )
    for name, matches, patients in (
        ("training_patients", training_matches, training_patients),
        ("decoy_patients", decoy_matches, decoy_patients),
    ):
        if patients < len({str(one) for one in matches}):
            raise InputError(
                f"The '{name}' parameter must be the number of patients that were searched. Got {patients} with matches of "
                f"{len({str(one) for one in matches})} instead; count all of them, also those that nothing matched."
            )
