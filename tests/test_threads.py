"""Threads: as many as are granted, none that spin, and a caller's number as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from doppelscan import threads
from doppelscan.threads import available_cpus, team, wait_passively


def lie_in(monkeypatch, groups: str) -> None:
    """Make this process lie in control ``groups``, on a machine of 16 processors."""
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a: groups if self == Path("/proc/self/cgroup") else read(self, *a))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A control group of version 2 in which this process is made to lie, two levels deep."""
    lie_in(monkeypatch, "0::/batch/job\n")
    (tmp_path / "batch" / "job").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("above", "own", "cpus"),
    [
        ("max 100000", "300000 100000", 3),
        ("250000 100000", "max 100000", 2),
        ("400000 100000", "50000 100000", 1),
        ("max 100000", "max 100000", 16),
    ],
)
def test_the_least_quota_of_the_control_groups_is_respected(group, above, own, cpus):
    (group / "batch" / "cpu.max").write_text(above)
    (group / "batch" / "job" / "cpu.max").write_text(own)
    assert available_cpus(group) == cpus


def test_a_quota_of_version_1_is_respected(tmp_path, monkeypatch):
    lie_in(monkeypatch, "4:cpu,cpuacct:/job\n")
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "job" / "cpu.cfs_quota_us").write_text("600000")
    (tmp_path / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000")
    assert available_cpus(tmp_path) == 6


def test_without_control_groups_the_affinity_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert available_cpus(tmp_path / "nothing") == 3


def test_the_callers_number_of_threads_is_as_it_was_also_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="inside"), team(1):
        assert torch.get_num_threads() == 1
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before
    with team(before + 1) as many:
        assert torch.get_num_threads() == many == before + 1
    assert torch.get_num_threads() == before


def test_the_number_of_the_environment_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(threads, "available_cpus", lambda: 1)
    before = torch.get_num_threads()
    with team() as many:
        assert many == before


def test_waiting_is_told_before_pytorch_is_loaded_and_not_against_the_environment(monkeypatch):
    code = "import os, doppelscan.cli; print(os.environ.get('OMP_WAIT_POLICY'))"
    for given, expected in ((None, "passive"), ("active", "active")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | (
            {"OMP_WAIT_POLICY": given} if given else {}
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert done.stdout.strip() == expected, done.stderr
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_passively()
    assert "OMP_WAIT_POLICY" not in os.environ, "PyTorch is loaded here: it would change nothing but the processes that are started"


WORK = """
import doppelscan, time, torch
torch.set_num_threads(4)
images, start = torch.rand(8, 8, 64, 64), time.process_time()
for _ in range(300): torch.nn.functional.avg_pool2d(images, 3, 1, 1).sum()
print(time.process_time() - start)
"""


@pytest.mark.slow
def test_more_threads_than_processors_do_not_spin():
    """Four threads that spin on two processors burn processor time for nothing: passive waiting needs no more than twice one thread's."""
    start = time.process_time()
    images = torch.rand(8, 8, 64, 64)
    with team(1):
        for _ in range(300):
            torch.nn.functional.avg_pool2d(images, 3, 1, 1).sum()
    alone = time.process_time() - start
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, timeout=120)
    assert float(done.stdout) < 2 * alone + 0.5, done.stderr
