"""Scores of a whole synthetic set that others use, on features: what the Memorization Index is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import FIDMetric, MMDMetric
from scipy.linalg import eigvalsh
from scipy.stats import ranksums
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from doppelscan.memorization.whitening import unit_length

__all__ = [
    "SET_METRICS",
    "auth_pct",
    "ct_score",
    "frechet_distance",
    "kernel_distance",
    "mean_discrepancy",
    "prdc",
    "set_metrics",
    "vendi_score",
]


def _distances(queries: np.ndarray, reference: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance float64 [M, k] to the k nearest of the reference, and their rows."""
    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(np.float64(reference)).kneighbors(np.float64(queries))


def ct_score(
    training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray, cells: int = 3, smallest: int = 5, seed: int = 0
) -> float:
    """Data-copying test C_T: below 0 the synthetic images lie nearer to the training set than held-out real ones do.

    In each k-means cell of the training set, the rank-sum z of the synthetic images' distances to the training set against the
    held-out ones'; averaged over the cells by their share of the held-out images (Meehan, Chaudhuri and Dasgupta, AISTATS 2020).

    Args:
        training, held_out, synthetic: float [N, C], [P, C], [M, C].
        cells: of k-means.
        smallest: a cell with fewer held-out or synthetic images is left out.
        seed: of k-means.

    Returns:
        C_T; NaN when every cell is left out.
    """
    means = KMeans(min(cells, len(training)), n_init=4, random_state=seed).fit(np.float64(training))
    cell_p, cell_q = means.predict(np.float64(held_out)), means.predict(np.float64(synthetic))
    distance_p, distance_q = _distances(held_out, training)[0][:, 0], _distances(synthetic, training)[0][:, 0]
    total, weight = 0.0, 0
    for cell in range(means.n_clusters):
        p, q = distance_p[cell_p == cell], distance_q[cell_q == cell]
        if min(len(p), len(q)) >= smallest:
            total += len(p) * float(ranksums(q, p).statistic)
            weight += len(p)
    return total / weight if weight else float("nan")


def auth_pct(training: np.ndarray, synthetic: np.ndarray) -> float:
    """Percentage of authentic images: those farther from their nearest training image than that is from its own (Alaa et al., ICML 2022)."""
    distance, nearest = _distances(synthetic, training)
    own = _distances(training, training, 2)[0][:, 1]
    return float(100 * (distance[:, 0] > own[nearest[:, 0]]).mean())


def frechet_distance(training: np.ndarray, synthetic: np.ndarray) -> float:
    """Fréchet distance of two Gaussians fitted to the features (FID on these features), MONAI's."""
    return float(FIDMetric()(torch.from_numpy(np.float64(synthetic)), torch.from_numpy(np.float64(training))))


def kernel_distance(
    training: np.ndarray, synthetic: np.ndarray, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> float:
    """Kernel distance of two sets of features (KID on these features; Binkowski et al., ICLR 2018, section 4), lower is more alike.

    The unbiased squared maximum mean discrepancy with the kernel k(x, y) = (x . y / C + 1)^3, the mean over subsets of
    ``subset_size`` images of each set. Sets that are no larger are compared whole, once: that is the same estimate without the
    draw's variance. Below 0 by chance where the sets are alike.

    Args:
        training: float [N, C].
        synthetic: float [M, C].
        subsets: draws, where a set is larger than one.
        subset_size: images of each set in a draw.
        seed: of the draws.

    Returns:
        the distance; NaN where a set is of one image, which differs from no other.
    """
    a, b = np.asarray(training, np.float64), np.asarray(synthetic, np.float64)
    if min(len(a), len(b)) < 2:
        return float("nan")
    if max(len(a), len(b)) <= subset_size:
        return _unbiased_discrepancy(a, b)
    draw, count = np.random.default_rng(seed), min(len(a), len(b), subset_size)
    drawn = [[x[draw.permutation(len(x))[:count]] for x in (a, b)] for _ in range(subsets)]
    return float(np.mean([_unbiased_discrepancy(x, y) for x, y in drawn]))


def _unbiased_discrepancy(a: np.ndarray, b: np.ndarray) -> float:
    within = 0.0
    for x in (a, b):
        kernel = polynomial_kernel(x, degree=3, coef0=1)  # scikit-learn's gamma is 1 / C
        within += (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))
    return float(within - 2 * polynomial_kernel(a, b, degree=3, coef0=1).mean())


def mean_discrepancy(training: np.ndarray, synthetic: np.ndarray, seed: int = 0) -> float:
    """Unbiased squared maximum mean discrepancy with the linear kernel, MONAI's; the larger set is cut to the size of the smaller."""
    count = min(len(training), len(synthetic))
    draw = np.random.default_rng(seed)
    a, b = (torch.from_numpy(np.float64(x[draw.permutation(len(x))[:count]])) for x in (training, synthetic))
    return float(MMDMetric()(a, b))


def vendi_score(synthetic: np.ndarray) -> float:
    """Effective number of different images, exp of the entropy of the cosine kernel's eigenvalues (Friedman and Dieng, TMLR 2023).

    Written out: the vendi-score package (0.0.3) needs a scipy that is older than ours.
    """
    unit = unit_length(np.asarray(synthetic, dtype=np.float64))
    kernel = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    values = eigvalsh(kernel / len(unit))
    values = values[values > 0]
    return float(np.exp(-(values * np.log(values)).sum()))


def prdc(training: np.ndarray, synthetic: np.ndarray, neighbours: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al., ICML 2020).

    Written out: the prdc package (0.2, 2020) prints, and starts eight processes for each distance matrix.
    """
    k = min(neighbours, len(training) - 1, len(synthetic) - 1)
    radius_real = _distances(training, training, k + 1)[0][:, k]
    radius_fake = _distances(synthetic, synthetic, k + 1)[0][:, k]
    apart = torch.cdist(torch.from_numpy(np.float64(training)), torch.from_numpy(np.float64(synthetic))).numpy()
    inside = apart < radius_real[:, None]
    return {
        "precision": float(inside.any(0).mean()),
        "recall": float((apart < radius_fake[None]).any(1).mean()),
        "density": float(inside.sum(0).mean() / k),
        "coverage": float((apart.min(1) < radius_real).mean()),
    }


SET_METRICS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = {
    "CT score": ct_score,
    "AuthPct": lambda training, held_out, synthetic: auth_pct(training, synthetic),
    "FID": lambda training, held_out, synthetic: frechet_distance(training, synthetic),
    "KID": lambda training, held_out, synthetic: kernel_distance(training, synthetic),
    "MMD": lambda training, held_out, synthetic: mean_discrepancy(training, synthetic),
    "Vendi": lambda training, held_out, synthetic: vendi_score(synthetic),
}


def set_metrics(training: np.ndarray, held_out: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """All of them, on features float [N, C], [P, C] and [M, C]; held-out real images of other patients serve the CT score."""
    return {name: metric(training, held_out, synthetic) for name, metric in SET_METRICS.items()} | prdc(training, synthetic)
