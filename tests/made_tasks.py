"""Tasks that are given to worker processes: these import them from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doppelscan.errors import InputError


def mapped(address: int) -> bool:
    """What lies at ``address`` is a file that is mapped; true where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return True
    for line in lines:
        start, end = (int(one, 16) for one in line.split()[0].split("-"))
        if start <= address < end:
            return line.endswith("/arrays")
    return False


@dataclass(frozen=True)
class Sums:
    """Of rows of an array and a tensor, and where they were computed; told to ``advance`` one by one."""

    array: np.ndarray
    tensor: torch.Tensor
    given: Any = None

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> tuple[list[float], int, bool, int]:
        for _ in rows:
            advance(1)
        sums = (self.array[rows].sum(1) + self.tensor.numpy()[rows].sum(1)).tolist()
        shared = mapped(self.array.ctypes.data) and mapped(self.tensor.data_ptr())
        return sums, os.getpid(), shared, torch.get_num_threads()


@dataclass(frozen=True)
class Killed:
    """Ends its process by SIGKILL at the block of ``row``: ``times`` times, counted in ``folder``; each block that is done leaves a file there."""

    folder: Path
    row: int
    times: int

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> list[int]:
        died = len(list(self.folder.glob("died-*")))
        if self.row in rows and died < self.times:
            (self.folder / f"died-{died}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.folder / f"done-{rows[0]}", "a") as file:
            file.write("x")
        return [row * row for row in rows]


held: list[bytes] = []


class Growing:
    """Keeps another 50 MB at each block, for which it takes 0.3 seconds: where it runs."""

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> int:
        held.append(os.urandom(1) * 50_000_000)
        time.sleep(0.3)
        return os.getpid()


class Refused:
    """A user's mistake, found in a worker."""

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> None:
        raise InputError("The 'x' parameter must be y. Got z.")


class Broken:
    """A fault of ours."""

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> None:
        raise KeyError("a bug")


class Listed:
    """Where it runs and what lies there."""

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> list[str]:
        return sorted(os.listdir("."))


@dataclass(frozen=True)
class Waiting:
    """Says that it began, then waits to be killed."""

    began: str

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any]) -> None:
        Path(self.began).touch()
        time.sleep(900)
