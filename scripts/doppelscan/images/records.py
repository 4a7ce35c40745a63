"""From a folder, a CSV or a MONAI data list to image records: what will be scored, of which patient, and what was skipped."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from doppelscan.digests import add_file
from doppelscan.errors import ImageError, InputError, reason_of_image
from doppelscan.images.geometry import VolumeGeometry
from doppelscan.images.readers import FileHeader, image_format, read_header, series_plan, stack_slices
from doppelscan.progress import progress
from doppelscan.wording import counted

__all__ = [
    "DrawnSample",
    "ImageRecord",
    "ImageSet",
    "SkippedImage",
    "SliceChoice",
    "content_hash",
    "evenly_chosen",
    "find_images",
    "prepared",
    "set_files",
    "spread_order",
    "stack_words",
    "table_values",
]

EXTENSIONS = (
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".nii", ".nii.gz", ".dcm", ".dicom", ".ima", ".nrrd", ".nhdr", ".mha", ".mhd",
)  # fmt: skip
# Of which a file holds a volume as a rule.
FORMATS_OF_VOLUMES = ("nifti", "nrrd", "metaimage")
DICOM = (".dcm", ".dicom", ".ima")
# Names of sets of images that nobody was scanned for: their names need not tell a patient.
GENERATED = ("synthetic", "image")
# Of two sets one alone may name its patients; a pattern that matches neither is refused where both are known.
EITHER = ("a", "b")
# So many of one kind of file beside the other are no accident.
FEW = 3
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class SliceChoice:
    """Which slices of a volume are scored.

    Args:
        axis: 0, 1 or 2 of the RAS+ array, or sagittal, coronal, axial.
        start: first slice as a share of the axis, 0 to 1.
        stop: last slice as a share of the axis, 0 to 1.
        step: every n-th slice; None takes at most 16 slices a volume, evenly.
        channel: which volume of a 4D file; None refuses 4D files.
    """

    axis: int | str = 2
    start: float = 0.25
    stop: float = 0.75
    step: int | None = None
    channel: int | None = None

    def __post_init__(self) -> None:
        axis = AXES.get(self.axis, self.axis) if isinstance(self.axis, str) else self.axis
        if axis not in (0, 1, 2):
            raise InputError(f"The 'slice_axis' parameter must be 0, 1, 2, sagittal, coronal or axial. Got {self.axis!r} instead.")
        object.__setattr__(self, "axis", axis)
        if not 0 <= self.start < self.stop <= 1:
            raise InputError(
                f"The 'slice_range' parameter must be two shares with 0 <= start < stop <= 1. Got {self.start}, {self.stop} instead."
            )
        if self.step is not None and self.step < 1:
            raise InputError(f"The 'slice_step' parameter must be an integer >= 1. Got {self.step!r} instead.")

    def indices(self, length: int) -> list[int]:
        """Slice numbers along an axis of ``length`` slices; never empty."""
        first, last = math.floor(length * self.start), max(math.ceil(length * self.stop), 1)
        step = self.step or max(1, math.ceil((last - first) / 16))
        return list(range(first, last, step)) or [length // 2]


@dataclass(frozen=True)
class ImageRecord:
    """One image that is scored: a 2D file, one slice of a volume or a volume whole.

    Attributes:
        id: the path as given, with ``#slice=N`` for a slice of a volume; unique within its set.
        paths: files on disk; more than one for a DICOM series, and for a header with its voxels beside it.
        volume: the path of the volume (the file, or the folder and series).
        patient: the patient's identifier, or the volume's when none is known.
        slice: slice number along ``axis``, or None for a 2D image.
        axis: 0, 1 or 2 of the RAS+ array, or None.
        channel: volume of a 4D file, or None.
        repeats: how often the training set showed it to the generator, from a column ``repeats``; 1 where nothing is said.
        modality: DICOM Modality, such as MR, CT, CR or DX; None where the file says none.
        patient_known: whether a table, DICOM or the pattern names the patient; else every volume counts as one of its own.
        slices: how many slices the volume has along ``axis``, or None for a 2D image.
        whole: whether it is a volume that is scored whole, see :func:`doppelscan.images.read_volume`.
        geometry: of such a volume, by its header alone; else None.
        format: of such a volume: nifti, dicom, nrrd, metaimage, npy or tiff; else None.
        condition: what the generator was asked for, from a column ``condition``; empty where nothing is said.
    """

    id: str
    paths: tuple[str, ...]
    volume: str
    patient: str
    slice: int | None = None
    axis: int | None = None
    channel: int | None = None
    repeats: int = 1
    modality: str | None = None
    patient_known: bool = True
    slices: int | None = None
    whole: bool = False
    geometry: VolumeGeometry | None = None
    format: str | None = None
    condition: str = ""


@dataclass(frozen=True)
class SkippedImage:
    """An image that is not scored, with the reason: one line that names no path."""

    path: str
    reason: str


def prepared(record: ImageRecord, transform: Callable) -> Mapping[str, Any] | SkippedImage:
    """What ``transform`` makes of the item of an image, or why it cannot; an error that says nothing of the image is raised."""
    try:
        return transform({"image": list(record.paths), "slice": record.slice, "axis": record.axis, "channel": record.channel})
    except Exception as error:
        reason = reason_of_image(error)
        if reason is None:
            raise
        return SkippedImage(record.id, reason)


@dataclass(frozen=True)
class DrawnSample:
    """Of a set that was not read whole, how much was.

    Attributes:
        drawn: images, or volumes, that were drawn; each as likely as any other.
        total: of how many the set has.
    """

    drawn: int
    total: int


@dataclass
class ImageSet:
    """The records of one set and what was left out.

    Attributes:
        name: training, synthetic or holdout.
        records: what will be scored.
        skipped: files that cannot be read, with reasons.
        patient_source: where the patient comes from: column, DICOM, pattern or volume.
        ignored: number of files that are no images (text, tables).
        unmatched: number of volumes or files whose name the patient pattern does not match; each is a patient of its own.
        sample: how much was drawn of the set, or None where it is whole.
        notes: what is to be told of volumes that are read whole, one line each that names no path.
    """

    name: str
    records: list[ImageRecord]
    skipped: list[SkippedImage] = field(default_factory=list)
    patient_source: str = "volume"
    ignored: int = 0
    unmatched: int = 0
    sample: DrawnSample | None = None
    notes: list[str] = field(default_factory=list)
    _keys: list[str | None] | None = field(default=None, init=False, repr=False, compare=False)

    def content_keys(self, label: str) -> list[str | None]:
        """:func:`content_hash` of each record, None of one that cannot be opened, which is added to ``skipped``; the files are hashed once.

        Args:
            label: of the progress bar, such as the set's name.
        """
        if self._keys is None:
            volumes: dict[tuple[str, ...], Any] = {}
            self._keys = [self._content_key(record, volumes) for record in progress(self.records, f"hash {label}", "image")]
        return list(self._keys)

    def _content_key(self, record: ImageRecord, volumes: dict[tuple[str, ...], Any]) -> str | None:
        try:
            return content_hash(record, volumes)
        except OSError as error:
            self.skipped.append(SkippedImage(record.id, f"cannot be opened: {error.strerror}"))
            return None

    @property
    def whole_volumes(self) -> bool:
        """Whether the records are volumes that are scored whole; else they are 2D images and slices."""
        return unit_of(self.records) == "volume"

    @property
    def unknown_patients(self) -> int:
        """Number of records whose patient nothing names, so that each volume counts as a patient of its own."""
        return sum(not record.patient_known for record in self.records)

    def unreadable(self) -> InputError:
        """The error of a set none of whose images could be read."""
        first = f"; the first, {self.skipped[0].path!r}: {self.skipped[0].reason}" if self.skipped else ""
        return InputError(
            f"The '{self.name}' parameter must name at least one readable image. Got {len(self.skipped)} unreadable{first}."
        )


def content_hash(record: ImageRecord, volumes: dict[tuple[str, ...], Any] | None = None) -> str:
    """sha256 of the record's bytes and of which slice it is: the key under which its embedding is stored.

    Args:
        record: what to hash.
        volumes: what was read of volumes so far, by their paths; filled. Pass one dict for all records of a set, and a volume is read
            once, not once for each of its slices.
    """
    digest = volumes.get(record.paths) if volumes else None
    if digest is None:
        digest = hashlib.sha256()
        for path in record.paths:
            add_file(digest, path)
        if volumes is not None and record.slice is not None:
            volumes[record.paths] = digest
    digest = digest.copy()
    digest.update(f"|{record.slice}|{record.axis}|{record.channel}".encode())
    return digest.hexdigest()


def unit_of(records: Iterable[ImageRecord]) -> str:
    """What is counted where ``records`` are compared: image, or volume where they are scored whole."""
    return "volume" if any(record.whole for record in records) else "image"


def evenly_chosen(count: int, most: int) -> np.ndarray:
    """At most ``most`` of ``count`` rows, evenly spread from the first to the last: int64, rising."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))


