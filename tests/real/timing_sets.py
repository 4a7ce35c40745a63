"""Sets for the timing of docs/benchmarks.md: 1,000 training, 1,000 synthetic (100 of them copies) and 300 holdout PNG of 256 x 256.

``python tests/real/timing_sets.py OUTPUT_DIR`` makes them of generated patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from doppelscan.images import generate_cohort, plant_copy
from PIL import Image

COUNTS = {"training": 1000, "synthetic": 900, "holdout": 300}


def main(output: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.concatenate([generate_cohort(100, 1, 256, seed)[0][:, 0].numpy() for seed in range(22)])
    images = images.reshape(22, 100, 256, 256).swapaxes(0, 1).reshape(-1, 256, 256)
    start = 0
    for name, count in COUNTS.items():
        (output / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(images[start + i]).save(output / name / f"{name}{i:04d}.png")
        start += count
    for i in range(100):
        copy = plant_copy(images[i].astype(np.float32) / 255, ("exact", "rotation 10", "flip-x", "noise")[i % 4], rng)
        Image.fromarray(np.round(copy * 255).astype(np.uint8)).save(output / "synthetic" / f"copy{i:04d}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
