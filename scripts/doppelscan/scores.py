"""What a row of scores.csv tells: of whom, and how rarely a stranger does. Whoever reads the table asks here, so that all of them name the same source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["REGION", "certain", "ends_at_floor", "of_region", "p_value_of", "p_words", "small_words", "source_of"]

# How the reason of a flag begins that speaks of the best region and not of the whole image.
REGION = "region, "
# And that of a flag of the same pixels or voxels.
IDENTICAL = "identical "


def of_region(row: Mapping[str, Any]) -> bool:
    """The row is flagged by its best region; a ``part`` that is flagged by the whole image is of the match, as a half of a volume is."""
    return str(row["reason"]).startswith(REGION)


def certain(row: Mapping[str, Any]) -> bool:
    """The row is flagged as of the same pixels, or voxels: no p-value decides that."""
    return str(row["reason"]).startswith(IDENTICAL)


def source_of(row: Mapping[str, Any]) -> str:
    """The training image that the row is of: that of the region, where the region is what is flagged, else the match."""
    return str(row["part_match"] if of_region(row) else row["match"])


def p_value_of(row: Mapping[str, Any]) -> float:
    """Of what is flagged: of the region or of the whole image; of an audit that kept none of its regions, of the whole image. NaN where none decided."""
    if certain(row):
        return math.nan
    told = float(row["part_p_value"]) if of_region(row) else math.nan
    return told if math.isfinite(told) else float(row["p_value"])


def ends_at_floor(p_value: float, floors: Iterable[float]) -> bool:
    """Whether a p-value is where the fitted tail was cut off, so that the image is at most so probable; by the seven digits that tables hold.

    Args:
        p_value: in (0, 1], or NaN.
        floors: ``p_value_floors`` of summary.json.
    """
    return any(math.isclose(p_value, floor, rel_tol=1e-6) for floor in floors)


def p_words(p_value: float, floors: Iterable[float], of_it: float | None = None) -> str:
    """A p-value, or ``of_it``, a q-value that follows from it, for a reader: where the tail was cut off both are upper limits."""
    return small_words(p_value if of_it is None else of_it, ends_at_floor(p_value, floors))


def small_words(value: float, at_most: bool = False) -> str:
    """A p-value or a q-value for a reader: four decimals, of small ones two digits; of an upper limit two digits, rounded up, so that it stays one."""
    if not math.isfinite(value):
        return ""
    if not at_most:
        return f"{value:.4f}" if value >= 0.001 else f"{value:.2g}"
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"≤ {math.ceil(value / step - 1e-9) * step:.2g}"
