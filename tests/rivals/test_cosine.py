"""Cosines of embeddings, and the cuts that are published for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.rivals import EmbeddingRival, chen_rival, semdedup_rival


class Thumbnails:
    poses = 1

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) - 0.2


def test_score_is_the_cosine_with_the_nearest(squares):
    a, b = (Thumbnails()(i).double().numpy() for i in (squares.images, squares.training))
    cosine = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]
    found = EmbeddingRival("any", Thumbnails()).rank(squares.training, squares.images)
    np.testing.assert_allclose(found.score, cosine.max(1), atol=1e-5)
    assert found.match.tolist() == cosine.argmax(1).tolist() and found.threshold is None


@pytest.mark.parametrize(("made", "similar", "duplicate"), [(chen_rival, 0.40, 0.60), (semdedup_rival, 0.97, 0.99905)])
def test_published_cuts(made, similar, duplicate, squares):
    rival = made(Thumbnails())
    found = rival.rank(squares.training, squares.images)
    assert (found.threshold, rival.similar) == (duplicate, similar)
    assert found.copies.tolist() == (found.score > duplicate).tolist() and found.copies[:3].all()


def test_8_poses_of_the_query_are_compared_where_the_encoder_asks_for_them(squares):
    class Eight(Thumbnails):
        poses = 8

    turned = torch.rot90(squares.training[[3, 8]], 1, (-2, -1))
    found = EmbeddingRival("any", Eight()).rank(squares.training, turned)
    assert found.match.tolist() == [3, 8] and found.score.min() > 0.9999
    assert EmbeddingRival("any", Thumbnails()).rank(squares.training, turned).score.max() < 0.9999


def test_more_images_than_a_block_are_ranked_alike(squares, monkeypatch):
    whole = EmbeddingRival("any", Thumbnails()).rank(squares.training, squares.images)
    monkeypatch.setattr("doppelscan.rivals.cosine.BLOCK", 4)
    parts = EmbeddingRival("any", Thumbnails()).rank(squares.training, squares.images)
    np.testing.assert_allclose(parts.score, whole.score, atol=1e-5)
    assert parts.match.tolist() == whole.match.tolist()
