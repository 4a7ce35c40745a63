"""Which samples of a generator are copies, by evidence that asks no score of ours: distances to training images, in pixels and after dense registration.

A sample's distance to the nearest training image is held against its distances to the next *other people*. Real images of people who are in no
training set, as they are and as blurred as samples are, say what is usual. Beyond all of them in everything votes for a copy, within the lower 95 %
of them in everything votes for none. Two criteria vote, one by pixels in place, one after each candidate was bent on the sample without any rule of
anatomy; where they disagree the sample is unsure, and a person decides. A third, by pixels in every pose, has to agree before a sample is called novel.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from doppelscan.benchmark.turned import turned_correlations
from doppelscan.deepssim import registered_ssim, verdict
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import ImageRecord, cut_foreground
from doppelscan.memorization import spread_over_patients
from doppelscan.progress import progress
from doppelscan.report.tables import Row

__all__ = [
    "COPIED",
    "TRUTHS",
    "LabelTable",
    "SampleLabel",
    "Truth",
    "label_samples",
    "named_samples",
    "pixel_votes",
    "read_labels",
    "required_samples",
    "write_labels",
]

Truth = Literal["copy", "same patient", "blend", "novel", "unsure"]
Vote = Literal["copy", "novel", "unsure"]
TRUTHS: tuple[Truth, ...] = ("copy", "same patient", "blend", "novel", "unsure")
# Truths that show a training image.
COPIED: tuple[Truth, ...] = ("copy", "blend")
# Of bands, Gaussians in pixels of a sample of 96: coarser than its noise, finer than a head's outline.
BANDS = ((1.0, 3.0), (1.5, 5.0))
SHIFT, BLUR, USUAL = 0.03, 1.2, 0.95
# Other people that the nearest is held against; training images that are shown; strangers that say what is usual after registration.
NEXT, SHOWN, STRANGERS = 5, 3, 80
# Training images whose spectra are held at once.
BLOCK = 256
# Side at which samples are compared: optical flow of larger ones takes long and tells no more.
MOST_PIXELS = 96
COLUMNS = (
    "image",
    "truth",
    "by",
    "in_pixels",
    "registered",
    "turned",
    "ratio",
    "registered_ratio",
    "ssim",
    "paper_class",
    "source",
    "source_patient",
)


@dataclass(frozen=True)
class SampleLabel:
    """What a sample is, and by what evidence.

    Attributes:
        truth: of ``TRUTHS``; a blend is only ever called so by a person.
        sources: rows of the training images that are nearest in pixels, the nearest first; before them the nearest in any pose, where that does not vote novel.
        in_pixels: vote by distances in place.
        registered: vote by distances after dense registration.
        turned: vote by distances in any pose.
        ratio: distance to the nearest over the mean distance to the next other people, in pixels; below 1, small for copies.
        registered_ratio: likewise, after dense registration.
        ssim: registered SSIM with the nearest (arXiv 2509.16582, section 3).
        by: ``pixels`` or ``person``.
        named: row of the training image that a person says it shows; None where nobody does.
    """

    truth: Truth
    sources: tuple[int, ...]
    in_pixels: Vote
    registered: Vote
    turned: Vote
    ratio: float
    registered_ratio: float
    ssim: float
    by: Literal["pixels", "person"] = "pixels"
    named: int | None = None

    @property
    def source(self) -> int:
        """Row of the training image that it is told to be nearest to; -1 where a person says what it is, but not of which."""
        if self.by == "person":
            return -1 if self.named is None else self.named
        return self.sources[0]

    @property
    def paper_class(self) -> str:
        """``duplicate``, ``similar`` or ``different``, by the cuts of arXiv 2509.16582."""
        return verdict(self.ssim)


@dataclass(frozen=True)
class _Nearness:
    """How near images lie to training images.

    Attributes:
        columns: float64 [M, 2 * bands], correlation with the nearest and 1 - ratio of distances, in each band: high is near.
        nearest: int64 [M, P], training row of the nearest image of each of P people, the nearest person first.
        ratio: float64 [M], mean over bands.
    """

    columns: np.ndarray
    nearest: np.ndarray
    ratio: np.ndarray


def pixel_votes(samples: np.ndarray, training: np.ndarray, people: Sequence[str], strangers: np.ndarray) -> list[Vote]:
    """The first criterion alone, see :func:`label_samples`."""
    size = samples.shape[-1]
    own, others = (_resized(one, size) for one in (training, strangers))
    usual = [_in_pixels(one, own, people) for one in (others, _blurred(others, BLUR * size / 96))]
    return _votes(_in_pixels(samples, own, people), usual)


def label_samples(samples: np.ndarray, training: np.ndarray, people: Sequence[str], strangers: np.ndarray) -> list[SampleLabel]:
    """Label each of ``samples``.

    ``copy`` where both criteria say so, ``novel`` where both do and no training image is near in another pose either. A copy whose distance to its source
    is not below that of the source to another image of the same person, or whose source differs between the criteria but not its patient, is
    ``same patient``.

    Args:
        samples: float32 [M, S, S] in [0, 1].
        training: float32 [N, T, T] in [0, 1], on the same frame.
        people: patient of each training image: the next ones are of others.
        strangers: float32 [n, T, T], of other patients.

    Raises:
        InputError: fewer than three training patients or two strangers, or scikit-image is not installed.
    """
    if len(set(people)) < 3 or len(strangers) < 2:
        raise InputError(
            f"Labels need training images of at least 3 patients and 2 images of others. Got {len(set(people))} and {len(strangers)}; name more."
        )
    size = min(MOST_PIXELS, samples.shape[-1])
    samples, own, others = (_resized(one, size) for one in (samples, training, strangers))
    others = others[spread_over_patients([str(i) for i in range(len(others))], STRANGERS, 0)]
    blurred = _blurred(others, BLUR * size / 96)
    near, *usual = (_in_pixels(one, own, people) for one in (samples, others, blurred))
    votes = _votes(near, usual)
    # In place nothing is seen of a copy that is mirrored, turned or zoomed: where one is near, a person has to look.
    turned, *turned_usual = (
        _turned(images, own, people, words)
        for images, words in ((samples, "samples"), (others, "strangers"), (blurred, "blurred strangers"))
    )
    turned_votes = _votes(turned, turned_usual)
    bent, *bent_usual = (
        _registered(images, own, found, words)
        for images, found, words in (
            (samples, near, "samples"),
            (others, usual[0], "strangers"),
            (blurred, usual[1], "blurred strangers"),
        )
    )
    bent_votes = _votes(bent, bent_usual)
    first = np.array([found[0] for found in near.nearest])
    similar = _registered_ssim(samples, own[first])
    apart = _own_distances(own, people)
    labels = []
    for i, votes_of in enumerate(zip(votes, bent_votes, strict=True)):
        truth: Truth = "unsure"
        sources = near.nearest[i, :SHOWN].tolist()
        if {*votes_of, turned_votes[i]} == {"novel"}:
            truth = "novel"
        elif set(votes_of) == {"copy"}:
            row, other = int(near.nearest[i, 0]), int(bent.nearest[i, 0])
            distance = float(np.sqrt(max(0.0, 1 - near.columns[i, 0])))
            if people[row] == people[other]:
                truth = "copy" if row == other and distance < apart[row] else "same patient"
        if turned_votes[i] != "novel" and set(votes_of) != {"copy"}:
            sources = list(dict.fromkeys([int(turned.nearest[i, 0]), *sources]))[:SHOWN]
        labels.append(
            SampleLabel(
                truth,
                tuple(sources),
                *votes_of,
                turned_votes[i],
                float(near.ratio[i]),
                float(bent.ratio[i]),
                float(similar[i]),
            )
        )
    return labels


def _votes(near: _Nearness, usual: Sequence[_Nearness]) -> list[Vote]:
    columns = np.concatenate([one.columns for one in usual])
    most, common = columns.max(0), np.quantile(columns, USUAL, axis=0)
    beyond, within = (near.columns > most).all(1), (near.columns <= common).all(1)
    return ["copy" if far else "novel" if same else "unsure" for far, same in zip(beyond, within, strict=True)]


def _turned(images: np.ndarray, training: np.ndarray, people: Sequence[str], words: str) -> _Nearness:
    """As :func:`_in_pixels` in the coarser band, over poses."""
    found = turned_correlations(_band(images, *BANDS[1]), _band(training, *BANDS[1]), words)
    return _nearest_people([found.astype(np.float64)], people)


def _in_pixels(images: np.ndarray, training: np.ndarray, people: Sequence[str]) -> _Nearness:
    """By correlation over small shifts: sqrt(2 - 2 c) is the root mean square difference of two z-scored images."""
    return _nearest_people([_correlations(_band(images, *band), _band(training, *band)) for band in BANDS], people)


def _nearest_people(found: Sequence[np.ndarray], people: Sequence[str]) -> _Nearness:
    """Of correlations float64 [M, N] in each band."""
    rows = _rows_of_people(people)
    mean = np.mean(found, 0)
    best = np.stack([own[mean[:, own].argmax(1)] for own in rows], 1)
    order = np.argsort(-np.take_along_axis(mean, best, 1), 1, kind="stable")[:, : NEXT + 1]
    nearest = np.take_along_axis(best, order, 1)
    return _nearness([np.take_along_axis(one, nearest, 1) for one in found], nearest)


def _registered(images: np.ndarray, training: np.ndarray, found: _Nearness, words: str) -> _Nearness:
    """The nearest image of each of the nearest people, bent on the image by TV-L1 optical flow (Zach et al. 2007), and compared again."""
    try:
        from skimage.registration import optical_flow_tvl1
    except ImportError as error:
        raise InputError("Labels need scikit-image, which registers them; pip install '.[benchmark]'.") from error
    size = images.shape[-1]
    grid = np.indices((size, size)).astype(np.float32)
    smooth, smooth_training = (_blurred(one, size / 96) for one in (images, training))
    values = np.zeros((len(BANDS), *found.nearest.shape))
    for i in progress(range(len(images)), f"register {words}", "image"):
        for k, row in enumerate(found.nearest[i]):
            flow = optical_flow_tvl1(smooth[i], smooth_training[row], num_warp=5, num_iter=5)
            moved = ndimage.map_coordinates(training[row], grid + flow, order=1, mode="nearest")
            for b, band in enumerate(BANDS):
                one, other = _band(np.stack([images[i], moved]), *band)
                values[b, i, k] = (one * other).sum()
    order = np.argsort(-values.mean(0), 1, kind="stable")
    nearest = np.take_along_axis(found.nearest, order, 1)
    return _nearness([np.take_along_axis(one, order, 1) for one in values], nearest)


def _nearness(correlations: Sequence[np.ndarray], nearest: np.ndarray) -> _Nearness:
    """Of correlations float64 [M, P] in each band, the nearest person first."""
    columns, ratios = [], []
    for one in correlations:
        distance = np.sqrt(np.clip(1 - one, 0, None))
        ratio = distance[:, 0] / np.maximum(distance[:, 1:].mean(1), 1e-12)
        columns += [one[:, 0], 1 - ratio]
        ratios.append(ratio)
    return _Nearness(np.stack(columns, 1), nearest, np.mean(ratios, 0))


def _own_distances(training: np.ndarray, people: Sequence[str]) -> np.ndarray:
    """Distance of each training image to the nearest other one of the same person, infinite where there is none: float64 [N]."""
    banded = _band(training, *BANDS[0])
    result = np.full(len(training), np.inf)
    for rows in _rows_of_people(people):
        if len(rows) > 1:
            found = _correlations(banded[rows], banded[rows])
            np.fill_diagonal(found, -1)
            result[rows] = np.sqrt(np.clip(1 - found.max(1), 0, None))
    return result


def _rows_of_people(people: Sequence[str]) -> list[np.ndarray]:
    """Rows of each person's images, int64."""
    codes = np.unique(list(people), return_inverse=True)[1].reshape(-1)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes))[:-1])