def find_images(
    source: str | os.PathLike,
    *,
    name: str = "training",
    patient_pattern: str | None = None,
    slices: SliceChoice | None = None,
    limit: int | None = None,
    seed: int = 0,
    volumes: Literal["whole", "as-slices"] = "as-slices",
) -> ImageSet:
    """List the images of a set.

    Args:
        source: a folder (searched recursively), a .csv with a column ``path`` (and ``patient``, ``repeats`` if known), a MONAI
            data list .json (``[{"image": ...}]`` or ``{"training": [...]}``, with ``patient`` or ``subject``, ``repeats`` if known),
            or one image or volume, which is a set of one file. Relative paths are taken from the table's folder. Rows without a patient
            take it from DICOM or the pattern, else are a patient of their own and counted in ``ImageSet.unknown_patients``.
        name: name of the parameter in messages; a set of generated images (``synthetic``, ``image``) need not match the pattern.
        patient_pattern: regular expression searched in the file name; group 1 is the patient. An image whose name it does not match is a
            patient of its own.
        slices: which slices of volumes; default: the middle half of the axial axis, at most 16.
        limit: images of a random sample in place of the whole set, see :func:`spread_order`. Volumes are drawn whole, so that the last one may
            bring some slices more. No other file is opened; of DICOM files the headers are, which alone say what is one volume. A set of no more
            images is taken whole.
        seed: of that sample.
        volumes: ``as-slices`` cuts volumes into images; ``whole`` gives one record a volume, with its geometry and its voxels unread. Of
            ``slices``, the channel alone then has an effect. A set of 2D images is the same in both.

    Returns:
        the set. A file that cannot be read is in ``skipped`` with its reason, and the rest goes on: so does a DICOM series without a file
        whose pixels are not whole, unless the slices are taken across the gap that it leaves.

    Raises:
        InputError: ``source`` is missing, empty, or holds no readable image; the pattern matches no name of a set of real images; ``whole``
            meets volumes and 2D images in one set, and not a few 2D images beside many volumes, which are left out.
    """
    slices = slices or SliceChoice()
    if volumes not in ("whole", "as-slices"):
        raise InputError(f"The 'volumes' parameter must be whole or as-slices. Got {volumes!r} instead.")
    whole = volumes == "whole"
    pattern = _compile(patient_pattern)
    source = Path(source)
    if not source.exists():
        raise InputError(
            f"The '{name}' parameter must be an existing folder, image, .csv or .json. Got {str(source)!r}, which does not exist."
        )
    result = ImageSet(name, [])
    if source.is_dir():
        rows = _from_folder(source, result)
    elif source.suffix.lower() == ".csv":
        rows = _from_csv(source, name)
    elif source.suffix.lower() == ".json":
        rows = _from_data_list(source, name)
    else:
        rows = [_Row(str(source))]
    if not rows:
        raise InputError(f"The '{name}' parameter must name at least one image. Got {str(source)!r}, which holds none.")
    if limit is not None:
        rows, result.sample = _drawn(rows, limit, seed, slices, whole)
    origins = set()
    for volume in _volumes(rows, result, slices, whole):
        origins.add(_add(result, volume, pattern, slices, whole))
    origins.discard("")
    result.patient_source = " and ".join(sorted(origins)) or "volume"
    if result.unmatched and origins == {"volume"} and name not in (*GENERATED, *EITHER):
        raise InputError(
            f"The 'patient_pattern' parameter must match the names of the {name} images. Got {patient_pattern!r}, which matches none of "
            f"{result.unmatched}, the first {os.path.basename(result.records[0].paths[0])!r}."
        )
    if not result.records and result.skipped and result.skipped[0].path == str(source):
        raise InputError(
            f"The '{name}' parameter must be a folder, an image, a .csv or a .json. Got {str(source)!r}: {result.skipped[0].reason}."
        )
    if whole:
        _check_alike(result, source)
        result.notes.extend(_spacing_notes(result))
    if not result.records:
        first = result.skipped[0] if result.skipped else None
        why = f"; the first, {first.path!r}: {first.reason}" if first else ""
        raise InputError(
            f"The '{name}' parameter must name at least one readable image. Got {str(source)!r} with {len(result.skipped)} unreadable{why}."
        )
    return result


