"""Which samples of a real generator are plainly copies or plainly none, by pixels in place; see ``doppelscan.benchmark.label_samples``."""

from __future__ import annotations

from typing import Literal

import numpy as np
from doppelscan.benchmark import pixel_votes

__all__ = ["Label", "labelled"]

Label = Literal["copy", "clean", "unsure"]


def labelled(samples: np.ndarray, training: np.ndarray, people: list[str], strangers: np.ndarray) -> list[Label]:
    """The first of the benchmark's two criteria: a pool of whole audits wants many samples, not sure ones."""
    votes = pixel_votes(samples, training, people, strangers)
    return ["clean" if vote == "novel" else vote for vote in votes]
