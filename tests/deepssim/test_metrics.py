"""Evaluation metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import (
    CopyDetectionMetric,
    CopyRetrieval,
    PairDataset,
    PairInferer,
    PreparePairs,
    SSIMAgreement,
    SSIMError,
    evaluation,
    misalign,
    verdict,
    verdict_number,
)
from doppelscan.images import InputError
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler


def test_classes_have_the_papers_limits():
    assert [verdict(v) for v in (-0.2, 0.60, 0.601, 0.85, 0.851)] == ["different", "different", "similar", "similar", "duplicate"]
    with pytest.raises(InputError, match="NaN in 1 of 2"):  # neither a copy nor none
        verdict_number(np.array([0.9, np.nan]))
    assert verdict_number(np.array([[0.1, 0.7], [0.9, 0.85]])).tolist() == [[0, 1], [2, 1]]


def test_agreement_is_what_its_definitions_give():
    predicted = torch.tensor([0.3, 0.5, 0.7, 0.9, 0.95, 0.7])
    target = torch.tensor([0.2, 0.59, 0.7, 0.8, 0.9, 0.9])
    metric = SSIMAgreement()
    for part in (slice(0, 4), slice(4, 6)):
        metric(predicted[part], target[part])
    result = metric.aggregate()
    assert abs(result["mae"] - np.abs(predicted - target).numpy().mean()) < 1e-6
    assert abs(result["pearson"] - np.corrcoef(predicted, target)[0, 1]) < 1e-6
    # truth: different 2, similar 2, duplicate 2; found: different 2, similar .7 and the last, duplicate .9 and .95
    assert result["recall_different"] == result["precision_different"] == 1.0
    assert result["recall_similar"] == result["precision_similar"] == result["recall_duplicate"] == 0.5
    assert abs(result["macro_f1"] - (1.0 + 0.5 + 0.5) / 3) < 1e-9
    assert metric.pairs.shape == (6, 2) and metric.result == result


def test_what_is_not_defined_is_nan_and_no_error():
    metric = SSIMAgreement()
    metric(torch.full((3,), 0.5), torch.tensor([0.1, 0.2, 0.3]))
    result = metric.aggregate()
    assert np.isnan(result["pearson"]) and np.isnan(result["silhouette"]) and result["macro_f1"] == 1.0


def test_agreement_is_collected_by_monais_ignite_handler():
    engine = Engine(lambda _, batch: batch)
    handler = IgniteMetricHandler(metric_fn=SSIMAgreement(), output_transform=lambda x: x)
    handler.attach(engine, "agreement")
    engine.state.metric_details = {}
    engine.run([(torch.rand(4), torch.rand(4)) for _ in range(3)])
    assert {"mae", "macro_f1"} <= set(engine.state.metrics)


def test_detection_counts_pairs_in_order_and_sources():
    metric = CopyDetectionMetric()
    scores, truth = torch.tensor([0.9, 0.8, 0.3, 0.7, 0.2, 0.1]), torch.tensor([1, 1, 1, 0, 0, 0])
    metric(scores, truth, torch.tensor([0, 3, 25, 0, 0, 0]))
    result = metric.aggregate()
    pairs = [(a > b) for a in scores[:3] for b in scores[3:]]
    assert abs(result["auc"] - np.mean(pairs)) < 1e-9
    assert abs(result["recall_at_1pc"] - 2 / 3) < 1e-9  # above the highest novel image, 0.7
    assert abs(result["source_accuracy"] - 1 / 3) < 1e-9 and abs(result["source_in_20"] - 2 / 3) < 1e-9
    only = CopyDetectionMetric()
    only(scores[:2], truth[:2], torch.zeros(2))
    with pytest.raises(ValueError, match="both copies and novel"):
        only.aggregate()


def test_pairs_reach_from_unrelated_to_identical(cohort):
    images = torch.from_numpy((cohort[:12] * 255).astype(np.uint8))[:, None]
    dataset = PairDataset(images, [0] * 6 + [1] * 6, pairs=40, spatial_size=64)
    same = [float(v) for v, kind in zip(dataset.labels, dataset.kinds, strict=True) if kind == "same image"]
    other = [float(v) for v, kind in zip(dataset.labels, dataset.kinds, strict=True) if kind == "other image"]
    assert len(dataset) == 40 and min(same) > 0.999 and max(other) < 0.8
    assert len(set(verdict_number(dataset.labels.numpy()).tolist())) == 3
    with pytest.raises(InputError, match="2 images of one cohort"):
        PairDataset(images[:2], [0, 1])


@pytest.mark.parametrize("partners", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 12])
def test_every_cohort_meets_every_kind_of_pair(monkeypatch, number, partners):
    monkeypatch.setattr(evaluation, "registered_ssim", lambda first, second: torch.ones(len(first)))
    images = torch.arange(2 * number, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 16, 16).contiguous()
    images[:, 0, 0, 0] += 1  # not flat
    cohorts = [i // 2 for i in range(2 * number)]
    made = PairDataset(images, cohorts, 24 * number, spatial_size=16, partners=images if partners else None)
    seen = {c: set() for c in cohorts}
    for pair, kind in zip(made.pairs, made.kinds, strict=True):
        seen[int((pair[0, 0, 8, 8] * 255).round()) // 2].add(kind)
    assert {len(kinds) for kinds in seen.values()} == {2 if partners else 6}
    if not partners:
        assert sum(kind in ("other image", "look-alike") for kind in made.kinds) == 12 * number


def test_a_pair_is_compared_by_the_head_that_the_network_names():
    class Named:
        def __init__(self):
            self.output_slices = {"embedding": slice(0, 2), "deepssim": slice(2, 5)}

        def __call__(self, x):
            return x.flatten(1)

    first, second = torch.tensor([[9.0, 1.0, 1.0, 0.0, 0.0]]), torch.tensor([[-9.0, 1.0, 2.0, 0.0, 0.0]])
    assert float(PairInferer()(torch.cat([first, second]), Named())) == 1.0


@pytest.mark.parametrize(("metric", "width"), [(CopyRetrieval(4), 4), (CopyRetrieval(4), 6), (SSIMError(4), 6), (SSIMError(4), 16)])
def test_heads_of_another_size_are_refused_and_not_cut(metric, width):
    targets = {"ssim": torch.zeros(1, 2, 2), "is_copy": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(InputError, match=f"'embedding_size'.*4, and a network that gives {width} values"):
        metric(torch.zeros(4, width), targets)


@pytest.mark.parametrize("poses", [1, 8])
def test_a_pair_scores_by_its_best_pose(cohort, poses):
    images = torch.from_numpy(cohort[:3])[:, None]
    batch = {"image": torch.stack([images, images.flip(-1)], 1), "label": torch.ones(3)}
    views, labels = PreparePairs(32, poses=poses)(batch)
    cosines = PairInferer(size=1024, poses=poses)(views, lambda x: x.flatten(1))
    assert cosines.shape == labels.shape == (3,)
    assert (cosines > 0.99).all() if poses == 8 else (cosines < 0.99).all()


def test_misaligned_images_change_and_probability_0_changes_nothing(cohort):
    images = torch.from_numpy(cohort[:3])[:, None]
    torch.testing.assert_close(misalign(images, 0.0, torch.Generator()), images)
    moved = misalign(images, 1.0, torch.Generator().manual_seed(0))
    assert all(not torch.allclose(a, b, atol=0.05) for a, b in zip(images, moved, strict=True))