def _check_alike(result: ImageSet, source: Path) -> None:
    """Raises ``InputError`` where volumes and 2D images are in one set: their scores could not be compared.

    A few 2D images beside volumes are left out: a preview stops no audit. So is a file of a format for volumes that holds one slice. A volume is never
    left out so: it holds more than all pictures beside it may.
    """
    volumes = sum(record.whole for record in result.records)
    images = [record for record in result.records if not record.whole]
    if volumes and images:
        flat = {record.id for record in images if image_format(record.paths[0]) in FORMATS_OF_VOLUMES}
        if len(flat) < volumes:
            _leave_out(result, [one for one in images if one.id in flat], "one slice only, beside volumes")
            images = [one for one in images if one.id not in flat]
    if _are_few(len(images), volumes):
        _leave_out(result, images, "a 2D image, beside volumes")
        return
    if volumes and images:
        raise InputError(
            f"The '{result.name}' parameter must name volumes or 2D images, not both. Got {volumes} volumes and {len(images)} 2D images in "
            f"{str(source)!r}, the first of these {os.path.basename(images[0].paths[0])!r}: take one kind out, or pass --volumes as-slices to "
            "score slices."
        )


def _are_few(few: int, others: int) -> bool:
    """At most a tenth of a set, or fewer than 3 beside at least 3."""
    return few * 10 <= few + others or (few < FEW <= others)


