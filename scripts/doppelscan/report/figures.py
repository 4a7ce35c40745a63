"""Figures of an evaluation: similarity by SSIM class, ROC curves of planted copies, set-level score by contamination."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from doppelscan.deepssim import THRESHOLDS, VERDICTS, verdict_number

__all__ = ["agreement_figure", "contamination_figure", "roc_figure"]

COLOURS = ("#4477aa", "#ddaa33", "#bb5566")


def _save(figure: Figure, path: str | os.PathLike) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def agreement_figure(parts: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write a PNG: for each part the histogram of predictions by the class of the SSIM, and predictions over SSIM.

    Args:
        parts: title -> float [n, 2], predicted similarity and registered SSIM.
        path: of the PNG.
    """
    figure = Figure(figsize=(9, 3.1 * len(parts)), layout="constrained")
    axes = figure.subplots(len(parts), 2, squeeze=False)
    for row, (title, pairs) in zip(axes, parts.items(), strict=True):
        predicted, target = pairs.T
        classes = verdict_number(target)
        bins = np.linspace(min(0.0, float(predicted.min())), 1, 51)
        for number, (name, colour) in enumerate(zip(VERDICTS, COLOURS, strict=True)):
            chosen = predicted[classes == number]
            row[0].hist(chosen, bins, color=colour, alpha=0.75, label=f"{name} ({len(chosen)})")
        for threshold in THRESHOLDS:
            row[0].axvline(threshold, color="black", linestyle=":")
        row[0].set(xlabel="deepssim score", ylabel="pairs", title=f"{title}: score by the class of the SSIM")
        row[0].legend(frameon=False)
        row[1].plot([0, 1], [0, 1], color="black", linewidth=0.8)
        row[1].scatter(target, predicted, s=5, c=[COLOURS[c] for c in classes], alpha=0.6, linewidths=0)
        row[1].set(xlabel="SSIM of the registered pair", ylabel="deepssim score", title=title)
    _save(figure, path)


def roc_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | os.PathLike) -> None:
    """Write a PNG of ROC curves; false positives on a logarithmic axis, since it is the low rates that matter.

    Args:
        curves: name -> (scores float [n], truth bool [n]).
        path: of the PNG.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axis = figure.subplots()
    floor = 1.0
    for _, truth in curves.values():
        floor = min(floor, 1 / max(1, int((~truth).sum())))
    for name, (scores, truth) in curves.items():
        false, true, _ = roc_curve(truth, scores)
        axis.step(np.maximum(false, floor / 2), true, where="post", label=name)
    axis.set(
        xscale="log", xlabel="share of novel images flagged", ylabel="share of copies found", xlim=(floor / 2, 1), ylim=(0, 1.02)
    )
    axis.set_title("Planted copies, all sources and transforms", fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    _save(figure, path)


def contamination_figure(
    sets: Mapping[str, Mapping[str, Mapping[float, Mapping[str, float]]]], score: str, path: str | os.PathLike
) -> None:
    """Write a PNG: a set-level score over the share of copies, a panel for each data set and a line for each transform.

    Args:
        sets: data set -> transform -> share of copies -> score name -> value.
        score: which score.
        path: of the PNG.
    """
    figure = Figure(figsize=(3.6 * len(sets) + 1.6, 3.6), layout="constrained")
    axes = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    for axis, (source, transforms) in zip(axes, sets.items(), strict=True):
        for transform, levels in transforms.items():
            axis.plot(list(levels), [row[score] for row in levels.values()], marker="o", markersize=3, label=transform)
        shares = list(next(iter(transforms.values())))
        if score.endswith("share"):
            axis.plot(shares, shares, color="black", linewidth=0.8, linestyle=":", label="true share")
        axis.set_title(source, fontsize=10, loc="left")
        axis.set(xlabel="share of copies in the set", xticks=shares)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].set_ylabel(score)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    _save(figure, path)
