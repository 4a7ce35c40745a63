"""Candidates: the union of the nearest by each head, each layer and by local structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.search import CandidateSearch

POSES = 8


def training(count=12):
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(count, 8)).astype(np.float32) for name in ("deepssim", "embedding", "layer3", "layer4")}


def queries(reference, count=2):
    rng = np.random.default_rng(4)
    return {name: rng.normal(size=(count, POSES, 8)).astype(np.float32) for name in reference}


def test_union_of_embedding_and_index_holds_the_best_of_both():
    reference = training()
    asked = queries(reference)
    asked["embedding"][0, 2] = reference["embedding"][5]
    asked["layer4"][0, 1] = reference["layer4"][9]
    found = CandidateSearch(candidates=4).fit(reference, list(map(str, range(12)))).propose(asked)
    assert found.rows[0, 0] == 5 and 9 in found.rows[0] and len(set(found.rows[0].tolist())) == 4
    assert found.embedding[0, 0] > 0.99


def test_one_training_image_still_proposes_it():
    reference = training(1)
    search = CandidateSearch().fit(reference, ["p"])
    assert search.index is None and "at least" in search.index_reason
    assert search.propose({name: np.ones((1, POSES, 8), np.float32) for name in reference}).rows.tolist() == [[0]]


@pytest.mark.parametrize("kind", ["the same features", "the same key"])
def test_an_image_that_is_there_three_times_is_one_candidate(kind):
    reference, patients = training(), [str(i % 12) for i in range(36)]
    tripled = {name: np.tile(value, (3, 1)) for name, value in reference.items()}
    asked = queries(reference, 5)
    thumbnails = torch.randint(0, 256, (12, 1, 64, 64), generator=torch.manual_seed(0), dtype=torch.uint8)
    if kind == "the same key":  # files of one picture, embedded in other batches
        noise = np.random.default_rng(0)
        tripled = {name: value + noise.normal(scale=1e-6, size=value.shape).astype(np.float32) for name, value in tripled.items()}
    keys = [str(i % 12) for i in range(36)] if kind == "the same key" else None
    once = CandidateSearch(candidates=6).fit(reference, patients[:12], thumbnails=thumbnails).propose(asked, thumbnails[:5])
    search = CandidateSearch(candidates=6).fit(tripled, patients, thumbnails=thumbnails.repeat(3, 1, 1, 1), keys=keys)
    found = search.propose(asked, thumbnails[:5])
    assert (found.rows < 12).all() and all(len(set(row)) == 6 for row in found.rows.tolist())
    assert (found.index.neighbour < 12).all() and (found.index.margin > 1e-3).all()
    assert (found.patches.rows == once.patches.rows).all() and (found.patches.part_row == once.patches.part_row).all()


def test_poses_of_a_symmetric_image_come_in_their_order():
    reference = training()
    asked = queries(reference, 4)
    rng = np.random.default_rng(0)
    same = np.repeat(asked["embedding"][:, :1], POSES, 1)
    asked["embedding"] = same + rng.normal(scale=1e-7, size=same.shape).astype(np.float32)
    found = CandidateSearch(candidates=3).fit(reference, list(map(str, range(12)))).propose(asked)
    # The first three views of the image; what maps the candidate on it are their inverses.
    assert (found.poses == np.array([0, 3, 2])).all()


def test_fewer_images_than_candidates_are_filled_up():
    reference = {name: np.tile(value, (2, 1)) for name, value in training(6).items()}
    found = CandidateSearch(candidates=10).fit(reference, list("abcdef") * 2).propose(queries(reference))
    assert (np.sort(found.rows, 1) == [-1, -1, -1, -1, 0, 1, 2, 3, 4, 5]).all()
    assert (found.embedding[found.rows < 0] == -1).all() and (found.deepssim[found.rows < 0] == -1).all()


def turned_training(count=12, turns=3):
    """Heads in several rotations, layers in one."""
    rng = np.random.default_rng(5)
    shape = {"deepssim": (count, turns, 8), "embedding": (count, turns, 8), "layer3": (count, 8), "layer4": (count, 8)}
    made = {name: rng.normal(size=size).astype(np.float32) for name, size in shape.items()}
    made["deepssim"] /= np.linalg.norm(made["deepssim"], axis=-1, keepdims=True)
    return made


@pytest.mark.parametrize("clustered", [False, True])
def test_an_image_that_is_turned_as_a_view_of_training_is_found_by_that_view(clustered):
    reference = turned_training(200)
    asked = queries(reference, 3)
    for i, view in ((0, 2), (1, 1)):
        asked["embedding"][i, 6] = reference["embedding"][17 + i, view]
    search = CandidateSearch(candidates=5, clustered=clustered).fit(reference, list(map(str, range(200))))
    found = search.propose(asked)
    assert found.rows[:2, 0].tolist() == [17, 18] and (found.embedding[:2, 0] > 0.99).all()
    assert (found.poses[:2, 0] == 6).any(1).all()  # a mirrored pose is its own inverse
    assert search.recall(asked["embedding"]) == (3, 3)


@pytest.mark.parametrize("clustered", [False, True])
def test_a_fold_of_a_large_set_shares_the_search_and_finds_none_of_its_own(clustered):
    reference = turned_training(200)
    search = CandidateSearch(candidates=5, clustered=clustered).fit(reference, list(map(str, range(200))))
    asked = {
        name: np.repeat(value[:20, None] if value.ndim == 2 else value[:20, :1], POSES, 1) for name, value in reference.items()
    }
    fold = search.without(np.arange(200) < 100)
    found = fold.propose(asked)
    assert found.rows[found.rows >= 0].min() >= 100 and found.index.match.min() >= 100
    assert search.propose(asked).rows[:, 0].tolist() == list(range(20)), "the whole search stays as it was"


def test_many_training_images_are_kept_at_half_precision(monkeypatch):
    from doppelscan.memorization import HalfRows, rows

    reference, asked = turned_training(50), queries(turned_training(2), 4)
    whole = CandidateSearch(candidates=5).fit(reference, list(map(str, range(50))))
    monkeypatch.setattr(rows, "KEPT_VALUES", 100)
    halved = CandidateSearch(candidates=5).fit(reference, list(map(str, range(50))))
    assert isinstance(halved.embedding, HalfRows) and isinstance(halved.deepssim, HalfRows)
    found, expected = halved.propose(asked), whole.propose(asked)
    assert (found.rows == expected.rows).mean() > 0.9
    np.testing.assert_allclose(found.embedding[:, 0], expected.embedding[:, 0], atol=1e-3)
