"""One-pass moments against the estimators that see everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.memorization import FeatureMoments
from sklearn.covariance import ledoit_wolf, oas


def mixed(count, size, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(count, size)) @ np.random.default_rng(7).normal(size=(size, size)) + 5).astype(np.float32)


@pytest.mark.parametrize("count", [12, 200])
@pytest.mark.parametrize(("estimator", "whole"), [("ledoit_wolf", ledoit_wolf), ("oas", oas)])
def test_shrinkage_in_batches_is_that_of_scikit_learn(count, estimator, whole):
    features = mixed(count, 40)
    moments = FeatureMoments(features[0])
    for part in np.array_split(features, 5):
        moments.add(part)
    covariance, shrinkage = moments.shrunk_covariance(estimator)
    expected, expected_shrinkage = whole(features.astype(np.float64))
    np.testing.assert_allclose(shrinkage, expected_shrinkage, rtol=1e-9)
    np.testing.assert_allclose(covariance, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(0), rtol=1e-12)


def test_unbiased_covariance_is_that_of_numpy():
    features = mixed(40, 9)
    found = FeatureMoments(features[0]).add(features[:15]).add(features[15:])
    assert found.count == 40
    np.testing.assert_allclose(found.covariance(1), np.cov(features.astype(np.float64).T), rtol=1e-8)


@pytest.mark.parametrize("estimator", ["ledoit_wolf", "oas"])
def test_constant_features_shrink_to_a_finite_covariance(estimator):
    covariance, shrinkage = FeatureMoments(np.ones(4)).add(np.ones((10, 4))).shrunk_covariance(estimator)
    assert np.isfinite(covariance).all() and 0 <= shrinkage <= 1


def test_a_large_offset_does_not_cancel():
    features = mixed(100, 6).astype(np.float64) + 1e6
    found = FeatureMoments(features[0]).add(features).covariance(1)
    np.testing.assert_allclose(found, np.cov(features.T), rtol=1e-6, atol=1e-6)
