"""Search for people and images that are in a pool twice: the same pixels, then the nearest by the whitened embedding, registered."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from doppelscan.decide import PersonPair, Rules, StoredRegistration, StoredVolumes, best_region, registered_candidates
from doppelscan.memorization import Rows, interleaved, nearest_rows
from doppelscan.overlap.links import Link, Pool, identical_link, link_of, part_link
from doppelscan.overlap.rules import OverlapRules
from doppelscan.progress import progress
from doppelscan.search import CandidateSearch, PatchDescriptor, PatchSearch, likely_poses, view_similarity
from doppelscan.verify import IdenticalPixels
from doppelscan.workers import THIS_PROCESS, Task, Workers

__all__ = ["LinkSearch", "NearestImage", "PoolSearch", "SearchedPool"]

# Of each image, in each set: so many of other people by the whitened embedding and by the deepssim head, and so many of whoever they are.
OTHERS, ANYBODY = 5, 2
BLOCK, QUERIES = 64, 1024


@dataclass(frozen=True)
class NearestImage:
    """What came nearest to an image, whether it is linked to it or not.

    Attributes:
        row: of the pool, -1 where nothing was compared.
        score: verified score of the registered pair; of the same pixels their correlation.
    """

    row: int = -1
    score: float = float("nan")


@dataclass(frozen=True)
class SearchedPool:
    """What was found in a pool.

    Attributes:
        pool: which.
        links: see :class:`~doppelscan.overlap.Link`.
        nearest: of each image the one that agrees best, in another set where there are two.
        beside: int64 [N], of each image the nearest of its own set by the embedding, -1 for none.
        registered: number of pairs that were registered.
        few: the pool is too small for pairs that are not of the same pixels to be evidence.
    """

    pool: Pool
    links: tuple[Link, ...]
    nearest: tuple[NearestImage, ...]
    beside: np.ndarray
    registered: int
    few: bool


@dataclass(frozen=True, kw_only=True)
class PoolSearch:
    """Looks for links in a pool.

    Attributes:
        pool: of one set or two.
        rules: what makes two images of one person.
        own: see :class:`OverlapRules`.
        registration: of pairs, which are kept.
        workers: who registers.
    """

    pool: Pool
    registration: StoredRegistration | StoredVolumes
    rules: Rules
    own: OverlapRules
    workers: Workers = THIS_PROCESS

    def __call__(self, same: Sequence[Link]) -> SearchedPool:
        """All links: ``same`` of :func:`same_pixels`, and what registration finds."""
        images = self.pool.images
        held = {frozenset((one.first, one.second)) for one in same}
        nearest = [NearestImage()] * len(images)
        for link in same:
            _nearer(nearest, link.first, link.second, link.score, self.pool)
        few = len(images) < self.own.fewest
        beside = np.full(len(images), -1)
        pairs = [pair for own in self._sets() for other in self._sets() for pair in self._between(own, other, held, beside)]
        for pair in pairs:
            _nearer(nearest, pair.first, pair.second, pair.score, self.pool)
        found = self._links(pairs)
        kept = [one for one in found if not (few and one.relation == "same person")]
        links = [*same, *kept]
        if not few:
            links += self._regions({row for one in links for row in (one.first, one.second)})
        return SearchedPool(self.pool, tuple(links), tuple(nearest), beside, len(pairs), few)

    def _regions(self, linked: Container[int]) -> list[Link]:
        """Links of images without one to those that a region of them agrees with, where such are looked for."""
        return []

    def _sets(self) -> range:
        return range(len(self.pool.names))

    def _links(self, pairs: Sequence[PersonPair]) -> list[Link]:
        """What the pairs say; of two that were laid on each other both ways, the stronger."""
        best: dict[frozenset[int], Link] = {}
        for pair in pairs:
            link, key = link_of(pair, self.rules, self.own), frozenset((pair.first, pair.second))
            if link is not None and (key not in best or link.strength < best[key].strength):
                best[key] = link
        return list(best.values())

    def _between(self, own: int, other: int, held: Container[frozenset[int]], beside: np.ndarray) -> list[PersonPair]:
        """Each image of the set ``own`` and its candidates in the set ``other``, registered; ``held`` pairs are known already, ``beside`` is filled."""
        rows = np.flatnonzero(np.array(self.pool.of_set) == own)
        candidates, poses = self._candidates(rows, other, held)
        if own == other:
            beside[rows] = candidates[:, 0]
        some = np.flatnonzero(candidates[:, 0] >= 0) if candidates.size else np.zeros(0, np.int64)
        self.registration.flush()  # other processes see what is on disk
        task = self._registrar(rows[some], candidates[some], poses[some])
        with progress(None, "verify pairs", self.pool.of, total=len(some)) as bar:
            parts = self.workers.map(task, range(len(some)), bar.update)
        self.registration.refresh()
        return [pair for part in parts for pair in part]

    def _candidates(self, rows: np.ndarray, other: int, held: Container[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Of some rows the nearest of a set, int64 [M, K], -1 at the end, and the poses to lay them in, int64 [M, K, n]."""
        raise NotImplementedError

    def _registrar(self, rows: np.ndarray, candidates: np.ndarray, poses: np.ndarray) -> Task[list[PersonPair]]:
        """Registers blocks of rows and their candidates."""
        raise NotImplementedError

    @staticmethod
    def _merged(lists: Sequence[np.ndarray], most: int, asked: Sequence[int], held: Container[frozenset[int]]) -> np.ndarray:
        """``lists`` int64 [M, k] of candidates of the rows ``asked`` as one, without ``held`` pairs: int64 [M, most], -1 at the end."""
        merged = interleaved(lists, most)
        known = [[frozenset((row, one)) in held for one in near] for row, near in zip(asked, merged.tolist(), strict=True)]
        merged = interleaved([np.where(np.array(known, bool).reshape(merged.shape), -1, merged)], most)
        return np.pad(merged, ((0, 0), (0, most - merged.shape[1])), constant_values=-1)


