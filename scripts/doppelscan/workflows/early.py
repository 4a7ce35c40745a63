"""What an audit is expected to take, and the page and table that it writes before it has concluded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from doppelscan.decide import Preliminary, PreliminarySummary
from doppelscan.decide.owed import IMAGES
from doppelscan.decide.people import NEAREST, PATIENCE
from doppelscan.progress import OTHER, RunProgress, Work
from doppelscan.report import write_preliminary

__all__ = ["EarlyReport", "expected_volumes", "expected_work"]

# Seconds on two cores; measured costs take their place as the audit goes on.
HASH, READ, VIEW, REGISTER, PERSON_PAIR = 0.0003, 0.004, 0.0015, 0.03, 0.01
COMPARE, FIT, DECIDE, REPORT = 0.0005, 0.004, 0.01, 3.0
# The same of volumes: turned and halved views of a training volume, 48 poses of others, one pair of people, one volume and its candidates.
READ_VOLUME, VOLUME_VIEWS, VOLUME_POSES, PAIR, REGISTER_VOLUME = 0.1, 0.6, 0.3, 0.3, 0.7
PEOPLE = 20  # pairs that are looked at, where nobody is there twice
POSES = 8
# An audit that ends so soon, or a page that would be replaced so soon, is not worth a page of its own.
SHORT, SELDOM = 20.0, 30.0
# Within a stage, which can take an hour, the page is written anew after so long: the end that it tells is to be the one that is expected now.
WITHIN = 120.0


def expected_work(
    training: int, synthetic: int, holdout: int, control_size: int, rotations: int, planted: int, competes: bool = True
) -> dict[str, dict[str, Work]]:
    """Stages of an audit and their work, for :class:`~doppelscan.progress.RunProgress`.

    Args:
        training, synthetic, holdout: numbers of images; no holdout is 0.
        control_size: images that a control from the training set holds at most.
        rotations: views of a training image; others have one for each of the 8 poses.
        planted: images of the self-test; 0 without it.
        competes: training and holdout hold people enough to compete.
    """

    def embedded(images: int, views: int) -> dict[str, Work]:
        return {"hash": Work(images, HASH, True), "embed": Work(images, READ + VIEW * views, True)}

    own = min(training, control_size)
    control = max(holdout, min(control_size, holdout + training))
    competing = {"verify": Work(min(synthetic, IMAGES), REGISTER)} if holdout and competes else {}
    pairs = min(NEAREST * (training + holdout), PATIENCE + (training + holdout) // 8)
    return {
        "embed training": embedded(training, rotations),
        "embed synthetic": embedded(synthetic, POSES),
        "embed control": embedded(holdout, POSES),
        "identical pixels": {OTHER: Work(training + synthetic, COMPARE)},
        "fit": {**embedded(own, POSES), "people": Work(pairs, PERSON_PAIR), OTHER: Work(training, FIT)},
        "score synthetic": {"verify": Work(synthetic, REGISTER)},
        "score control": {"verify": Work(control, REGISTER)},
        "decide": {OTHER: Work(synthetic + control, DECIDE)},
        "self-test": {**embedded(planted, POSES), "verify": Work(planted, REGISTER), OTHER: Work(planted, DECIDE)},
        "competition": competing,
        "report": {OTHER: Work(1, REPORT)},
    }


def expected_volumes(
    training: int, synthetic: int, holdout: int, control_size: int, planted: int, competes: bool = True
) -> dict[str, dict[str, Work]]:
    """:func:`expected_work` of an audit of volumes."""

    def embedded(volumes: int, seconds: float) -> dict[str, Work]:
        return {"embed": Work(volumes, READ_VOLUME + seconds, True)}

    own = min(training, control_size)
    control = max(holdout, min(control_size, holdout + training))
    return {
        "embed training": embedded(training, VOLUME_VIEWS),
        "embed synthetic": embedded(synthetic, VOLUME_POSES),
        "embed control": embedded(holdout, VOLUME_POSES),
        "identical pixels": {OTHER: Work(synthetic, COMPARE)},
        "fit": {**embedded(own, VOLUME_POSES), OTHER: Work(min(PEOPLE, training), PAIR)},
        "score synthetic": {"verify": Work(synthetic, REGISTER_VOLUME)},
        "score control": {"verify": Work(control, REGISTER_VOLUME)},
        "decide": {OTHER: Work(synthetic + control, DECIDE)},
        "self-test": {"plant": Work(planted, READ_VOLUME + VOLUME_POSES), "verify": Work(planted, REGISTER_VOLUME)},
        "competition": {"verify": Work(min(synthetic, IMAGES), REGISTER_VOLUME)} if holdout and competes else {},
        "report": {OTHER: Work(1, REPORT)},
    }


class EarlyReport:
    """Writes what is known between the stages of an audit, where the audit is long and the last page is not too young.

    Args:
        output: folder of the report.
        redact, key: as of :func:`~doppelscan.report.write_report`.
        run: the stages.
        summary: what summary.json is to hold of it.
    """

    def __init__(
        self, output: Path, redact: bool, key: Path | None, run: RunProgress, summary: Callable[[Preliminary], PreliminarySummary]
    ) -> None:
        self.output, self.redact, self.key, self.run, self.summary = output, redact, key, run, summary
        self.known: Callable[[], Preliminary] | None = None
        self._found: Preliminary | None = None
        self._pictures: dict[int, dict[str, str]] = {}
        self._written = -float("inf")

    def know(self, known: Callable[[], Preliminary]) -> None:
        """From now on this is known; it is made only when it is written."""
        self.known, self._found, self._pictures = known, None, {}

    def write_if_due(self) -> None:
        """Write what is known, unless the whole audit takes less than 20 seconds, the rest of it less than 10, or the last page is younger than 30.

        Within a stage nothing is computed and no store is read: only what was written before is told anew, every two minutes.
        """
        if self.known is None or (self.run.current and self._found is None):
            return
        remaining, now = self.run.remaining, time.monotonic()
        young = now - self._written < (WITHIN if self.run.current else SELDOM)
        if self.run.elapsed + remaining < SHORT or remaining < SHORT / 2 or young:
            return
        self._found = self._found or self.known()
        write_preliminary(self.output, self._found, self.summary(self._found), self.redact, self.key, self._pictures)
        self._written = time.monotonic()
