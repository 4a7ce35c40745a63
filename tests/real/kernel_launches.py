"""How many operations a thousand images take, as a GPU would launch them: ``python tests/real/kernel_launches.py [AT_ONCE ...]``, on a CPU.

PyTorch's profiler counts the operations that touch data; each is one launch or more on a GPU, of about 5 microseconds, however little data it has. Where the
launches of an image take longer than its arithmetic, a GPU waits for Python.
"""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import torch
from doppelscan.deepssim import DeepSSIMEncoder, foreground_views, inferer
from doppelscan.images import generate_cohort, unit_float
from doppelscan.search import PatchSearch
from doppelscan.verify import Registration
from doppelscan.workflows import PoseInferer
from torch.profiler import ProfilerActivity, profile

CANDIDATES, QUERIES = 20, 64
# Operations that only describe memory.
VIEWS = {"view", "reshape", "as_strided", "expand", "permute", "transpose", "t", "slice", "select", "unsqueeze", "squeeze", "unbind", "detach",
         "alias", "empty", "empty_like", "empty_strided", "unflatten", "flatten", "unfold", "item", "_local_scalar_dense", "resize_", "lift_fresh",
         "_reshape_alias", "view_as_real", "view_as_complex", "resolve_conj", "resolve_neg", "is_nonzero", "result_type", "movedim", "split", "chunk",
         "_unsafe_view", "conj", "_conj", "to", "contiguous", "numpy_T", "set_", "from_numpy", "detach_", "diagonal", "unsafe_split", "tensor_split"}  # fmt: skip


def launches(what) -> Counter:
    """Name -> count of the innermost operations."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        what()
    counts: Counter = Counter()
    for event in seen.events():
        inner = any(child.name.startswith("aten::") and child.name[6:] not in VIEWS for child in event.cpu_children)
        if event.name.startswith("aten::") and event.name[6:] not in VIEWS and not inner:
            counts[event.name[6:]] += 1
    return counts


def main() -> None:
    images = torch.cat([generate_cohort(QUERIES, 2, 128, seed)[0] for seed in range(2)])
    training, queries = images[: 2 * QUERIES], images[2 * QUERIES : 3 * QUERIES]
    search = PatchSearch().fit(training)
    rows = np.arange(QUERIES)[:, None] + np.arange(CANDIDATES)
    poses = np.tile([0, 4, 2], (QUERIES, CANDIDATES, 1))
    network = DeepSSIMEncoder().eval()
    inferer.CPU_BATCH = 512  # a GPU is given all at once
    for at_once in map(int, sys.argv[1:] or ["8", "64"]):
        stages = {
            "embedding in 8 views": lambda: PoseInferer(8)(foreground_views(unit_float(queries), 128), network),
            "search by local structure": lambda: search.search(queries),
        }
        for name, promising in (("registration of strangers", 2.0), ("registration of copies", -1.0)):
            registration = Registration(at_once=at_once, promising=promising)
            stages[name] = lambda own=registration: own(queries, training[rows], poses=poses, descriptor=search.descriptor)
        for name, what in stages.items():
            with torch.no_grad():
                counts = launches(what)
            a_thousand = sum(counts.values()) * 1000 / QUERIES
            print(
                f"{at_once} at once, {name}: {a_thousand:,.0f} launches a thousand images, {5e-3 * a_thousand:,.0f} ms; most: "
                + ", ".join(f"{one} {n}" for one, n in counts.most_common(4))
            )


if __name__ == "__main__":
    main()
