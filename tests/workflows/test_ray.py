"""An audit by workers of a Ray cluster on this machine: killed workers and a killed driver change no number, and nothing is computed twice."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_files import save_png

if importlib.util.find_spec("ray") is None:
    pytest.skip('Ray is not installed: pip install ".[ray]"', allow_module_level=True)
psutil = pytest.importorskip("psutil")

AUDIT = """
import json, sys
import doppelscan
doppelscan.audit(**json.loads(sys.argv[1]), rotations=(0,), self_test=False, device="cpu")
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory, cohort) -> dict[str, str]:
    """Ten training images and 49 synthetic ones, the last a flipped copy: four blocks of at most 16."""
    folder = tmp_path_factory.mktemp("sets")
    for i in range(10):
        save_png(folder / "training" / f"p{i:02d}.png", cohort[i])
    for i in range(10, 58):
        save_png(folder / "synthetic" / f"novel{i}.png", cohort[i])
    save_png(folder / "synthetic" / "copy.png", cohort[3][:, ::-1])
    return {name: str(folder / name) for name in ("training", "synthetic")}


def started(sets: dict[str, str], output: Path, **settings: object) -> subprocess.Popen:
    given = json.dumps({**sets, "output": str(output), **settings})
    return subprocess.Popen([sys.executable, "-c", AUDIT, given], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen) -> str:
    """What it told; the table is written when it ends well."""
    told = "".join(process.communicate(timeout=1800))
    assert process.returncode == 0, told[-3000:]
    return told


@pytest.fixture(scope="module")
def by_one_process(sets, tmp_path_factory) -> list[dict[str, str]]:
    output = tmp_path_factory.mktemp("one") / "report"
    ended(started(sets, output, workers=1))
    return table(output)


def table(output: Path) -> list[dict[str, str]]:
    with open(output / "scores.csv", newline="") as file:
        return list(csv.DictReader(file))


def same(first: list[dict[str, str]], second: list[dict[str, str]]) -> bool:
    assert [row.keys() for row in first] == [row.keys() for row in second] and len(first) == 49
    for one, other in zip(first, second, strict=True):
        for name in one:
            try:
                np.testing.assert_allclose(float(one[name]), float(other[name]), atol=1e-5, rtol=0, err_msg=name)
            except ValueError:
                assert one[name] == other[name], name
    return True


def wait_until(happened: Callable[[], object], process: subprocess.Popen, seconds: float = 1800) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "".join(process.communicate())[-3000:]
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"nothing happened: {process.communicate()[1][-3000:]}")
        time.sleep(0.02)


def shards(output: Path) -> list[Path]:
    return sorted((output / "store" / "verified").glob("*.parquet"))


def keys(output: Path) -> Counter:
    return Counter(key for path in shards(output) for key in pq.read_table(path, columns=["key"])["key"].to_pylist())


def actors(process: subprocess.Popen) -> list[psutil.Process]:
    """Workers of Ray Data, children of the audit's own cluster."""
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "MapWorker" in " ".join(one.cmdline()):
                found.append(one)
    return found


def test_a_worker_that_is_killed_in_the_middle_changes_no_number_and_ray_is_quiet(sets, by_one_process, tmp_path):
    process = started(sets, tmp_path / "report", workers=2, ray="local")
    wait_until(lambda: shards(tmp_path / "report"), process)
    # Actors come and go with the stages: the first one that is met while pairs are registered.
    wait_until(lambda: actors(process), process)
    os.kill(actors(process)[-1].pid, signal.SIGKILL)
    told = ended(process)
    assert same(table(tmp_path / "report"), by_one_process)
    assert not [
        line for line in told.splitlines() if "ray" in line.lower() and "ray-" not in line and "issues/53727" not in line
    ], told


def test_a_killed_driver_goes_on_where_it_was(sets, by_one_process, tmp_path):
    process = started(sets, tmp_path / "report", workers=2, ray="local")
    wait_until(lambda: shards(tmp_path / "report"), process)
    cluster = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    psutil.wait_procs(cluster, timeout=60)
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path / "report")}
    ended(started(sets, tmp_path / "report", workers=2, ray="local"))
    assert same(table(tmp_path / "report"), by_one_process)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(keys(tmp_path / "report").values()) == {1}, "a pair was registered twice"
