"""Pictures and figures as text of an offline page."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["CONTROL", "FLAGGED", "INK", "inline_picture", "inline_svg"]

INK, FLAGGED, CONTROL = "#1f2933", "#c0392b", "#5b7c99"


def inline_picture(pixels: np.ndarray) -> str:
    """WebP of uint8 [H, W] or [H, W, 3] in base64."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=60, method=2)
    return base64.b64encode(buffer.getvalue()).decode()


def inline_svg(figure: Figure) -> str:
    """The ``<svg>`` of a figure, the same text every time."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "doppelscan"}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
