"""From embeddings to one score an image: propose candidates, verify them, combine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from scipy import ndimage

from doppelscan.decide.posed_pairs import PosedPairs, pair_names
from doppelscan.memorization import MemorizationScores, falling_order
from doppelscan.progress import progress
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, PatchDescriptor, PatchMatches, Proposals
from doppelscan.verify import AlignedPair, IdenticalImage, PairAgreement, Pose, Registration, verified_score
from doppelscan.workers import THIS_PROCESS, Task, Workers

__all__ = [
    "ScoredImage",
    "StoredPair",
    "StoredRegistration",
    "best_region",
    "combined_score",
    "ranking_score",
    "score_images",
    "scored_in_blocks",
]

Scored = TypeVar("Scored")
# Share of a copied region: cells above this, joined to the one that agrees best.
REGION = 0.8


@dataclass(frozen=True)
class ScoredImage:
    """One image with its best match; the columns of scores.csv are made of it.

    Attributes:
        row: its row in its set.
        match: row of the match in the training set.
        pose: what maps the match on the image.
        score: the one number that ranks, see :func:`combined_score`.
        deepssim: the paper's cosine with the match, best of 8 poses.
        embedding: whitened identity similarity with the match, best of 8 poses.
        similarity, mi, oni, consensus: of the Memorization Index; NaN and 0 when the training set is too small for it.
        ssim: of the aligned pair.
        detail: correlation of fine structure of the aligned pair.
        agreement: of whitened local structure of the aligned pair.
        share: share of the field of view that matches.
        part: highest agreement of one cell with any training image, in place.
        part_match: row of that training image; -1 for none.
        part_share: share of the image's structure that the region around the cell makes.
        part_mirrored: it agrees with that training image mirrored left to right.
        runner_up: verified score of the best registered training image of another patient than the match's, NaN where none was registered.
        runner_up_match: row of that training image, -1 for none.
    """

    row: int
    match: int
    pose: Pose
    score: float
    deepssim: float
    embedding: float
    similarity: float
    mi: float
    oni: float
    consensus: int
    ssim: float
    detail: float
    agreement: float
    share: float
    part: float
    part_match: int
    part_share: float
    part_mirrored: bool
    runner_up: float = float("nan")
    runner_up_match: int = -1

    @property
    def margin(self) -> float:
        """By how much the match agrees better than any other patient's image; infinite where no other patient is among the candidates."""
        return math.inf if math.isnan(self.runner_up) else self.verified - self.runner_up

    @property
    def verified(self) -> float:
        """See :func:`verified_score`."""
        return verified_score(self.detail, self.agreement)

    @property
    def combined(self) -> float:
        """See :func:`combined_score`."""
        return combined_score(self.detail, self.agreement, self.embedding, self.similarity)

    @property
    def in_region(self) -> ScoredImage:
        """The image with the source of its best region, in place, as its match."""
        return replace(self, match=self.part_match, pose=Pose(self.part_mirrored))

    def posed_as(self, same: IdenticalImage) -> ScoredImage:
        """The image, whose match was registered in the axis pose of ``same``, with the pose of the pixels: registration does not exchange dark and bright."""
        return replace(self, pose=same.mapped)

    def with_pixels_of(self, same: IdenticalImage) -> ScoredImage:
        """The image with ``same`` as its match, whose pixels it has: what was measured of another pair does not hold."""
        value = same.correlation
        return replace(
            self, match=same.row, pose=same.mapped, ssim=value, detail=value, agreement=value, share=value,
            part=max(self.part, value), part_match=same.row, part_share=1.0, part_mirrored=False, runner_up=float("nan"),
            runner_up_match=-1,
        )  # fmt: skip


def combined_score(detail: float, agreement: float, embedding: float, similarity: float) -> float:
    """The score that ranks: verified agreement, the encoder's whitened embedding and the index's similarity.

    Without an index its weight goes to the others. docs/benchmarks.md says how the weights were chosen.
    """
    score = 0.85 * verified_score(detail, agreement) + 0.05 * embedding
    return min(1.0, score / 0.9 if np.isnan(similarity) else score + 0.1 * similarity)


def ranking_score(image: ScoredImage, score: str) -> float:
    """The score that ranks ``image``, by one name of :data:`~doppelscan.arguments.Score`."""
    if score == "combined":
        return image.combined
    return float(getattr(image, score))


class StoredPair(NamedTuple):
    """A registered pair as the row of numbers that is stored."""

    candidate: float
    flip: float
    quarter_turns: float
    rotation: float
    scale: float
    shift_x: float
    shift_y: float
    ssim: float
    detail: float
    agreement: float
    share: float

    @property
    def pose(self) -> Pose:
        """What maps the candidate on the image."""
        return Pose(self.flip > 0.5, int(self.quarter_turns), self.rotation, self.scale, self.shift_x, self.shift_y)


