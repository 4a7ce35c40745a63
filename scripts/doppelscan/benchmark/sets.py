"""The images of a benchmark: prepared once, written as 8-bit PNG, so that every scorer, ours too, sees the same pixels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose

from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import (
    DarkSurroundd,
    ImageRecord,
    LoadSliced,
    SkippedImage,
    SliceChoice,
    SquareThumbnaild,
    Windowd,
    find_images,
    prepared,
    table_values,
    unit_float,
    unpadded,
)
from doppelscan.images.readers import encode_png
from doppelscan.progress import progress

__all__ = ["PreparedImages", "WrittenSet", "prepare", "write_set"]


@dataclass(frozen=True)
class PreparedImages:
    """Images of a set, whole and square.

    Attributes:
        squares: float32 [N, S, S] in [0, 1], padded by 0.
        shapes: int64 [N, 2], height and width before the padding.
        records: where each comes from.
        values: what the table says of each: column -> text.
        skipped: what could not be prepared, with the reasons.
    """

    squares: np.ndarray
    shapes: np.ndarray
    records: tuple[ImageRecord, ...]
    values: tuple[Mapping[str, str], ...]
    skipped: tuple[SkippedImage, ...] = ()

    @cached_property
    def patients(self) -> list[str]:
        """Of each image."""
        return [one.patient for one in self.records]

    def at(self, rows: Sequence[int]) -> PreparedImages:
        """Some of them."""
        rows = list(rows)
        return PreparedImages(
            self.squares[rows],
            self.shapes[rows],
            tuple(self.records[i] for i in rows),
            tuple(self.values[i] for i in rows),
            self.skipped,
        )

    def pixels(self, row: int) -> np.ndarray:
        """What of an image is no padding: float32 [H, W]."""
        return unpadded(self.squares[row], self.shapes[row]).clip(0, 1)


def _preparation(spatial_size: int) -> Compose:
    return Compose(
        [
            LoadSliced(keys="image"),
            DarkSurroundd(keys="image"),
            Windowd(keys="image"),
            SquareThumbnaild(keys="image", spatial_size=spatial_size),
        ]
    )


def prepare(
    source: str | os.PathLike, name: str, spatial_size: int, patient_pattern: str | None = None, slices: SliceChoice | None = None
) -> PreparedImages:
    """Read and prepare a set: without a light surround, windowed, whole, square.

    Args:
        source: folder, .csv or .json, see :func:`doppelscan.images.find_images`.
        name: of the parameter in messages.
        spatial_size: side of the squares in pixels.
        patient_pattern: see there.
        slices: see there.

    Raises:
        InputError: no image of it can be used.
    """
    found = find_images(source, name=name, patient_pattern=patient_pattern, slices=slices)
    told = table_values(source, name)
    preparation = _preparation(spatial_size)
    squares, shapes, records, skipped = [], [], [], list(found.skipped)
    for record in progress(found.records, f"prepare {name}", "image"):
        made = prepared(record, preparation)
        if isinstance(made, SkippedImage):
            skipped.append(made)
            continue
        squares.append(np.asarray(made["thumbnail"])[0])
        shapes.append(np.asarray(made["native_shape"]))
        records.append(record)
    if not records:
        raise InputError(
            f"The '{name}' parameter must name images that can be used. Got {len(skipped)} that cannot, the first: {skipped[0].reason}."
        )
    values = tuple(told.get(record.paths[0], {}) for record in records)
    return PreparedImages(
        unit_float(torch.from_numpy(np.stack(squares))).numpy(), np.stack(shapes), tuple(records), values, tuple(skipped)
    )


@dataclass(frozen=True)
class WrittenSet:
    """A set on disk as the audit reads it, and in memory as rivals take it.

    Attributes:
        table: .csv with the columns path and patient.
        images: float32 [N, 1, S, S] in [0, 1], of the files.
        patients: of each.
    """

    table: Path
    images: torch.Tensor
    patients: tuple[str, ...]

    def row(self, path: str) -> int:
        """Row of a file of the set, which is its name."""
        return int(Path(path).stem)


def write_set(folder: Path, pixels: Sequence[np.ndarray], patients: Sequence[str], spatial_size: int) -> WrittenSet:
    """Write images float32 [H, W] in [0, 1] as ``folder``/00000.png and so on, and ``folder``.csv; read them back as any image is read.

    Raises:
        InputError: an image has no contrast, so that nobody could audit it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preparation, squares, rows = _preparation(spatial_size), [], []
    for number, (image, patient) in enumerate(zip(pixels, patients, strict=True)):
        path = folder / f"{number:05d}.png"
        path.write_bytes(encode_png(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)))
        squares.append(np.asarray(preparation({"image": [str(path)]})["thumbnail"]))
        rows.append({"path": f"{folder.name}/{path.name}", "patient": patient})
    table = folder.with_suffix(".csv")
    write_atomic(table, to_csv(("path", "patient"), rows))
    return WrittenSet(table, unit_float(torch.from_numpy(np.stack(squares))), tuple(patients))
