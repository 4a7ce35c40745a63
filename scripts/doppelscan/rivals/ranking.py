"""What a rival says of images: how much of a copy each is, and of which training image; the contract that every one keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from doppelscan.errors import InputError

__all__ = ["LastFit", "Ranking", "Rival", "nearest", "nearest_in_blocks", "require_squares"]


@dataclass(frozen=True)
class Ranking:
    """Images by how much of a copy they are.

    Attributes:
        score: float64 [M], higher is more of a copy.
        match: int64 [M], row of the training image that each is nearest to.
        threshold: the method's own published cut, of which a score above is a copy; None where it has none.
    """

    score: np.ndarray
    match: np.ndarray
    threshold: float | None = None

    @property
    def copies(self) -> np.ndarray:
        """bool [M], above the threshold; nobody is without one."""
        return self.score > (np.inf if self.threshold is None else self.threshold)


class Rival(Protocol):
    """A published way to find copies, with the images in and nothing else.

    Attributes:
        name: as it stands in a table.
    """

    name: str

    def rank(self, training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> Ranking:
        """Rank ``images``.

        Args:
            training: float32 [N, 1, S, S] in [0, 1].
            images: float32 [M, 1, S, S] in [0, 1], of the same size.
            holdout: float32 [n, 1, S, S] of other patients, for a method that takes its threshold from a validation set.
        """


def nearest(similarity: np.ndarray, threshold: float | None = None) -> Ranking:
    """The ranking by the largest of each row of ``similarity`` float [M, N]; ties go to the first training image."""
    match = similarity.argmax(1)
    return Ranking(similarity[np.arange(len(match)), match].astype(np.float64), match.astype(np.int64), threshold)


def nearest_in_blocks(
    similarity: Callable[[torch.Tensor], np.ndarray], images: torch.Tensor, block: int, threshold: float | None = None
) -> Ranking:
    """:func:`nearest` of ``images``, ``block`` at a time, so that not all similarities are held at once."""
    parts = [nearest(similarity(part)) for part in images.split(block)]
    return Ranking(np.concatenate([p.score for p in parts]), np.concatenate([p.match for p in parts]), threshold)


def require_squares(training: torch.Tensor, images: torch.Tensor, holdout: torch.Tensor | None = None) -> None:
    """Raise ``InputError`` when the sets are not what :meth:`Rival.rank` takes."""
    sets = {"training": training, "images": images} | ({} if holdout is None else {"holdout": holdout})
    side = training.shape[-1] if training.ndim == 4 else 0
    for name, pixels in sets.items():
        if tuple(pixels.shape[1:]) != (1, side, side) or not pixels.is_floating_point() or not len(pixels):
            raise InputError(
                f"The {name!r} parameter of a rival must be float32 [N, 1, S, S], N >= 1, S that of the training images. "
                f"Got {pixels.dtype} {list(pixels.shape)} instead."
            )


class LastFit:
    """What a rival has made of the last training set: a benchmark ranks many sets of images against one."""

    def __init__(self) -> None:
        self._training: torch.Tensor | None = None
        self._made: Any = None

    def of(self, training: torch.Tensor, make: Callable[[torch.Tensor], Any]) -> Any:
        """``make(training)``, or what it gave for this very tensor at the last call."""
        if self._training is not training:
            self._made, self._training = make(training), training
        return self._made
