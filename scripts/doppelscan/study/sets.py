"""The images of a study: prepared once, split by patient into training and holdout, written as sets that trainings and audits take."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from doppelscan.arguments import Rate, Source, checked
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.generate import TrainingImages
from doppelscan.images.readers import encode_png

__all__ = ["StudySets", "StudySource", "require_same", "split_patients"]

# The study's own columns, and those by which tables name files and patients: they are written anew.
OWN = ("path", "patient", "source", "position")
NAMING = ("image", "file", "subject", "patient_id", "subject_id")
# A condition needs patients to learn and a control needs some to compare with.
FEWEST = 4


@dataclass(frozen=True)
class StudySets:
    """The tables of a study.

    Attributes:
        some: .csv of the images that a condition is trained on.
        all: .csv of those of all training patients; the same images where ``training_share`` is 1.
        holdout: .csv of images of other patients.
        images, patients: how many of each: ``some``, ``all``, ``holdout`` -> number.
        columns: of the tables, for conditioning.
        skipped: number of images that could not be prepared, listed in skipped.csv.
    """

    some: Path
    all: Path
    holdout: Path
    images: Mapping[str, int]
    patients: Mapping[str, int]
    columns: tuple[str, ...]
    skipped: int


def require_same(path: Path, settings: Mapping[str, Any], what: str) -> None:
    """Keep ``settings`` in ``path``; what is there already was made with others only by mistake.

    Raises:
        InputError: the first that differs.
    """
    now = json.loads(json.dumps(settings, default=str))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(now, indent=1))
        return
    before = json.loads(path.read_text())
    for name in {**now, **before}:
        if now.get(name) != before.get(name):
            raise InputError(
                f"The 'output_dir' parameter must be a new folder, or one of the same study. Got {str(path.parent)!r}, whose {what} "
                f"has {name} {before.get(name)!r}, not {now.get(name)!r}; pass another --output_dir."
            )


def split_patients(patients: Sequence[str], holdout_share: float, training_share: float, seed: int) -> dict[str, str]:
    """Each patient's part: ``some`` and ``more`` of training, or ``holdout``; a share of 0 holds nobody out, decided by ``seed``.

    Args:
        patients: of the images; a patient may be there more than once.
        holdout_share: of all patients.
        training_share: of the others, for ``some``.
        seed: of the draw.

    Raises:
        InputError: a part would have fewer than 4 patients.
    """
    names = sorted(set(patients))
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    held = round(holdout_share * len(names))
    some = round(training_share * (len(names) - held))
    for name, count in (("holdout", held), ("training", some)):
        if count < FEWEST and (name == "training" or holdout_share):
            raise InputError(
                f"The 'dataset_dir' parameter must name images of more patients. Got {len(names)}, of whom {count} would be for {name}; name more, or "
                f"pass a larger --{name}_share."
            )
    parts = ["holdout"] * held + ["some"] * some + ["more"] * (len(names) - held - some)
    return dict(zip(order, parts, strict=True))


class StudySource:
    """Where the images of a study come from.

    Args:
        dataset_dir: folder, .csv or .json, see :func:`doppelscan.images.find_images`.
        preprocessing: MONAI transform, see :class:`~doppelscan.generate.TrainingImages`.
        holdout_dir: images of other patients; None takes them from ``dataset_dir``, by patient.
        holdout_share: of its patients, where there is no ``holdout_dir``.
        training_share: of the other patients, what conditions are trained on that do not take ``all`` of them.
        settings: patient_pattern, slice_axis, slice_range, slice_step, channel.

    The tables have the columns ``path``, ``patient``, ``source`` (file and slice), ``position`` (place among the slices of its volume, 0 to 1; 0.5 for
    an image) and those of the table that ``dataset_dir`` is.

    Raises:
        InputError: a path that does not exist, or a share that is none.
    """

    def __init__(
        self,
        dataset_dir: str | os.PathLike | None,
        preprocessing: Callable,
        holdout_dir: str | os.PathLike | None = None,
        holdout_share: float = 1 / 3,
        training_share: float = 0.5,
        **settings: Any,
    ) -> None:
        if dataset_dir is None:
            raise InputError(
                "The 'dataset_dir' parameter must be an existing folder, .csv or .json. Got nothing; pass --dataset_dir DIR."
            )
        self.dataset_dir = Path(checked("dataset_dir", Source, dataset_dir)).resolve()
        held = checked("holdout_dir", Source | None, holdout_dir)
        self.holdout_dir = None if held is None else Path(held).resolve()
        self.holdout_share = checked("holdout_share", Rate, holdout_share)
        # All of them make the condition of more data the same as that of some.
        self.training_share = 1.0 if training_share == 1 else checked("training_share", Rate, training_share)
        self.preprocessing, self.settings = preprocessing, settings

    def prepare(self, folder: Path, spatial_size: int, seed: int) -> StudySets:
        """Write the sets to ``folder``, or read those that are there.

        Raises:
            InputError: too few images or patients, a patient on both sides, or a folder with other sets.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            made_of = {
                "dataset_dir": str(self.dataset_dir),
                "holdout_dir": None if self.holdout_dir is None else str(self.holdout_dir),
                "holdout_share": self.holdout_share,
                "training_share": self.training_share,
                "spatial_size": spatial_size,
                "seed": seed,
                **self.settings,
            }
            written = folder / "sets.json"
            if not written.is_file():
                (folder / "settings.json").unlink(missing_ok=True)  # of a preparation that did not end
            require_same(folder / "settings.json", made_of, "split")
            if not written.is_file():
                sets = self._write(folder, seed)
                write_atomic(written, json.dumps({**asdict(sets), "some": "", "all": "", "holdout": ""}, indent=1))
            kept = json.loads(written.read_text())
        tables = {name: folder / f"{name}.csv" for name in ("some", "all", "holdout")}
        return StudySets(**{**kept, **tables, "columns": tuple(kept["columns"])})

    def _write(self, folder: Path, seed: int) -> StudySets:
        found = TrainingImages(self.dataset_dir, self.preprocessing, **self.settings)
        share = self.holdout_share if self.holdout_dir is None else 0.0
        part = split_patients([one.patient for one in found.records], share, self.training_share, seed)
        rows = self._rows(folder, found, 0)
        parts = {
            "some": [row for row in rows if part[row["patient"]] == "some"],
            "all": [row for row in rows if part[row["patient"]] != "holdout"],
            "holdout": [row for row in rows if part[row["patient"]] == "holdout"],
        }
        skipped = list(found.skipped)
        if self.holdout_dir is not None:
            others = TrainingImages(self.holdout_dir, self.preprocessing, name="holdout_dir", apart_from=found, **self.settings)
            parts["holdout"] = self._rows(folder, others, len(rows))
            skipped += others.skipped
        columns = list(dict.fromkeys(name for row in rows for name in row))
        for name, some in parts.items():
            write_atomic(folder / f"{name}.csv", to_csv(columns, [{**dict.fromkeys(columns, ""), **row} for row in some]))
        listed = [{"image": one.path, "reason": one.reason} for one in skipped]
        write_atomic(folder / "skipped.csv", to_csv(("image", "reason"), listed))
        return StudySets(
            folder / "some.csv", folder / "all.csv", folder / "holdout.csv",
            {name: len(some) for name, some in parts.items()},
            {name: len({row["patient"] for row in some}) for name, some in parts.items()},
            tuple(name for name in columns if name not in ("path", "patient", "source", "repeats")),
            len(skipped),
        )  # fmt: skip

    def _rows(self, folder: Path, images: TrainingImages, first: int) -> list[dict[str, str]]:
        (folder / "images").mkdir(exist_ok=True)
        volumes: dict[str, list[str]] = {}
        for record in images.records:
            volumes.setdefault(record.volume, []).append(record.id)
        rows = []
        for number, (record, pixels, told) in enumerate(zip(images.records, images.images, images.values, strict=True), first):
            name = f"images/{number:06d}.png"
            write_atomic(folder / name, encode_png(pixels[0].numpy()))
            slices = volumes[record.volume]
            kept = {column: value for column, value in told.items() if column.lower() not in (*OWN, *NAMING)}
            place = (slices.index(record.id) + 0.5) / len(slices)
            rows.append({"path": name, "patient": record.patient, "source": record.id, "position": f"{place:.4f}", **kept})
        return rows
