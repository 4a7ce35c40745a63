"""Images of every kind that registration meets: backgrounds, paddings, shapes, contrasts and depths, drawn by a seed."""

from __future__ import annotations

from functools import cache

import numpy as np
from doppelscan.images import generate_cohort
from PIL import Image


@cache
def _cohort(seed: int) -> np.ndarray:
    return generate_cohort(6, 1, 160, seed)[0][:, 0].numpy().astype(np.float32) / 255


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR))


def drawn_image(seed: int) -> tuple[np.ndarray, str]:
    """Native pixels float32 [H, W] of 64 to 512 px, and what was drawn, in words."""
    rng = np.random.default_rng(seed)
    image, words = _cohort(int(rng.integers(40)))[int(rng.integers(6))], []
    size = int(rng.choice([64, 96, 128, 160, 192, 256, 320, 512]))
    if rng.random() < 0.3:  # content that the border cuts
        side = int(rng.uniform(0.5, 0.8) * len(image))
        top, left = rng.integers(0, len(image) - side + 1, 2)
        image = image[top : top + side, left : left + side]
        words.append("cut")
    shape, aspect = rng.choice(["square", "wide", "tall"]), float(rng.uniform(0.4, 0.8))
    image = _resized(image, int(size * aspect) if shape == "wide" else size, int(size * aspect) if shape == "tall" else size)
    background, level = rng.choice(["black", "gray", "noisy", "noisy"]), float(rng.uniform(0.15, 0.55))
    noise = float(np.exp(rng.uniform(np.log(0.005), np.log(0.25))))
    if background != "black":
        image = level + (1 - level) * image if rng.random() < 0.5 else level + (image - 0.5 * (image > 0.02)) * 0.5
    if background == "noisy":
        image = image + noise * rng.standard_normal(image.shape)
    image = np.clip(image, 0, 1)
    if shape != "square" and rng.random() < 0.5:  # in a square field
        gray = background != "black" and rng.random() < 0.5
        field = np.full((size, size), level if gray else 0.0)
        top, left = (size - image.shape[0]) // 2, (size - image.shape[1]) // 2
        field[top : top + image.shape[0], left : left + image.shape[1]] = image
        image = field
        words.append("in a gray square" if gray else "in a black square")
    words += [f"{size} px", str(shape), str(background)]
    image = image.copy()
    padded = rng.permutation(4)[: int(rng.choice([0, 1, 2, 2, 3, 4]))]
    amounts = rng.uniform(0.03, 0.22, 4)
    if rng.random() < 0.4:
        amounts[:] = amounts[0]
    for side in padded:
        length = max(1, int(amounts[side] * image.shape[side // 2]))
        image[[np.s_[:length], np.s_[-length:], np.s_[:, :length], np.s_[:, -length:]][side]] = 0
    words.append(f"padded on {len(padded)} sides")
    if rng.random() < 0.25:
        contrast = rng.uniform(0.05, 0.3)
        image = rng.uniform(0, 1 - contrast) + contrast * image
        words.append("low contrast")
    bits = 8 if rng.random() < 0.5 else 16
    return np.round(image * (255 if bits == 8 else 4095)).astype(np.float32), ", ".join([*words, f"{bits} bit"])
