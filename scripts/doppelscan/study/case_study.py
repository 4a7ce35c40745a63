"""The case study: conditions trained, sampled and audited one after the other, and what came of it on one page."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from doppelscan.arguments import Folder, checked, meant
from doppelscan.errors import DoppelscanError, InputError
from doppelscan.files import write_atomic
from doppelscan.locations import is_finished
from doppelscan.study.conditions import FILTERED, Remedy, StudyCondition, StudySizes
from doppelscan.study.page import study_page
from doppelscan.study.sets import StudySource
from doppelscan.study.stages import Bench, ConditionResult, require_same_condition, study_condition, train_autoencoder
from doppelscan.study.tables import StudyResult, remedy_results, write_tables
from doppelscan.threads import team
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.options import on_command_line

__all__ = ["CaseStudy"]

logger = logging.getLogger(__name__)

BUSY = "another process is at it"


class CaseStudy:
    """Trains generators under conditions that make them memorize, or keep them from it, audits each, and writes one page.

    Whatever was done is not done again: the same command goes on where it was killed.

    Args:
        source: of the images.
        output_dir: folder of the study. It holds patient data.
        conditions: all of the study.
        remedies: what is compared.
        sizes: of trainings, samples and audits.
        spatial_size: side of the images.
        only: names of the conditions of this run; None is all, ``[]`` prepares the sets and the autoencoder alone. The page shows what is done, so
            several processes can share a study once its autoencoder is trained.
        autoencoder_configs: names in configs/generator, or paths; later ones override earlier ones.
        diffusion_configs: likewise.
        device: that computes.

    Raises:
        InputError: two conditions of one name, or a name that no condition has.
    """

    def __init__(
        self,
        source: StudySource,
        output_dir: str | os.PathLike,
        conditions: Sequence[StudyCondition],
        remedies: Sequence[Remedy],
        sizes: StudySizes,
        spatial_size: int = 96,
        only: Sequence[str] | str | None = None,
        autoencoder_configs: Sequence[str] = ("autoencoder.json",),
        diffusion_configs: Sequence[str] = ("diffusion.json",),
        device: str | torch.device = "cpu",
    ) -> None:
        self.source, self.sizes, self.spatial_size = source, sizes, spatial_size
        self.folder = Path(checked("output_dir", Folder, output_dir)).resolve()
        self.conditions, self.remedies = list(conditions), list(remedies)
        self.autoencoder_configs, self.diffusion_configs = list(autoencoder_configs), list(diffusion_configs)
        self.device = str(device)
        names = [one.name for one in self.conditions]
        if len(set(names)) < len(names):
            raise InputError(f"The conditions of a study must have different names. Got {', '.join(names)}.")
        self.only = self._known(names if only is None else [only] if isinstance(only, str) else only, names, "only")
        self._known([one for remedy in self.remedies for one in (remedy.before, remedy.after)], [*names, FILTERED], "remedies")

    @staticmethod
    def _known(given: Sequence[str], names: Collection[str], parameter: str) -> list[str]:
        for one in given:
            if one not in names:
                raise InputError(f"The '{parameter}' parameter must name conditions of the study. Got {one!r}; {meant(one, names)}")
        return list(given)

    def run(self) -> StudyResult:
        """Every condition of this run, and the page of all that are done.

        Raises:
            InputError: the images, the output folder or a condition cannot be used; or every condition of this run failed.
        """
        with team():
            bench = self._bench()
            failed = self._train(bench)
            result = self._result(bench, failed)
        write_tables(result, self.folder)
        write_atomic(self.folder / "case_study.html", study_page(result))
        if on_command_line():
            print(*self._words(result), sep="\n")
        tried = [one for one in self.conditions if one.name in self.only and one.left_out is None]
        if tried and len(failed) == len(tried):
            raise InputError(f"Every condition failed; the first, {tried[0].name!r}: {failed[tried[0].name]}")
        return result

    def _bench(self) -> Bench:
        sets = self.source.prepare(self.folder / "sets", self.spatial_size, self.sizes.seed)
        for condition in self.conditions:
            condition.require_columns(sets.columns)
        bench = Bench(sets, self.folder, self.sizes, self.autoencoder_configs, self.diffusion_configs, self.device)
        for condition in self.conditions:  # told now, not after hours of training
            if bench.place(condition).is_dir():
                require_same_condition(bench, condition)
        # A second process waits here, and finds the autoencoder trained.
        with FileLock(self.folder / ".autoencoder.lock"):
            train_autoencoder(bench, self.spatial_size)
        return bench

    def _train(self, bench: Bench) -> dict[str, str]:
        """Train and audit the conditions of this run; those that failed, with the reason: the others are not lost with them."""
        failed: dict[str, str] = {}
        chosen = [one for one in self.conditions if one.name in self.only and one.left_out is None]
        for number, condition in enumerate(chosen, 1):
            # No bar: it would stand round those of the training, the samples and the audit.
            logger.info("Condition %s, %d of %d.", condition.name, number, len(chosen))
            try:
                _studied(bench, condition)
            except Timeout:
                failed[condition.name] = BUSY
            except Exception as error:
                failed[condition.name] = _reason(error)
            if condition.name in failed:
                logger.warning("Condition %s: %s", condition.name, failed[condition.name])
        return failed

    def _result(self, bench: Bench, failed: dict[str, str]) -> StudyResult:
        """What is done, of earlier runs too."""
        done: list[ConditionResult] = []
        left_out: dict[str, str] = {}
        for condition in self.conditions:
            reason = condition.left_out or failed.get(condition.name)
            if reason is None and not is_finished(bench.place(condition) / "audit"):
                reason = "not run yet"
            if reason is None:
                try:
                    done.append(_studied(bench, condition))
                except Timeout:
                    reason = BUSY
            if reason is not None:
                left_out[condition.name] = reason
        return StudyResult(bench.sets, self.sizes, tuple(done), remedy_results(self.remedies, done), left_out)

    def _words(self, result: StudyResult) -> list[str]:
        """What a terminal is told."""
        lines = [
            f"{one.condition.name}: {one.audit.flagged.count} of {one.audit.flagged.total} samples flagged, {one.audit.copies.count} copies of "
            f"{one.audit.memorized.count} training images."
            for one in result.conditions
        ]
        lines += [f"{name}: {reason}." for name, reason in result.left_out.items()]
        return [*lines, f"Page: {self.folder / 'case_study.html'}"]


def _studied(bench: Bench, condition: StudyCondition) -> ConditionResult:
    """What is missing of a condition is done, by one process at a time; ``Timeout`` where another is at it."""
    place = bench.place(condition)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock", timeout=0):
        return study_condition(bench, condition)


def _reason(error: Exception) -> str:
    """A mistake or a refusal in one line; anything else is a fault of ours and ends the study."""
    try:
        with told_in_one_line():
            raise error
    except DoppelscanError as mistake:
        return str(mistake)
