"""Samples as files: PNG, or NIfTI of volumes, and a manifest that says how each can be made again."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from doppelscan.arguments import Count, Whole, checked
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.generate.conditioning import as_text
from doppelscan.generate.files import encode_pixels, file_ending
from doppelscan.generate.generator import Generator
from doppelscan.images import table_values
from doppelscan.progress import progress

__all__ = ["MANIFEST", "Sample", "Sampler", "SeededSamples", "write_samples"]

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Sample:
    """A row of manifest.csv.

    Attributes:
        path: of the PNG or NIfTI file, from the manifest's folder.
        seed: of its noise.
        condition: what it was asked for, as JSON; empty without a condition.
        checkpoint: sha256 of the generator's file, or of its files, with spaces between them.
        step: training steps behind it; empty where the file does not tell.
        sampling_steps: of the scheduler; empty for a generator without any.
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
            table = csv.DictReader(file)
            missing = [name for name in names if name not in (table.fieldnames or ())]
            if missing:
                raise InputError(
                    f"The 'condition' parameter must be a .csv with the columns {', '.join(names)}. Got {str(path)!r}, which has no {missing[0]!r} but "
                    f"{', '.join(table.fieldnames or ()) or 'nothing'}."
                )
            rows = [{name: (row.get(name) or "").strip() for name in names} for row in table]
        if not rows:
            raise InputError(
                f"The 'condition' parameter must be a .csv with a row for each condition. Got {str(path)!r}, which has none."
            )
        return rows

    def condition_of(self, seed: int) -> dict[str, str]:
        """The condition of the sample of ``seed``; ``{}`` without conditioning."""
        return self.conditions[seed % len(self.conditions)] if self.conditions else {}

    def __call__(self, seeds: Sequence[int]) -> np.ndarray:
        """Samples float32 [N, 1, S, S], or volumes [N, 1, S, S, S], in [0, 1], one a seed."""
        parts = []
        for start in range(0, len(seeds), self.batch_size):
            some = seeds[start : start + self.batch_size]
            conditions = [self.condition_of(seed) for seed in some] if self.conditions else None
            parts.append(self.generator.sample(some, conditions, self.steps).numpy())
        return np.concatenate(parts)

    def write(self, output: str | os.PathLike, count: int, seed: int = 0) -> Path:
        """Write ``count`` samples of the seeds ``seed``, ``seed + 1``, ... as 8-bit PNG, of volumes 8-bit NIfTI, and manifest.csv.

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
        return write_samples(output, "count", count, seed, self.batch_size, self._row, self._pictures)

    def _pictures(self, seeds: Sequence[int], paths: Sequence[Path]) -> None:
        for path, image in zip(paths, self(seeds), strict=True):
            write_atomic(
                path, encode_pixels(np.round(image[0] * 255).astype(np.uint8), self.generator.autoencoder.voxel_size or 1.0)
            )

    def _row(self, seed: int) -> Sample:
        made_by = self.generator
        condition = as_text(self.condition_of(seed))
        name = f"sample_{seed:06d}{file_ending(made_by.autoencoder.spatial_dims)}"
        return Sample(name, str(seed), condition, made_by.sha256, str(made_by.step), str(self.steps))


def write_samples(
    output: str | os.PathLike,
    name: str,
    count: int,
    seed: int,
    batch_size: int,
    row: Callable[[int], Sample],
    make: Callable[[Sequence[int], Sequence[Path]], None],
) -> Path:
    """Write the samples of the seeds ``seed``, ``seed + 1``, ... and manifest.csv, which is written again after each batch.

    Args:
        output: folder; made when missing. One that holds samples that ``row`` would not give is refused.
        name: of the parameter that ``count`` is, for messages.
        count: how many.
        seed: of the first.
        batch_size: samples at a time.
        row: what the manifest says of a seed.
        make: writes the files of some seeds, each whole or not at all.

    Returns:
        path of the manifest.

    Raises:
        InputError: ``count`` or ``seed`` is no such number, a folder of other samples, or one that cannot be written.
    """
    count, seed = checked(name, Count, count), checked("seed", Whole, seed)
    output = Path(output)
    wanted = {number: row(number) for number in range(seed, seed + count)}
    try:
        output.mkdir(parents=True, exist_ok=True)
        rows = _earlier(output, wanted, row)
        _write_manifest(output, rows)
        missing = [number for number in wanted if number not in rows]
        with progress(None, "sample", "image", total=len(missing)) as bar:
            for start in range(0, len(missing), batch_size):
                seeds = missing[start : start + batch_size]
                make(seeds, [output / wanted[number].path for number in seeds])
                rows.update({number: wanted[number] for number in seeds})
                _write_manifest(output, rows)
                bar.update(len(seeds))
    except OSError as error:
        raise InputError(
            f"The 'output_dir' parameter must be a folder that can be written and has room. Got {str(output)!r}: {error.strerror}; make room or "
            "pass another: what was sampled is kept, and the same command goes on from there."
        ) from error
    return output / MANIFEST


def _earlier(output: Path, wanted: Mapping[int, Sample], row_of: Callable[[int], Sample]) -> dict[int, Sample]:
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
        if number < 0 or row != row_of(number):
            raise InputError(
                f"The 'output_dir' parameter must be a new folder, or one with samples of the same generator and settings. Got {str(output)!r}, "
                f"whose {os.path.basename(path)} was made otherwise; pass another."
            )
        if Path(path).is_file():
            rows[number] = row
    return rows


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
