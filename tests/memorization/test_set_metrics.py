"""Set-level scores against the authors' libraries, or against a case written out."""

from __future__ import annotations

import numpy as np
import pytest
from doppelscan.memorization import set_metrics
from doppelscan.memorization.set_metrics import (
    auth_pct,
    ct_score,
    frechet_distance,
    kernel_distance,
    mean_discrepancy,
    prdc,
    vendi_score,
)


def cloud(count, seed=0, size=6):
    return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def test_precision_recall_density_coverage_are_those_of_the_prdc_package(capsys):
    package = pytest.importorskip("prdc")
    real, fake = cloud(60), cloud(50, 1) * 1.2 + 0.3
    expected = package.compute_prdc(real, fake, 5)
    for name, value in prdc(real, fake, 5).items():
        assert value == pytest.approx(float(expected[name]), abs=1e-9), name


@pytest.mark.parametrize("count", [4, 40])
def test_vendi_score_is_that_of_the_vendi_score_package(count):
    vendi = pytest.importorskip("vendi_score.vendi")
    assert vendi_score(cloud(count)) == pytest.approx(float(vendi.score_dual(cloud(count).astype(np.float64))), rel=1e-6)


def test_vendi_score_counts_different_images():
    assert vendi_score(np.eye(5)) == pytest.approx(5) and vendi_score(np.ones((7, 5))) == pytest.approx(1)


def test_auth_pct_written_out():
    training = np.array([[0.0], [1.0], [10.0]])
    # 0.4 is nearer to 0 than 1 is; 10.5 nearer to 10 than 1 is; 2.5 is farther from 1 than 0 is.
    assert auth_pct(training, np.array([[0.4], [10.5], [2.5]])) == pytest.approx(100 / 3)


def test_ct_score_written_out_for_one_cell():
    training, held_out, synthetic = cloud(40), cloud(15, 1), cloud(12, 2)
    nearest = lambda x: np.linalg.norm(x[:, None] - training[None], axis=2).min(1)  # noqa: E731
    p, q = nearest(held_out), nearest(synthetic)
    u = (q[:, None] > p[None]).sum()
    z = (u - len(p) * len(q) / 2) / np.sqrt(len(p) * len(q) * (len(p) + len(q) + 1) / 12)
    assert ct_score(training, held_out, synthetic, cells=1) == pytest.approx(z, rel=1e-6)


def test_ct_score_falls_below_zero_for_copies_and_is_nan_without_data():
    training = cloud(60)
    assert ct_score(training, cloud(40, 1), training[:40] + 0.01) < -3
    assert abs(ct_score(training, cloud(40, 1), cloud(40, 2))) < 2.5
    assert np.isnan(ct_score(training, cloud(2, 1), cloud(2, 2)))


def test_frechet_distance_and_discrepancy_written_out():
    a, b = cloud(400, size=3), cloud(300, 1, 3) * 1.5 + 1
    ca, cb = np.cov(a.T.astype(np.float64)), np.cov(b.T.astype(np.float64))
    values = np.linalg.eigvals(ca @ cb)
    shift = a.mean(0).astype(np.float64) - b.mean(0)
    assert frechet_distance(a, b) == pytest.approx(shift @ shift + np.trace(ca + cb) - 2 * np.sqrt(values.real).sum(), rel=1e-4)
    assert abs(mean_discrepancy(a, cloud(400, 5, 3))) < 0.1 < mean_discrepancy(a, b)


def unbiased_kernel_distance(a, b):
    k = lambda x, y: (float(x.astype(np.float64) @ y.astype(np.float64)) / len(x) + 1) ** 3  # noqa: E731
    within = [np.mean([k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return sum(within) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_kernel_distance_written_out_for_sets_of_unequal_size():
    a, b = cloud(9, size=4), cloud(6, 1, 4) * 1.3 + 0.5
    assert kernel_distance(a, b) == pytest.approx(unbiased_kernel_distance(a, b), rel=1e-9)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-9)


def test_kernel_distance_of_sets_larger_than_a_subset_is_the_mean_over_the_draws():
    a, b = cloud(30, size=4), cloud(8, 1, 4) + 0.5
    draw = np.random.default_rng(7)
    drawn = [[x[draw.permutation(len(x))[:5]] for x in (a, b)] for _ in range(3)]
    expected = np.mean([unbiased_kernel_distance(*one) for one in drawn])
    assert kernel_distance(a, b, subsets=3, subset_size=5, seed=7) == pytest.approx(expected, rel=1e-9)
    many = kernel_distance(a, b, subsets=400, subset_size=8)
    assert many == pytest.approx(kernel_distance(a, b), rel=0.15), "both estimate the same"


def test_kernel_distance_tells_another_distribution_from_the_same():
    assert abs(kernel_distance(cloud(200), cloud(200, 1))) < 0.5 < 5 < kernel_distance(cloud(200), cloud(200, 1) + 1)


def test_all_scores_are_there_for_a_set_of_copies():
    found = set_metrics(cloud(30), cloud(20, 1), cloud(30))
    assert len(found) == 10 and np.isfinite(list(found.values())).all() and found["AuthPct"] == 0


@pytest.mark.filterwarnings("error")
def test_kernel_distance_of_one_image_is_not_a_number():
    rng = np.random.default_rng(0)
    many, one = rng.normal(size=(6, 4)), rng.normal(size=(1, 4))
    for a, b in ((many, one), (one, many)):
        assert np.isnan(kernel_distance(a, b)) and np.isnan(kernel_distance(a, b, subset_size=3))