def _leave_out(result: ImageSet, records: Sequence[ImageRecord], reason: str) -> None:
    gone = {one.id for one in records}
    result.skipped.extend(SkippedImage(one.id, reason) for one in records)
    result.records[:] = [one for one in result.records if one.id not in gone]


def stack_words(image_set: ImageSet, stacks: int) -> str:
    """For example ``2 of 10 training volumes are stacks of thick slices``."""
    total = counted(len(image_set.records), f"{image_set.name} volume")
    return f"{stacks} of {total} {'is a stack' if stacks == 1 else 'are stacks'} of thick slices"


def _spacing_notes(result: ImageSet) -> list[str]:
    """What is to be told of how the volumes of a set differ."""
    known = [r.geometry for r in result.records if r.geometry is not None and r.geometry.known]
    unknown = sum(r.geometry is not None and not r.geometry.known for r in result.records)
    notes = []
    if known:
        spacings = np.array([geometry.spacing for geometry in known])
        low, high = spacings.min(0), spacings.max(0)
        if not np.allclose(low, high, rtol=0.01):
            words = [" x ".join(f"{v:.3g}" for v in s) for s in (low, high)]
            notes.append(f"{counted(len(known), f'{result.name} volume')} of different spacing: {words[0]} to {words[1]} mm")
        stacks = sum(geometry.stack_axis is not None for geometry in known)
        if stacks:
            notes.append(stack_words(result, stacks))
    if unknown:
        notes.append(
            f"{unknown} of {counted(len(result.records), f'{result.name} volume')} {'does not say how large its' if unknown == 1 else 'do not say how large their'} voxels are"
        )
    mended = Counter(told for geometry in known for told in geometry.told)
    notes.extend(f"{counted(count, f'{result.name} volume')}: {told}" for told, count in mended.most_common(10))
    return notes


