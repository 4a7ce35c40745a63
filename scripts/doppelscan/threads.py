"""One team of threads, of as many as this process may use, that waits without spinning.

PyTorch, FAISS and scikit-learn each bring an OpenMP of their own, whose threads spin while they wait for one another. Beside any other
busy process they then spend their share of the processor on waiting. OpenMP reads how to wait when it is loaded, so it is told when
doppelscan is imported before PyTorch, as the command does; ``OMP_WAIT_POLICY=passive`` in the environment says the same.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["available_cpus", "team", "wait_passively"]

CGROUP = Path("/sys/fs/cgroup")


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait, unless the environment says otherwise or PyTorch is loaded already."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Processors that this process may use: its affinity, and the quota of its control group (containers, batch systems), at least 1.

    Args:
        cgroup: where control groups are mounted.
    """
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(own, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Processors that the control group grants, the least of it and of those above it; infinite without one."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    paths = {line.split(":", 2)[1]: line.split(":", 2)[2].lstrip("/") for line in lines if line.count(":") >= 2}
    unified = cgroup / paths.get("", "")
    found = [_share(place / "cpu.max") for place in (unified, *unified.parents) if place.is_relative_to(cgroup)]
    for names, path in paths.items():
        if "cpu" in names.split(","):  # version 1
            place = cgroup / "cpu" / path
            found += [_share(one / "cpu.cfs_quota_us", one / "cpu.cfs_period_us") for one in (place, cgroup / "cpu")]
    return min(found, default=math.inf)


def _share(*files: Path) -> float:
    """Quota over period; infinite where there is none."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # "max 100000"
        return math.inf


@contextmanager
def team(threads: int | None = None) -> Iterator[int]:
    """Compute with ``threads`` threads, or as many as :func:`available_cpus`, inside; outside all is as it was, also after an error.

    A number that the environment gives (``OMP_NUM_THREADS``) is kept where ``threads`` is None.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    wanted = threads or (before if "OMP_NUM_THREADS" in os.environ else min(before, available_cpus()))
    torch.set_num_threads(wanted)
    try:
        with threadpool_limits(wanted):
            yield wanted
    finally:
        torch.set_num_threads(before)
