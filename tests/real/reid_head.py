"""Train the same-patient head on the people that trained the encoder, and nobody else: some 10 ms a step on a CPU.

``python tests/real/reid_head.py OUTPUT.safetensors SOURCE:FOLDER ... [--steps 1000]``, sources as of reidentification.py. A batch is one image each of many
people at one place of the anatomy, and another of each at another place that is the same for all: what is told apart is people, not positions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from doppelscan.deepssim import DeepSSIMEncoder, ViewStrength, augment, file_sha256, foreground_views, load_encoder
from doppelscan.deepssim.same_patient import PATIENT_OUTPUTS, SamePatientHead, patient_loss
from doppelscan.images import unit_float
from doppelscan.locations import encoder_weights
from reid_pairs import SMALL, Shown, load_slices, load_volumes, people_of, thumbnails
from safetensors.torch import save_file

PEOPLE, PITCH = 24, 4.5
NEAR, FAR = 1.0, 35.0
# Milder than a copy's: it has to know the person through a scanner, not through a crop.
STRENGTH = ViewStrength(occlusion=0.0, rotation=10.0, scale=1.1, shift=0.05)
BATCH = 32


@dataclass(frozen=True)
class Cohort:
    """Images of one source and plane.

    Attributes:
        features: float32 [2, N, D], as they are and as augmented views.
        positions: float [N], mm; NaN where nothing says it.
        people: the rows of each person who has two images or more.
        alike: int [P, P], of each person the others from the most alike at 16 pixels on, the person first.
    """

    features: torch.Tensor
    positions: np.ndarray
    people: list[np.ndarray]
    alike: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Shown], features: torch.Tensor) -> Cohort:
        names = np.unique([one.patient for one in images], return_inverse=True)[1].reshape(-1)
        people = [rows for rows in (np.flatnonzero(names == k) for k in range(names.max() + 1)) if len(rows) > 1]
        small = thumbnails([images[rows[0]].pixels for rows in people], SMALL).float().flatten(1)
        small = torch.nn.functional.normalize(small - small.mean(1, keepdim=True), dim=1)
        alike = np.argsort(-(small @ small.T).numpy(), 1, kind="stable")
        return cls(features, np.array([one.position for one in images]), people, alike)

    def draw(self, rng: np.random.Generator, count: int = PEOPLE) -> tuple[np.ndarray, np.ndarray]:
        """Rows of two images of each of ``count`` people, the first and the second all near one place."""
        count = min(count, len(self.people))
        if np.isnan(self.positions).any():
            near = self.alike[rng.integers(len(self.people))][: 3 * count]
            pairs = [rng.permutation(self.people[k])[:2] for k in rng.permutation(near)[:count]]
            return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
        places = self.positions[np.concatenate(self.people)]
        place = rng.uniform(*np.quantile(places, (0.05, 0.95)))
        away = float(np.exp(rng.uniform(np.log(NEAR), np.log(FAR)))) * rng.choice([-1, 1])
        first, second = [], []
        for k in rng.permutation(len(self.people))[:count]:
            rows = self.people[k]
            one = int(rows[np.abs(self.positions[rows] - place).argmin()])
            others = rows[rows != one]
            first.append(one)
            second.append(int(others[np.abs(self.positions[others] - place - away).argmin()]))
        return np.array(first), np.array(second)


@torch.no_grad()
def features_of(images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Of uint8 thumbnails [N, 1, S, S], as they are and as one augmented view: float32 [2, N, D]."""
    network = load_encoder(DeepSSIMEncoder(outputs=PATIENT_OUTPUTS), encoder_weights()).to(memory_format=torch.channels_last)
    generator, found = torch.Generator().manual_seed(seed), []
    for part in images.split(BATCH):
        plain = unit_float(part)
        views = [foreground_views(one, 128) for one in (plain, augment(plain, STRENGTH, generator))]
        found.append(torch.stack([network(view.contiguous(memory_format=torch.channels_last)) for view in views]))
    return torch.cat(found, 1)


def train(cohorts: Sequence[Cohort], steps: int = 1000, learning_rate: float = 1e-3, seed: int = 0) -> SamePatientHead:
    """A head that was shown batches of the cohorts, each as often as it has people and images."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    head = SamePatientHead(cohorts[0].features.shape[-1]).standardise(torch.cat([one.features[0] for one in cohorts]))
    optimizer = torch.optim.AdamW(head.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    share = np.sqrt([sum(map(len, one.people)) for one in cohorts])
    for _ in range(steps):
        cohort = cohorts[rng.choice(len(cohorts), p=share / share.sum())]
        first, second = (head.project(cohort.features[rng.integers(2, size=len(rows)), rows]) for rows in cohort.draw(rng))
        loss = patient_loss(
            *(head.compare(one[:, None], two[None]) for one, two in ((first, second), (first, first), (second, second)))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def load(asked: str) -> list[Shown]:
    """The training part of a source."""
    name, _, folder = asked.partition(":")
    source, _, plane = name.partition("/")
    people = people_of(Path(folder), source, plane, True)
    if source == "volumes":
        return load_volumes(Path(folder), plane, PITCH, (0.25, 0.8), people)
    return load_slices(Path(folder), source, plane, people)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cohorts = []
    for asked in options.sources:
        images = load(asked)
        cohorts.append(Cohort.of(images, features_of(thumbnails([one.pixels for one in images]), options.seed)))
        print(f"{asked}: {len(images)} images of {len(cohorts[-1].people)} people", flush=True)
    start = time.perf_counter()
    head = train(cohorts, options.steps, seed=options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(head.state_dict(), options.output)
    print(f"{options.output}: {options.steps} steps in {time.perf_counter() - start:.0f} s, sha256 {file_sha256(options.output)}")


if __name__ == "__main__":
    main()
