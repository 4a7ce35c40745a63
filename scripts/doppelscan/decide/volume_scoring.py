"""From embeddings of volumes to one score a volume: propose candidates, register them in 3D, combine; :mod:`scoring` for volumes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from doppelscan.decide.posed_pairs import PosedPairs, pair_names
from doppelscan.decide.scoring import ScoredImage, ranking_score, scored_in_blocks
from doppelscan.images.cubes import CubeFrame, inverse_axis_pose
from doppelscan.search import EmbeddedVolumes, EmbeddingStore, VolumeProposals, VolumeSearch
from doppelscan.verify import (
    AlignedVolume,
    IdenticalImage,
    VolumeAgreement,
    VolumePose,
    VolumeRegion,
    VolumeRegions,
    VolumeRegistration,
)
from doppelscan.workers import THIS_PROCESS, Workers

__all__ = ["ScoredVolume", "StoredVolumes", "score_volumes"]

# Rows of 48 poses that are compared at a time: half a megabyte each, and so are the views of each candidate.
BLOCK = 8
NONE = float("nan")
# A pair as it is stored: candidate, pose (number, rotation, stretch, shift), then what was measured.
VALUES = 20


@dataclass(frozen=True)
class ScoredVolume(ScoredImage):
    """A volume with its best match. ``agreement`` and ``share`` are weighed by structure; there is no deepssim cosine and no Memorization Index (NaN).

    Attributes:
        pose: what maps the match on the volume.
        half: agreement of the better half of the structure: a half of a copy counts as one.
        part: of the region that agrees best with any training volume, as both lie, see :class:`~doppelscan.verify.VolumeRegions`; the better half where
            no regions are looked for.
        part_pose: what maps the source of that region on the volume: cells are compared in the cubes around the anatomy, not in mm.
    """

    pose: VolumePose  # type: ignore[assignment]
    half: float = NONE
    part_pose: VolumePose = field(default_factory=VolumePose)

    @property
    def verified(self) -> float:
        """What says that the pair is one: :attr:`half`."""
        return self.half

    @property
    def combined(self) -> float:
        """The verified agreement and the encoder's whitened embedding, weighed as those of an image without an index."""
        return min(1.0, (0.85 * self.half + 0.05 * self.embedding) / 0.9)

    @property
    def in_region(self) -> ScoredImage:
        """The volume with the source of its best region as its match: as both were compared, where its match is another."""
        return self if self.part_match == self.match else replace(self, match=self.part_match, pose=self.part_pose)

    def posed_as(self, same: IdenticalImage) -> ScoredImage:
        """The volume as it is: registration found where the match lies to a fraction of a voxel."""
        return self

    def with_pixels_of(self, same: IdenticalImage) -> ScoredImage:
        """See :meth:`ScoredImage.with_pixels_of`."""
        made = super().with_pixels_of(same)
        assert isinstance(made, ScoredVolume)
        return replace(made, half=same.correlation)