@dataclass(frozen=True, kw_only=True)
class LinkSearch(PoolSearch):
    """:class:`PoolSearch` of 2D images.

    Attributes:
        search: fitted on ``pool.images``.
        registration: of pairs, which are kept.
        regions: look for regions of other images, too, in those that have no link: each is compared with all.
    """

    search: CandidateSearch
    registration: StoredRegistration
    regions: bool = False

    def _regions(self, linked: Container[int]) -> list[Link]:
        """Links of images without one to those that a region of them agrees with, in place."""
        if not self.regions:
            return []
        assert self.search.patches is not None
        people, volumes = people_codes(self.pool)
        rows = [row for row in range(len(self.pool)) if row not in linked]
        task = _RegionSearch(self.pool, tuple(rows), self.search.patches, self.rules)
        with progress(None, "compare regions", "image", total=len(rows)) as bar:
            found = [link for part in self.workers.map(task, range(len(rows)), bar.update) for link in part]
        return [one for one in found if people[one.first] != people[one.second] and volumes[one.first] != volumes[one.second]]

    def _registrar(self, rows: np.ndarray, candidates: np.ndarray, poses: np.ndarray) -> Task[list[PersonPair]]:
        assert self.search.patches is not None
        return _PairRegistrar(self.pool, rows, candidates, poses, self.registration, self.search.patches.descriptor, self.rules)

    def _candidates(self, rows: np.ndarray, other: int, held: Container[frozenset[int]]) -> tuple[np.ndarray, np.ndarray]:
        people, volumes = people_codes(self.pool)
        left_out = self.search.repeated | (np.array(self.pool.of_set) != other)
        blocks = []
        for start in range(0, len(rows), QUERIES):
            asked = rows[start : start + QUERIES]
            heads = self.pool.posed.features(asked.tolist(), ["embedding", "deepssim"])
            white = self.search.whitened(heads["embedding"])
            lists = [
                rows_near(white, self.search.embedding, OTHERS, left_out, (people[asked], people), self.search.device),
                rows_near(white, self.search.embedding, ANYBODY, left_out, (volumes[asked], volumes), self.search.device),
                rows_near(heads["deepssim"], self.search.deepssim, ANYBODY, left_out, (people[asked], people), self.search.device),
            ]
            merged = self._merged(lists, 2 * OTHERS, asked.tolist(), held)
            blocks.append((merged, likely_poses(view_similarity(white, self.search.embedding, merged))))
        return np.concatenate([one for one, _ in blocks]), np.concatenate([poses for _, poses in blocks])


