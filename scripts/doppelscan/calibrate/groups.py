"""Images that belong together: one p-value for a volume or a patient, and flags that agree with it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from doppelscan.errors import InputError

__all__ = ["p_filter", "simes_p_values"]


def simes_p_values(p_values: np.ndarray, groups: Sequence[Hashable]) -> dict[Hashable, float]:
    """One p-value a group: the smallest of n p_(k) / k over its n members in their order (Simes 1986).

    A group whose members all have a p-value of at most p has at most p, however many they are; one member with p among n others gives at most
    n p. It holds for independent members and for those of one patient, whose scores rise and fall together.

    Args:
        p_values: float [M] of the images.
        groups: group of each.

    Returns:
        the p-value of each group, in the order in which groups first appear.
    """
    names, codes = _codes(groups, len(p_values))
    return dict(zip(names, _simes(np.asarray(p_values, dtype=np.float64), codes).tolist(), strict=True))


def p_filter(p_values: np.ndarray, layers: Sequence[Sequence[Hashable]], rate: float) -> np.ndarray:
    """Flags that hold the false discovery rate among images, and among the groups of every layer, at once.

    Benjamini and Hochberg's procedure holds the rate among images. A false flag here and there, each in a volume of its own, is then a
    small share of the images and may be a large one of the volumes. Foygel Barber and Ramdas 2017 (the p-filter, with Simes' p-values
    of groups) flag an image when its own p-value and those of all its groups are small enough, and a group when one of its images is
    flagged; with no layer this is Benjamini and Hochberg's.

    Args:
        p_values: float [M] of the images.
        layers: of each layer, such as volumes and patients, the group of each image.
        rate: false discovery rate of each layer, in (0, 1).

    Returns:
        bool [M]. A flagged image has q-values of at most ``rate``, its own and those of its groups.
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    if not 0 < rate < 1:
        raise InputError(f"The 'rate' parameter must lie between 0 and 1. Got {rate!r} instead; use 0.05.")
    codes = [np.arange(len(p_values)), *(_codes(layer, len(p_values))[1] for layer in layers)]
    values = [p_values, *(_simes(p_values, code) for code in codes[1:])]
    passed = [np.ones(len(value), dtype=bool) for value in values]
    flagged = np.ones(len(p_values), dtype=bool)
    while True:
        for number, (code, value) in enumerate(zip(codes, values, strict=True)):
            others = np.ones(len(p_values), dtype=bool)
            for other, own in enumerate(passed):
                if other != number:
                    others &= own[codes[other]]
            # Of the groups of this layer that the other layers leave an image, as many as the rate allows.
            left = np.sort(value[np.unique(code[others])])
            allowed = np.flatnonzero(left * len(value) <= rate * np.arange(1, len(left) + 1))
            passed[number] = passed[number] & (value <= (left[allowed[-1]] if len(allowed) else -1.0))
        now = np.logical_and.reduce([own[code] for own, code in zip(passed, codes, strict=True)])
        if (now == flagged).all():
            return flagged
        flagged = now


def _simes(p_values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Float64 [G]; codes 0 to G - 1 each have a member."""
    order = np.lexsort((p_values, codes))
    counts = np.bincount(codes)
    starts = np.cumsum(counts) - counts
    rank = np.arange(1, len(codes) + 1) - np.repeat(starts, counts)
    return np.minimum.reduceat(p_values[order] * np.repeat(counts, counts) / rank, starts) if len(codes) else np.zeros(0)


def _codes(groups: Sequence[Hashable], count: int) -> tuple[list[Hashable], np.ndarray]:
    """The groups as they first appear, and the number of each image's."""
    if len(groups) != count:
        raise InputError(
            f"The 'groups' parameter must name the group of each of {count} p-values. Got {len(groups)} instead; name all."
        )
    number = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    return list(number), np.array([number[name] for name in groups], dtype=np.int64)
