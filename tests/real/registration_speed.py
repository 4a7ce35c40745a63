"""Milliseconds of registration: ``OMP_NUM_THREADS=1 python tests/real/registration_speed.py [AT_ONCE ...]`` on generated patients."""

from __future__ import annotations

import sys
import time

import numpy as np
import torch
from doppelscan.images import SquareThumbnaild, align, generate_cohort, plant_copy, unit_float
from doppelscan.search import PatchSearch
from doppelscan.verify import Registration

CANDIDATES, QUERIES = 20, 40


def main() -> None:
    images = generate_cohort(QUERIES, 1, 256, 0)[0][:, 0].numpy().astype(np.float32) / 255
    make = SquareThumbnaild("image", 128)
    training = torch.stack([torch.from_numpy(make({"image": i[None]})["thumbnail"]) for i in images])
    rng = np.random.default_rng(0)
    queries = torch.stack([torch.from_numpy(make({"image": plant_copy(i, "rotation 10", rng)[None]})["thumbnail"]) for i in images])
    descriptor = PatchSearch().fit(training).descriptor
    candidates = torch.stack([training[[(k + i) % QUERIES for i in range(CANDIDATES)]] for k in range(QUERIES)])
    poses = np.tile([0, 4, 2], (QUERIES, CANDIDATES, 1))
    for name, narrowed in (("all 8 poses", None), ("3 poses of retrieval", poses)):
        for at_once in map(int, sys.argv[1:] or ["1", "4", "8", "16"]):
            registration = Registration(at_once=at_once)
            start = time.perf_counter()
            registration(queries, candidates, poses=narrowed, descriptor=descriptor)
            print(f"{name}, {at_once} at once: {1e3 * (time.perf_counter() - start) / QUERIES:.1f} ms an image", flush=True)
    start, two = time.perf_counter(), unit_float(training[:2])
    for query in queries:
        align(unit_float(query[None]), two, torch.eye(2, 3).expand(2, 2, 3), torch.ones(1, 1, 128, 128), 6)
    print(f"refinement at full size alone, best two: {1e3 * (time.perf_counter() - start) / QUERIES:.1f} ms an image")


if __name__ == "__main__":
    main()
