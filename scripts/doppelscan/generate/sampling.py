"""Samples as files: PNG and a manifest that says how each can be made again."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from doppelscan.errors import InputError
from doppelscan.generate.conditioning import as_text
from doppelscan.generate.generator import Generator
from doppelscan.images import table_values
from doppelscan.images.readers import encode_png
from doppelscan.progress import progress
from doppelscan.report import to_csv, write_atomic

__all__ = ["MANIFEST", "Sample", "Sampler", "SeededSamples"]

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Sample:
    """A row of manifest.csv.

    Attributes:
        path: of the PNG, from the manifest's folder.
        seed: of its noise.
        condition: what it was asked for, as JSON; empty without a condition.
        checkpoint: sha256 of the generator's file.
        step: training steps behind it.
        sampling_steps: of DDIM.
    """

    path: str
    seed: str
    condition: str
    checkpoint: str
    step: str
    sampling_steps: str


COLUMNS = tuple(field.name for field in fields(Sample))


class Sampler:
    """Draws samples of a generator, a batch at a time.

    Args:
        generator: what is sampled.
        steps: of DDIM (METHODS: 50 in arXiv 2509.16582).
        batch_size: samples at a time; changes a sample by rounding at most.
        condition: what all samples are of: a mapping of columns to values, a text, or a .csv with a column for each, whose rows are taken in turn;
            None takes the conditions of the training records in turn. Which one a sample takes is decided by its seed.

    Raises:
        InputError: a condition that the generator does not know, or steps that it cannot take.
    """

    def __init__(
        self,
        generator: Generator,
        steps: int = 50,
        batch_size: int = 16,
        condition: Mapping[str, Any] | str | None = None,
    ) -> None:
        most = int(generator.schedule["num_train_timesteps"])
        for name, value, highest in (("steps", steps, most), ("batch_size", batch_size, None)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (highest and value > highest):
                at_most = f" and <= {highest}" if highest else ""
                raise InputError(f"The '{name}' parameter must be an integer >= 1{at_most}. Got {value!r} instead.")
        self.generator, self.steps, self.batch_size = generator, steps, batch_size
        self.conditions = self._conditions(condition)
        for values in self.conditions:
            generator.condition.embed(values)  # refuses before anything is sampled

    def _conditions(self, condition: Mapping[str, Any] | str | None) -> list[dict[str, str]]:
        known = self.generator.condition
        if not known.conditional:
            if condition is not None:
                raise InputError(f"The 'condition' parameter must be left out: this generator is unconditional. Got {condition!r}.")
            return []
        if condition is None:
            return known.known
        if isinstance(condition, Mapping):
            return [{str(name): str(value) for name, value in condition.items()}]
        names = list(known.known[0])
        if Path(condition).suffix.lower() == ".csv":
            return self._rows(Path(condition), names)
        if len(names) > 1:
            raise InputError(
                f"The 'condition' parameter must be a mapping of {', '.join(names)}, or a .csv with these columns. Got {condition!r}."
            )
        return [{names[0]: str(condition)}]

    @staticmethod
    def _rows(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
        if not path.is_file():
            raise InputError(f"The 'condition' parameter must be an existing .csv. Got {str(path)!r}, which does not exist.")
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [{name: (row.get(name) or "").strip() for name in names} for row in csv.DictReader(file)]
        if not rows:
            raise InputError(
                f"The 'condition' parameter must be a .csv with a row for each condition. Got {str(path)!r}, which has none."
            )
        return rows

    def condition_of(self, seed: int) -> dict[str, str]:
        """The condition of the sample of ``seed``; ``{}`` without conditioning."""
        return self.conditions[seed % len(self.conditions)] if self.conditions else {}

    def __call__(self, seeds: Sequence[int]) -> np.ndarray:
        """Samples float32 [N, 1, S, S] in [0, 1], one a seed."""
        parts = []
        for start in range(0, len(seeds), self.batch_size):
            some = seeds[start : start + self.batch_size]
            conditions = [self.condition_of(seed) for seed in some] if self.conditions else None
            parts.append(self.generator.sample(some, conditions, self.steps).numpy())
        return np.concatenate(parts)

    def write(self, output: str | os.PathLike, count: int, seed: int = 0) -> Path:
        """Write ``count`` samples of the seeds ``seed``, ``seed + 1``, ... as 8-bit PNG, and manifest.csv.

        The manifest is written after each batch, so what was sampled before a kill is kept, and the same command goes on from there.

        Args:
            output: folder; made when missing. One that holds samples of another generator or of other settings is refused.
            count: how many.
            seed: of the first.

        Returns:
            path of the manifest, which is a set that an audit takes.

        Raises:
            InputError: a folder of other samples, or one that cannot be written.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"The 'count' parameter must be an integer >= 1. Got {count!r} instead.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"The 'seed' parameter must be an integer >= 0. Got {seed!r} instead.")
        output = Path(output)
        wanted = {number: self._row(number) for number in range(seed, seed + count)}
        try:
            output.mkdir(parents=True, exist_ok=True)
            rows = self._earlier(output, wanted)
            self._write_manifest(output, rows)
            missing = [number for number in wanted if number not in rows]
            with progress(None, "sample", "image", total=len(missing)) as bar:
                for start in range(0, len(missing), self.batch_size):
                    seeds = missing[start : start + self.batch_size]
                    for number, image in zip(seeds, self(seeds), strict=True):
                        pixels = np.round(image[0] * 255).astype(np.uint8)
                        write_atomic(output / wanted[number].path, encode_png(pixels))
                        rows[number] = wanted[number]
                    self._write_manifest(output, rows)
                    bar.update(len(seeds))
        except OSError as error:
            raise InputError(
                f"The 'output_dir' parameter must be a folder that can be written and has room. Got {str(output)!r}: {error.strerror}; make room or "
                "pass another: what was sampled is kept, and the same command goes on from there."
            ) from error
        return output / MANIFEST

    def _row(self, seed: int) -> Sample:
        made_by = self.generator
        condition = as_text(self.condition_of(seed))
        return Sample(f"sample_{seed:06d}.png", str(seed), condition, made_by.sha256, str(made_by.step), str(self.steps))

    def _earlier(self, output: Path, wanted: Mapping[int, Sample]) -> dict[int, Sample]:
        """Samples of this generator and these settings that the folder holds; other ones are not written over."""
        if not (output / MANIFEST).is_file():
            taken = [row.path for row in wanted.values() if (output / row.path).exists()]
            if taken:
                raise InputError(
                    f"The 'output_dir' parameter must be a new folder, or one with samples of the same generator. Got {str(output)!r}, which holds "
                    f"{taken[0]} and no {MANIFEST}; pass another."
                )
            return {}
        rows: dict[int, Sample] = {}
        for path, values in table_values(output / MANIFEST, "manifest").items():
            row = Sample(**{name: values.get(name, "") for name in COLUMNS})
            number = int(row.seed) if row.seed.isdigit() else -1
            if number < 0 or row != self._row(number):
                raise InputError(
                    f"The 'output_dir' parameter must be a new folder, or one with samples of the same generator and settings. Got {str(output)!r}, "
                    f"whose {os.path.basename(path)} was made otherwise; pass another."
                )
            if Path(path).is_file():
                rows[number] = row
        return rows

    @staticmethod
    def _write_manifest(output: Path, rows: Mapping[int, Sample]) -> None:
        listed = [dict(zip(COLUMNS, astuple(row), strict=True)) for _, row in sorted(rows.items())]
        write_atomic(output / MANIFEST, to_csv(COLUMNS, listed))


class SeededSamples:
    """The samples of the same seeds whenever a trainer asks, for :class:`~doppelscan.workflows.SampleAudit`: what changes between two audits is the
    generator.

    Args:
        sampler: of the generator that is being trained.
        count: samples.
        seed: of the first.
    """

    def __init__(self, sampler: Sampler, count: int = 50, seed: int = 0) -> None:
        self.sampler, self.seeds = sampler, range(seed, seed + count)

    def __call__(self, engine: Any) -> np.ndarray:
        return self.sampler(self.seeds)
