"""Train the same-patient network on the people that trained the encoder, and nobody else: minutes on a CPU.

``python tests/real/same_patient.py OUTPUT.safetensors SOURCE:FOLDER ...``, sources as of reidentification.py. Pairs are drawn as there: of each pair
of one person two of other people lie where the first does and two where the second does. The second image is shown as it is and with another contrast, blur and noise.
``--seed`` draws pairs, contrasts and the network's first weights.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from doppelscan.deepssim import ViewStrength, augment, file_sha256
from doppelscan.images import unit_float
from doppelscan.verify.same_patient import Framing, SamePatientNetwork
from reid_pairs import Shown, load_slices, load_volumes, people_of, same_patient_pairs, thumbnails
from safetensors.torch import save_file

# Millimetres between two slices of one person, where that is known.
APART = {"ds002748_t1": (1.0, 10.0, 20.0, 30.0), "volumes": (4.5, 9.0, 18.0, 27.0)}
PITCH, DRAWS, EACH = 4.5, 2, 3
# Where a person lies in the scan is what is asked for: only contrast, blur and noise change.
STRENGTH = ViewStrength(geometry=0.0, elastic=0.0, occlusion=0.0)
BATCH, LEARNING_RATE, DECAY = 1024, 5e-3, 3e-2


@dataclass(frozen=True)
class Compared:
    """Pairs of one source.

    Attributes:
        likenesses: float32 [N, 13].
        one_person: bool [N].
    """

    likenesses: np.ndarray
    one_person: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Shown], apart: Sequence[float], seed: int) -> Compared:
        """Pairs of ``images``, each with the second as it is and changed."""
        pairs = [pair for draw in range(DRAWS) for pair in same_patient_pairs(images, apart, EACH, seed + draw)]
        first, second = np.array([p.reference for p in pairs]), np.array([p.query for p in pairs])
        pixels = thumbnails([one.pixels for one in images])
        generator = torch.Generator().manual_seed(seed)
        changed = torch.cat([augment(unit_float(part), STRENGTH, generator) for part in pixels.split(256)])
        plain = Framing.of(pixels)
        found = [plain[first].likenesses(shown[second]) for shown in (plain, Framing.of(changed))]
        return cls(np.concatenate(found), np.tile([p.positive for p in pairs], 2))

    @property
    def weights(self) -> np.ndarray:
        """float64 [N]: pairs of one person and of two count the same, and every source too."""
        share = self.one_person.mean()
        return np.where(self.one_person, 0.5 / share, 0.5 / (1 - share)) / len(self.one_person)


def train(sources: Sequence[Compared], steps: int = 800, seed: int = 0) -> SamePatientNetwork:
    """A network that was shown pairs of the sources."""
    torch.manual_seed(seed)
    likenesses = torch.from_numpy(np.concatenate([one.likenesses for one in sources]))
    truth = torch.from_numpy(np.concatenate([one.one_person for one in sources])).float()
    weights = torch.from_numpy(np.concatenate([one.weights for one in sources])).float()
    weights = weights / weights.mean()
    network = SamePatientNetwork().standardise(likenesses)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        drawn = torch.randint(len(truth), (BATCH,))
        loss = F.binary_cross_entropy_with_logits(network(likenesses[drawn]), truth[drawn], weights[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def load(asked: str) -> tuple[list[Shown], Sequence[float]]:
    """The training part of a source, and how far apart its pairs are."""
    name, _, folder = asked.partition(":")
    source, _, plane = name.partition("/")
    people = people_of(Path(folder), source, plane, True)
    apart = APART.get(source, ())
    if source == "volumes":
        return load_volumes(Path(folder), plane, PITCH, people=people), apart
    return load_slices(Path(folder), source, plane, people), apart


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, sources = time.perf_counter(), []
    for asked in options.sources:
        images, apart = load(asked)
        sources.append(Compared.of(images, apart, options.seed))
        print(
            f"{asked}: {len(images)} images of {len({o.patient for o in images})} people, {len(sources[-1].one_person)} pairs",
            flush=True,
        )
    network = train(sources, options.steps, options.seed)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), options.output)
    print(f"{options.output}: {options.steps} steps, {time.perf_counter() - start:.0f} s, sha256 {file_sha256(options.output)}")


if __name__ == "__main__":
    main()
