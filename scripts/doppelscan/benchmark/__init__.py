"""The benchmark of real memorization: labelled samples, planted copies and hard negatives, ours and every rival in one table."""

from doppelscan.benchmark.labels import TRUTHS, SampleLabel, label_samples, pixel_votes, read_labels, write_labels

__all__ = ["TRUTHS", "SampleLabel", "label_samples", "pixel_votes", "read_labels", "write_labels"]
