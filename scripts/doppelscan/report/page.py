"""report.html: one offline page. Conclusion first, then distributions, exposure, flagged pairs side by side."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2
import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from doppelscan.deepssim import THRESHOLDS, verdict

matplotlib.use("Agg")
from matplotlib import pyplot as plt

__all__ = ["render_page"]

# 600 pairs of about 12 KB keep the page under 10 MB; the others are rows without pictures.
PICTURED_PAIRS = 600
INK, FLAGGED, CONTROL = "#1f2933", "#c0392b", "#5b7c99"


def _picture(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=60, method=2)
    return base64.b64encode(buffer.getvalue()).decode()


def aligned_match(thumbnail: torch.Tensor, scored) -> np.ndarray:
    """The match brought into the pose of the image: uint8 [S, S]."""
    posed = torch.from_numpy(np.ascontiguousarray(scored.pose.apply_quarter(thumbnail[0].numpy()))).float()[None, None]
    matrix = torch.from_numpy(scored.pose.sampling_matrix()).float()[None]
    moved = F.grid_sample(posed, F.affine_grid(matrix, list(posed.shape), align_corners=False), align_corners=False)
    return moved[0, 0].round().clamp(0, 255).to(torch.uint8).numpy()


def _difference(image: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Absolute difference as shades of one hue on white: uint8 [S, S, 3]."""
    amount = np.clip(np.abs(image.astype(np.float32) - moved.astype(np.float32)) / 128, 0, 1)[..., None]
    return np.round(255 - amount * (255 - np.array([192, 57, 43], np.float32))).astype(np.uint8)


def _pair_pictures(tables, scored) -> dict[str, str]:
    image = tables.synthetic.thumbnails([scored.row])[0]
    match = tables.training.thumbnails([scored.match])[0]
    moved = aligned_match(match, scored)
    return {
        "synthetic": _picture(image[0].numpy()),
        "match": _picture(match[0].numpy()),
        "aligned": _picture(moved),
        "difference": _picture(_difference(image[0].numpy(), moved)),
    }


def _distributions(tables, summary: dict[str, Any]) -> str:
    """Histograms of the score and of the aligned SSIM, synthetic against control, as inline SVG."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.0), layout="constrained")
    flagged = [s for s, f in zip(tables.scored, tables.flagged, strict=True) if f]
    for axis, name, label in ((axes[0], "score", "score"), (axes[1], "ssim", "SSIM of the aligned pair")):
        synthetic = np.array([getattr(s, name) for s in tables.scored])
        control = np.array([getattr(s, name) for s in tables.control])
        every = np.concatenate([synthetic, control])
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
    if flagged:
        axes[0].axvline(min(s.score for s in flagged), color=INK, linestyle="--", linewidth=1)
        axes[0].set_title("dashed: lowest flagged score", fontsize=9, loc="left")
    for threshold in THRESHOLDS:
        axes[1].axvline(threshold, color=INK, linestyle=":", linewidth=1)
    axes[1].set_title("dotted: 0.60 similar, 0.85 duplicate", fontsize=9, loc="left")
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "doppelscan"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    plt.close(figure)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def render_page(tables, summary: dict[str, Any], rows: list[dict[str, Any]], exposure: list[dict[str, Any]], redact: bool) -> str:
    """The page as HTML text.

    Args:
        tables: the finished audit.
        summary: what summary.json holds.
        rows: rows of scores.csv, already redacted where asked for.
        exposure: rows of exposure.csv, likewise.
        redact: leave out pictures.
    """
    order = sorted((i for i, row in enumerate(rows) if row["flagged"]), key=lambda i: -rows[i]["score"])
    nearest = not order
    if nearest:  # nothing flagged: the nearest ten let a reader see what "not a copy" looks like
        order = sorted(range(len(rows)), key=lambda i: -rows[i]["score"])[:10]
    pairs = []
    for rank, i in enumerate(order):
        pictured = not redact and rank < PICTURED_PAIRS
        pairs.append({**rows[i], "pictures": _pair_pictures(tables, tables.scored[i]) if pictured else None, "rank": rank + 1})
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("doppelscan.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        summary=summary,
        pairs=pairs,
        nearest=nearest,
        exposure=exposure[:50],
        exposed=len(exposure),
        distributions=_distributions(tables, summary),
        redact=redact,
        control_verdicts={
            name: sum(verdict(s.ssim) == name for s in tables.control) for name in ("duplicate", "similar", "different")
        },
        colour={"memorization found": "found", "no memorization found": "clear", "cannot conclude": "unsure"}[
            summary["conclusion"]
        ],
        pictured=PICTURED_PAIRS,
    )
