"""Which errors are a user's mistake: their text is one line that says what to do."""

from __future__ import annotations

from doppelscan.deepssim import WeightsError
from doppelscan.images import ImageError, InputError
from doppelscan.report import ReportError
from doppelscan.search import StoreError

__all__ = ["user_mistake"]


def user_mistake(error: BaseException | None) -> BaseException | None:
    """The mistake behind ``error``, or None when the error is ours; MONAI's config parser wraps what it runs in RuntimeErrors."""
    while error is not None:
        if isinstance(error, (InputError, ImageError, WeightsError, StoreError, ReportError)):
            return error
        error = error.__cause__ or error.__context__
    return None
