"""Progress with a rate and an end time, on a terminal and in a log alike: a bar for each loop, or one line for a whole run of stages."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from tqdm import tqdm

__all__ = ["OTHER", "RunProgress", "StageClock", "Work", "is_shown", "progress", "starting"]

OTHER = "other"
# Seconds of work from which on its measured cost alone counts, not the expected one; before, the one gives way to the other.
MEASURED = 1.0
# Seconds in which the shown end follows the expected one by two thirds: a kind of work that is met for the first time moves it, and does not make it jump.
SETTLES = 15.0
# Seconds after which what is called between stages is called within one, too.
WITHIN = 5.0
START = "start"
# Kinds of work: what is read to know what is stored; and what reading stored work takes of what computing it does.
HASHING, STORED = "hash", 0.05


def progress(iterable, label: str, unit: str, total: int | None = None, done: int = 0) -> Any:
    """A tqdm bar: done/total, rate, remaining and elapsed time. ``None`` gives a bar to ``update`` by hand, from ``done`` on.

    Inside of :meth:`RunProgress.shown` it draws no bar of its own: it tells the one line what is done.
    """
    line = _SHOWN.get()
    if line is not None:
        return _Part(line, iterable, label, len(iterable) if total is None and hasattr(iterable, "__len__") else total, done)
    seldom = 0.2 if sys.stderr.isatty() else 10.0  # a log wants a line now and then, a terminal a moving bar
    return tqdm(
        iterable,
        desc=f"{label:<18}",
        unit=f" {unit}",
        total=total,
        initial=done,
        dynamic_ncols=True,
        smoothing=0.1,
        mininterval=seldom,
    )


def is_shown() -> bool:
    """Whether this runs inside of a run that shows its one line."""
    return _SHOWN.get() is not None


@contextmanager
def starting(called: str = "") -> Iterator[None]:
    """A run begins here, with what comes before its first stage: loading libraries, weights and lists of files. Its time counts from here.

    Args:
        called: what is started, told at once on the terminal; nothing is told without it, nor inside of another run.
    """
    if _BEGAN.get() is not None or is_shown():
        yield
        return
    if called:
        print(f"{called}: starting. Libraries and weights are loaded first, then the lists of files.", file=sys.stderr, flush=True)
    token = _BEGAN.set(time.perf_counter())
    try:
        yield
    finally:
        _BEGAN.reset(token)


class StageClock:
    """Seconds of each stage of a run; a stage that is entered again adds up.

    Attributes:
        seconds: stage -> seconds, in the order in which they were first entered.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)


class Work(NamedTuple):
    """Work of one kind that a stage is expected to do.

    Attributes:
        units: how many, such as images.
        seconds: that one takes where nothing is measured yet.
        one_bar: a single bar counts all of it, so that its total is the number of units: what is stored already is not in it.
    """

    units: float
    seconds: float
    one_bar: bool = False


