"""What a random sample says of the whole that it was drawn from, without replacement: exact, by the hypergeometric distribution."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp
from scipy.stats import hypergeom

from doppelscan.errors import InputError

__all__ = ["chance_of_one", "most_in_whole"]


def most_in_whole(found: int, drawn: int, total: int, confidence: float = 0.95) -> int:
    """Upper confidence bound of how many of ``total`` are of a kind when ``found`` of ``drawn`` are.

    The largest K for which a sample holds no more than ``found`` with a probability above 1 - confidence: Clopper and Pearson's bound for a finite
    whole (one-sided), which reaches theirs as the whole grows.

    Args:
        found: of the kind in the sample, 0 to ``drawn``.
        drawn: size of the sample, 0 to ``total``.
        total: size of the whole.
        confidence: one-sided, between 0 and 1.

    Returns:
        an integer from ``found`` to ``total - drawn + found``.

    Raises:
        InputError: numbers that no sample can have.
    """
    if not 0 <= found <= drawn <= total:
        raise InputError(
            f"The 'drawn' parameter must lie between those found and the total. Got {found} found, {drawn} drawn and {total} in total."
        )
    fewest, most = found, total - drawn + found
    while fewest < most:
        middle = (fewest + most + 1) // 2
        if np.exp(logsumexp(hypergeom.logpmf(np.arange(found + 1), total, middle, drawn))) > 1 - confidence:
            fewest = middle
        else:
            most = middle - 1
    return fewest


def chance_of_one(copies: int, drawn: int, total: int) -> float:
    """Probability that a sample of ``drawn`` of ``total`` holds at least one of ``copies``."""
    return float(-np.expm1(hypergeom.logpmf(0, total, copies, drawn)))
