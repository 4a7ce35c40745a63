"""From embeddings to one score an image: propose candidates, verify them, combine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from doppelscan.memorization import MemorizationScores, Rows
from doppelscan.search import CandidateSearch, EmbeddingStore, Proposals, fingerprint
from doppelscan.verify import Pose, Registration
from doppelscan.workflows.progress import progress

__all__ = ["EmbeddedSet", "ScoredImage", "StoredFeatures", "combined_score", "score_images"]

QUERY_BLOCK = 128


@dataclass
class EmbeddedSet:
    """A set whose embeddings are in a store.

    Attributes:
        records: the readable images.
        keys: their keys in ``store``.
        store: holds ``embedding`` [P, D], ``thumbnail`` [1, S, S] and ``native_shape`` [2].
        outputs: which slice of D is which output of the network.
    """

    records: list
    keys: list[str]
    store: EmbeddingStore
    outputs: Mapping[str, slice]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def patients(self) -> list[str]:
        return [record.patient for record in self.records]

    def subset(self, rows: Sequence[int]) -> EmbeddedSet:
        return EmbeddedSet([self.records[i] for i in rows], [self.keys[i] for i in rows], self.store, self.outputs)

    def features(self, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, P, C]."""
        keys = self.keys if rows is None else [self.keys[i] for i in rows]
        vectors = self.store.read(keys, ["embedding"])["embedding"]
        return {name: np.ascontiguousarray(vectors[..., part]) for name, part in self.outputs.items()}

    def single_pose(self) -> dict[str, np.ndarray]:
        """Output name -> float32 [n, C], of the images as they are."""
        return {name: value[:, 0] for name, value in self.features().items()}

    def thumbnails(self, rows: Sequence[int]) -> torch.Tensor:
        """uint8 [n, 1, S, S]."""
        return torch.from_numpy(self.store.read([self.keys[i] for i in rows], ["thumbnail"], keep=True)["thumbnail"])

    def native_shape(self, row: int) -> tuple[int, int]:
        height, width = self.store.read([self.keys[row]], ["native_shape"], keep=True)["native_shape"][0]
        return int(height), int(width)


class StoredFeatures:
    """One output of an embedded set as rows that are read from its store when they are asked for.

    Args:
        embedded: the set.
        part: which columns of its embeddings.
        poses: of each image.
    """

    def __init__(self, embedded: EmbeddedSet, part: slice, poses: int) -> None:
        self.embedded, self.part = embedded, part
        size = part.stop - part.start
        self.shape = (len(embedded), size) if poses == 1 else (len(embedded), poses, size)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        values = self.embedded.store.read(self.embedded.keys[rows], ["embedding"])["embedding"][..., self.part]
        return np.ascontiguousarray(values.reshape(-1, *self.shape[1:]))

    @classmethod
    def of(cls, embedded: EmbeddedSet, most: int = 2**27) -> dict[str, Rows]:
        """Output name -> features [n, C], or [n, P, C] in poses; in memory up to ``most`` values, else rows of the store."""
        poses = next(iter(embedded.features([0]).values())).shape[1]
        rows = {name: cls(embedded, part, poses) for name, part in embedded.outputs.items()}
        if sum(int(np.prod(value.shape)) for value in rows.values()) > most:
            return dict(rows)
        return {name: value.reshape(rows[name].shape) for name, value in embedded.features().items()}


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


def combined_score(detail: float, embedding: float) -> float:
    """The score that ranks and that the p-value is taken on; docs/interpretation.md says how it was chosen."""
    return detail + 0.25 * embedding


def score_images(
    queries: EmbeddedSet,
    training: EmbeddedSet,
    search: CandidateSearch,
    registration: Registration,
    verified: EmbeddingStore,
    label: str,
) -> list[ScoredImage]:
    """Score every image of ``queries`` against ``training``; verified pairs are kept in ``verified`` and not computed again."""
    # Two small registrations side by side, one thread each, are faster than one on two threads.
    threads = torch.get_num_threads()
    workers = threads if registration.device.type == "cpu" else 1
    results = []
    with (
        progress(None, f"verify {label}", "image", total=len(queries)) as bar,
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for start in range(0, len(queries), QUERY_BLOCK):
            rows = list(range(start, min(start + QUERY_BLOCK, len(queries))))
            proposals = search.propose(queries.features(rows))
            verify = partial(_verified_pairs, queries, training, proposals, registration, verified)
            pairs = pool.map(verify, range(len(rows)), rows)
            for position, (key, found) in enumerate(pairs):
                if key not in verified:
                    verified.add(key, {"pairs": found})
                results.append(_best(proposals, position, rows[position], found))
                bar.update()
    torch.set_num_threads(threads)
    verified.flush()
    return results


def _candidates(proposals: Proposals, position: int) -> list[int]:
    return [int(c) for c in proposals.rows[position] if c >= 0]


def _verified_pairs(queries, training, proposals, registration, verified, position, row) -> tuple[str, np.ndarray]:
    """Key and registered pairs, float32 [refined, 9], of one image; taken from the store when they are there."""
    candidates = _candidates(proposals, position)
    key = fingerprint(queries.keys[row], [training.keys[c] for c in candidates])
    if key in verified:
        return key, verified.read([key], ["pairs"], keep=True)["pairs"][0]
    pairs = registration(queries.thumbnails([row])[0], training.thumbnails(candidates))
    return key, np.array([_pair_row(p) for p in pairs] + [[-1.0] * 9] * (registration.refined - len(pairs)), np.float32)


def _best(proposals: Proposals, position: int, row: int, found: np.ndarray) -> ScoredImage:
    candidates = _candidates(proposals, position)
    scored = []
    for values in found[found[:, 0] >= 0]:
        candidate, flip, turns, rotation, scale, x, y, ssim, detail = map(float, values)
        place = int(candidate)
        embedding = float(proposals.embedding[position, place])
        pose = Pose(flip > 0.5, int(turns), rotation, scale, x, y)
        scored.append((combined_score(detail, embedding), place, embedding, pose, ssim, detail))
    score, place, embedding, pose, ssim, detail = max(scored, key=lambda s: s[0])
    similarity, mi, oni, consensus = _index_columns(proposals.index, position)
    return ScoredImage(
        row=row,
        match=candidates[place],
        pose=pose,
        score=score,
        deepssim=float(proposals.deepssim[position, place]),
        embedding=embedding,
        similarity=similarity,
        mi=mi,
        oni=oni,
        consensus=consensus,
        ssim=ssim,
        detail=detail,
    )


def _pair_row(pair) -> list[float]:
    pose = pair.pose
    return [
        pair.candidate,
        pose.flip,
        pose.quarter_turns,
        pose.rotation,
        pose.scale,
        pose.shift_x,
        pose.shift_y,
        pair.ssim,
        pair.detail,
    ]


def _index_columns(index: MemorizationScores | None, position: int) -> tuple[float, float, float, int]:
    if index is None:
        return float("nan"), float("nan"), float("nan"), 0
    return (
        float(index.similarity[position]),
        float(index.mi[position]),
        float(index.oni[position]),
        int(index.consensus[position]),
    )
