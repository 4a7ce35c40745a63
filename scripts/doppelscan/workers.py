"""One task over blocks of rows: in this process, in processes of this machine, or on a Ray cluster. Whoever computes, the results are the same.

A task is a callable record that holds what was fitted. It is written once, its arrays beside it; each worker opens it once and maps the arrays,
so that all workers of a machine share one copy. A worker that dies is replaced and its block is done again.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from doppelscan.errors import DoppelscanError, InputError, MissingPackageError
from doppelscan.threads import available_cpus

__all__ = ["THIS_PROCESS", "Task", "Workers"]

Result = TypeVar("Result", covariant=True)
# A process needs some seconds to import what it computes with: of fewer images it gains nothing.
FEWEST = 256
# Rows of a block: of more, memory grows; of fewer, what is done once a block weighs too much. So many blocks a worker, that they end together.
MOST, LEAST, BLOCKS_OF_A_WORKER = 128, 16, 4
# Times in a row that workers may die before a block is finished.
DEATHS = 3
IDLE = 300.0  # seconds that a process waits for the next stage of an audit
ALIGNED = 64  # bytes, as processors read them
NO_RAY = '--ray needs Ray: pip install ".[ray]"'
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Task(Protocol[Result]):
    """What is done with a block of rows; it tells ``advance`` how many of them are done, and holds nothing that cannot be pickled."""

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any] = ...) -> Result: ...


@dataclass(frozen=True)
class Workers:
    """Who computes.

    Attributes:
        count: processes; 1 computes in this one, 0 of a cluster takes as many as its processors allow.
        threads: of each process.
        ray: address of a Ray cluster, or ``local`` for one on this machine; None is none.
        least: rows of a block.
    """

    count: int = 1
    threads: int = 1
    ray: str | None = None
    least: int = LEAST

    @classmethod
    def chosen(cls, images: int, count: int | None = None, threads: int | None = None, ray: str | None = None) -> Workers:
        """Workers for an audit of ``images`` images.

        Args:
            images: that are to be scored.
            count: processes; None takes as many as this process may use processors, or this process alone for fewer than 256 images; of a cluster that
                is joined as many as that has.
            threads: that compute, of all processes together; None is as many as processors. What this machine has says nothing of a cluster: there each
                process has one thread where none are named.
            ray: see :class:`Workers`.

        Raises:
            MissingPackageError: Ray is asked for and not installed.
        """
        if ray is not None and importlib.util.find_spec("ray") is None:  # before anything is computed that it would have shared
            raise MissingPackageError(NO_RAY)
        if ray not in (None, "local"):
            return cls(count or 0, max(1, (threads or 1) // (count or 1)), ray)
        cpus = threads or available_cpus()
        processes = count or (cpus if images >= FEWEST or ray else 1)
        return cls(processes, max(1, cpus // processes), ray)

    @property
    def alone(self) -> bool:
        """This process computes everything."""
        return self.count == 1 and self.ray is None

    def __str__(self) -> str:
        """As a summary names them; the address of a cluster is left out, as a redacted summary must not hold it."""
        if self.ray is not None:
            count = f"{self.count} processes" if self.count else "as many processes as it has processors"
            where = "Ray on this machine" if self.ray == "local" else "a Ray cluster"
            return f"{where}: {count} of {self.threads} threads"
        return f"{self.count} processes of {self.threads} threads"

    def map(self, task: Task[Result], rows: Sequence[int], advance: Callable[[int], Any] = lambda count: None) -> list[Result]:
        """``task`` over blocks of ``rows``.

        Args:
            task: what is done with a block.
            rows: all of them, in order.
            advance: called with how many more rows are done.

        Returns:
            one result a block, in order of the rows.

        Raises:
            InputError: workers died again and again, or the cluster cannot be reached or lacks doppelscan.
            MissingPackageError: Ray is not installed.
            DoppelscanError: what the task raises of that kind.
        """
        if self.alone or (len(rows) <= self.least and self.ray is None):
            return [task(block, advance) for block in _blocks(rows, MOST)]
        processes = self.count if self.ray is None else _actors(self)
        blocks = _blocks(rows, min(MOST, max(self.least, -(-len(rows) // (BLOCKS_OF_A_WORKER * processes)))))
        if not blocks:
            return []
        try:
            packed = _packed((task, blocks, os.getcwd()))
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            if self.ray is not None:
                raise InputError(
                    f"The 'ray' parameter must come with what can be sent to a cluster. Got {' '.join(str(error).split())[:150]}; leave --ray out."
                ) from error
            return [task(block, advance) for block in _blocks(rows, MOST)]  # a session of onnxruntime, TorchScript
        found: dict[int, Result] = {}
        for number, result in (_by_ray if self.ray is not None else _by_processes)(self, packed, len(blocks)):
            found[number] = result
            advance(len(blocks[number]))
        return [found[number] for number in range(len(blocks))]


THIS_PROCESS = Workers()


def _blocks(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


@dataclass(frozen=True)
class _Packed:
    """A pickle and its arrays apart from it, so that they can be mapped instead of copied."""

    pickled: bytes
    arrays: list[Any]

    def open(self) -> _OpenTask:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # a task only reads
            task, blocks, folder = pickle.loads(self.pickled, buffers=self.arrays)
        return _OpenTask(task, blocks, folder)


@dataclass(frozen=True)
class _OpenTask:
    task: Task
    blocks: list[list[int]]
    folder: str

    def __call__(self, number: int) -> Any:
        try:
            os.chdir(self.folder)  # paths of images may be relative, and a worker that waits was started elsewhere
        except OSError as error:
            raise InputError(
                f"Every machine that computes must reach the folder in which the command is given. Got {self.folder}, which this machine cannot enter "
                f"({error.strerror}); give the command in a folder that all of them share, or leave --ray out."
            ) from error
        return self.task(self.blocks[number], lambda count: None)


class _Pickler(pickle.Pickler):
    """Leaves arrays to the buffers; tensors as arrays, since PyTorch copies them into the pickle."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is torch.Tensor and value.device.type == "cpu" and value.is_contiguous() and not value.requires_grad:
            try:
                return torch.from_numpy, (value.numpy(),)
            except TypeError:  # numpy knows no bfloat16
                return NotImplemented
        return NotImplemented


