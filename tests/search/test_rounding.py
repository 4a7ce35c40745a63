"""The same matches, neighbours and consensus whatever processor, number of threads or size of blocks rounds the products."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Kernels that every x86-64 processor with AVX2 runs; AVX-512 ones end a process where there is no AVX-512.
KERNELS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "Haswell": {"OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "1"},
    "Nehalem": {"OPENBLAS_CORETYPE": "Nehalem", "ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "1"},
    "Zen, no mkldnn, small blocks": {"OPENBLAS_CORETYPE": "Zen", "NO_MKLDNN": "1", "SMALL_BLOCKS": "1", "OMP_NUM_THREADS": "1"},
}
CPU = Path("/proc/cpuinfo")
if CPU.is_file() and "avx512f" in CPU.read_text():
    KERNELS["SkylakeX"] = {"OPENBLAS_CORETYPE": "SkylakeX", "OMP_NUM_THREADS": "1"}

PROGRAM = """
import json, os, sys
import numpy as np, torch
from doppelscan.memorization import nearest_rows
from doppelscan.search import CandidateSearch, patches

if os.environ.get("NO_MKLDNN"):
    torch.backends.mkldnn.enabled = False
if os.environ.get("SMALL_BLOCKS"):
    module = sys.modules[nearest_rows.__module__]
    module.REFERENCE_ROWS, module.SIMILARITIES = 13, 300
    patches.QUERIES, patches.REFERENCES = 5, 11
rng = np.random.default_rng(0)
# Every image is there three times, and every query is a symmetric one: nothing but ties, decided by the row and the pose.
training = {n: np.tile(rng.normal(size=(30, 37)).astype(np.float32), (3, 1)) for n in ("deepssim", "embedding", "layer3", "layer4")}
queries = {n: np.repeat(v[:24, None] + rng.normal(scale=0.5, size=(24, 1, 37)).astype(np.float32), 8, 1) for n, v in training.items()}
thumbnails = torch.from_numpy(rng.integers(0, 256, (30, 1, 64, 64), dtype=np.uint8))
search = CandidateSearch(candidates=8).fit(training, [str(i % 30) for i in range(90)], thumbnails=thumbnails.repeat(3, 1, 1, 1))
found = search.propose(queries, thumbnails[:24])
posed = nearest_rows(queries["embedding"], training["embedding"], 6)
print(json.dumps({
    "candidates": found.rows.tolist(), "poses": found.poses.tolist(), "neighbour": found.index.neighbour.tolist(),
    "consensus": found.index.consensus.tolist(), "match": found.index.match.tolist(), "pose": found.index.pose.tolist(),
    "patches": found.patches.rows.tolist(), "part": found.patches.part_row.tolist(), "mirrored": found.patches.part_mirrored.tolist(),
    "ungrouped": posed.rows.tolist(), "ungrouped poses": posed.poses.tolist(),
}))
"""


@pytest.fixture(scope="module")
def named():
    def run(settings):
        clean = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE")}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM], env={**clean, **settings}, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    return run, run(KERNELS["one thread"])


# Each is a process of its own; one of another number of threads stands for them all in `make test`.
OTHERS = [pytest.param(name, marks=[] if name == "two threads" else pytest.mark.slow) for name in KERNELS if name != "one thread"]


@pytest.mark.parametrize("kernel", OTHERS)
def test_no_match_hangs_on_a_rounding(named, kernel):
    run, expected = named
    assert run(KERNELS[kernel]) == expected


def test_the_rows_named_are_the_first_of_their_image(named):
    expected = named[1]
    assert all(row < 30 for rows in expected["candidates"] + expected["neighbour"] for row in rows)
    assert all(rows[:3] == [rows[0], rows[0] + 30, rows[0] + 60] for rows in expected["ungrouped"])
    assert set(expected["pose"]) == {0} and not any(expected["mirrored"])
