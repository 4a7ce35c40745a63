"""Search for people and images that are in a pool twice: the same pixels, then the nearest by the whitened embedding, registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from doppelscan.decide import PersonPair, Rules, StoredRegistration, registered_pairs
from doppelscan.memorization import nearest_rows
from doppelscan.overlap.links import Link, Pool, identical_link, link_of
from doppelscan.overlap.rules import OverlapRules
from doppelscan.progress import progress
from doppelscan.search import CandidateSearch, PatchDescriptor, likely_poses, view_similarity
from doppelscan.verify import IdenticalPixels
from doppelscan.workers import THIS_PROCESS, Workers

__all__ = ["LinkSearch", "NearestImage", "SearchedPool"]

# Of each image so many of other people are looked at, in each set, and one of whoever it is.
OTHERS, ANYBODY = 3, 1
BLOCK, QUERIES = 64, 1024
# Pairs come by falling similarity; after so many in a row that say nothing, none is expected any more.
PATIENCE = 128


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


@dataclass(frozen=True)
class _Candidate:
    """A pair that is to be registered: the second is laid on the first in ``poses``."""

    first: int
    second: int
    similarity: float
    poses: tuple[int, ...]


@dataclass(frozen=True)
class LinkSearch:
    """Looks for links in a pool.

    Attributes:
        pool: of one set or two.
        search: fitted on ``pool.images``.
        registration: of pairs, which are kept.
        rules: what makes two images of one person.
        own: see :class:`OverlapRules`.
        workers: who registers.
    """

    pool: Pool
    search: CandidateSearch
    registration: StoredRegistration
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
        every, beside = self._candidates() if len(images) > 1 else ({}, np.full(len(images), -1))
        pairs = list(self._registered({key: one for key, one in every.items() if key not in held}))
        for pair in pairs:
            _nearer(nearest, pair.first, pair.second, pair.score, self.pool)
        found = [link_of(pair, self.rules, self.own) for pair in pairs]
        kept = [one for one in found if one is not None and not (few and one.relation == "same person")]
        return SearchedPool(self.pool, (*same, *kept), tuple(nearest), beside, len(pairs), few)

    def _registered(self, every: Mapping[frozenset[int], _Candidate]) -> Iterator[PersonPair]:
        """The nearest of each image, and further ones by falling similarity until no more of them agree."""
        first: dict[int, frozenset[int]] = {}
        ordered = sorted(every, key=lambda key: (-every[key].similarity, every[key].first, every[key].second))
        for key in ordered:
            for row in key:
                first.setdefault(row, key)
        # Of every image the nearest is registered, whatever its similarity: a page that says "none" shows how near the nearest is.
        must = set(first.values())
        yield from self._pairs([every[key] for key in ordered if key in must])
        misses = 0
        rest = [every[key] for key in ordered if key not in must]
        step = BLOCK * self.workers.count
        for start in range(0, len(rest), step):
            for pair in self._pairs(rest[start : start + step]):
                misses = 0 if pair.confirmed else misses + 1
                yield pair
            if misses >= PATIENCE:
                break

    def _pairs(self, candidates: Sequence[_Candidate]) -> list[PersonPair]:
        self.registration.verified.flush()  # other processes see what is on disk
        assert self.search.patches is not None
        task = _PairRegistrar(self.pool, tuple(candidates), self.registration, self.search.patches.descriptor, self.rules)
        with progress(None, "verify pairs", "pair", total=len(candidates)) as bar:
            parts = self.workers.map(task, range(len(candidates)), bar.update)
        self.registration.verified.refresh()
        return [pair for part in parts for pair in part]

    def _candidates(self) -> tuple[dict[frozenset[int], _Candidate], np.ndarray]:
        """Pairs of rows, each once, as the nearer of the two sees it; and of each image the nearest of its own set."""
        found: dict[frozenset[int], _Candidate] = {}
        beside = np.full(len(self.pool), -1)
        people, volumes = _people(self.pool)
        of_set = np.array(self.pool.of_set)
        for own in range(len(self.pool.names)):
            rows = np.flatnonzero(of_set == own)
            for start in range(0, len(rows), QUERIES):
                asked = rows[start : start + QUERIES]
                white = self.search.whitened(self.pool.posed.features(asked.tolist(), ["embedding"])["embedding"])
                for other in range(len(self.pool.names)):
                    left_out = self.search.repeated | (of_set != other)
                    self._nearest(found, white, asked, left_out, people, OTHERS)
                    anybody = self._nearest(found, white, asked, left_out, volumes, ANYBODY)
                    if own == other:
                        beside[asked] = anybody[:, 0]
        return found, beside

    def _nearest(
        self,
        found: dict[frozenset[int], _Candidate],
        white: np.ndarray,
        asked: np.ndarray,
        left_out: np.ndarray,
        codes: np.ndarray,
        k: int,
    ) -> np.ndarray:
        """Add the nearest of the images ``asked`` to what was ``found``; int64 [M, k], -1 for none."""
        near = nearest_rows(
            white, self.search.embedding, k, left_out=left_out, groups=(codes[asked], codes), device=self.search.device
        )
        rows = np.where(np.isfinite(near.similarity), near.rows, -1)
        poses = likely_poses(view_similarity(white, self.search.embedding, rows))
        for i, row in enumerate(asked.tolist()):
            for place, other in enumerate(rows[i].tolist()):
                key = frozenset((row, other))
                value = round(float(near.similarity[i, place]), 4)
                if other >= 0 and (key not in found or found[key].similarity < value):
                    found[key] = _Candidate(row, other, value, tuple(poses[i, place].tolist()))
        return rows


def same_pixels(pool: Pool, rules: Rules) -> list[Link]:
    """Links of images to the first before them that has the same pixels; needs no encoder and no other images."""
    found = IdenticalPixels(pool.images, rules.identical, rules.identical_small).repeats()
    return [identical_link(row, same) for row, same in enumerate(found) if same is not None]


def _people(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
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
    """Registers blocks of candidates; what it holds is what :func:`~doppelscan.decide.registered_pairs` takes."""

    pool: Pool
    candidates: tuple[_Candidate, ...]
    registration: StoredRegistration
    descriptor: PatchDescriptor
    rules: Rules

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[PersonPair]:
        """One pair a row of ``candidates``; registered pairs are on disk when it returns."""
        result: list[PersonPair] = []
        for start in range(0, len(rows), BLOCK):
            block = [self.candidates[row] for row in rows[start : start + BLOCK]]
            pairs, poses = [(one.first, one.second) for one in block], np.array([one.poses for one in block])
            result += registered_pairs(pairs, self.pool.images, None, self.registration, self.descriptor, self.rules, poses)
            advance(len(block))
        self.registration.verified.flush()
        return result