def _packed(value: Any) -> _Packed:
    buffers: list[pickle.PickleBuffer] = []
    written = io.BytesIO()
    _Pickler(written, 5, buffer_callback=buffers.append).dump(value)
    return _Packed(written.getvalue(), [buffer.raw() for buffer in buffers])


# Processes of this machine.


def _by_processes(workers: Workers, packed: _Packed, count: int) -> Iterator[tuple[int, Any]]:
    """Block number and result, as blocks are finished."""
    from joblib.externals import loky

    environment = {name: str(workers.threads) for name in LIBRARIES}
    missing, deaths = set(range(count)), 0
    with _written(packed) as place:
        while missing:
            pool = loky.get_reusable_executor(
                workers.count, timeout=IDLE, initializer=_begin, initargs=(workers.threads, os.getpid()), env=environment
            )
            futures: dict[Future, int] = {}
            before = len(missing)
            try:
                with suppress(BrokenProcessPool):  # a worker died before all were given
                    for number in sorted(missing):
                        futures[pool.submit(_do, place, number)] = number
                for future in as_completed(futures):
                    if _died(future):
                        continue
                    yield futures[future], future.result()
                    missing.discard(futures[future])
            except BaseException as error:
                if not isinstance(error, Exception):  # interrupted: nobody waits for what is being computed
                    pool.shutdown(wait=False, kill_workers=True)  # it ends its futures itself, and stumbles over cancelled ones
                    raise
                for future in futures:
                    future.cancel()
                raise
            deaths = 0 if len(missing) < before else deaths + 1
            if missing and deaths >= DEATHS:
                raise InputError(
                    f"The 'workers' parameter must leave each process enough memory. Got {workers.count}, and processes were killed {deaths} times "
                    "in a row before a block was finished; pass fewer --workers, the store keeps what is done."
                )


def _died(future: Future) -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


@contextmanager
def _written(packed: _Packed) -> Iterator[str]:
    """A folder that holds ``packed`` in two files; it is removed, also by joblib's tracker when this process is killed."""
    from joblib.externals.loky.backend import resource_tracker

    with tempfile.TemporaryDirectory(prefix="doppelscan-", ignore_cleanup_errors=True) as folder:
        resource_tracker.register(folder, "folder")
        try:
            ends, end = [], 0
            with open(Path(folder, "arrays"), "wb") as file:
                for array in packed.arrays:
                    file.write(bytes(-end % ALIGNED))
                    start = end + -end % ALIGNED
                    file.write(array)
                    end = start + array.nbytes
                    ends.append((start, end))
                file.write(b"\0")  # nothing cannot be mapped
            with open(Path(folder, "task"), "wb") as file:
                pickle.dump((packed.pickled, ends), file)
            yield folder
        finally:
            resource_tracker.unregister(folder, "folder")