class RunProgress(StageClock):
    """The stages of a run with one line for all: stage, share done, time that passed, expected end.

    What is to come is counted in units of work. Their costs begin as expected and become what was measured: of a kind of work by the bars of that
    kind (the first word of their label), of a kind that was not met yet by how much faster or slower all others were.

    Args:
        plan: stage -> kind of work -> :class:`Work`; the kind ``other`` is what no bar counts, in seconds as they are.
        between: called before each stage and, every few seconds, where something is counted: such as to write what is known so far.
    """

    def __init__(self, plan: Mapping[str, Mapping[str, Work]], between: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.plan = {stage: dict(works) for stage, works in plan.items()}
        self.between = between
        self.current = ""
        self._done: dict[str, float] = {}
        self._counted = 0.0  # seconds of this stage that bars account for
        self._last, self._batch = 0.0, 0.0  # when something was counted last, and the seconds that as much more is expected to take
        self._ending: tuple[float, float] | None = None  # the end that is shown, and when it was
        self._inner: RunProgress | None = None
        self._outer: RunProgress | None = None
        self._expected: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._began = self._stage_began = time.perf_counter()
        self._share = 0.0
        self._line: tqdm | None = None
        self._told, self._drawn, self._asked = -float("inf"), -float("inf"), 0.0
        self._drawing = threading.RLock()
        self._shown = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the line while inside: one moving line on a terminal, in a log a line every 10 seconds and at each stage.

        A run inside of another one, as an audit inside of a benchmark, has no line of its own: the outer one tells its stages.
        """
        self._began = time.perf_counter()
        outer = _SHOWN.get()
        if outer is not None:
            with self._inside(outer):
                yield
            return
        began = _BEGAN.get()
        if began is not None:
            self.seconds[START] = round(self._began - began, 2)
            self._began = began
        if sys.stderr.isatty():
            form = "{desc}|{bar}| {percentage:3.0f} %{postfix}"
            self._line = tqdm(total=1.0, bar_format=form, dynamic_ncols=True, mininterval=0)
        self._shown = True
        token, ended = _SHOWN.set(self), threading.Event()
        # Where no bar counts, time passes all the same.
        clock = threading.Thread(target=self._tick, args=(ended,), daemon=True)
        clock.start()
        try:
            yield
            self.current, self._share = "done", 1.0
            self._draw(at_once=True)
        finally:
            ended.set()
            clock.join()
            _SHOWN.reset(token)
            self._shown = False
            if self._line is not None:
                self._line.close()

    @contextmanager
    def _inside(self, outer: RunProgress) -> Iterator[None]:
        token = _SHOWN.set(self)
        self._outer, outer._inner = outer, self
        try:
            yield
        finally:
            self._outer = outer._inner = None
            _SHOWN.reset(token)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what is done inside, and say so."""
        self.between()
        self.current, self._done, self._counted, self._stage_began = name, {}, 0.0, time.perf_counter()
        self._last, self._batch = self._stage_began, 0.0
        self._draw(at_once=True)
        with super().stage(name):
            yield
        # What was planned and not met, as of images that are stored already, is not to come any more.
        self.plan.pop(name, None)
        self.current = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the run was shown."""
        return time.perf_counter() - self._began

    def to_come(self) -> dict[str, float]:
        """Stage -> seconds that it is expected to take yet, in their order; the current one first."""
        return {stage: self._left(stage, works) for stage, works in list(self.plan.items())}

    @property
    def remaining(self) -> float:
        """Seconds until the end."""
        return sum(self.to_come().values())

    def _left(self, stage: str, works: Mapping[str, Work]) -> float:
        own = stage == self.current
        left = 0.0
        for kind, work in list(works.items()):
            expected = work.seconds * self._rate(kind)
            if kind == OTHER:
                passed = time.perf_counter() - self._stage_began - self._counted if own else 0.0
                left += max(0.0, work.units * expected - passed)
            else:
                left += max(0.0, work.units - (self._done.get(kind, 0.0) if own else 0.0)) * expected
        if own:
            # What is under way is done in part: a volume takes seconds, and meanwhile the end comes nearer all the same.
            left -= min(left, self._batch, time.perf_counter() - self._last)
            left = max(left, self._inner.remaining if self._inner is not None else 0.0)
        return left

    def _rate(self, kind: str) -> float:
        """Measured seconds over expected ones."""
        expected, spent = sum(self._expected.values()), sum(self._spent.values())
        # Work that was stored took no time and says nothing of what is not.
        others = _between(1.0, min(10.0, max(0.1, spent / max(expected, 1e-9))), expected, spent)
        own, took = self._expected.get(kind, 0.0), self._spent.get(kind, 0.0)
        return _between(others, took / max(own, 1e-9), own, took)

    def opened(self, kind: str, total: int | None) -> None:
        """A bar of ``kind`` over ``total`` units begins."""
        works = self.plan.get(self.current)
        if works is None or kind not in works or total is None:
            return
        work = works[kind]
        units = total if work.one_bar else max(work.units, self._done.get(kind, 0.0) + total)
        works[kind] = work._replace(units=units)

    def count(self, kind: str, units: float, seconds: float) -> None:
        """``units`` of ``kind`` were done in ``seconds``."""
        work = self.plan.get(self.current, {}).get(kind)
        if work is not None:
            self._counted += seconds
            self._done[kind] = self._done.get(kind, 0.0) + units
            self._expected[kind] = self._expected.get(kind, 0.0) + units * work.seconds
            self._spent[kind] = self._spent.get(kind, 0.0) + seconds
            if units:
                self._last, self._batch = time.perf_counter(), units * work.seconds * self._rate(kind)
        self._draw()
        now = time.perf_counter()
        if now - self._asked >= WITHIN:
            self._asked = now
            self.between()

    def expect(self, stage: str, kind: str, units: float) -> None:
        """So many units of ``kind`` are to come in ``stage``, where that is known better than it was planned."""
        work = self.plan.get(stage, {}).get(kind)
        if work is not None:
            self.plan[stage][kind] = work._replace(units=units)

    def expect_stored(self) -> None:
        """All that is counted was computed and stored by an earlier run: it takes a :data:`STORED` of what was planned."""
        for works in self.plan.values():
            for kind, work in works.items():
                if kind not in (OTHER, HASHING):
                    works[kind] = work._replace(seconds=STORED * work.seconds)

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            self._draw()

    def _draw(self, at_once: bool = False) -> None:
        if self._outer is not None:
            self._outer._draw()
            return
        with self._drawing:
            if not self._shown or not self.current:
                return
            now = time.perf_counter()
            if self._line is None:
                if at_once or now - self._told >= 10.0:
                    self._told = now
                    print(self.words(), file=sys.stderr, flush=True)
            elif at_once or now - self._drawn >= 0.2:
                self._drawn = now
                stage, *rest = self._parts()
                self._line.n = self._share
                self._line.set_description_str(f"{stage:<17} ", refresh=False)
                self._line.set_postfix_str(", ".join(rest), refresh=False)
                self._line.refresh()

    def words(self) -> str:
        """The line: stage, share done, elapsed, remaining, end."""
        stage, *rest = self._parts()
        return f"{stage:<17} {100 * self._share:3.0f} %, {', '.join(rest)}"

    def _parts(self) -> list[str]:
        passed = self.elapsed
        if self.current == "done":
            return ["done", f"{_clock(passed)} elapsed"]
        left = self._settled(self.remaining)
        # What turns out to take longer than was thought takes nothing back.
        # The start is over, and on a busy machine long: counted in, a run that has not begun would be half done.
        worked = passed - self.seconds.get(START, 0.0)
        self._share = min(0.99, max(self._share, worked / max(worked + left, 1e-9)))
        inner = self._inner
        stage = self.current if inner is None or not inner.current else f"{self.current}: {inner.current}"
        return [stage, f"{_clock(passed)} elapsed", f"about {_clock(left)} left", f"ends {end_of(left)}"]

    def _settled(self, left: float) -> float:
        """``left`` as it is shown: the end moves to where it is expected, and does not jump."""
        now = time.perf_counter()
        end = now + left
        if self._ending is not None:
            shown, then = self._ending
            # Never later than as much again: what is nearly done is.
            end = min(shown + (end - shown) * -math.expm1((then - now) / SETTLES), now + 2 * left)
        self._ending = end, now
        return max(0.0, end - now)

    @property
    def ends(self) -> str:
        """When the run is expected to end, by the clock of this machine."""
        return end_of(self.remaining)


def _between(others: float, measured: float, expected: float, spent: float) -> float:
    """``measured`` once a second of it was expected or spent, before that less of it and more of what ``others`` say."""
    weight = min(1.0, max(expected, spent) / MEASURED)
    return others + (measured - others) * weight


class _Part:
    """What :func:`progress` gives inside of a run: a bar that is not drawn."""

    def __init__(self, run: RunProgress, iterable: Iterable | None, label: str, total: int | None, done: int) -> None:
        self.run, self.iterable, self.kind = run, iterable, label.split()[0]
        self.last = time.perf_counter()
        run.opened(self.kind, None if total is None else total - done)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *error: object) -> None:
        self.update(0)

    def __iter__(self) -> Iterator[Any]:
        for one in () if self.iterable is None else self.iterable:
            yield one
            self.update(1)

    def update(self, units: float = 1) -> None:
        """``units`` more are done."""
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        self.run.count(self.kind, units, seconds)


def end_of(seconds: float) -> str:
    """The time of the day ``seconds`` from now, with the day of the week where that is another one."""
    end = time.time() + seconds
    same = time.strftime("%j", time.localtime(end)) == time.strftime("%j")
    return time.strftime("%H:%M" if same and seconds < 86400 else "%a %d %b %H:%M", time.localtime(end))


def _clock(seconds: float) -> str:
    return tqdm.format_interval(seconds)


_SHOWN: ContextVar[RunProgress | None] = ContextVar("shown", default=None)
# When the run began that is starting.
_BEGAN: ContextVar[float | None] = ContextVar("began", default=None)
