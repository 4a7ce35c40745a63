"""From embeddings to one score an image: propose candidates, verify them, combine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage

from doppelscan.memorization import MemorizationScores
from doppelscan.progress import progress
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, PatchDescriptor, Proposals, fingerprint
from doppelscan.verify import PairAgreement, Pose, Registration

__all__ = [
    "ScoredImage",
    "StoredPair",
    "combined_score",
    "ranking_score",
    "registered_pairs",
    "score_images",
    "side_by_side",
    "verified_score",
]

QUERY_BLOCK = 128
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
        part_match: row of that training image.
        part_share: share of the image's structure that the region around the cell makes.
        part_mirrored: it agrees with that training image mirrored left to right.
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

    @property
    def verified(self) -> float:
        """See :func:`verified_score`."""
        return verified_score(self.detail, self.agreement)


def verified_score(detail: float, agreement: float) -> float:
    """Agreement of the registered pair, about 0 to 1."""
    return 0.35 * detail + 0.65 * agreement


def combined_score(detail: float, agreement: float, embedding: float, similarity: float) -> float:
    """The score that ranks: verified agreement, the encoder's whitened embedding and the index's similarity.

    Without an index its weight goes to the others. docs/benchmarks.md says how the weights were chosen.
    """
    score = 0.85 * verified_score(detail, agreement) + 0.05 * embedding
    return score / 0.9 if np.isnan(similarity) else score + 0.1 * similarity


def ranking_score(image: ScoredImage, score: str) -> float:
    """The score that ranks ``image``, by one name of :data:`~doppelscan.decide.rules.SCORES`."""
    if score == "combined":
        return combined_score(image.detail, image.agreement, image.embedding, image.similarity)
    return float(getattr(image, score))


def score_images(
    queries: EmbeddedSet,
    training: EmbeddedSet,
    search: CandidateSearch,
    registration: Registration,
    verified: EmbeddingStore,
    label: str,
    score: str = "combined",
) -> list[ScoredImage]:
    """Score every image of ``queries`` against ``training``; verified pairs are kept in ``verified`` and not computed again.

    ``search`` must have been fitted with thumbnails; ``score`` is a name of :data:`~doppelscan.decide.rules.SCORES`.
    """
    assert search.patches is not None
    descriptor = search.patches.descriptor
    results = []
    with progress(None, f"verify {label}", "image", total=len(queries)) as bar:
        for start in range(0, len(queries), QUERY_BLOCK):
            rows = list(range(start, min(start + QUERY_BLOCK, len(queries))))
            proposals = search.propose(queries.features(rows), queries.thumbnails(rows))

            def verify(position: int, row: int, proposals: Proposals = proposals) -> tuple[str, np.ndarray]:
                candidates = _candidates(proposals, position)
                poses = None if proposals.poses is None else proposals.poses[position, : len(candidates)]
                return registered_pairs(queries, row, training, candidates, poses, registration, descriptor, verified)

            for position, (key, found) in enumerate(side_by_side(registration, verify, range(len(rows)), rows)):
                if key not in verified:
                    verified.add(key, {"pairs": found})
                best = _best(proposals, position, rows[position], found)
                results.append(replace(best, score=ranking_score(best, score)))
                bar.update()
    verified.flush()
    return results


def side_by_side(registration: Registration, function: Callable, *arguments: Iterable) -> Iterator:
    """``map`` over pairs: small registrations side by side, one thread each, are faster than one at a time on all threads."""
    threads = torch.get_num_threads()
    workers = threads if registration.device.type == "cpu" else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(function, *arguments)
    torch.set_num_threads(threads)


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


def _candidates(proposals: Proposals, position: int) -> list[int]:
    return [int(c) for c in proposals.rows[position] if c >= 0]


def registered_pairs(
    queries: EmbeddedSet,
    row: int,
    training: EmbeddedSet,
    candidates: Sequence[int],
    poses: np.ndarray | None,
    registration: Registration,
    descriptor: PatchDescriptor,
    verified: EmbeddingStore,
) -> tuple[str, np.ndarray]:
    """Key and registered pairs, float32 [refined, 11], of one image; taken from ``verified`` when they are there."""
    key = fingerprint(
        queries.keys[row],
        [training.keys[c] for c in candidates],
        None if poses is None else poses.tolist(),
        descriptor.fingerprint,
    )
    if key in verified:
        return key, verified.read([key], ["pairs"], keep=True)["pairs"][0]
    pairs = registration(
        queries.thumbnails([row])[0],
        training.thumbnails(candidates),
        shape=queries.native_shapes([row])[0],
        shapes=training.native_shapes(candidates),
        poses=poses,
        descriptor=descriptor,
    )
    empty = [[-1.0] * len(StoredPair._fields)] * (registration.refined - len(pairs))
    return key, np.array([_pair_row(p) for p in pairs] + empty, np.float32)


def _best(proposals: Proposals, position: int, row: int, found: np.ndarray) -> ScoredImage:
    candidates = _candidates(proposals, position)
    similarity, mi, oni, consensus = _index_columns(proposals.index, position)
    part, part_match, part_share, part_mirrored = _part(proposals, position)
    scored = []
    for values in found[found[:, 0] >= 0]:
        pair = StoredPair(*map(float, values))
        place = int(pair.candidate)
        scored.append(
            ScoredImage(
                row=row,
                match=candidates[place],
                pose=Pose(pair.flip > 0.5, int(pair.quarter_turns), *pair[3:7]),
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
    return max(scored, key=lambda s: ranking_score(s, "combined"))


def _part(proposals: Proposals, position: int) -> tuple[float, int, float, bool]:
    """Agreement, training row and share of the image of the region that agrees best, and whether it is mirrored."""
    patches = proposals.patches
    assert patches is not None
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