@dataclass(frozen=True)
class StoredVolumes:
    """Registration of embedded volumes whose pairs are kept, so that none is computed twice.

    Attributes:
        registration: of pairs.
        verified: the best pairs of volumes and all their candidates are kept here.
        posed: and here the stages of each pair, see :class:`~doppelscan.verify.Stages`, so that with more training volumes those pairs alone are
            registered that are new; None keeps none.
    """

    registration: VolumeRegistration
    verified: EmbeddingStore
    posed: PosedPairs | None = None

    def best(
        self,
        queries: EmbeddedVolumes,
        rows: Sequence[int],
        training: EmbeddedVolumes,
        candidates: Sequence[Sequence[int]],
        poses: Sequence[Sequence[Sequence[int]]] | None,
        update: Callable[[int], object] = lambda count: None,
    ) -> list[list[VolumeAgreement]]:
        """The best pairs of some volumes and their candidates, best first.

        Args:
            queries: a set.
            rows: M rows of it.
            training: the set of the candidates.
            candidates: of each of M, rows of ``training``.
            poses: of each of M, the axis poses that each candidate is searched in, as many of each; None searches all 48.
            update: called with how many volumes are done.
        """
        keys = []
        for position, row in enumerate(rows):
            others = [training.keys[one] for one in candidates[position]]
            searched = None if poses is None else [list(map(int, one)) for one in poses[position]]
            keys.append(hashlib.sha256(repr((queries.keys[row], others, searched)).encode()).hexdigest())
        values = np.full((len(rows), self.registration.refined, VALUES), -1, np.float32)
        known = [position for position, key in enumerate(keys) if key in self.verified]
        if known:
            values[known] = self.verified.read([keys[position] for position in known], ["pairs"])["pairs"]
            update(len(known))
        missing = sorted(set(range(len(rows))) - set(known))
        for start in range(0, len(missing), self.registration.at_once):
            block = missing[start : start + self.registration.at_once]
            asked, wanted = [rows[position] for position in block], [candidates[position] for position in block]
            tried = None if poses is None else [poses[position] for position in block]
            cubes, frames = queries.thumbnails(asked), queries.frames(asked)
            found = self.of_cubes(cubes, frames, [queries.keys[row] for row in asked], training, wanted, tried)
            for position, pairs in zip(block, found, strict=True):
                values[position, : len(pairs)] = [_pair_row(pair) for pair in pairs]
                self.verified.add(keys[position], {"pairs": values[position]})
            update(len(block))
        return [[_stored_pair(one) for one in own if one[0] >= 0] for own in values]

    def of_cubes(
        self,
        cubes: torch.Tensor,
        frames: Sequence[CubeFrame],
        names: Sequence[str],
        training: EmbeddedVolumes,
        candidates: Sequence[Sequence[int]],
        poses: Sequence[Sequence[Sequence[int]]] | None,
    ) -> list[list[VolumeAgreement]]:
        """:meth:`best` of any cubes uint8 [M, 1, S, S, S] with their ``frames``, whose stages are kept under ``names``."""
        most = max(map(len, candidates))
        given = np.array([[place < len(own) for place in range(most)] for own in candidates])
        # What fills up is no candidate: the first one's cube again.
        rows = [[*own, *own[:1] * (most - len(own))] for own in map(list, candidates)]
        flat = [row for own in rows for row in own]
        tried = None
        if poses is not None:
            filled = [[*own, *own[:1] * (most - len(own))] for own in map(list, poses)]
            tried = np.array(filled, np.int64)
        others, places = training.thumbnails(flat), training.frames(flat)
        keys = [
            [training.keys[row] if place < len(own) else "" for place, row in enumerate(filled)]
            for own, filled in zip(candidates, rows, strict=True)
        ]
        pairs = pair_names(keys, tried)
        before = None if self.posed is None else self.posed.known(names, pairs)
        known = None if before is None else before.copy()
        found = self.registration(
            cubes,
            others.unflatten(0, (len(rows), most)),
            frames,
            [places[start : start + most] for start in range(0, len(flat), most)],
            given=given,
            poses=tried,
            known=known,
        )
        if self.posed is not None and before is not None and known is not None:
            self.posed.keep(names, pairs, before, known)
        return found

    def flush(self) -> None:
        """Bring on disk what was registered, where other processes see it."""
        self.verified.flush()
        if self.posed is not None:
            self.posed.store.flush()

    def refresh(self) -> None:
        """Look for what other processes registered."""
        self.verified.refresh()
        if self.posed is not None:
            self.posed.store.refresh()

    def aligned(
        self,
        queries: EmbeddedVolumes,
        rows: Sequence[int],
        training: EmbeddedVolumes,
        matches: Sequence[int],
        poses: Sequence[VolumePose],
        bent: bool = True,
    ) -> list[AlignedVolume]:
        """Pairs whose poses are known, in full; they are not kept. ``bent`` as of :meth:`~doppelscan.verify.VolumeRegistration.pairs`."""
        found: list[AlignedVolume] = []
        for row, match, pose in zip(rows, matches, poses, strict=True):
            cubes, others = queries.thumbnails([row]), training.thumbnails([match])
            found += self.registration.pairs(cubes, others, queries.frames([row]), training.frames([match]), [pose], bent)
        return found


def score_volumes(
    queries: EmbeddedVolumes,
    training: EmbeddedVolumes,
    search: VolumeSearch,
    registration: StoredVolumes,
    label: str,
    score: str = "combined",
    workers: Workers = THIS_PROCESS,
    regions: VolumeRegions | None = None,
) -> list[ScoredVolume]:
    """Score every volume of ``queries``, embedded in 48 poses, against ``training``; whatever ``workers``, the scores are the same. ``regions`` are of
    ``training``; without them none is looked for."""
    block = VolumeBlockScorer(queries, training, search, registration, score, regions)
    return scored_in_blocks(block, len(queries), registration, label, "volume", workers)


