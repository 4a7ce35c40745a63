"""Errors by type: what derives from :class:`DoppelscanError` is told to the user in one line, anything else is a fault of ours."""

from __future__ import annotations

import re

__all__ = [
    "DoppelscanError",
    "ImageError",
    "InputError",
    "MissingPackageError",
    "NotFiniteError",
    "ReportError",
    "StoreError",
    "WeightsError",
    "reason_of_image",
    "user_mistake",
]


class DoppelscanError(Exception):
    """A mistake of the user or a refusal; the text is one line: parameter, rule, what was received, what to do next."""


class InputError(DoppelscanError, ValueError):
    """A mistake in what was passed: a path, a setting, an array."""


class ImageError(DoppelscanError, ValueError):
    """An image that cannot be scored; the text is the reason that the audit lists."""


class WeightsError(DoppelscanError, RuntimeError):
    """Weights that must not be used."""


class StoreError(DoppelscanError, RuntimeError):
    """A store that must not be used or cannot be written."""


class ReportError(DoppelscanError, RuntimeError):
    """A report that cannot be written."""


class MissingPackageError(DoppelscanError, ImportError):
    """A package that is not among the core dependencies; the text names the extra that installs it."""


class NotFiniteError(DoppelscanError, FloatingPointError):
    """A training whose loss is not finite any more."""


def user_mistake(error: BaseException | None) -> DoppelscanError | None:
    """The mistake behind ``error``, or None when the error is ours; MONAI's config parser raises its own errors from what it meets."""
    while error is not None and not isinstance(error, DoppelscanError):
        unknown = _unknown_key(error)
        if unknown is not None:
            return unknown
        error = error.__cause__
    return error


def _unknown_key(error: BaseException) -> InputError | None:
    """The mistake of a key in a config that its component does not have, such as ``network_def::chanels``."""
    component = re.match("Failed to instantiate component '([^']+)'", str(error))
    why = str(error.__cause__)
    if component is None or not isinstance(error.__cause__, TypeError) or "unexpected keyword argument" not in why:
        return None
    return InputError(f"A setting of {component[1]} does not exist: {why.split('() ')[-1]}; see its documentation for what it has.")


def reason_of_image(error: BaseException) -> str | None:
    """Why an image could not be prepared, in one line; None when ``error`` says nothing of the image and is ours.

    MONAI's ``Compose`` wraps what a transform raises in a RuntimeError, so the causes are looked at too.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (ImageError, OSError)):
            return " ".join(str(cause).split())
        cause = cause.__cause__
    return None
