"""Copies that were blurred, noisy or of low resolution, neighbouring slices, and means of training images: what each is called.

``python tests/real/kinds.py MRI_DIR OUTPUT_DIR [--source ds002748_t1:axial]``: 45 % of the patients are training, with one image each, the others
holdout. A neighbour is another image of a training patient; a mean is of the 3, 5 or 10 training images that are most alike.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import doppelscan
import numpy as np
import torch
from doppelscan.images import plant_copy
from hard_cases import load, resized
from PIL import Image
from scipy import ndimage

COPIES = 20


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """By ``sigma`` of 128 pixels of the longer side."""
    return ndimage.gaussian_filter(image, sigma * max(image.shape) / 128)


def noisy(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(image + strength * rng.standard_normal(image.shape), 0, 1).astype(np.float32)


def coarser(image: np.ndarray, factor: int) -> np.ndarray:
    """Made smaller by ``factor`` and large again."""
    pixels = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    small = torch.nn.functional.interpolate(pixels, scale_factor=1 / factor, mode="bilinear", antialias=True)
    return torch.nn.functional.interpolate(small, image.shape, mode="bilinear")[0, 0].numpy()


def treatments(rng: np.random.Generator) -> dict:
    return {
        "exact": lambda i: i,
        "turned by 10 degrees": lambda i: plant_copy(i, "rotation 10", rng),
        "noise 0.05": lambda i: noisy(i, 0.05, rng),
        "noise 0.1": lambda i: noisy(i, 0.1, rng),
        "turned, noise 0.07": lambda i: noisy(plant_copy(i, "rotation 10", rng), 0.07, rng),
        "blur 1": lambda i: blurred(i, 1),
        "blur 2": lambda i: blurred(i, 2),
        "turned, blur 1.5": lambda i: blurred(plant_copy(i, "rotation 10", rng), 1.5),
        "blur 1.5, noise 0.05": lambda i: noisy(blurred(i, 1.5), 0.05, rng),
        "half the resolution": lambda i: coarser(i, 2),
        "a third of the resolution": lambda i: coarser(i, 3),
    }


def make(mri: Path, source: str, output: Path, seed: int = 5) -> None:
    """Write the three sets; the name of a synthetic image begins with what it is."""
    rng = np.random.default_rng(seed)
    people: dict[str, list[np.ndarray]] = defaultdict(list)
    for patient, pixels, _ in load(mri, source):
        people[patient].append(pixels)
    names = sorted(people)
    rng.shuffle(names)
    training, holdout = names[: int(0.45 * len(names))], names[int(0.45 * len(names)) :]
    shutil.rmtree(output, ignore_errors=True)

    def save(part: str, stem: str, pixels: np.ndarray) -> None:
        (output / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)).save(output / part / f"{stem}.png")

    for part, members in (("training", training), ("holdout", holdout)):
        for name in members:
            save(part, f"{name}__0", people[name][0])
    first = people[training[0]][0]
    squares = np.stack([resized(people[name][0], first.shape) for name in training])
    for k, name in enumerate(training[:COPIES]):
        for treatment, change in treatments(rng).items():
            save("synthetic", f"{treatment}__{name}", change(people[name][0]))
        if len(people[name]) > 1:
            save("synthetic", f"other image of the patient__{name}", people[name][1])
        nearest = np.argsort(((squares - squares[k]) ** 2).mean((1, 2)))
        for number in (3, 5, 10):
            save("synthetic", f"mean of {number}__{name}", squares[nearest[:number]].mean(0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mri", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--source", default="ds002748_t1:axial")
    options = parser.parse_args()
    make(options.mri, options.source, options.output)
    sets = {name: options.output / name for name in ("training", "synthetic", "holdout")}
    result = doppelscan.audit(**sets, output=options.output / "report", patient_pattern=r"^(.+?)__\d", self_test=False)
    kinds, right = defaultdict(Counter), Counter()
    for row in result.scores:
        what, patient = os.path.basename(row["image"]).removesuffix(".png").split("__")
        kinds[what][row["finding"] or "not flagged"] += 1
        right[what] += bool(row["finding"]) and row["match_patient"] == patient
    print(f"{options.source}\n\n| image | number | called | right patient |\n|---|---|---|---|")
    for what, count in kinds.items():
        told = ", ".join(f"{number} {kind}" for kind, number in count.most_common())
        print(f"| {what} | {sum(count.values())} | {told} | {right[what]} |")
    print(result.conclusion.reason)


if __name__ == "__main__":
    main()