def _compile(pattern: str | None) -> re.Pattern | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"The 'patient_pattern' parameter must be a regular expression. Got {pattern!r}: {error}.") from error
    if compiled.groups < 1:
        raise InputError(
            f"The 'patient_pattern' parameter must have a group for the patient, such as '(sub-\\d+)'. Got {pattern!r}."
        )
    return compiled


@dataclass(frozen=True)
class _Row:
    """A file and what a table says of it."""

    path: str
    patient: str | None = None
    repeats: int = 1
    condition: str = ""


def _repeats(value: object, name: str) -> int:
    """How often a record was shown, of a table's cell."""
    text = str(value).strip() if value is not None else ""
    try:
        number = int(float(text)) if text else 1
    except ValueError:
        number = 0
    if number < 1:
        raise InputError(f"The column 'repeats' of the '{name}' table must hold integers >= 1. Got {text!r} instead.")
    return number


def _from_folder(folder: Path, result: ImageSet) -> list[_Row]:
    rows: list[_Row] = []
    for root, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not _leads_back(root, f))
        for file in sorted(files):
            if file.startswith("."):
                continue
            path = os.path.join(root, file)
            if file.lower().endswith(EXTENSIONS) or _is_image(path):
                rows.append(_Row(path))
            else:
                result.ignored += 1
    return rows


def _leads_back(root: str, folder: str) -> bool:
    """Whether ``folder`` is a link to a folder that holds it: followed, the walk would not end."""
    link = os.path.join(root, folder)
    if not os.path.islink(link):
        return False
    target, here = os.path.realpath(link), os.path.realpath(root)
    return os.path.commonpath([target, here]) == target


def _is_image(path: str) -> bool:
    try:
        return image_format(path) is not None
    except ImageError:
        return False


def _from_csv(source: Path, name: str) -> list[_Row]:
    try:
        return _rows_of_csv(source, name)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The '{name}' table must be a .csv in UTF-8. Got {str(source)!r}: {error}.") from error


def _rows_of_csv(source: Path, name: str) -> list[_Row]:
    with open(source, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = {c.strip().lower(): c for c in reader.fieldnames or []}
        path_column = _path_column(columns, source, name)
        patient_column = next((columns[c] for c in ("patient", "subject", "patient_id", "subject_id") if c in columns), None)
        repeats_column, condition_column = columns.get("repeats"), columns.get("condition")
        return [
            _Row(
                str(_resolve(row[path_column], source)),
                (row.get(patient_column) or "").strip() or None if patient_column else None,
                _repeats(row.get(repeats_column), name) if repeats_column else 1,
                (row.get(condition_column) or "").strip() if condition_column else "",
            )
            for row in reader
            if (row[path_column] or "").strip()
        ]


def _path_column(columns: Mapping[str, str], source: Path, name: str) -> str:
    """The column that names the files, of ``columns`` (lower case -> as it is written)."""
    found = next((columns[c] for c in ("path", "image", "file") if c in columns), None)
    if found is None:
        raise InputError(
            f"The '{name}' table must have a column 'path'. Got the columns {', '.join(columns) or 'none'} in {str(source)!r}."
        )
    return found


def _items_of_data_list(source: Path, name: str) -> list:
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"The '{name}' data list must be JSON. Got {str(source)!r}: {error}.") from error
    if isinstance(data, dict):
        data = data.get(name) or data.get("training") or next((v for v in data.values() if isinstance(v, list)), [])
    if not isinstance(data, list):
        raise InputError(f"The '{name}' data list must hold a list. Got {type(data).__name__} in {str(source)!r}.")
    return data


def _from_data_list(source: Path, name: str) -> list[_Row]:
    rows = []
    for item in _items_of_data_list(source, name):
        item = {"image": item} if isinstance(item, str) else item
        if not isinstance(item, dict):
            raise InputError(f"Every item of the '{name}' data list must be a path or an object. Got {item!r} in {str(source)!r}.")
        image = item.get("image") or item.get("path")
        if image is None:
            raise InputError(
                f"Every item of the '{name}' data list must have the key 'image'. Got the keys {sorted(item)} in {str(source)!r}."
            )
        for path in image if isinstance(image, list) else [image]:
            if not isinstance(path, str):
                raise InputError(
                    f"The key 'image' of the '{name}' data list must be a path or paths. Got {path!r} in {str(source)!r}."
                )
            patient = item.get("patient", item.get("subject"))
            repeats = _repeats(item.get("repeats"), name)
            who = None if patient is None else str(patient).strip() or None
            rows.append(_Row(str(_resolve(path, source)), who, repeats, str(item.get("condition") or "").strip()))
    return rows