@dataclass(frozen=True)
class StoredRegistration:
    """Registration of embedded images whose pairs are kept, so that none is computed twice.

    Attributes:
        registration: of pairs.
        verified: the best pairs of images and their candidates are kept here, under the whitening with which they were measured.
        posed: what holds whatever the whitening is, the stages of each pair, see :class:`~doppelscan.verify.Stages`: with more training images
            those pairs alone are registered that are new.
    """

    registration: Registration
    verified: EmbeddingStore
    posed: PosedPairs

    def best(
        self,
        queries: EmbeddedSet,
        rows: Sequence[int],
        training: EmbeddedSet,
        candidates: np.ndarray,
        poses: np.ndarray | None,
        descriptor: PatchDescriptor,
        update: Callable[[int], object] = lambda count: None,
    ) -> np.ndarray:
        """The best pairs of some images and their candidates.

        Args:
            queries: a set.
            rows: M rows of it.
            training: the set of the candidates.
            candidates: int [M, K], rows of it; -1 fills up at the end.
            poses: int [M, K, n], see :class:`~doppelscan.verify.Registration`.
            descriptor: of local structure.
            update: called with how many images are done.

        Returns:
            float32 [M, refined, 11], rows of :class:`StoredPair`, best first; -1 where there are fewer.
        """
        given = candidates >= 0
        keys = []
        for position, row in enumerate(rows):
            own = given[position]
            others = [training.keys[c] for c in candidates[position, own]]
            searched = None if poses is None else poses[position, own].tolist()
            named = repr((queries.keys[row], others, searched, descriptor.fingerprint))
            keys.append(hashlib.sha256(named.encode()).hexdigest())
        result = np.full((len(rows), self.registration.refined, len(StoredPair._fields)), -1, np.float32)
        known = [position for position, key in enumerate(keys) if key in self.verified]
        if known:
            result[known] = self.verified.read([keys[position] for position in known], ["pairs"], keep=True)["pairs"]
            update(len(known))
        missing = sorted(set(range(len(rows))) - set(known))
        for start in range(0, len(missing), self.registration.at_once):
            block = missing[start : start + self.registration.at_once]
            asked, wanted = [rows[position] for position in block], candidates[block].clip(0)
            flat = wanted.reshape(-1).tolist()
            searched = None if poses is None else poses[block]
            images = [queries.keys[row] for row in asked]
            names = pair_names([[training.keys[c] if c >= 0 else "" for c in row] for row in candidates[block].tolist()], searched)
            before = self.posed.known(images, names)
            posed = before.copy()
            pairs = self.registration(
                queries.thumbnails(asked),
                training.thumbnails(flat).unflatten(0, wanted.shape),
                given=given[block],
                shapes=queries.native_shapes(asked),
                candidate_shapes=training.native_shapes(flat).reshape(*wanted.shape, 2),
                poses=searched,
                descriptor=descriptor,
                known=posed,
            )
            self.posed.keep(images, names, before, posed)
            for position, found in zip(block, pairs, strict=True):
                result[position, : len(found)] = [_pair_row(pair) for pair in found]
                self.verified.add(keys[position], {"pairs": result[position]})
            update(len(block))
        return result

    def flush(self) -> None:
        """Bring on disk what was registered, where other processes see it."""
        self.verified.flush()
        self.posed.store.flush()

    def refresh(self) -> None:
        """Look for what other processes registered."""
        self.verified.refresh()
        self.posed.store.refresh()

    def aligned(
        self,
        queries: EmbeddedSet,
        rows: Sequence[int],
        training: EmbeddedSet,
        matches: Sequence[int],
        poses: Sequence[Pose],
        descriptor: PatchDescriptor,
    ) -> list[AlignedPair]:
        """Pairs whose poses are known, in full; they are not kept."""
        if not rows:
            return []
        return self.registration.pairs(
            queries.thumbnails(rows),
            training.thumbnails(matches),
            poses,
            descriptor,
            queries.native_shapes(rows),
            training.native_shapes(matches),
        )


class KeptPairs(Protocol):
    """Where registered pairs are kept, of images or of volumes."""

    def flush(self) -> None: ...

    def refresh(self) -> None: ...


def score_images(
    queries: EmbeddedSet,
    training: EmbeddedSet,
    search: CandidateSearch,
    registration: StoredRegistration,
    label: str,
    score: str = "combined",
    workers: Workers = THIS_PROCESS,
) -> list[ScoredImage]:
    """Score every image of ``queries`` against ``training``.

    ``search`` must have been fitted with thumbnails; ``score`` is a name of :data:`~doppelscan.arguments.Score`. Whatever ``workers``, the
    scores are the same.
    """
    block = BlockScorer(queries, training, search, registration, score)
    return scored_in_blocks(block, len(queries), registration, label, "image", workers)


def scored_in_blocks(
    block: Task[list[Scored]], count: int, registered: KeptPairs, label: str, unit: str, workers: Workers
) -> list[Scored]:
    """One entry for each of ``count`` rows that ``block`` scores, whose pairs are ``registered``; whoever computes it."""
    registered.flush()  # other processes see what is on disk
    with progress(None, f"verify {label}", unit, total=count) as bar:
        parts = workers.map(block, range(count), bar.update)
    registered.refresh()
    return [one for part in parts for one in part]


