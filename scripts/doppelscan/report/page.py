"""report.html: one offline page. Conclusion first, then distributions, exposure, flagged pairs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np

from doppelscan.decide import AuditedImage, AuditSummary, Decision, ScoredImage, count_kinds
from doppelscan.deepssim import THRESHOLDS, verdict
from doppelscan.pages import page_templates
from doppelscan.report.inline import CONTROL, FLAGGED, INK, inline_picture, inline_svg
from doppelscan.report.tables import Row
from doppelscan.report.volume_pictures import middle_planes, mosaic

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["render_page"]

# 500 pairs of about 16 KB, or 60 of volumes with all their slices of about 130 KB, keep the page under 10 MB; the others are rows without pictures.
PICTURED_PAIRS, PICTURED_VOLUMES = 500, 60


def _difference(image: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Absolute difference as shades of one hue on white: uint8 [S, S, 3]."""
    amount = np.clip(np.abs(image.astype(np.float32) - moved.astype(np.float32)) / 128, 0, 1)[..., None]
    return np.round(255 - amount * (255 - np.array([192, 57, 43], np.float32))).astype(np.uint8)


def _overlay(image: np.ndarray, agreement: np.ndarray) -> np.ndarray:
    """``image`` in grey, tinted where it agrees with the match: uint8 [S, S, 3]. Half agreement is half the tint; no structure, none."""
    grey = np.repeat(image.astype(np.float32)[..., None], 3, -1) * 0.8
    # Cells reach over the edge of the anatomy; the black around it agrees with everything.
    lit = np.clip(image.astype(np.float32) / 25, 0, 1)
    amount = (lit * np.clip((np.nan_to_num(agreement, nan=0.0) - 0.2) / 0.7, 0, 1))[..., None] * 0.6
    return np.round(grey + amount * (np.array([46, 160, 140], np.float32) - grey)).astype(np.uint8)


def _pair_pictures(decision: Decision, scored: ScoredImage, pair: Callable[[ScoredImage], Any]) -> dict[str, str]:
    image = decision.synthetic.images.thumbnails([scored.row])[0][0].numpy()
    aligned = pair(scored)
    moved = np.round(aligned.moved * 255).clip(0, 255).astype(np.uint8)
    if image.ndim == 3:
        return _volume_pictures(image, decision.training.thumbnails([scored.match])[0][0].numpy(), moved, aligned.agreement_map)
    return {
        "synthetic": inline_picture(image),
        "match": inline_picture(decision.training.thumbnails([scored.match])[0][0].numpy()),
        "aligned": inline_picture(moved),
        "difference": inline_picture(_difference(image, moved)),
        "agreement": inline_picture(_overlay(image, aligned.agreement_map)),
    }


def _volume_pictures(image: np.ndarray, match: np.ndarray, moved: np.ndarray, agreement: np.ndarray) -> dict[str, str]:
    """Three planes of each, and all slices of what the page's slider goes through."""
    middle, placed = middle_planes(image), middle_planes(moved)
    told = np.round(np.nan_to_num(agreement, nan=0.0).clip(0, 1) * 255).astype(np.uint8)
    return {
        "synthetic": inline_picture(middle),
        "match": inline_picture(middle_planes(match)),
        "aligned": inline_picture(placed),
        "difference": inline_picture(_difference(middle, placed)),
        "agreement": inline_picture(_overlay(middle, middle_planes(agreement))),
        "slices": inline_picture(mosaic(image)),
        "aligned_slices": inline_picture(mosaic(moved)),
        "agreement_slices": inline_picture(mosaic(told)),
    }