def _resolve(path: str, source: Path) -> Path:
    path = path.strip()
    return Path(path) if os.path.isabs(path) else source.parent / path


def table_values(source: str | os.PathLike, name: str = "training") -> dict[str, dict[str, str]]:
    """What the table of a set says of its files: path as in ``ImageRecord.paths`` -> column -> value, stripped; ``{}`` for a folder or a file.

    Args:
        source: .csv or .json that :func:`find_images` can read.
        name: name of the parameter in messages.
    """
    source = Path(source)
    found: dict[str, dict[str, str]] = {}
    if source.suffix.lower() == ".csv":
        with open(source, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            column = _path_column({c.strip().lower(): c for c in reader.fieldnames or []}, source, name)
            for row in reader:
                found[str(_resolve(row[column] or "", source))] = {
                    c.strip(): (row[c] or "").strip() for c in reader.fieldnames or []
                }
    elif source.suffix.lower() == ".json":
        for item in _items_of_data_list(source, name):
            told = item if isinstance(item, dict) else {"image": item}
            values = {key: str(value).strip() for key, value in told.items() if key not in ("image", "path") and value is not None}
            image = told.get("image") or told.get("path") or ""
            for path in image if isinstance(image, list) else [image]:
                found[str(_resolve(path, source))] = values
    return found


def set_files(source: str | os.PathLike) -> list[str]:
    """Paths of the files of a set, unread: what its folder holds, or its table and what that lists; hidden ones as little as :func:`find_images`."""
    source = Path(source)
    if source.is_dir():
        files, seen = [], set()
        for root, folders, names in os.walk(source, followlinks=True):
            if os.path.realpath(root) in seen:  # a link led back
                folders.clear()
                continue
            seen.add(os.path.realpath(root))
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += [os.path.join(root, name) for name in names if not name.startswith(".")]
        return sorted(files)
    tables = {".csv": _from_csv, ".json": _from_data_list}
    read = tables.get(source.suffix.lower()) if source.is_file() else None
    return [str(source), *(row.path for row in (read(source, "training") if read else []))]


def spread_order(strata: Sequence[Hashable], seed: int) -> list[int]:
    """A random order any beginning of which holds of every stratum its share, and everything with the same probability.

    What comes at place u of a stratum, 0 to 1, is random, and so is where it starts: sorted by that, the strata interleave. Such a stratified sample
    finds K copies at least as probably as one that is drawn from all alike, wherever the copies are.
    """
    rng = np.random.default_rng(seed)
    names = {name: number for number, name in enumerate(dict.fromkeys(strata))}
    codes = np.array([names[name] for name in strata], np.int64)
    sizes = np.bincount(codes, minlength=len(names))
    shuffled = rng.permutation(len(codes))
    by_stratum = shuffled[np.argsort(codes[shuffled], kind="stable")]
    own = codes[by_stratum]
    within = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[own]
    place = (within + rng.random(len(codes))) / sizes[own]
    return by_stratum[np.argsort(place, kind="stable")].tolist()


def _drawn(rows: list[_Row], limit: int, seed: int, slices: SliceChoice, whole: bool) -> tuple[list[_Row], DrawnSample | None]:
    """The files of a sample in the order of the set, and what it is; all of them and None where the set has no more images."""
    units: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in dict.fromkeys(rows):
        units[_unit(row.path)].append(row)
    members = list(units.values())
    strata = [own[0].condition or os.path.dirname(own[0].path) for own in members]
    taken: set[_Row] = set()
    images = drawn = 0
    for number in spread_order(strata, seed):
        if images >= limit:
            return [row for row in rows if row in taken], DrawnSample(drawn, len(members))
        scratch = ImageSet("sample", [])
        for volume in _volumes(members[number], scratch, slices, whole):
            _add(scratch, volume, None, slices, whole)
        images, drawn = images + len(scratch.records), drawn + bool(scratch.records)
        taken.update(members[number])
    return rows, None


def _unit(path: str) -> tuple[str, ...]:
    """What is drawn together: a file, or the files of a DICOM series in one folder."""
    if path.lower().endswith(DICOM) or not path.lower().endswith(EXTENSIONS):
        try:
            header = read_header(path)
        except ImageError:
            return (path,)
        if header.format == "dicom" and header.series and len(header.shape) == 2:
            return os.path.dirname(path), header.series
    return (path,)


@dataclass(frozen=True)
class _Volume:
    """One file, or the files of one DICOM series that stack, and what is known of it; the header's shape is the whole volume's."""

    id: str
    paths: tuple[str, ...]
    row: _Row
    header: FileHeader


_Member = tuple[_Row, FileHeader]


def _volumes(rows: list[_Row], result: ImageSet, slices: SliceChoice, whole: bool) -> Iterator[_Volume]:
    """Headers of all files; DICOM files of one series in one folder come as one volume. What cannot be read goes to ``skipped``."""
    series: dict[tuple[str, str], list[_Member]] = {}
    for row in dict.fromkeys(rows):
        try:
            header = read_header(row.path)
        except ImageError as error:
            result.skipped.append(SkippedImage(row.path, str(error)))
            continue
        if header.format == "dicom" and header.series and len(header.shape) == 2:
            series.setdefault((os.path.dirname(row.path), header.series), []).append((row, header))
        elif header.damage:
            result.skipped.append(SkippedImage(row.path, header.damage))
        else:
            yield _Volume(row.path, (row.path, header.data) if header.data else (row.path,), row, header)
    if whole:
        crowded = [count for count in Counter(folder for folder, _ in series).values() if count > 1]
        if crowded:
            result.notes.append(
                f"{len(crowded)} folders hold files of up to {max(crowded)} DICOM series (SeriesInstanceUID), {sum(crowded)} in all; "
                "each series is read on its own"
            )
    for (folder, uid), members in series.items():
        stacks = _stacks(members)
        for number, stack in enumerate(stacks, 1):
            name = f"{folder}#series={uid}" + (f",stack={number}" if number > 1 else "")
            volume = _stacked_whole(name, stack, result, len(stacks)) if whole else _stacked(name, stack, result, int(slices.axis))
            if volume is not None:
                yield volume


def _stacks(members: list[_Member]) -> list[list[_Member]]:
    """Files of one series that can lie on each other, of one size and orientation; the largest stack first.

    Three planes of a localizer are three stacks, and a file whose header was damaged is one of its own and costs the others nothing.
    """
    stacks: list[list[_Member]] = []
    for member in sorted(members, key=lambda m: m[0].path):
        fitting = (s for s in stacks if _same_plane(s[0][1], member[1]))
        stack = next(fitting, None)
        if stack is None:
            stacks.append(stack := [])
        stack.append(member)
    return sorted(stacks, key=len, reverse=True)


def _same_plane(one: FileHeader, other: FileHeader) -> bool:
    if one.shape != other.shape:
        return False
    if one.orientation is None or other.orientation is None:
        return one.orientation is other.orientation
    return np.allclose(one.orientation, other.orientation, atol=0.05)


def _stacked(name: str, members: list[_Member], result: ImageSet, axis: int) -> _Volume | None:
    """The volume of the files of ``members`` whose pixels are whole; the others are listed, as is the whole where a gap is crossed."""
    stack = stack_slices([header for _, header in members])
    members = [members[i] for i in stack.order]
    places = [i for i, (_, header) in enumerate(members) if not header.damage]
    damaged = len(members) - len(places)
    goes_on = f"; its series goes on with the other {len(places)}" if places else ""
    if len(places) > 1 and places[-1] - places[0] >= len(places) and axis != stack.axis:
        goes_on = ""
        result.skipped.append(
            SkippedImage(name, f"slices along axis {axis} would cross the gap that {damaged} unreadable files leave")
        )
    result.skipped.extend(SkippedImage(r.path, f"{h.damage}{goes_on}") for r, h in members if h.damage)
    if not goes_on and damaged:
        return None
    members = [members[i] for i in places]
    row = next((r for r, _ in members if r.patient is not None), members[0][0])
    if len(members) == 1:
        return _Volume(row.path, (row.path,), row, members[0][1])
    headers = [header for _, header in members]
    header = replace(
        headers[0],
        shape=stack_slices(headers).shape(*headers[0].shape),
        patient=_most_common(h.patient for h in headers),
        modality=_most_common(h.modality for h in headers),
    )
    return _Volume(name, tuple(r.path for r, _ in members), row, header)


def _stacked_whole(name: str, members: list[_Member], result: ImageSet, stacks: int) -> _Volume | None:
    """The volume of the files of ``members`` with its geometry; what keeps it from being one is listed, and so are files that are damaged.

    Their places are gaps, which the geometry refuses or tells.
    """
    damaged = [(row, header) for row, header in members if header.damage]
    result.skipped.extend(SkippedImage(row.path, f"{header.damage}; its slice is a gap") for row, header in damaged)
    members = [member for member in members if not member[1].damage]
    if not members:
        return None
    headers = [header for _, header in members]
    row = next((r for r, _ in members if r.patient is not None), members[0][0])
    if len(members) == 1 and stacks == 1 and not damaged:  # a radiograph
        return _Volume(row.path, (row.path,), row, headers[0])
    try:
        if len(members) == 1:
            raise ImageError("one slice only, which lies on no other of its series")
        plan = series_plan(headers)
    except ImageError as error:
        result.skipped.append(SkippedImage(name, str(error)))
        return None
    header = replace(
        headers[0],
        shape=plan.geometry.shape,
        patient=_most_common(h.patient for h in headers),
        modality=_most_common(h.modality for h in headers),
        geometry=plan.geometry,
        times=len(plan.order),
    )
    return _Volume(name, tuple(r.path for r, _ in members), row, header)


def _most_common(values: Iterable[str | None]) -> str | None:
    """The value that most of the files of a volume give: one file's header may be damaged."""
    counted = Counter(v for v in values if v is not None).most_common(1)
    return counted[0][0] if counted else None


def _add(result: ImageSet, volume: _Volume, pattern: re.Pattern | None, slices: SliceChoice, as_whole: bool) -> str:
    """Add the records of one volume to ``result``; returns where the patient came from."""
    row, header, shape = volume.row, volume.header, volume.header.shape
    if as_whole and header.fault:
        result.skipped.append(SkippedImage(volume.id, header.fault))
        return ""
    if as_whole and header.times > 1:
        shape = (*shape[:3], header.times)
    if len(shape) == 4 and slices.channel is not None and as_whole and not 0 <= slices.channel < shape[3]:
        result.skipped.append(SkippedImage(volume.id, f"--channel {slices.channel} is outside 0 to {shape[3] - 1}"))
        return ""
    if len(shape) == 4 and slices.channel is None:
        result.skipped.append(SkippedImage(volume.id, f"4D of shape {shape} without a choice: pass --channel 0 to {shape[3] - 1}"))
        return ""
    patient, origin = row.patient, "column"
    if patient is None and header.patient:
        patient, origin = header.patient, "DICOM"
    if patient is None and pattern is not None:
        found = pattern.search(os.path.basename(volume.paths[0]))
        if found is not None and found.group(1):
            patient, origin = found.group(1), "pattern"
        else:
            result.unmatched += 1
    if patient is None:
        patient, origin = volume.id, "volume"
    known = origin != "volume"
    whole = ImageRecord(
        volume.id,
        volume.paths,
        volume.id,
        patient,
        repeats=row.repeats,
        modality=header.modality,
        patient_known=known,
        condition=row.condition,
    )
    if len(shape) == 2:
        result.records.append(whole)
        return origin
    if as_whole:
        channel = slices.channel if len(shape) == 4 else None
        result.records.append(replace(whole, channel=channel, whole=True, geometry=header.geometry, format=header.format))
        return origin
    axis = int(slices.axis)
    result.records.extend(
        replace(whole, id=f"{volume.id}#slice={index}", slice=index, axis=axis, channel=slices.channel, slices=shape[axis])
        for index in slices.indices(shape[axis])
    )
    return origin
