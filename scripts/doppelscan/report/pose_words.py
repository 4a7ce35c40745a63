"""A pose as a sentence."""

from __future__ import annotations

import re

__all__ = ["pose_sentence"]


def pose_sentence(pose: str, volume: bool = False) -> str:
    """What the words of a table's column ``pose`` say; those it does not know stay as they are.

    Args:
        pose: for example ``flip-x turn 90 rot -4.8 scale 1.18 shift 3,-2``, see :meth:`doppelscan.verify.Pose.words`.
        volume: its axes are right, front and top, and it is in mm.
    """
    if pose in ("", "identity"):
        return "in place, as it is"
    rest, told = pose, []
    for pattern, words in VOLUME if volume else IMAGE:
        found = re.search(pattern, rest)
        if found is not None:
            told.append(words(found))
            rest = rest.replace(found[0], "", 1)
    return ", ".join([*told, *([rest.strip()] if rest.strip() else [])])


def _sense(value: float, positive: str, negative: str) -> str:
    return positive if value >= 0 else negative


def _scaled(found: re.Match) -> str:
    scale = float(found[1])
    return f"{'enlarged' if scale > 1 else 'made smaller'} by {100 * abs(scale - 1):.0f} %"


def _turned(found: re.Match) -> str:
    degrees = float(found[1])
    return f"turned by {abs(degrees):g}° {_sense(degrees, 'counter-clockwise', 'clockwise')}"


def _shifted(found: re.Match) -> str:
    x, y = float(found[1]), float(found[2])
    parts = [f"{abs(x):g} px {_sense(x, 'to the right', 'to the left')}"] if x else []
    parts += [f"{abs(y):g} px {_sense(y, 'down', 'up')}"] if y else []
    return "shifted " + " and ".join(parts or ["by less than a pixel"])


def _stretched(found: re.Match) -> str:
    factors = [(axis, float(found[k])) for k, axis in enumerate("xyz", 1)]
    parts = [
        f"{axis} {'enlarged' if factor > 1 else 'made smaller'} by {100 * abs(factor - 1):.0f} %"
        for axis, factor in factors
        if factor != 1
    ]
    return "along " + ", ".join(parts)


def _shifted_volume(found: re.Match) -> str:
    ways = (("to the right", "to the left"), ("to the front", "to the back"), ("up", "down"))
    values = [float(found[k]) for k in (1, 2, 3)]
    parts = [f"{abs(v):g} mm {_sense(v, *way)}" for v, way in zip(values, ways, strict=True) if abs(v) >= 0.05]
    return "shifted " + ", ".join(parts)


# Right-handed turns about the axes to the right, to the front and up: what a positive one does, and a negative one.
TURNS = (
    ("the left-right axis", "front up", "front down"),
    ("the back-front axis", "top to the right", "top to the left"),
    ("the vertical axis", "counter-clockwise seen from above", "clockwise seen from above"),
)


def _turned_volume(found: re.Match) -> str:
    values = [float(found[k]) for k in (1, 2, 3)]
    parts = [
        f"{abs(v):g}° about {axis} ({_sense(v, *way)})" for v, (axis, *way) in zip(values, TURNS, strict=True) if abs(v) >= 0.05
    ]
    return "turned by " + ", ".join(parts)


NUMBER = r"(-?[\d.]+)"
IMAGE = (
    (r"\binverted\b", lambda found: "dark and bright exchanged"),
    (r"\bflip-x\b", lambda found: "mirrored left to right"),
    (r"\bflip-y\b", lambda found: "mirrored top to bottom"),
    (r"\bturn (\d+)", lambda found: f"turned by {found[1]}° counter-clockwise"),
    (rf"\brot {NUMBER}", _turned),
    (rf"\bscale {NUMBER}", _scaled),
    (rf"\bshift {NUMBER},{NUMBER}", _shifted),
)
VOLUME = (
    (r"\baxes (\d) (\d) (\d)", lambda found: "its axes exchanged: " + ", ".join(f"{n} was {'xyz'[int(found[k])]}" for k, n in enumerate("xyz", 1))),
    (r"\bflip-x\b", lambda found: "mirrored left to right"),
    (r"\bflip-y\b", lambda found: "mirrored front to back"),
    (r"\bflip-z\b", lambda found: "mirrored top to bottom"),
    (rf"\bstretch {NUMBER},{NUMBER},{NUMBER}", _stretched),
    (rf"\brot x {NUMBER} y {NUMBER} z {NUMBER}", _turned_volume),
    (rf"\bscale {NUMBER}", _scaled),
    (rf"\bshift {NUMBER},{NUMBER},{NUMBER} mm", _shifted_volume),
)  # fmt: skip
