"""What an audit could have found: the result of its self-test."""

from __future__ import annotations

from dataclasses import dataclass

from doppelscan.calibrate import Prevalence, Share, clopper_pearson
from doppelscan.decide.rules import Rules

__all__ = ["NegativeResult", "PlantedResult", "SelfTest", "patients_to_plant"]


@dataclass(frozen=True)
class PlantedResult:
    """What was found of copies that were changed in one way.

    Attributes:
        name, words: of the transform.
        planted, found: number of copies, and of those that the audit would flag.
        power: share of the patients that is found, with its exact 95 % interval (Clopper and Pearson 1934).
        right_source: number of those found whose patient is named.
        called_copy: number of those found that are called a copy, or a blend.
        declared: a claim of none found is to cover it.
    """

    name: str
    words: str
    planted: int
    found: int
    power: Share
    right_source: int
    called_copy: int
    declared: bool = True


@dataclass(frozen=True)
class NegativeResult:
    """What the audit would say of images that are a copy of nobody.

    Attributes:
        name, words: what they are.
        images, flagged: how many, and how many the audit would flag.
        accused: number of these that are said to show a patient; every kind of finding but one does.
    """

    name: str
    words: str
    images: int
    flagged: int
    accused: int


@dataclass(frozen=True)
class SelfTest:
    """What the audit could have found.

    Attributes:
        copies: one entry a transform.
        negatives: images of nobody.
        memorized: share of the synthetic images that is memorized, by what is flagged and what would be (Rogan and Gladen 1978).
        bound: upper 95 % bound of that share, for copies that were changed in any of the declared ways.
    """

    copies: tuple[PlantedResult, ...]
    negatives: tuple[NegativeResult, ...]
    memorized: Prevalence
    bound: float

    def missed(self, rules: Rules) -> tuple[PlantedResult, ...]:
        """The declared transforms whose copies may go unseen."""
        return tuple(one for one in self.copies if one.declared and one.power.lower < rules.power)

    def unclaimed(self, rules: Rules) -> tuple[PlantedResult, ...]:
        """The transforms whose copies may go unseen, and that nobody declared."""
        return tuple(one for one in self.copies if not one.declared and one.power.lower < rules.power)


def patients_to_plant(rules: Rules) -> int:
    """How many patients must be planted, and all found, to show the power that a claim of none found needs."""
    count = 1
    while clopper_pearson([True] * count, range(count), rules.bound).lower < rules.power:
        count += 1
    return count