def rows_near(
    queries: np.ndarray,
    reference: Rows,
    k: int,
    left_out: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    device: str | torch.device,
) -> np.ndarray:
    """int64 [M, k], -1 where fewer take part."""
    near = nearest_rows(queries, reference, k, left_out=left_out, groups=groups, device=device)
    return np.where(np.isfinite(near.similarity), near.rows, -1)


def same_pixels(pool: Pool, rules: Rules) -> list[Link]:
    """Links of images to the first before them that has the same pixels; needs no encoder and no other images."""
    found = IdenticalPixels(pool.images, rules.identical, rules.identical_small).repeats()
    return [identical_link(row, same) for row, same in enumerate(found) if same is not None]


def people_codes(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the people as they are named, and of the volumes: int64 [N] each."""
    records = pool.images.records
    volumes = [(number, record.volume) for number, record in zip(pool.of_set, records, strict=True)]
    people = [("name", record.patient) if record.patient_known else one for one, record in zip(volumes, records, strict=True)]
    return _codes(people), _codes(volumes)


def _codes(names: Sequence[object]) -> np.ndarray:
    first: dict[object, int] = {}
    return np.array([first.setdefault(name, len(first)) for name in names], np.int64)


def _nearer(nearest: list[NearestImage], first: int, second: int, score: float, pool: Pool) -> None:
    """Keep for both images of a pair the one that agrees best; of two sets, one of the other."""
    if len(pool.names) > 1 and pool.of_set[first] == pool.of_set[second]:
        return
    for row, other in ((first, second), (second, first)):
        if not nearest[row].score >= score:
            nearest[row] = NearestImage(other, score)


@dataclass(frozen=True)
class _PairRegistrar:
    """Registers blocks of images and their candidates; what it holds is what :func:`~doppelscan.decide.registered_candidates` takes."""

    pool: Pool
    rows: np.ndarray
    candidates: np.ndarray
    poses: np.ndarray
    registration: StoredRegistration
    descriptor: PatchDescriptor
    rules: Rules

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[PersonPair]:
        """The pairs of some of ``rows``; registered pairs are on disk when it returns."""
        result: list[PersonPair] = []
        for start in range(0, len(rows), BLOCK):
            block = list(rows[start : start + BLOCK])
            result += registered_candidates(
                self.pool.images, self.rows[block].tolist(), self.candidates[block], self.poses[block], self.registration, self.descriptor, self.rules
            )  # fmt: skip
            advance(len(block))
        self.registration.flush()
        return result


@dataclass(frozen=True)
class _RegionSearch:
    """Looks for regions of blocks of images in all others."""

    pool: Pool
    rows: tuple[int, ...]
    patches: PatchSearch
    rules: Rules

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[Link]:
        """The links of some of ``rows``, at most one each."""
        result: list[Link | None] = []
        for start in range(0, len(rows), BLOCK):
            block = [self.rows[row] for row in rows[start : start + BLOCK]]
            structure = self.patches.descriptor.structure(self.pool.images.thumbnails(block))
            found = self.patches.search_structure(structure, without=np.array(block))
            result += [part_link(row, best_region(found, position), self.rules) for position, row in enumerate(block)]
            advance(len(block))
        return [one for one in result if one is not None]
