"""What the audit of a random sample says of the whole set: a bound, and with what probability the sample holds a copy at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from doppelscan.calibrate import chance_of_one, most_in_whole

__all__ = ["SampleClaim", "sample_words"]

# Numbers of copies in the whole set of which it is said how probably the sample holds one.
COPIES = (1, 10, 100)


@dataclass(frozen=True)
class SampleClaim:
    """What a sample says of the whole set.

    Attributes:
        drawn: how many were audited.
        total: of how many.
        of: what they are, images or volumes; slices of one volume are drawn together and count as one.
        flagged: how many of the audited are flagged.
        most: how many of all would be flagged at most, 95 % upper bound.
        bound: the same as a share of all.
        missed: how many of these can lie among those that were not looked at.
        power: number of copies among all -> probability that the sample holds at least one.
    """

    drawn: int
    total: int
    of: str
    flagged: int
    most: int
    bound: float
    missed: int
    power: Mapping[str, float]

    @classmethod
    def of_counts(cls, flagged: int, drawn: int, total: int, of: str = "image", confidence: float = 0.95) -> SampleClaim:
        """What follows from ``flagged`` of ``drawn`` of ``total``.

        Bound and power are those of a sample that is drawn from all alike; one that is spread over folders or conditions by their share is at
        least as good, see :func:`~doppelscan.images.spread_order`.
        """
        most = most_in_whole(flagged, drawn, total, confidence)
        power = {str(copies): chance_of_one(copies, drawn, total) for copies in COPIES if copies <= total}
        return cls(drawn, total, of, flagged, most, most / total, most - flagged, power)

    @property
    def words(self) -> str:
        """One sentence without its full stop."""
        share = "100" if self.bound >= 0.995 else f"{100 * self.bound:.2g}"
        told = (
            f"This is {sample_words(self.drawn, self.total, self.of)}: of all {self.total} at most {share} % ({_rounded(self.most)}) would be "
            f"flagged (95 % upper bound), so {_rounded(self.missed)} more may lie among the {self.total - self.drawn} that were not looked at"
        )
        if self.flagged:
            # How probably a sample holds a copy is no question where it holds one.
            return f"{told}: taking out what is flagged here does not clean the set; run again without --limit"
        chances = " and ".join(f"of {copies} with {_percent(self.power[copies])}" for copies in self.power if copies != "1")
        single = f"{told}; a single copy would be in the sample with a probability of {_percent(self.power['1'])}"
        return single + (f", at least one {chances}" if chances else "")


def _rounded(count: int) -> str:
    """A bound of a thousand and more is not known to the last image."""
    return str(count) if count < 1000 else f"about {round(count, 2 - len(str(count)))}"


def _percent(probability: float) -> str:
    if probability >= 0.995:
        return "more than 99 %"
    return f"{100 * probability:.0f} %" if probability >= 0.095 else f"{100 * probability:.1g} %"


def sample_words(drawn: int, total: int, of: str = "image") -> str:
    """For example ``a sample of 200 of 10000 synthetic images``."""
    return f"a sample of {drawn} of {total} synthetic {of}s"
