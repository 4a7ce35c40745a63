"""Search for people and volumes that are in a pool twice: the same voxels, then the nearest by their slices, registered; :mod:`search` in 3D."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide import PersonPair, Rules, StoredVolumes, registered_volumes
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.overlap.links import Link, Pool, identical_link
from doppelscan.overlap.search import PoolSearch, people_codes, rows_near
from doppelscan.search import EmbeddedVolumes, VolumeSearch
from doppelscan.verify import IdenticalVoxels
from doppelscan.workers import Task

__all__ = ["VolumeLinkSearch", "same_voxels"]

# Of each volume, in each set: so many of other people, and so many of whoever they are. The source was the first of all on real volumes.
OTHERS, ANYBODY = 3, 1
# Rows of 48 poses that are compared at a time: half a megabyte each.
BLOCK = 8


@dataclass(frozen=True, kw_only=True)
class VolumeLinkSearch(PoolSearch):
    """:class:`PoolSearch` of volumes.

    Attributes:
        search: fitted on ``pool.images``.
        registration: of pairs, which are kept.
    """

    search: VolumeSearch
    registration: StoredVolumes

    def _registrar(self, rows: np.ndarray, candidates: np.ndarray, poses: np.ndarray) -> Task[list[PersonPair]]:
        return _VolumeRegistrar(self.pool, rows, candidates, poses, self.registration, self.rules)

    def _candidates(self, rows: np.ndarray, other: int, held: Container[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
        people, volumes = people_codes(self.pool)
        left_out = np.array(self.pool.of_set) != other
        blocks = []
        for start in range(0, len(rows), BLOCK):
            asked = rows[start : start + BLOCK]
            white = self.search.whitened(self.pool.posed.features(asked.tolist(), ["embedding"])["embedding"])
            lists = [
                rows_near(white, self.search.training, OTHERS, left_out, (people[asked], people), self.search.device),
                rows_near(white, self.search.training, ANYBODY, left_out, (volumes[asked], volumes), self.search.device),
            ]
            merged = self._merged(lists, OTHERS + ANYBODY, asked.tolist(), held)
            posed, _ = self.search.likely(white, merged)
            blocks.append((merged, INVERSE[posed]))
        return np.concatenate([one for one, _ in blocks]), np.concatenate([poses for _, poses in blocks])


# It is the volume that was posed, and the candidate that is to be.
INVERSE = np.array([inverse_axis_pose(number) for number in range(48)])


def same_voxels(pool: Pool, rules: Rules) -> list[Link]:
    """Links of volumes to the first before them that has the same voxels; needs no encoder and no other volumes."""
    assert isinstance(pool.images, EmbeddedVolumes)
    found = IdenticalVoxels(pool.images, rules.identical).repeats()
    return [identical_link(row, same) for row, same in enumerate(found) if same is not None]


@dataclass(frozen=True)
class _VolumeRegistrar:
    """Registers blocks of volumes and their candidates; what it holds is what :func:`~doppelscan.decide.registered_volumes` takes."""

    pool: Pool
    rows: np.ndarray
    candidates: np.ndarray
    poses: np.ndarray
    registration: StoredVolumes
    rules: Rules

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[PersonPair]:
        """The pairs of some of ``rows``; registered pairs are on disk when it returns."""
        images = self.pool.images
        assert isinstance(images, EmbeddedVolumes)
        given = [self.candidates[row] >= 0 for row in rows]
        found = registered_volumes(
            images,
            self.rows[list(rows)].tolist(),
            [self.candidates[row][kept].tolist() for row, kept in zip(rows, given, strict=True)],
            [self.poses[row][kept].tolist() for row, kept in zip(rows, given, strict=True)],
            self.registration,
            self.rules,
            advance,
        )
        self.registration.flush()
        return found
