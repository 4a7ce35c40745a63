"""Counted words, for pages, tables of words and terminals alike: the one place that knows the plural of a noun."""

from __future__ import annotations

__all__ = ["control_of", "counted", "noun_of", "of_whom", "one_of", "values_of"]

# Nouns that take more than an s.
PLURALS = {"person": "people", "copy": "copies"}


def noun_of(number: int, noun: str) -> str:
    """``noun`` as it follows ``number``: ``patient`` after 1, else ``patients``; of several words the last one counts."""
    if number == 1:
        return noun
    first, space, last = noun.rpartition(" ")
    return f"{first}{space}{PLURALS.get(last, f'{last}s')}"


def counted(number: int, noun: str) -> str:
    """For example ``1 patient`` or ``2 patients``."""
    return f"{number} {noun_of(number, noun)}"


def of_whom(images: int, patients: int, unnamed: int) -> str:
    """Whose so many images are, as it follows their number: no number of patients is told as known where nobody named them.

    Args:
        images: how many.
        patients: as how many they count.
        unnamed: of how many images nothing names the patient.
    """
    if not unnamed:
        return f"of {counted(patients, 'patient')}"
    if unnamed == images == patients:
        return "(patients not named: each counts as one)"
    return f"(patients {'' if unnamed == images else f'of {unnamed} '}not named: counted as {patients})"


def control_of(images: int, from_training: int, of: str) -> str:
    """What a control of so many images is made of, ``from_training`` of them of the training set."""
    if not from_training:
        return "all of the holdout"
    if from_training == images:
        return f"all training {of}s, each held against the other patients"
    return f"{images - from_training} of the holdout, {counted(from_training, f'training {of}')}"


def one_of(noun: str) -> str:
    """``noun`` with its article: ``an image``, ``a volume``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def values_of(of: str) -> str:
    """What an image, or a volume, is made of: pixels or voxels."""
    return "voxels" if of == "volume" else "pixels"
