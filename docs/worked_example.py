"""Sets of the worked example in interpretation.md: ``python docs/worked_example.py FOLDER``; no person is in them.

The people are those of ``doppelscan sample`` (made from the MNI152 template). Training and holdout hold one slice of each; the synthetic
images are two copies, a blurred and noisy one, two halves set into other people, two blends, two slices 1 mm away from a training slice, two
means of the three training images that are most alike, and people of nowhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from doppelscan.images import plant_copy
from doppelscan.images.readers import encode_png
from doppelscan.images.sample import template_maps, template_patient
from scipy.ndimage import gaussian_filter

SLICE = 80
TRAINING, HOLDOUT, NOVEL = 30, 60, 16


def main(folder: Path) -> None:
    maps, rng = template_maps(), np.random.default_rng(0)
    children = np.random.SeedSequence(5).spawn(TRAINING + HOLDOUT + NOVEL)
    people = [template_patient(maps, np.random.default_rng(child), (SLICE, SLICE + 1)) for child in children]
    slices = [images[0] for images in people]
    training, novel = slices[:TRAINING], slices[TRAINING + HOLDOUT :]
    side = training[0].shape[1] // 2
    soft = gaussian_filter(plant_copy(training[8], "rotation 10", rng), 1.5)
    stack = np.stack(training)
    alike = [np.argsort(((stack - stack[i]) ** 2).mean((1, 2)))[:3] for i in (20, 24)]
    halves = [np.concatenate([training[i][:, :side], novel[i][:, side:]], 1) for i in (4, 5)]
    made = {
        "copy": [plant_copy(training[0], "flip, rotation, noise", rng), plant_copy(training[1], "crop 15 %", rng)],
        "soft": [soft + 0.03 * rng.standard_normal(soft.shape)],
        "half": halves,
        "blend": [0.6 * training[6] + 0.4 * training[12], 0.5 * training[7] + 0.5 * training[13]],
        "neighbour": [people[2][1], people[3][1]],
        "mean": [stack[three].mean(0) for three in alike],
        "novel": novel[6:],
    }
    sets = {
        "training": {f"train{i:03d}": image for i, image in enumerate(training)},
        "holdout": {f"other{i:03d}": image for i, image in enumerate(slices[TRAINING : TRAINING + HOLDOUT])},
        "synthetic": {f"{kind}{i:02d}": image for kind, images in made.items() for i, image in enumerate(images)},
    }
    for name, images in sets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem, image in images.items():
            (folder / name / f"{stem}.png").write_bytes(encode_png(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