@dataclass(frozen=True)
class BlockScorer:
    """Scores blocks of ``queries`` against ``training``; what it holds is what :func:`score_images` takes."""

    queries: EmbeddedSet
    training: EmbeddedSet
    search: CandidateSearch
    registration: StoredRegistration
    score: str

    def __call__(self, rows: Sequence[int], advance: Callable[[int], object] = lambda count: None) -> list[ScoredImage]:
        """One entry a row; registered pairs are on disk when it returns."""
        assert self.search.patches is not None
        descriptor = self.search.patches.descriptor
        proposals = self.search.propose(self.queries.features(rows), self.queries.thumbnails(rows))
        proposals = chosen_by(self.score, proposals)
        found = self.registration.best(self.queries, rows, self.training, proposals.rows, proposals.poses, descriptor, advance)
        self.registration.flush()
        patients = self.training.patients
        return [_best(proposals, position, row, found[position], self.score, patients) for position, row in enumerate(rows)]


def chosen_by(score: str, proposals: Proposals) -> Proposals:
    """The candidates among which ``score`` chooses: the nearest alone where it speaks of the training image before registration does.

    By "deepssim" that is the maximum over the training set, as in the paper, by "mi" the match of the Memorization Index.
    """
    if score == "deepssim":
        place = falling_order(np.where(proposals.rows < 0, -np.inf, proposals.deepssim), proposals.rows)[:, :1]
    elif score == "mi" and proposals.index is not None:
        place = (proposals.rows == proposals.index.match[:, None]).argmax(1)[:, None]
    else:
        return proposals
    rows, embedding, deepssim = (
        np.take_along_axis(one, place, 1) for one in (proposals.rows, proposals.embedding, proposals.deepssim)
    )
    poses = None if proposals.poses is None else np.take_along_axis(proposals.poses, place[..., None], 1)
    return replace(proposals, rows=rows, embedding=embedding, deepssim=deepssim, poses=poses)


def _best(proposals: Proposals, position: int, row: int, found: np.ndarray, score: str, patients: Sequence[str]) -> ScoredImage:
    candidates = proposals.rows[position][proposals.rows[position] >= 0]
    similarity, mi, oni, consensus = _index_columns(proposals.index, position)
    assert proposals.patches is not None
    part, part_match, part_share, part_mirrored = best_region(proposals.patches, position)
    scored = []
    for values in found[found[:, 0] >= 0]:
        pair = StoredPair(*map(float, values))
        place = int(pair.candidate)
        scored.append(
            ScoredImage(
                row=row,
                match=int(candidates[place]),
                pose=pair.pose,
                score=0.0,
                deepssim=float(proposals.deepssim[position, place]),
                embedding=float(proposals.embedding[position, place]),
                similarity=similarity,
                mi=mi,
                oni=oni,
                consensus=consensus,
                ssim=pair.ssim,
                detail=pair.detail,
                agreement=pair.agreement,
                share=pair.share,
                part=part,
                part_match=part_match,
                part_share=part_share,
                part_mirrored=part_mirrored,
            )
        )
    # Of equals the first in the training set, whatever the last digit says.
    best = max(scored, key=lambda s: (round(ranking_score(s, score), 5), -s.match))
    others = [(s.verified, s.match) for s in scored if patients[s.match] != patients[best.match]]
    runner_up, row_of_it = max(others, default=(float("nan"), -1))
    return replace(best, score=ranking_score(best, score), runner_up=runner_up, runner_up_match=row_of_it)


def best_region(patches: PatchMatches, position: int) -> tuple[float, int, float, bool]:
    """Of the image at ``position``: agreement, training row and share of the image of the region that agrees best, and whether it is mirrored."""
    cells = patches.part_cells[position]
    grid = cells.reshape(PatchDescriptor.grid, -1)
    regions, _ = ndimage.label(grid >= min(REGION, float(cells.max())), np.ones((3, 3)))
    region = regions == regions.flat[int(grid.argmax())]
    share = region.sum() / max(1, int(patches.counted[position].sum()))
    return float(patches.part[position]), int(patches.part_row[position]), float(share), bool(patches.part_mirrored[position])


def _pair_row(pair: PairAgreement) -> StoredPair:
    pose = pair.pose
    return StoredPair(
        pair.candidate,
        pose.flip,
        pose.quarter_turns,
        pose.rotation,
        pose.scale,
        pose.shift_x,
        pose.shift_y,
        pair.ssim,
        pair.detail,
        pair.agreement,
        pair.share,
    )


def _index_columns(index: MemorizationScores | None, position: int) -> tuple[float, float, float, int]:
    if index is None:
        return float("nan"), float("nan"), float("nan"), 0
    return (
        float(index.similarity[position]),
        float(index.mi[position]),
        float(index.oni[position]),
        int(index.consensus[position]),
    )
