"""Similarities that an evaluation compares: each finds what its definition allows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.search import EncoderSimilarity, NormalisedCorrelation, PerceptualHash, PlainSSIM, PoseEmbedder


@pytest.fixture
def images(cohort):
    return torch.from_numpy((cohort[:8] * 255).astype(np.uint8))[:, None]


@pytest.mark.parametrize("similarity", [NormalisedCorrelation(32), PerceptualHash(8)])
def test_flipped_and_turned_copies_are_as_like_as_the_image(images, similarity):
    values = similarity.fit(images).similarity(torch.rot90(images[:4].flip(-1), 1, (-2, -1)))
    assert values.shape == (4, 8) and values.argmax(1).tolist() == [0, 1, 2, 3]
    assert (values[range(4), range(4)] > 0.95).all()


def test_plain_ssim_does_not_look_at_poses(images):
    similarity = PlainSSIM(64).fit(images)
    assert np.diag(similarity.similarity(images)).min() > 0.999
    assert np.diag(similarity.similarity(images.flip(-1))).max() < 0.9


class Pixels(torch.nn.Module):
    def forward(self, image):
        return torch.nn.functional.adaptive_avg_pool2d(image, 8).flatten(1)


@pytest.mark.parametrize("whiten", [False, True])
def test_encoder_similarity_is_the_cosine_of_the_best_pose(images, whiten):
    similarity = EncoderSimilarity(PoseEmbedder(Pixels(), spatial_size=32), whiten=whiten).fit(images)
    values = similarity.similarity(images.flip(-2))
    assert values.argmax(1).tolist() == list(range(8)) and np.diag(values).min() > 0.95
    one = EncoderSimilarity(PoseEmbedder(Pixels(), poses=1, spatial_size=32), part=slice(0, 32)).fit(images)
    assert one.reference.shape == (8, 32) and np.diag(one.similarity(images)).min() > 0.999


def test_two_heads_of_one_network_embed_once(images):
    calls = []

    class Counting(Pixels):
        def forward(self, image):
            calls.append(len(image))
            return super().forward(image)

    embedder = PoseEmbedder(Counting(), spatial_size=32)
    heads = [EncoderSimilarity(embedder, part=part).fit(images) for part in (slice(0, 32), slice(32, 64))]
    assert calls == [8]
    queries = images[:3]
    first, second = (head.similarity(queries) for head in heads)
    assert calls == [8] + [3] * 8 and not np.allclose(first, second)
