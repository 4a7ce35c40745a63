"""What the colours of a pair's difference and agreement mean, with the numbers at which they change: as the pictures, the script and the bars draw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from doppelscan.decide import Decision

__all__ = ["AGREES", "DIFFERS", "DISAGREES", "FULL_DIFFERENCE", "GREY", "TINT", "AgreementScale", "colour_bars"]

# A difference of half the range, and more, has the full colour.
FULL_DIFFERENCE = 128
# Of a difference, of places that agree as strangers do, and of those that agree as copies do: told apart by whoever is colour-blind, too.
DIFFERS, DISAGREES, AGREES = (192, 57, 43), (222, 120, 30), (46, 160, 140)
# How much of the tint there is, and of the grey of the image below it.
TINT, GREY = 0.6, 0.8


@dataclass(frozen=True)
class AgreementScale:
    """Up to ``low`` a place agrees as those of strangers do, from ``high`` on as those of copies do; between, the colour fades.

    Attributes:
        low, high: the limits of a cell in the audit's rules: ``part_disagrees`` and ``part_agrees``.
        strangers: agreement of the control with its matches, on average over a pair and in the middle of the pairs; NaN where there is none.
    """

    low: float
    high: float
    strangers: float

    @classmethod
    def of(cls, decision: Decision) -> AgreementScale:
        """The scale of an audit."""
        rules = decision.calibrations[0].rules
        control = np.array([one.scored.agreement for one in decision.control], float)
        known = control[np.isfinite(control)]
        return cls(rules.part_disagrees, rules.part_agrees, float(np.median(known)) if len(known) else float("nan"))

    @property
    def middle(self) -> float:
        """Of this agreement a place has no colour; of places without structure, too."""
        return (self.low + self.high) / 2

    def known(self, agreement: np.ndarray) -> np.ndarray:
        """``agreement`` in [0, 1] with the middle where there is no structure: what fades there is neither colour."""
        return np.nan_to_num(agreement, nan=self.middle).clip(0, 1)

    def tinted(self, image: np.ndarray, agreement: np.ndarray) -> np.ndarray:
        """``image`` uint8 [H, W] in grey, tinted by ``agreement`` [H, W]: uint8 [H, W, 3]."""
        grey = np.repeat(image.astype(np.float32)[..., None], 3, -1) * GREY
        # Cells reach over the edge of the anatomy; the black around it agrees with everything.
        lit = np.clip(image.astype(np.float32) / 25, 0, 1)
        told = ((self.known(agreement) - self.middle) / (self.high - self.middle)).clip(-1, 1)
        hue = np.where((told > 0)[..., None], np.array(AGREES, np.float32), np.array(DISAGREES, np.float32))
        amount = (TINT * lit * np.abs(told))[..., None]
        return np.round(grey + amount * (hue - grey)).astype(np.uint8)


# Of a bar: its width, what is left beside it for numbers, and how high it is.
WIDTH, SIDE, TOP, HIGH = 320, 12, 22, 12


def colour_bars(scale: AgreementScale, name: str) -> dict[str, str]:
    """An ``<svg>`` each for ``difference`` and ``agreement``, with the numbers at which the colours change; ``name`` keeps two of them on one page apart."""
    rgb = "rgb({}, {}, {})".format
    grey = (153, 153, 153)
    mixed = [tuple(round(g + TINT * (h - g)) for g, h in zip(grey, hue, strict=True)) for hue in (DISAGREES, AGREES)]
    stops = [(0.0, mixed[0]), (scale.low, mixed[0]), (scale.middle, grey), (scale.high, mixed[1]), (1.0, mixed[1])]
    marks = {0.0: "0", scale.low: f"{scale.low:.2f}", scale.high: f"{scale.high:.2f}", 1.0: "1"}
    told = f"agreement from 0 to 1: up to {scale.low:.2f} as strangers do, from {scale.high:.2f} on as copies do"
    strangers = scale.strangers == scale.strangers
    if strangers:
        told += f"; the control's middle is {scale.strangers:.2f}"
    return {
        "difference": _bar(
            f"{name}-difference", [(0.0, rgb(255, 255, 255)), (1.0, rgb(*DIFFERS))], {0.0: "0", 0.5: "25 %", 1.0: "50 % and more"},
            "difference in percent of the range, from none, white, to half the range and more, red",
        ),
        "agreement": _bar(
            f"{name}-agreement", [(place, rgb(*colour)) for place, colour in stops], marks, told, scale.strangers if strangers else None
        ),
    }  # fmt: skip


def _bar(name: str, stops: list[tuple[float, str]], marks: dict[float, str], told: str, pointer: float | None = None) -> str:
    """One bar as SVG: colours by ``stops``, ``marks`` below it, a ``pointer`` above."""

    def x(value: float) -> float:
        return SIDE + (WIDTH - 2 * SIDE) * min(1.0, max(0.0, value))

    drawn = [
        f'<linearGradient id="{name}">' + "".join(f'<stop offset="{place:.3f}" stop-color="{colour}"/>' for place, colour in stops)
    ]
    drawn.append(f'</linearGradient><rect x="{SIDE}" y="{TOP}" width="{WIDTH - 2 * SIDE}" height="{HIGH}" fill="url(#{name})"/>')
    for value, word in marks.items():
        anchor = "start" if value == 0 else "end" if value == 1 else "middle"
        drawn.append(f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{TOP + HIGH + 4}"/>')
        drawn.append(f'<text x="{x(value):.1f}" y="{TOP + HIGH + 16}" text-anchor="{anchor}">{word}</text>')
    if pointer is not None:
        place, end = x(pointer), "start" if pointer < 0.2 else "end" if pointer > 0.8 else "middle"
        drawn.append(f'<path class="pointer" d="M{place:.1f} {TOP}l-4 -6h8z"/>')
        drawn.append(f'<text x="{place:.1f}" y="{TOP - 8}" text-anchor="{end}">control {pointer:.2f}</text>')
    high = TOP + HIGH + 20
    return f'<svg class="colours" viewBox="0 0 {WIDTH} {high}" role="img" aria-label="{told}">{"".join(drawn)}</svg>'
