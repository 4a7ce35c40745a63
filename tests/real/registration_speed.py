"""Milliseconds of registration on one thread: ``python tests/real/registration_speed.py`` on generated patients."""

from __future__ import annotations

import time

import numpy as np
import torch
from doppelscan.images import SquareThumbnaild, align, generate_cohort, plant_copy, unit_float
from doppelscan.search import PatchSearch
from doppelscan.verify import Registration
from doppelscan.verify.registration import filled_border

CANDIDATES, QUERIES = 20, 40


def main() -> None:
    torch.set_num_threads(1)
    images = generate_cohort(QUERIES, 1, 256, 0)[0][:, 0].numpy().astype(np.float32) / 255
    make = SquareThumbnaild("image", 128)
    training = torch.stack([torch.from_numpy(make({"image": i[None]})["thumbnail"]) for i in images])
    rng = np.random.default_rng(0)
    queries = [torch.from_numpy(make({"image": plant_copy(i, "rotation 10", rng)[None]})["thumbnail"]) for i in images]
    descriptor = PatchSearch().fit(training).descriptor
    poses = np.tile([0, 4, 2], (CANDIDATES, 1))
    for name, narrowed in (("all 8 poses", None), ("3 poses of retrieval", poses)):
        seconds = {"coarse": 0.0, "whole": 0.0}
        for refined in (2, 3):
            registration = Registration(refined=refined)
            for k, query in enumerate(queries):
                candidates = training[[(k + i) % QUERIES for i in range(CANDIDATES)]]
                start = time.perf_counter()
                whole, filled = unit_float(query[None]), filled_border(torch.zeros(1, 1, 64, 64) + 0.5)
                registration.coarse(whole, unit_float(candidates), filled, None, narrowed)
                middle = time.perf_counter()
                registration(query, candidates, poses=narrowed, descriptor=descriptor)
                seconds["coarse"] += middle - start
                seconds["whole"] += time.perf_counter() - middle
            coarse, total = (1e3 * seconds[key] / QUERIES for key in ("coarse", "whole"))
            print(
                f"{name}, best {refined}: coarse {coarse / CANDIDATES:.2f} ms a candidate, "
                f"screening, refinement and measures {total - coarse:.1f} ms an image, together {total:.1f} ms"
            )
            seconds = {"coarse": 0.0, "whole": 0.0}
    start, two = time.perf_counter(), unit_float(training[:2])
    for query in queries:
        align(unit_float(query[None]), two, torch.eye(2, 3).expand(2, 2, 3), torch.ones(1, 1, 128, 128), 6)
    print(f"refinement at full size alone, best two: {1e3 * (time.perf_counter() - start) / QUERIES:.1f} ms an image")


if __name__ == "__main__":
    main()