@dataclass(frozen=True)
class VolumeBlockScorer:
    """Scores blocks of ``queries`` against ``training``; what it holds is what :func:`score_volumes` takes."""

    queries: EmbeddedVolumes
    training: EmbeddedVolumes
    search: VolumeSearch
    registration: StoredVolumes
    score: str
    regions: VolumeRegions | None = None

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[ScoredVolume]:
        """One entry a row; registered pairs are on disk when it returns."""
        made: list[ScoredVolume] = []
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            proposals = self.search.propose(self.queries.features(block, ["embedding"])["embedding"])
            candidates = candidates_of(proposals)
            found = self.registration.best(self.queries, block, self.training, candidates, posed_candidates(proposals), advance)
            regions = [None] * len(block) if self.regions is None else self._regions(self.regions, block)
            for position, row in enumerate(block):
                similarity = proposals.similarity[position]
                best = self._best(row, candidates[position], similarity, found[position])
                region = regions[position]
                made.append(best if region is None else self._with_region(best, region))
        self.registration.flush()
        return made

    def _regions(self, regions: VolumeRegions, rows: Sequence[int]) -> Sequence[VolumeRegion | None]:
        return regions.best(self.queries.thumbnails(rows), self.queries.frames(rows))

    def _with_region(self, one: ScoredVolume, region: VolumeRegion) -> ScoredVolume:
        pose = VolumePose()
        if region.row >= 0:
            (frame,), (other,) = self.queries.frames([one.row]), self.training.frames([region.row])
            pose = VolumePose.of_cubes(0, frame, other)
        return replace(one, part=region.agreement, part_match=region.row, part_share=region.share, part_pose=pose)

    def _best(self, row: int, candidates: Sequence[int], similarity: np.ndarray, pairs: Sequence[VolumeAgreement]) -> ScoredVolume:
        patients = self.training.patients
        scored = [
            ScoredVolume(
                row=row,
                match=int(candidates[pair.candidate]),
                pose=pair.pose,
                score=0.0,
                deepssim=NONE,
                embedding=float(similarity[pair.candidate]),
                similarity=NONE,
                mi=NONE,
                oni=NONE,
                consensus=0,
                ssim=pair.ssim,
                detail=pair.detail,
                agreement=pair.agreement,
                share=pair.share,
                part=pair.score,
                part_match=int(candidates[pair.candidate]),
                part_share=pair.share,
                part_mirrored=False,
                half=pair.score,
            )
            for pair in pairs
        ]
        # Of equals the first in the training set, whatever the last digit says.
        best = max(scored, key=lambda s: (round(ranking_score(s, self.score), 5), -s.match))
        others = [(s.verified, s.match) for s in scored if patients[s.match] != patients[best.match]]
        runner_up, row_of_it = max(others, default=(NONE, -1))
        return replace(best, score=ranking_score(best, self.score), runner_up=runner_up, runner_up_match=row_of_it)


def candidates_of(proposals: VolumeProposals) -> list[list[int]]:
    """Of each volume the training rows that are proposed."""
    return [[int(one) for one in own if one >= 0] for own in proposals.rows]


def posed_candidates(proposals: VolumeProposals) -> list[list[list[int]]]:
    """The axis poses of each candidate: it was the volume that was posed."""
    return [
        [[inverse_axis_pose(int(number)) for number in poses] for poses, row in zip(own, rows, strict=True) if row >= 0]
        for own, rows in zip(proposals.poses, proposals.rows, strict=True)
    ]


def _pair_row(pair: VolumeAgreement) -> list[float]:
    """A registered pair as the :data:`VALUES` numbers that are stored."""
    pose = pair.pose
    place = [pose.number, *pose.rotation, *pose.stretch, *pose.shift]
    return [pair.candidate, *place, pair.ssim, pair.detail, pair.overlap, pair.agreement, pair.share, pair.score]


def _stored_pair(row: np.ndarray) -> VolumeAgreement:
    """Inverse of :func:`_pair_row`."""
    candidate, *values = (float(one) for one in row)
    number, x, y, z, xx, yy, zz, xy, xz, yz, i, j, k, *measured = values
    return VolumeAgreement(int(candidate), VolumePose(int(number), (x, y, z), (xx, yy, zz, xy, xz, yz), (i, j, k)), *measured)
