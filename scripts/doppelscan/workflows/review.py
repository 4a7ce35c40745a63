"""Scores of single images for a person who looks at them one after the other, most likely copies first; MONAI Label uses it."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from filelock import FileLock

from doppelscan.decide import ScoredSet
from doppelscan.files import to_json, write_atomic
from doppelscan.images import from_thumbnail, picture_box, put_slice, read_pixels, set_files
from doppelscan.images.transforms import take_slice
from doppelscan.settings import audit_settings
from doppelscan.version import __version__
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.run import audit, audit_workflow, quiet

__all__ = ["Review", "ReviewedImage"]

COLUMNS = (
    "score", "p_value", "q_value", "flagged", "finding", "verdict", "match", "match_patient", "pose", "deepssim", "embedding", "ssim",
    "agreement", "similarity", "mi", "oni",
)  # fmt: skip
KNOWN = "review.json"


@dataclass(frozen=True)
class ReviewedImage:
    """What a reviewer sees of one image.

    Attributes:
        values: score, match, match_patient, pose and the measures of its best match; ``p_value``, ``q_value``, ``flagged`` and ``finding``
            too when an audit of the images was made; ``slice`` for a volume, the slice that agrees most.
        agreement: float32 in [0, 1], where the image agrees with its match; [H, W] for an image, [X, Y, Z] in RAS+ orientation for a
            volume, 0 where nothing can be said and in slices that were not scored.
        affine: float64 [4, 4] of ``agreement`` for a NIfTI volume, else None.
    """

    values: dict[str, Any]
    agreement: np.ndarray
    affine: np.ndarray | None


class Review:
    """Images against a training set, one by one or all together.

    Args:
        training: folder, .csv or .json of the training images.
        output: folder of the audits and stores; made when missing, holds patient data.
        holdout: see :class:`~doppelscan.workflows.Audit`.
        settings: as of :func:`doppelscan.audit`; volumes are reviewed slice by slice, where a map is drawn on each.

    Raises:
        InputError: a setting that an audit does not have, or a value that it cannot be.
    """

    def __init__(
        self, training: str | os.PathLike, output: str | os.PathLike, holdout: str | os.PathLike | None = None, **settings: Any
    ) -> None:
        self.settings = audit_settings({"training": training, "holdout": holdout, "volumes": "as-slices", **settings})
        self.output = Path(output)
        self._score: Callable[[str | os.PathLike], ScoredSet] | None = None
        self._scored_against = ""
        self._lock = threading.Lock()

    def known(self) -> dict[str, dict[str, Any]]:
        """Absolute path of an image -> its values in the last audit; empty before the first."""
        try:
            return json.loads((self.output / KNOWN).read_text())["images"]
        except (OSError, ValueError, KeyError):
            return {}

    def audit(self, images: Sequence[str | os.PathLike]) -> dict[str, dict[str, Any]]:
        """Audit ``images`` together and keep the result; the same files again are not audited again.

        Returns:
            absolute path of an image -> its values; of a volume those of the slice with the highest score.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        # A server and its scoring process may both ask: the second waits for the first and takes what it found.
        with FileLock(self.output / "audit.lock"):
            self._audit(sorted(map(_name, images)))
        return self.known()

    def _audit(self, names: Sequence[str]) -> None:
        state = self._state(*names, self.settings.get("holdout"))
        kept = self.output / KNOWN
        if kept.is_file() and json.loads(kept.read_text()).get("state") == state:
            return
        source = _table(names, self.output / "images.csv")
        result = audit(**self.settings, synthetic=source, output=self.output / "audit")
        best: dict[str, dict[str, Any]] = {}
        for row in result.scores:
            name, _, number = row["image"].partition("#slice=")
            values = {column: row[column] for column in COLUMNS} | ({"slice": int(number)} if number else {})
            if name not in best or _rank(values) > _rank(best[name]):
                best[name] = values
        write_atomic(kept, to_json({"state": state, "conclusion": result.conclusion.verdict.value, "images": best}))

    def ranked(self, images: Sequence[str | os.PathLike]) -> list[str]:
        """``images``, flagged ones first, then by score; one that could not be read comes first of all, since nobody has checked it."""
        found = self.audit(images)

        def risk(name: str) -> tuple[float, float]:
            return _rank(found[_name(name)]) if _name(name) in found else (2.0, 0.0)

        return sorted((os.fspath(image) for image in images), key=risk, reverse=True)

    def image(self, path: str | os.PathLike) -> ReviewedImage:
        """One image against the training set, with the map of where it agrees with its match.

        Raises:
            InputError: it cannot be read.
        """
        with tempfile.TemporaryDirectory() as scratch:
            # A folder is a DICOM series.
            source = Path(path) if os.path.isdir(path) else _table([os.fspath(path)], Path(scratch) / "image.csv")
            with self._lock, quiet(), told_in_one_line():  # the engine that embeds runs one set at a time
                against = self._state()
                if self._score is None or self._scored_against != against:
                    # A store of its own: the audit of all images may be writing to the other one in another process.
                    settings = {**self.settings, "holdout": None, "synthetic": source, "output": self.output / "single"}
                    workflow = audit_workflow(**settings)
                    self._score, self._scored_against = workflow.parser.get_parsed_content("audit").scorer(), against
                found = self._score(source)
        best = max(found.scored, key=lambda s: s.score)
        record, match = found.images.records[best.row], found.training.records[best.match]
        values: dict[str, Any] = {
            "match": match.id,
            "match_patient": match.patient,
            "pose": best.pose.words(int(found.images.native_shapes([best.row])[0].max())),
            **{name: getattr(best, name) for name in COLUMNS if hasattr(best, name) and name not in ("match", "pose")},
        }
        if record.slice is not None:
            values["slice"] = record.slice
        judged = self.known().get(_name(path), {})
        values |= {name: judged[name] for name in ("p_value", "q_value", "flagged", "finding", "verdict") if name in judged}
        agreement, affine = _agreement(found)
        return ReviewedImage(json.loads(to_json(values)), agreement, affine)

    def _state(self, *sources: str | None) -> str:
        """What is found of ``sources`` depends on this: the version, the settings, and their files and those of the training set as they are now."""
        encoder = str(self.settings.get("encoder", "")).removeprefix("torchscript:")
        files = [_files(one) for one in (*sources, self.settings["training"], encoder) if one]
        said = json.dumps([__version__, self.settings, files], default=str)
        return hashlib.sha256(said.encode()).hexdigest()


