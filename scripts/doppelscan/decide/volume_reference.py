"""A training set of volumes that volumes are scored against, and who is who in it; :mod:`reference` and the pairs of :mod:`people` in 3D."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from doppelscan.decide.evidence import PairEvidence
from doppelscan.decide.people import PersonPair
from doppelscan.decide.reference import ScoredSet
from doppelscan.decide.rules import Rules
from doppelscan.decide.scoring import ScoredImage
from doppelscan.decide.volume_scoring import ScoredVolume, StoredVolumes, candidates_of, posed_candidates, score_volumes
from doppelscan.memorization import nearest_rows
from doppelscan.search import EmbeddedSet, EmbeddedVolumes, StoredFeatures, VolumeSearch, frame_row
from doppelscan.verify import AlignedVolume, VolumeAgreement, VolumeRegions, coarse_structures, second_volume
from doppelscan.workers import THIS_PROCESS, Workers

__all__ = ["FittedVolumes", "fitted_search", "registered_volumes", "volume_pairs"]

HEAD = "embedding"
# Pairs come by falling similarity; after so many in a row that are not of one person, none is expected any more.
PATIENCE = 16


def fitted_search(
    training: EmbeddedVolumes, like: VolumeSearch, differences: np.ndarray, weights: Sequence[float] | None
) -> VolumeSearch:
    """A search with the settings of ``like``, fitted on ``training``: in all its views, or where ``weights`` is None on the volumes as they are."""
    as_they_are = [HEAD] if weights is None else []
    rows = StoredFeatures.of(training, as_they_are=as_they_are, names=[HEAD])[HEAD]
    if len(rows.shape) == 2:  # in one view
        rows = np.asarray(rows[:])[:, None]
    return VolumeSearch(like.candidates, like.slots, like.device).fit(rows, differences, weights)


@dataclass(frozen=True)
class FittedVolumes:
    """A training set that volumes are scored against.

    Attributes:
        training: in its own pose, as it is, turned and halved.
        posed: some of it in all 48 axis poses: the control where there is no holdout.
        search: fitted on it.
        differences: float32 [V, C], what the whitening was fitted with, see :func:`~doppelscan.deepssim.volume_view_differences`.
        weights: of the views of ``training``; None where it is there in axis poses, of which the first alone is searched.
        registration: of pairs, which are kept.
        score: what ranks, "combined" or "verified".
        workers: who computes.
        regions: of ``training``; None looks for none.
    """

    training: EmbeddedVolumes
    posed: EmbeddedVolumes
    search: VolumeSearch
    differences: np.ndarray
    weights: Sequence[float] | None
    registration: StoredVolumes
    score: str = "combined"
    workers: Workers = THIS_PROCESS
    regions: VolumeRegions | None = None

    @cached_property
    def structures(self) -> np.ndarray:
        """Of the training set, see :func:`~doppelscan.verify.coarse_structures`."""
        return coarse_structures(self.training)

    def scored(self, images: EmbeddedSet, label: str) -> ScoredSet:
        """``images`` in all axis poses, scored; ``label`` names the set in the progress bar."""
        found = score_volumes(
            _volumes(images), self.training, self.search, self.registration, label, self.score, self.workers, self.regions
        )
        return ScoredSet(images, tuple(found), self)

    def without(self, left_out: np.ndarray) -> tuple[FittedVolumes, np.ndarray]:
        """The reference without the training volumes ``left_out`` bool [N], and the training row of each of its rows."""
        rows = np.flatnonzero(~left_out)
        others = _volumes(self.training.subset(rows.tolist()))
        search = fitted_search(others, self.search, self.differences, self.weights)
        # What whitens is learned anew: of a fold that it knew, regions would be less alike than those of strangers.
        regions = None if self.regions is None else VolumeRegions.fitted(others)
        return replace(self, training=others, search=search, regions=regions), rows

    def of(self, posed: EmbeddedSet) -> FittedVolumes:
        """Another one, fitted in the same way on a small set whose volumes are there in all axis poses; it looks for no regions."""
        volumes = _volumes(posed)
        search = fitted_search(volumes, self.search, self.differences, None)
        return replace(self, training=volumes, posed=volumes, search=search, weights=None, regions=None)

    def best_among(
        self, images: EmbeddedSet, rows: Sequence[int], excluded: Sequence[Set[str]], most: int
    ) -> list[tuple[float, int]]:
        """See :meth:`~doppelscan.decide.FittedReference.best_among`."""
        patients, found = self.training.patients, []
        for row, own in zip(rows, excluded, strict=True):
            proposals = self.search.propose(images.features([row], [HEAD])[HEAD])
            (candidates,), (poses,) = candidates_of(proposals), posed_candidates(proposals)
            places = [place for place, one in enumerate(candidates) if patients[one] not in own][:most]
            if not places:
                found.append((math.nan, -1))
                continue
            some = [candidates[place] for place in places]
            posed = [[poses[place] for place in places]]
            (pairs,) = self.registration.best(_volumes(images), [row], self.training, [some], posed)
            found.append(max((pair.score, some[pair.candidate]) for pair in pairs))
        return found

    def similarities(self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """No deepssim cosine (NaN), and the whitened similarity of some volumes and training volumes, best of the poses and views: float32 [n] each."""
        found = np.zeros(len(rows), np.float32)
        for place, (row, match) in enumerate(zip(rows, matches, strict=True)):
            white = self.search.whitened(images.features([row], [HEAD])[HEAD][0])
            views = self.search.whitened(self.training.features([match], [HEAD])[HEAD][0])
            found[place] = (white @ views.T).max()
        return np.full(len(rows), np.nan, np.float32), found

    def same_patient(
        self, images: EmbeddedSet, rows: Sequence[int], matches: Sequence[int], poses: Sequence[int] | None
    ) -> np.ndarray:
        """NaN: no such score of volumes."""
        return np.full(len(rows), np.nan)

    def pairs(self, images: EmbeddedSet, scored: Sequence[ScoredImage], bent: bool = True) -> list[AlignedVolume]:
        """The registered pairs of some scored ``images`` in full; ``bent`` as of :meth:`~doppelscan.verify.VolumeRegistration.pairs`."""
        volumes = [one for one in scored if isinstance(one, ScoredVolume)]
        rows, matches = [one.row for one in volumes], [one.match for one in volumes]
        return self.registration.aligned(_volumes(images), rows, self.training, matches, [one.pose for one in volumes], bent)

    def explained(self, images: EmbeddedSet, scored: Sequence[ScoredImage]) -> list[tuple[float, float]]:
        """What the match of each explains of it: the share of the structure that agrees, twice, since all of it is as fine as the cube."""
        return [(one.share, one.share) for one in scored]

    def evidence(self, images: EmbeddedSet, scored: Sequence[ScoredImage], rules: Rules) -> list[PairEvidence]:
        """What tells of which kind each of some scored ``images`` is."""
        found = []
        for one in scored:
            (pair,) = self.pairs(images, [one])
            (stiff,) = self.pairs(images, [one], bent=False) if self.registration.registration.bends else (pair,)
            found.append(self._evidence(_volumes(images), one, pair, stiff, rules))
        self.registration.flush()
        return found

    def _evidence(
        self, images: EmbeddedVolumes, one: ScoredImage, pair: AlignedVolume, stiff: AlignedVolume, rules: Rules
    ) -> PairEvidence:
        cells = pair.agreement_map[np.isfinite(pair.agreement_map)]
        cube, (frame,) = images.thumbnails([one.row])[0], images.frames([one.row])
        patients = np.array(self.training.patients)
        own = patients == patients[one.match]
        number = one.pose.number

        def register(rest: torch.Tensor, rows: list[int]) -> list[VolumeAgreement]:
            # By its content, which hangs on the volume, the match and where it lies.
            name = hashlib.sha256(rest.numpy().tobytes() + frame_row(frame).tobytes()).hexdigest()
            tried = [[[number]] * len(rows)]
            return self.registration.of_cubes(rest, [frame], [name], self.training, [rows], tried)[0]

        second = second_volume(
            cube, frame, stiff, number, self.training, self.structures, own, self.registration.registration, register
        )
        return PairEvidence(
            explained=one.share,
            coarse=False,
            margin=one.margin,
            loss=0.0,
            mixed=-1.0 if second is None else second.agreement,
            mixed_row=one.match if second is None else second.row,
            mixed_share=0.0 if second is None else second.share,
            # No third source is looked for: what is as near to another patient is a mean of many, whatever it leaves.
            both=0.0,
            third=1.0,
            set_in=-1.0,
            set_in_row=one.match,
            set_in_share=0.0,
            agreeing=float((cells > rules.part_agrees).mean()) if len(cells) else 0.0,
            disagreeing=float((cells < rules.part_disagrees).mean()) if len(cells) else 0.0,
            region_of_match=True,
        )


def _volumes(images: EmbeddedSet) -> EmbeddedVolumes:
    assert isinstance(images, EmbeddedVolumes)
    return images


def volume_pairs(
    training: EmbeddedVolumes, holdout: EmbeddedVolumes | None, search: VolumeSearch, registration: StoredVolumes, rules: Rules
) -> tuple[list[PersonPair], np.ndarray]:
    """:func:`~doppelscan.decide.person_pairs` of volumes: each one's nearest is registered, as it lies, until no more pairs agree."""
    sets = [training] if holdout is None else [training, holdout]
    places = [(one, row) for one in sets for row in range(len(one))]
    white = search.whitened(np.concatenate([one.single_pose([HEAD])[HEAD] for one in sets]))
    codes = np.unique([one.patients[row] for one, row in places], return_inverse=True)[1].reshape(-1)
    itself = np.arange(len(white))
    others = nearest_rows(white, white, 1, groups=(codes, codes))
    nearest = nearest_rows(white, white, 1, groups=(itself, itself)).rows[:, 0]
    near: dict[tuple[int, int], float] = {}
    for i, (value, j) in enumerate(zip(others.similarity[:, 0].tolist(), others.rows[:, 0].tolist(), strict=True)):
        if j >= 0:
            near[min(i, j), max(i, j)] = round(value, 4)
    found, misses = [], 0
    for a, b in sorted(near, key=lambda pair: (-near[pair], pair)):
        (first, row), (second, other) = places[a], places[b]
        ((pair,),) = registration.best(first, [row], second, [[other]], [[[0]]])
        one = _person_pair(a, b, pair, rules)
        if pair.score >= rules.close_pair:
            found.append(one)
        misses = 0 if one.confirmed else misses + 1
        if misses >= PATIENCE:
            break
    registration.flush()
    return found, nearest


