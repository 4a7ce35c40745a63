"""The benchmark of real memorization: labelled samples, planted copies and hard negatives, ours and every rival in one table."""

from doppelscan.benchmark.benchmark import benchmark
from doppelscan.benchmark.cases import Experiment, Query, planted_experiment, sample_experiment
from doppelscan.benchmark.hub_dataset import benchmark_pack, licence_of
from doppelscan.benchmark.label_page import label_page
from doppelscan.benchmark.labels import TRUTHS, SampleLabel, label_samples, pixel_votes, read_labels, write_labels
from doppelscan.benchmark.measures import Measured, Question
from doppelscan.benchmark.tables import BenchmarkResult

__all__ = [
    "TRUTHS",
    "BenchmarkResult",
    "Experiment",
    "Measured",
    "Query",
    "Question",
    "SampleLabel",
    "benchmark",
    "benchmark_pack",
    "label_page",
    "label_samples",
    "licence_of",
    "pixel_votes",
    "planted_experiment",
    "read_labels",
    "sample_experiment",
    "write_labels",
]
