"""The three classes of arXiv 2509.16582, by the SSIM of the aligned pair."""

from __future__ import annotations

__all__ = ["VERDICTS", "verdict"]

VERDICTS = ("different", "similar", "duplicate")


def verdict(ssim: float, similar: float = 0.60, duplicate: float = 0.85) -> str:
    """``duplicate`` above 0.85, ``similar`` above 0.60, else ``different``."""
    return VERDICTS[(ssim > similar) + (ssim > duplicate)]
