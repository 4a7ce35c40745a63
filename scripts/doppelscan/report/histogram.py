"""Histograms of the page, drawn as SVG whose colours and letters the page's style sets: legible on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from doppelscan.decide import Decision
from doppelscan.deepssim import THRESHOLDS
from doppelscan.wording import counted

__all__ = ["distributions", "histogram"]

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 12, 40
BINS = 40


def distributions(decision: Decision, of: str) -> list[str]:
    """Score, best region and SSIM of the aligned pair, synthetic against control: an ``<svg>`` each; ``of`` is image or volume."""
    flagged = [one for one in decision.images if one.finding is not None]
    whole = [one.scored.score for one in flagged if not one.of_region]
    parts = [one.scored.part for one in flagged if one.of_region]
    marks: dict[str, tuple[str, Mapping[float, str]]] = {
        "score": ("score", {min(whole): "lowest flagged"} if whole else {}),
        "part": ("agreement of the best region", {min(parts): "lowest flagged part"} if parts else {}),
        # The classes of the DeepSSIM paper are of images alone.
        "ssim": ("SSIM of the aligned pair", dict(zip(THRESHOLDS, ("similar", "duplicate"), strict=True)) if of == "image" else {}),
    }
    return [
        histogram(
            {
                "synthetic": [getattr(one.scored, name) for one in decision.images],
                "control": [getattr(one.scored, name) for one in decision.control],
            },
            label,
            lines,
            of,
        )
        for name, (label, lines) in marks.items()
    ]


def histogram(sets: Mapping[str, Sequence[float]], label: str, marks: Mapping[float, str], of: str = "image") -> str:
    """Shares of each of ``sets`` over the same bins, with vertical ``marks`` (value -> word).

    Args:
        sets: name, which is a class of the style, -> values; what is not finite is left out.
        label: of the values.
        marks: vertical lines and their words.
        of: what the values are of, image or volume.
    """
    known = {name: np.array([v for v in values if np.isfinite(v)], float) for name, values in sets.items()}
    every = np.concatenate([*known.values(), np.array(list(marks))])
    if not len(every):
        return ""
    middle, half = (every.max() + every.min()) / 2, max(0.25, (every.max() - every.min()) / 2 + 1e-3)
    low, high = middle - half, middle + half
    bins = np.linspace(low, high, BINS + 1)
    shares = {name: 100 * np.histogram(values, bins)[0] / max(1, len(values)) for name, values in known.items()}
    top = max(1.0, *(float(share.max()) for share in shares.values()))
    steps = _ticks(0, top, 4)
    top = max(top, steps[-1])

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top

    drawn = [f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>' for v in steps]
    drawn += [
        f'<text x="{LEFT - 5}" y="{y(v) + 4:.1f}" text-anchor="end">{v:g}{" %" if v == steps[-1] else ""}</text>' for v in steps
    ]
    drawn += [
        f'<text x="{x(v):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{v:g}</text>'
        for v in _ticks(low, high, 5)
        if low <= v <= high
    ]
    for name in reversed(shares):
        share = shares[name]
        bars = "".join(
            f"M{x(a):.1f} {y(0):.1f}V{y(v):.1f}H{x(b):.1f}V{y(0):.1f}Z"
            for a, b, v in zip(bins[:-1], bins[1:], share, strict=True)
            if v
        )
        drawn += [f'<path class="{name}" d="{bars}"/>'] if bars else []
    for value, word in marks.items():
        end = x(value) > WIDTH * 0.6
        drawn += [
            f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
            f'<text class="mark" x="{x(value) + (-4 if end else 4):.1f}" y="{TOP + 9}" text-anchor="{"end" if end else "start"}">{escape(word)}</text>',
        ]
    drawn.append(
        f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(label)}</text>'
    )
    told = escape(f"{label}: " + "; ".join(_told(name, values, of) for name, values in known.items()))
    return f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{told}">{"".join(drawn)}</svg>'


def _told(name: str, values: np.ndarray, of: str) -> str:
    if not len(values):
        return f"{name} none"
    return f"{name} {counted(len(values), of)}, median {np.median(values):.2f}, highest {values.max():.2f}"


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most ``most`` round values from ``low`` to ``high``."""
    raw = (high - low) / most
    size = 10.0 ** np.floor(np.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw)
    return [round(float(v), 10) for v in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]