def _registered_ssim(samples: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    pairs = [cut_foreground(torch.from_numpy(np.ascontiguousarray(one))[:, None].float(), 128) for one in (samples, nearest)]
    first, second = ((one - one.mean((2, 3), keepdim=True)) / one.std((2, 3), keepdim=True).clamp_min(1e-6) for one in pairs)
    return torch.cat([registered_ssim(first[i : i + 32], second[i : i + 32]) for i in range(0, len(first), 32)]).numpy()


def _correlations(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Highest correlation over small shifts: float64 [M, N]."""
    reach = max(1, round(SHIFT * images.shape[-1]))
    near = np.arange(-reach, reach + 1)  # shifts back lie at the end
    asked, found = np.fft.fft2(images), np.empty((len(images), len(others)))
    for first in range(0, len(others), BLOCK):
        block = slice(first, first + BLOCK)
        spectra = np.fft.fft2(others[block]).conj()
        for i, one in enumerate(asked):
            found[i, block] = np.fft.ifft2(one * spectra).real[:, near[:, None], near].max((1, 2))
    return found


def _band(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """What lies between two blurs, of mean 0 and length 1: float64 [N, S, S]."""
    size = images.shape[-1]
    made = _blurred(images, low * size / 96).astype(np.float64) - _blurred(images, high * size / 96)
    made -= made.mean((1, 2), keepdims=True)
    return made / np.maximum(np.sqrt((made**2).sum((1, 2), keepdims=True)), 1e-12)


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, sigma, sigma))


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    if images.shape[-1] == size:
        return np.asarray(images, np.float32)
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in images])


def write_labels(
    path: Path, labels: Sequence[SampleLabel], samples: Sequence[ImageRecord], training: Sequence[ImageRecord]
) -> None:
    """Write a row for each sample: ``image, truth, by``, the votes, the ratios, the SSIM and its class, and ``source``.

    That is the nearest training image or, of a label by a person, the one that this person named; empty where none was.
    """
    write_atomic(path, to_csv(COLUMNS, [_row(one, sample, training) for one, sample in zip(labels, samples, strict=True)]))


def _row(label: SampleLabel, sample: ImageRecord, training: Sequence[ImageRecord]) -> Row:
    source = training[label.source] if label.source >= 0 else None
    return {
        "image": sample.id, "truth": label.truth, "by": label.by, "in_pixels": label.in_pixels, "registered": label.registered,
        "turned": label.turned, "ratio": label.ratio, "registered_ratio": label.registered_ratio, "ssim": label.ssim, "paper_class": label.paper_class,
        "source": source.id if source else "", "source_patient": source.patient if source else "",
    }  # fmt: skip


@dataclass(frozen=True)
class LabelTable:
    """A table of labels as it stands in its file.

    Attributes:
        path: of the file.
        rows: column -> text, stripped; ``image`` and ``truth`` are in each.
    """

    path: Path
    rows: tuple[Mapping[str, str], ...]

    @classmethod
    def read(cls, path: str | os.PathLike) -> LabelTable:
        """Read a .csv in UTF-8 with the columns ``image`` and ``truth``, and where there are any ``by``, ``source`` and others.

        Raises:
            InputError: it is no such file, a column is missing, or a truth is none of ``TRUTHS``.
        """
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, restkey="", restval="")
                rows = tuple({name: text.strip() for name, text in row.items() if name} for row in reader)
                columns = reader.fieldnames or []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(
                f"The 'labels' parameter must be a .csv in UTF-8. Got {str(path)!r}: {error}; export it from labels.html."
            ) from error
        if not {"image", "truth"} <= set(columns):
            raise InputError(
                f"The 'labels' table must have the columns image and truth. Got {', '.join(columns) or 'none'} in {str(path)!r}; export it from labels.html."
            )
        for row in rows:
            if row["truth"] not in TRUTHS:
                raise InputError(
                    f"The column 'truth' of the 'labels' table must be {', '.join(TRUTHS)}. Got {row['truth']!r} for {row['image']!r}; correct it in "
                    f"{str(path)!r}."
                )
        return cls(Path(path), rows)

    @property
    def by_person(self) -> LabelTable:
        """Those rows that pixels have not set; a table without a column ``by`` is a person's."""
        return LabelTable(self.path, tuple(row for row in self.rows if row.get("by") != "pixels"))


def named_samples(table: LabelTable, samples: Sequence[str]) -> list[int | None]:
    """Which of ``samples``, paths of images, each row of the table is of; None for none.

    By the whole path or, where files were moved, by a file name that one row and one sample alone have: samples of two conditions have the same names.

    Raises:
        InputError: a row is of one of several samples.
    """
    named = [row["image"] for row in table.rows]
    by_path, by_name = _places(samples)
    found = [by_path.get(os.path.realpath(one)) for one in named]
    taken, rows_of = set(found), Counter(Path(one).name for one, place in zip(named, found, strict=True) if place is None)
    for row, one in enumerate(named):
        name = Path(one).name
        fitting = [place for place in by_name.get(name, []) if place not in taken]
        if found[row] is None and fitting:
            if len(fitting) > 1 or rows_of[name] > 1:
                raise InputError(
                    f"The 'labels' table must name each sample by its path, or by a file name that it alone has. Got {one!r}: {rows_of[name]} rows and "
                    f"{len(fitting)} samples have that name; write the paths of the samples into {str(table.path)!r}."
                )
            found[row] = fitting[0]
    return found


def read_labels(
    table: LabelTable | str | os.PathLike,
    labels: Sequence[SampleLabel],
    samples: Sequence[ImageRecord],
    training: Sequence[ImageRecord],
) -> list[SampleLabel]:
    """``labels`` with those in their place that a person has set: the file that the label page exports, or one with columns ``image`` and ``truth``.

    Args:
        table: of a .csv, see :meth:`LabelTable.read` and :func:`named_samples`; rows whose column ``by`` says ``pixels`` are passed over, and ``source``,
            where it is not empty, is the training image that the person has named.
        labels: by pixels.
        samples: which ``labels`` are of.
        training: images in which their sources count.

    Raises:
        InputError: it cannot be read, or an image is none of the samples, or a source none of the training images.
    """
    table = (table if isinstance(table, LabelTable) else LabelTable.read(table)).by_person
    result, by_path, by_name = list(labels), *_places([one.id for one in training])
    for row, place in zip(table.rows, required_samples(table, samples), strict=True):
        named = None
        if source := row.get("source"):
            whole = by_path.get(os.path.realpath(source))
            fitting = by_name.get(Path(source).name, []) if whole is None else [whole]
            if len(fitting) != 1:
                raise InputError(
                    f"The column 'source' of the 'labels' table must name a training image. Got {source!r} in {str(table.path)!r}, which {len(fitting)} of "
                    "them are; leave it empty, or write the path of the image."
                )
            named = fitting[0]
        result[place] = replace(result[place], truth=row["truth"], by="person", named=named)  # type: ignore[arg-type]
    return result


def required_samples(table: LabelTable, samples: Sequence[ImageRecord]) -> list[int]:
    """Of each row the sample that it is of, see :func:`named_samples`.

    Raises:
        InputError: a row is of none of them.
    """
    places = []
    for row, place in zip(table.rows, named_samples(table, [one.id for one in samples]), strict=True):
        if place is None:
            raise InputError(
                f"The 'labels' table must name images of the samples. Got {row['image']!r} in {str(table.path)!r}, which is none; pass its own --samples, or "
                "another --output."
            )
        places.append(place)
    return places


def _places(images: Sequence[str]) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Rows of images by whole path and by file name."""
    by_name: dict[str, list[int]] = {}
    for i, one in enumerate(images):
        by_name.setdefault(Path(one).name, []).append(i)
    return {os.path.realpath(one): i for i, one in enumerate(images)}, by_name
