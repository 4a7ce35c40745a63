"""The stages before a decision: what a training set was fitted to, and a set that was scored against it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from doppelscan.decide.evidence import PairEvidence, evidence_of_pairs
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage, StoredPair, StoredRegistration, score_images
from doppelscan.deepssim import quarter_turn, quarter_turn_poses
from doppelscan.images import ImageRecord
from doppelscan.search import CandidateSearch, EmbeddedSet, PatchSearch, StoredFeatures, StoredThumbnails, view_similarity
from doppelscan.verify import AlignedPair, Framing, same_patient_scores, verified_score
from doppelscan.workers import THIS_PROCESS, Workers

__all__ = ["FittedReference", "Reference", "ScoredSet", "slice_positions"]

BLOCK = 64
# Training images from which the folds share the whitening of the whole set: of so many, a fifth more or less changes little in it.
SHARED = 4096
# Parts of an axis of a volume, each with a control of its own.
POSITIONS = 5


def slice_positions(records: Sequence[ImageRecord], training: Sequence[ImageRecord]) -> list[tuple[int, int] | None]:
    """Where in its volume each image lies: the axis, and which fifth of the depth that the training set covers; None of an image that is no slice.

    Depth is a share of the volume: volumes of other numbers of slices compare.
    """
    covered: dict[int, list[float]] = defaultdict(list)
    for one in training:
        if (place := _depth(one)) is not None:
            covered[place[0]].append(place[1])
    extents = {axis: (min(depths), max(depths)) for axis, depths in covered.items()}

    def position(one: ImageRecord) -> tuple[int, int] | None:
        place = _depth(one)
        if place is None or place[0] not in extents:
            return None
        axis, depth = place
        first, last = extents[axis]
        return axis, min(POSITIONS - 1, max(0, int(POSITIONS * (depth - first) / max(last - first, 1e-9))))

    return [position(one) for one in records]


def _depth(record: ImageRecord) -> tuple[int, float] | None:
    """The axis, and how deep in the volume the middle of the slice lies, 0 to 1."""
    if record.slice is None or record.axis is None or not record.slices:
        return None
    return record.axis, (record.slice + 0.5) / record.slices


class Reference(Protocol):
    """A training set that images or volumes are scored against, and all that a decision asks of it; see :class:`FittedReference`."""

    @property
    def training(self) -> EmbeddedSet: ...

    @property
    def posed(self) -> EmbeddedSet: ...

    @property
    def workers(self) -> Workers: ...

    def scored(self, images: EmbeddedSet, label: str) -> ScoredSet: ...

    def without(self, left_out: np.ndarray) -> tuple[Reference, np.ndarray]: ...

    def of(self, posed: EmbeddedSet) -> Reference: ...

    def best_among(
        self, images: EmbeddedSet, rows: Sequence[int], excluded: Sequence[Set[str]], most: int
    ) -> list[tuple[float, int]]: ...

    def similarities(self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]: ...

    def same_patient(
        self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int], poses: Sequence[int] | None
    ) -> np.ndarray: ...

    def pairs(self, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> Sequence[Any]: ...

    def explained(self, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> list[tuple[float, float]]: ...

    def evidence(self, images: EmbeddedSet, scored: Sequence[ScoredImage], rules: Rules) -> list[PairEvidence]: ...


@dataclass(frozen=True)
class FittedReference:
    """A training set that images are scored against.

    Attributes:
        training: in one pose.
        posed: some of its images in all poses: the null of the index, and the control where there is no holdout.
        search: fitted on it.
        view_differences: what the whitening was fitted with, see :meth:`~doppelscan.search.CandidateSearch.fit`.
        registration: of pairs, which are kept.
        score: what ranks, a name of :data:`~doppelscan.arguments.Score`.
        workers: who computes.
    """

    training: EmbeddedSet
    posed: EmbeddedSet
    search: CandidateSearch
    view_differences: Mapping[str, np.ndarray]
    registration: StoredRegistration
    score: str = "combined"
    workers: Workers = THIS_PROCESS

    def scored(self, images: EmbeddedSet, label: str) -> ScoredSet:
        """``images`` in all poses, scored; ``label`` names the set in the progress bar."""
        found = score_images(images, self.training, self.search, self.registration, label, self.score, self.workers)
        return ScoredSet(images, tuple(found), self)

    def without(self, left_out: np.ndarray) -> tuple[FittedReference, np.ndarray]:
        """The reference without the training images ``left_out`` bool [N], and the training row of each of its rows."""
        if len(self.training) >= SHARED:
            return replace(self, search=self.search.without(left_out)), np.arange(len(self.training))
        rows = np.flatnonzero(~left_out)
        others = self.training.subset(rows.tolist())
        search = CandidateSearch(self.search.candidates, self.search.seed, self.search.device).fit(
            StoredFeatures.searched(others),
            others.patients,
            null_of=self.search.index,
            view_differences=self.view_differences,
            thumbnails=StoredThumbnails(others),
            keys=[self.training.contents[i] for i in rows],
        )
        return replace(self, training=others, search=search), rows

    def of(self, posed: EmbeddedSet) -> FittedReference:
        """Another one, fitted in the same way on a small set whose images are there in all poses."""
        search = CandidateSearch(self.search.candidates, self.search.seed, self.search.device).fit(
            posed.single_pose(),
            posed.patients,
            posed.features(),
            np.arange(len(posed)),
            view_differences=self.view_differences,
            thumbnails=StoredThumbnails(posed),
            keys=posed.contents,
        )
        return replace(self, training=posed, posed=posed, search=search)

    def best_among(
        self, images: EmbeddedSet, rows: Sequence[int], excluded: Sequence[Set[str]], most: int
    ) -> list[tuple[float, int]]:
        """Of each of some images the verified score and training row of its best candidate that is of none of ``excluded``; NaN and -1 without one.

        Args:
            images: embedded in all poses.
            rows: of them that are asked about.
            excluded: of each row the patients that are passed over.
            most: candidates that are registered.
        """
        proposals = self.search.propose(images.features(rows), images.thumbnails(rows))
        patients = self.training.patients
        places = [
            [k for k, row in enumerate(proposed) if row >= 0 and patients[row] not in own][:most]
            for own, proposed in zip(excluded, proposals.rows, strict=True)
        ]
        result = [(math.nan, -1)] * len(rows)
        some = [i for i, found in enumerate(places) if found]
        if not some:
            return result
        # The last is repeated, so that each has as many.
        place = np.array([(places[i] + [places[i][-1]] * most)[:most] for i in some])
        candidates = np.take_along_axis(proposals.rows[some], place, 1)
        poses = None if proposals.poses is None else np.take_along_axis(proposals.poses[some], place[..., None], 1)
        found = self.registration.best(images, [rows[i] for i in some], self.training, candidates, poses, self._patches.descriptor)
        for i, row, pairs in zip(some, candidates, found, strict=True):
            kept = [StoredPair(*map(float, values)) for values in pairs if values[0] >= 0]
            result[i] = max((verified_score(pair.detail, pair.agreement), int(row[int(pair.candidate)])) for pair in kept)
        return result

    def similarities(self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The deepssim cosine and the whitened similarity of some images and training images, best of the poses: float32 [n] each."""
        heads = ["deepssim", "embedding"]
        own, training = images.features(rows, heads), self.training.features(matches, heads)
        each = np.arange(len(rows))[:, None]
        whitened = self.search.whitened(own["embedding"]), self.search.whitened(training["embedding"])
        deepssim, embedding = (
            view_similarity(views, others, each).max((1, 2))
            for views, others in ((own["deepssim"], training["deepssim"]), whitened)
        )
        return deepssim, embedding

    def same_patient(
        self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int], poses: Sequence[int] | None
    ) -> np.ndarray:
        """The score that each of some images and a training image show one person, float64 [n], see :func:`~doppelscan.verify.same_patient_scores`; the training
        image in one of the 8 ``poses`` each, or in the best of them for None."""
        own, pixels = Framing.of(images.thumbnails(rows)), self.training.thumbnails(matches)
        if poses is None:
            return np.max([same_patient_scores(own, Framing.of(posed)) for posed in quarter_turn_poses(pixels)], 0)
        turned = [quarter_turn(one, pose) for one, pose in zip(pixels, poses, strict=True)]
        return same_patient_scores(own, Framing.of(torch.stack(turned)))

    def pairs(self, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> list[AlignedPair]:
        """The registered pairs of some scored ``images`` in full."""
        rows, matches, poses = [one.row for one in scored], [one.match for one in scored], [one.pose for one in scored]
        return self.registration.aligned(images, rows, self.training, matches, poses, self._patches.descriptor)

    def explained(self, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> list[tuple[float, float]]:
        """What the match of each explains of it: shares of all structure and of the fine one."""
        return [(pair.explained, pair.fine) for pair in self.pairs(images, scored)]

    def evidence(self, images: EmbeddedSet, scored: Sequence[ScoredImage], rules: Rules) -> list[PairEvidence]:
        """What tells of which kind each of some scored ``images`` is."""
        return evidence_of_pairs(scored, self.pairs(images, scored), self.training, self._patches, rules)

    @property
    def _patches(self) -> PatchSearch:
        assert self.search.patches is not None
        return self.search.patches


@dataclass(frozen=True)
class ScoredSet:
    """Images scored against a training set.

    Attributes:
        images: what was scored.
        scored: one entry an image; ``row`` is its row in ``images``, ``match`` one of the training set.
        reference: what it was scored against.
    """

    images: EmbeddedSet
    scored: tuple[ScoredImage, ...]
    reference: Reference

    @property
    def training(self) -> EmbeddedSet:
        """The training set."""
        return self.reference.training

    @property
    def patients(self) -> list[str]:
        """Of each entry of ``scored``."""
        return [self.images.patients[s.row] for s in self.scored]

    @property
    def positions(self) -> list[tuple[int, int] | None]:
        """Of each entry of ``scored``, see :func:`slice_positions`."""
        return slice_positions([self.images.records[s.row] for s in self.scored], self.training.records)

    def similarities(self, rows: Sequence[int], matches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The deepssim cosine and the whitened similarity of some images and training images, best of the poses: float32 [n] each."""
        return self.reference.similarities(self.images, rows, matches)

    def explained(self, least: float) -> np.ndarray:
        """Of each entry the share of its structure that its match explains; NaN below the verified score ``least``: float64 [M]."""
        return self._of_close_pairs(least)[:, 0]

    def fine_explained(self, least: float) -> np.ndarray:
        """Likewise of the fine structure alone, of real images against real images: float64 [M]."""
        return self._of_close_pairs(least)[:, 1]

    def _of_close_pairs(self, least: float) -> np.ndarray:
        """Shares of all structure and of the fine one: float64 [M, 2]."""
        result = np.full((len(self.scored), 2), np.nan)
        close = [i for i, one in enumerate(self.scored) if one.verified >= least]
        shares = self.reference.workers.map(SharesOfPairs(self, tuple(close)), range(len(close)))
        if close:
            result[close] = np.concatenate(shares)
        return result

    def pairs(self, scored: Sequence[ScoredImage]) -> Sequence[Any]:
        """The registered pairs of some entries in full: :class:`~doppelscan.verify.AlignedPair`, or of volumes ``AlignedVolume``."""
        return self.reference.pairs(self.images, scored)

    def pair(self, one: ScoredImage) -> Any:
        """The registered pair of an entry in full."""
        return self.pairs([one])[0]


@dataclass(frozen=True)
class SharesOfPairs:
    """What the match of each of some entries explains of it.

    Attributes:
        images: scored.
        entries: of them that are asked about.
    """

    images: ScoredSet
    entries: tuple[int, ...]

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> np.ndarray:
        """Shares of all structure and of the fine one, of rows of ``entries``: float64 [n, 2]."""
        found: list[tuple[float, float]] = []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            scored = [self.images.scored[self.entries[row]] for row in block]
            found += self.images.reference.explained(self.images.images, scored)
            advance(len(block))
        return np.array(found).reshape(-1, 2)