def _distributions(decision: Decision) -> str:
    """Histograms of the score, of the best region and of the aligned SSIM, synthetic against control, as inline SVG."""
    # Margins by hand: a constrained layout draws everything twice.
    figure, axes = plt.subplots(1, 3, figsize=(10.8, 2.9))
    figure.subplots_adjust(left=0.055, right=0.995, bottom=0.17, top=0.9, wspace=0.2)
    columns = (("score", "score"), ("part", "agreement of the best region"), ("ssim", "SSIM of the aligned pair"))
    for axis, (name, label) in zip(axes, columns, strict=True):
        synthetic = np.array([getattr(one.scored, name) for one in decision.images])
        control = np.array([getattr(one.scored, name) for one in decision.control])
        every = np.concatenate([synthetic, control])
        every = every[np.isfinite(every)]
        middle, half = (every.max() + every.min()) / 2, max(0.25, (every.max() - every.min()) / 2 + 1e-3)
        bins = np.linspace(middle - half, middle + half, 41)
        for values, colour, what in ((control, CONTROL, "control"), (synthetic, FLAGGED, "synthetic")):
            if len(values):
                axis.hist(
                    values,
                    bins,
                    weights=np.full(len(values), 100 / len(values)),
                    color=colour,
                    alpha=0.55,
                    label=f"{what} ({len(values)})",
                )
        axis.set_xlabel(label)
        axis.set_ylabel("% of images")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    for axis, name, parts in ((axes[0], "score", False), (axes[1], "part", True)):
        flagged = [getattr(one.scored, name) for one in decision.images if one.finding is not None and one.of_region == parts]
        if flagged:
            axis.axvline(min(flagged), color=INK, linestyle="--", linewidth=1)
            axis.set_title(f"dashed: lowest flagged {'part' if parts else 'score'}", fontsize=9, loc="left")
    for threshold in THRESHOLDS:
        axes[2].axvline(threshold, color=INK, linestyle=":", linewidth=1)
    axes[2].set_title("dotted: 0.60 similar, 0.85 duplicate", fontsize=9, loc="left")
    drawn = inline_svg(figure)
    plt.close(figure)
    return drawn


def render_page(
    decision: Decision,
    summary: AuditSummary,
    rows: Sequence[Row],
    exposure: Sequence[Row],
    redact: bool,
    pair: Callable[[ScoredImage], Any] | None = None,
) -> str:
    """The page as HTML text.

    Args:
        decision: the finished audit.
        summary: what summary.json holds.
        rows: rows of scores.csv, already redacted where asked for.
        exposure: rows of exposure.csv, likewise.
        redact: leave out pictures.
        pair: gives the :class:`~doppelscan.verify.AlignedPair` of a scored image, or the ``AlignedVolume`` of a volume; without it there are no pictures.
    """
    # Parts come last: their score is that of the whole image.
    images = decision.images
    order = sorted(
        (i for i, one in enumerate(images) if one.finding is not None),
        key=lambda i: (images[i].of_region, -images[i].scored.score, rows[i]["image"]),
    )
    nearest = not order
    if nearest:  # nothing flagged: the nearest ten let a reader see what "not a copy" looks like
        order = sorted(range(len(images)), key=lambda i: -images[i].scored.score)[:10]
    whole = any(one.record.whole for one in images)
    most = PICTURED_VOLUMES if whole else PICTURED_PAIRS
    pairs = []
    for rank, i in enumerate(order):
        pictured = not redact and pair is not None and rank < most
        pictures = _pair_pictures(decision, _source_pair(images[i]), pair) if pictured and pair is not None else None
        pairs.append({**rows[i], "pictures": pictures, "rank": rank + 1})
    template = page_templates().get_template("report.html")
    return template.render(
        summary=summary,
        pairs=pairs,
        nearest=nearest,
        kinds=count_kinds(summary.findings),
        exposure=exposure[:50],
        exposed=len(exposure),
        distributions=_distributions(decision),
        redact=redact,
        control_verdicts={
            name: sum(verdict(one.scored.ssim) == name for one in decision.control)
            for name in ("duplicate", "similar", "different")
        },
        colour={"memorization found": "found", "no memorization found": "clear", "cannot conclude": "unsure"}[summary.conclusion],
        pictured=most,
        volumes=whole,
        side=len(decision.training.thumbnails([0])[0][0]) if whole else 0,
    )


def _source_pair(one: AuditedImage) -> ScoredImage:
    """The image with the training image that is shown beside it: of a region, its source in place."""
    return one.scored.in_region if one.of_region else one.scored