def registered_volumes(
    images: EmbeddedVolumes,
    rows: Sequence[int],
    candidates: Sequence[Sequence[int]],
    poses: Sequence[Sequence[Sequence[int]]],
    registration: StoredVolumes,
    rules: Rules,
    update: Callable[[int], object] = lambda count: None,
) -> list[PersonPair]:
    """:func:`~doppelscan.decide.registered_candidates` of volumes.

    Args:
        images: the set.
        rows: M rows of it.
        candidates: of each the rows that are laid on it.
        poses: of each the axis poses in which each candidate is laid, as many of each.
        registration: of pairs, which are kept.
        rules: what makes two volumes of one person.
        update: called with how many volumes are done.

    Returns:
        of each row the pairs that were measured, as many as registration refines, the row first.
    """
    best = registration.best(images, rows, images, candidates, poses, update)
    return [
        _person_pair(row, own[pair.candidate], pair, rules)
        for row, own, pairs in zip(rows, candidates, best, strict=True)
        for pair in pairs
    ]


def _person_pair(first: int, second: int, pair: VolumeAgreement, rules: Rules) -> PersonPair:
    """``pair`` as it says whether two volumes are of one person."""
    confirmed = pair.score >= rules.close_pair and pair.share >= rules.same_person
    return PersonPair(first, second, pair.score, confirmed, pair.pose, pair.share, False, pair.agreement)
