"""What registration found of pairs, kept whatever whitening they are measured with, so that more training images pay for themselves alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from doppelscan.search import EmbeddingStore
from doppelscan.verify import STAGES

__all__ = ["PosedPairs", "pair_names"]

# Pairs a row of the store: of most images all candidates.
PAIRS = 32
NO_PAIR = 0


def pair_names(candidates: Sequence[Sequence[str]], poses: np.ndarray | None) -> np.ndarray:
    """int64 [M, K], of each candidate a name of it and of the poses that are searched; 0 where there is none.

    Args:
        candidates: of each of M images the keys of K candidates, empty where there is none.
        poses: int [M, K, n], see :class:`~doppelscan.verify.Registration`.
    """
    named = np.full((len(candidates), len(candidates[0])), NO_PAIR, np.int64)
    for row, keys in enumerate(candidates):
        for place, key in enumerate(keys):
            if key:
                tried = "all" if poses is None else np.unique(poses[row, place]).tolist()
                named[row, place] = int.from_bytes(hashlib.sha256(f"{key} {tried}".encode()).digest()[:8], signed=True)
    return named


class PosedPairs:
    """Stages of registered pairs by image, see :class:`~doppelscan.verify.Stages`.

    A shard never changes: what a later search registers of an image is a further row of it, and of rows that hold one pair the last counts.

    Args:
        store: where they are kept.
        columns: numbers of a pair: of an image's 29, of a volume's :attr:`~doppelscan.verify.VolumeRegistration.columns`.
    """

    def __init__(self, store: EmbeddingStore, columns: int = STAGES) -> None:
        self.store, self.columns = store, columns

    def known(self, images: Sequence[str], names: np.ndarray) -> np.ndarray:
        """float32 [M, K, columns], NaN of what is not known; ``images`` are M keys, ``names`` int64 [M, K] of :func:`pair_names`."""
        found = np.full((*names.shape, self.columns), np.nan, np.float32)
        keys = [self._kept(image) for image in images]
        if not any(keys):
            return found
        columns = self.store.read([key for some in keys for key in some], ["names", "stages"])
        position = 0
        for row, some in enumerate(keys):
            for _ in some:
                place = {int(name): i for i, name in enumerate(columns["names"][position]) if name != NO_PAIR}
                for candidate, name in enumerate(names[row].tolist()):
                    if name in place:
                        found[row, candidate] = columns["stages"][position, place[name]]
                position += 1
        return found

    def keep(self, images: Sequence[str], names: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
        """Keep what is known ``after`` a registration and was not ``before``, both as :meth:`known` gives them."""
        new = (np.isnan(before) & ~np.isnan(after)).any(-1) & (names != NO_PAIR)
        for row, image in enumerate(images):
            place = np.flatnonzero(new[row])
            following = len(self._kept(image))
            for start in range(0, len(place), PAIRS):
                some = place[start : start + PAIRS]
                kept, stages = np.full(PAIRS, NO_PAIR, np.int64), np.full((PAIRS, self.columns), np.nan, np.float32)
                kept[: len(some)], stages[: len(some)] = names[row, some], after[row, some]
                self.store.add(_key(image, following + start // PAIRS), {"names": kept, "stages": stages})

    def _kept(self, image: str) -> list[str]:
        """Keys of the rows of an image that other searches left."""
        keys: list[str] = []
        while (key := _key(image, len(keys))) in self.store:
            keys.append(key)
        return keys


def _key(image: str, number: int) -> str:
    return f"{image} {number}"