def _files(source: str) -> list[tuple[str, int, int, int]]:
    """Path, size and times of change, in nanoseconds, of every file of ``source`` that is there.

    The second time is that of the change itself: a copy sets the first one back.
    """
    found = []
    for path in set_files(source):
        with suppress(OSError):
            status = os.stat(path)
            found.append((path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return found


def _name(path: str | os.PathLike) -> str:
    return os.path.abspath(os.fspath(path))


def _rank(values: dict[str, Any]) -> tuple[float, float]:
    return float(bool(values["flagged"])), float(values["score"])


def _table(names: Sequence[str], path: Path) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["path"], *([_name(name)] for name in names)])
    return path


def _agreement(found: ScoredSet) -> tuple[np.ndarray, np.ndarray | None]:
    """The maps of all scored slices, on the image that they were taken of."""
    rows = range(len(found.images))
    shapes, (_, whole) = found.images.native_shapes(rows), found.images.as_read(rows)
    maps = [
        from_thumbnail(np.nan_to_num(pair.agreement_map), shapes[s.row]).clip(0, 1)
        for s, pair in zip(found.scored, found.pairs(found.scored), strict=True)
    ]
    records = [found.images.records[s.row] for s in found.scored]
    first = records[0]
    if first.slice is None and maps[0].shape == tuple(whole[found.scored[0].row]):
        return maps[0], None
    pixels = read_pixels(list(first.paths), first.channel)
    if first.slice is None:
        return _on_picture(maps[0], pixels), None
    volume = np.zeros(pixels.shape, np.float32)
    for one, record in zip(maps, records, strict=True):
        assert record.axis is not None and record.slice is not None
        put_slice(volume, _on_picture(one, take_slice(pixels, record.axis, record.slice)), record.axis, record.slice)
    return volume, _affine(first.paths[0])


def _on_picture(one: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A map of what was compared [H, W] on the whole of ``pixels``, of which a page or bars may have been cut off."""
    if one.shape == pixels.shape or pixels.ndim != 2:
        return one
    box = picture_box(torch.from_numpy(np.asarray(pixels, np.float32)))
    if box is None or one.shape != (box[2] - box[0], box[3] - box[1]):
        return one
    whole = np.zeros(pixels.shape, np.float32)
    whole[box[0] : box[2], box[1] : box[3]] = one
    return whole


def _affine(path: str) -> np.ndarray | None:
    """Of the RAS+ array that was read, when ``path`` is a NIfTI file."""
    if not path.lower().endswith((".nii", ".nii.gz")):
        return None
    image: Any = nib.load(path)
    return nib.as_closest_canonical(image).affine