# The task that this worker has open: one at a time, so that memory holds no earlier stage.
_open: dict[str, _OpenTask] = {}


def _begin(threads: int, parent: int) -> None:
    """What a process does once."""
    from joblib.externals.loky import process_executor

    # Else loky ends a process whose memory grew by 300 MB, as it does when a task of a large training set is opened, and each block pays for another.
    process_executor._USE_PSUTIL = False
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked is told, and ends its workers
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)


def _end_with(parent: int) -> None:
    """Nobody waits for the results of a killed audit, and its files are removed when its last process has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _do(place: str, number: int) -> Any:
    if place not in _open:
        _open.clear()
        pickled, ends = pickle.loads(Path(place, "task").read_bytes())
        # Private pages: shared by all workers as long as nobody writes.
        memory = np.memmap(Path(place, "arrays"), np.uint8, "c")
        _open[place] = _Packed(pickled, [memory[start:end] for start, end in ends]).open()
    return _open[place](number)


# A cluster.


class _RayWorker:
    """What an actor of Ray Data holds: the task, opened from the object store of its machine."""

    def __init__(self, packed: Any, threads: int) -> None:
        import ray

        warnings.filterwarnings("ignore")
        torch.set_num_threads(threads)
        self.open = _Packed(*ray.get(packed)).open()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        results = []
        for number in batch["number"].tolist():
            try:
                results.append(pickle.dumps((self.open(number), None)))
            except DoppelscanError as error:  # Ray would wrap it in its own and many lines
                results.append(pickle.dumps((None, error)))
            except Exception:
                results.append(pickle.dumps((None, RuntimeError(traceback.format_exc()))))
        return {"number": batch["number"], "result": np.array(results, dtype=object)}


def _by_ray(workers: Workers, packed: _Packed, count: int) -> Iterator[tuple[int, Any]]:
    """Block number and result, as blocks are finished."""
    ray = _connected(str(workers.ray), workers.count * workers.threads)
    actors = max(1, min(count, _actors(workers)))
    held = ray.put((packed.pickled, [np.frombuffer(array, np.uint8) for array in packed.arrays]))
    with warnings.catch_warnings():
        # Ray 2.60 names what is to come in place of these two arguments, and does not have it yet.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        todo = ray.data.from_items([{"number": number} for number in range(count)], override_num_blocks=count).map_batches(
            _RayWorker,
            batch_size=1,
            fn_constructor_args=(held, workers.threads),
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=workers.threads,
            max_restarts=DEATHS,
            max_task_retries=DEATHS,
        )
    try:
        for row in todo.iter_rows():
            result, mistake = pickle.loads(row["result"])
            if mistake is not None:
                raise mistake
            yield int(row["number"]), result
    except ray.exceptions.RayError as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"The 'ray' parameter must be a cluster whose workers have doppelscan and reach the same files. Got {workers.ray!r}: {told[-200:]}; "
            "run the same command again, the store keeps what is done."
        ) from error


def _actors(workers: Workers) -> int:
    """Processes of a cluster that compute: those that are asked for, or as many as its processors allow."""
    ray = _connected(str(workers.ray), workers.count * workers.threads)
    return workers.count or max(1, int(ray.cluster_resources().get("CPU", 1)) // workers.threads)


def _connected(address: str, processors: int) -> Any:
    """Ray, connected once a process, on this machine with so many processors: it neither reports its use nor serves a dashboard, and its processes log to files."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"}
    if address == "local":
        # Ray's ports run what they are sent, from whoever reaches them: by this and the address below they are the loopback's.
        quiet["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        quiet["RAY_worker_niceness"] = "0"  # of its own accord Ray lets every other process go first
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(NO_RAY) from error
    if not ray.is_initialized():
        own = {"num_cpus": processors, "include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
        except Exception as error:  # a bare one where its processes do not start in time
            told = " ".join(str(error).split())[:200]
            raise InputError(
                f"The 'ray' parameter must be local or the address of a Ray cluster that runs, such as HOST:6379. Got {address!r}: {told}"
            ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    return ray
