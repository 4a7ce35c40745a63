"""Blocks of rows in processes: the same results in the same order, whoever dies meanwhile."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan import workers
from doppelscan.errors import InputError, MissingPackageError
from doppelscan.workers import Workers
from made_tasks import Broken, Growing, Killed, Listed, Refused, Sums

ROWS = range(100)


@pytest.fixture(scope="module")
def sums() -> Sums:
    values = np.arange(3000, dtype=np.float64).reshape(100, 30)
    return Sums(values, torch.from_numpy(values[::-1].copy()), given={"of": [values, None]})


def expected(task: Sums) -> list[float]:
    return (task.array.sum(1) + task.tensor.numpy().sum(1)).tolist()


def test_processes_give_what_one_gives_in_order_and_share_the_arrays(sums):
    (alone,) = Workers().map(sums, ROWS, (one := []).append)
    assert alone[0] == expected(sums) and alone[1] == os.getpid() and sum(one) == 100
    parts = Workers(2).map(sums, ROWS, (two := []).append)
    assert [value for part in parts for value in part[0]] == expected(sums)
    assert sum(two) == 100 and len(parts) > 2
    assert os.getpid() not in {part[1] for part in parts}
    assert all(part[2] for part in parts), "a worker has a copy of the arrays"
    assert {part[3] for part in parts} == {1}


def test_no_file_of_a_task_is_left(sums, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    Workers(2).map(sums, ROWS)
    with pytest.raises(InputError):
        Workers(2).map(Refused(), ROWS)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_is_replaced_and_only_what_was_not_done_is_done_again(tmp_path):
    parts = Workers(2).map(Killed(tmp_path, row=60, times=2), ROWS, (told := []).append)
    assert [value for part in parts for value in part] == [row * row for row in ROWS] and sum(told) == 100
    assert len(list(tmp_path.glob("died-*"))) == 2
    assert (tmp_path / "done-0").read_text() == "x"


def test_a_worker_whose_memory_grows_goes_on():
    # Of a training set of 100,000 each block was done by a new process, which opened gigabytes first.
    places = Workers(2).map(Growing(), range(128 * 24))
    assert len(set(places)) == 2 and min(places.count(place) for place in set(places)) > 6


def test_a_block_that_kills_every_worker_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"'workers' parameter .* killed 3 times in a row") as told:
        Workers(2).map(Killed(tmp_path, row=99, times=100), ROWS)
    assert "\n" not in str(told.value)


def test_a_mistake_and_a_fault_come_back_as_they_are():
    with pytest.raises(InputError, match=r"^The 'x' parameter must be y\. Got z\.$"):
        Workers(2).map(Refused(), ROWS)
    with pytest.raises(KeyError, match="a bug"):
        Workers(2).map(Broken(), ROWS)


def test_what_no_process_can_be_sent_is_computed_in_this_one(sums):
    parts = Workers(2).map(Sums(sums.array, sums.tensor, given=threading.Lock()), ROWS)
    assert parts[0][0] == expected(sums) and {part[1] for part in parts} == {os.getpid()}


def test_a_machine_that_lacks_the_folder_of_the_command_is_told_in_one_line(sums, tmp_path, monkeypatch):
    """A machine of a cluster has the files of images on a shared folder, and not always that in which the command was given."""
    monkeypatch.setattr(workers.os, "getcwd", lambda: str(tmp_path / "missing"))
    with pytest.raises(
        InputError, match=r"must reach the folder in which the command is given\. Got .*missing, .*; give the command"
    ) as told:
        Workers(2).map(sums, ROWS)
    assert "\n" not in str(told.value)


def test_relative_paths_mean_the_same_to_a_process_that_was_started_elsewhere(tmp_path, monkeypatch):
    Workers(2).map(Listed(), ROWS)
    (tmp_path / "here").touch()
    monkeypatch.chdir(tmp_path)
    assert Workers(2).map(Listed(), ROWS)[0] == ["here"]


KILLED = """
import sys
from doppelscan.workers import Workers
sys.path.insert(0, sys.argv[1])
from made_tasks import Waiting
Workers(2).map(Waiting(sys.argv[2]), range(100))
"""


def test_a_killed_run_leaves_no_file_of_patients(tmp_path):
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    words = [sys.executable, "-c", KILLED, Path(__file__).parent, tmp_path / "began"]
    process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
    wait_until((tmp_path / "began").exists)
    assert list((tmp_path / "tmp").glob("doppelscan-*"))
    process.kill()
    process.wait()
    wait_until(lambda: not list((tmp_path / "tmp").glob("doppelscan-*")))


def wait_until(done, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("images", "count", "threads", "ray", "expected"),
    [
        (255, None, None, None, Workers(1, 8)),
        (256, None, None, None, Workers(8, 1)),
        (10, 4, None, None, Workers(4, 2)),
        (10, 16, None, None, Workers(16, 1)),
        (5000, None, 2, None, Workers(2, 1)),
        (5000, 1, 2, None, Workers(1, 2)),
        (10, None, None, "local", Workers(8, 1, "local")),
        (10, None, None, "head:6379", Workers(0, 1, "head:6379")),
        (5000, 2, None, "head:6379", Workers(2, 1, "head:6379")),
        (5000, 2, 8, "head:6379", Workers(2, 4, "head:6379")),
    ],
)
def test_processes_and_their_threads_are_no_more_than_processors_unless_asked_for(
    monkeypatch, images, count, threads, ray, expected
):
    monkeypatch.setattr(workers, "available_cpus", lambda: 8)
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: name)  # whether Ray is installed or not
    assert Workers.chosen(images, count, threads, ray) == expected


def test_a_summary_names_the_workers_and_no_address():
    assert str(Workers(2, 1)) == "2 processes of 1 threads"
    assert str(Workers(2, 1, "local")) == "Ray on this machine: 2 processes of 1 threads"
    assert (
        str(Workers(0, 1, "ray://head.ward.example:6379")) == "a Ray cluster: as many processes as it has processors of 1 threads"
    )


def test_a_missing_ray_is_told_with_the_extra_that_installs_it(monkeypatch, sums):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"\.\[ray\]"):
        Workers(2, ray="local").map(sums, ROWS)


def test_a_missing_ray_is_told_before_anything_is_embedded(monkeypatch):
    """An audit chooses its workers when it begins; Ray was asked for when the first set had been hashed."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"\.\[ray\]"):
        Workers.chosen(10, ray="local")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two workers of a cluster of this machine, for all tests of this file."""
    if importlib.util.find_spec("ray") is None:  # not imported yet: it reads its settings then
        pytest.skip('Ray is not installed: pip install ".[ray]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))  # of made_tasks
        yield
        importlib.import_module("ray").shutdown()


@pytest.mark.loopback
def test_a_cluster_gives_what_one_process_gives_in_order_and_listens_on_the_loopback(cluster, sums, capfd):
    parts = Workers(2, ray="local").map(sums, ROWS, (told := []).append)
    assert [value for part in parts for value in part[0]] == expected(sums) and sum(told) == 100
    assert os.getpid() not in {part[1] for part in parts} and {part[3] for part in parts} == {1}
    nodes = importlib.import_module("ray").nodes()
    assert {node["NodeManagerAddress"] for node in nodes} == {"127.0.0.1"}
    # Ray says of every actor of Ray Data that may be restarted that its arguments could be lost: they are held by this process.
    told = [line for stream in capfd.readouterr() for line in stream.splitlines()]
    assert [line for line in told if "issues/53727" not in line] == []


@pytest.mark.parametrize(("count", "threads", "blocks", "actors"), [(0, 1, 100, 100), (0, 4, 25 * 4, 25), (3, 1, 12, 3)])
def test_a_cluster_that_is_joined_is_used_whole_however_small_this_machine_is(monkeypatch, count, threads, blocks, actors):
    """What the driver's machine has said how many blocks there were, and so how many of a large cluster's processors had something to do."""
    asked = []

    def computed(chosen, packed, number):
        asked.append((number, workers._actors(chosen)))
        return iter((one, one) for one in range(number))

    cluster = type("Cluster", (), {"cluster_resources": staticmethod(lambda: {"CPU": 100.0})})
    monkeypatch.setattr(workers, "_connected", lambda address, processors: cluster)
    monkeypatch.setattr(workers, "_by_ray", computed)
    Workers(count, threads, "head:6379").map(Listed(), range(10_000))
    ((number, running),) = asked
    assert running == actors and number >= min(blocks, -(-10_000 // workers.MOST))


@pytest.mark.loopback
def test_a_worker_of_a_cluster_that_dies_is_replaced(cluster, tmp_path):
    parts = Workers(2, ray="local").map(Killed(tmp_path, row=60, times=1), ROWS)
    assert [value for part in parts for value in part] == [row * row for row in ROWS]
    assert len(list(tmp_path.glob("died-*"))) == 1


@pytest.mark.loopback
def test_a_mistake_and_a_fault_come_back_from_a_cluster(cluster):
    with pytest.raises(InputError, match=r"^The 'x' parameter must be y\. Got z\.$"):
        Workers(2, ray="local").map(Refused(), ROWS)
    with pytest.raises(RuntimeError, match="a bug"):
        Workers(2, ray="local").map(Broken(), ROWS)


@pytest.mark.loopback
def test_a_block_that_kills_every_worker_of_a_cluster_is_told_in_one_line(cluster, tmp_path):
    with pytest.raises(InputError, match="'ray' parameter must be a cluster") as told:
        Workers(2, ray="local").map(Killed(tmp_path, row=99, times=100), ROWS)
    assert "\n" not in str(told.value)
