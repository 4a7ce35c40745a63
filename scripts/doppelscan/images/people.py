"""People whom nobody named: file names and folders propose a partition of a set, pairs found by registration make or refute one.

A proposal is read from names alone, so it is a guess: :func:`agrees` holds it against pairs that are known to be of one person. Such pairs
refute what is too fine (slices of one person apart), never what is too coarse (several people as one); so the explicit proposals come
first (``sub-01``, ``patient12``), then the others from the finest to the coarsest, those that match few names after those that match nearly
all, and the first that agrees is the one to take.

What a standard defines to be a subject is no guess: a file or folder of BIDS names one, see :func:`bids_subjects`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from doppelscan.errors import InputError
from doppelscan.images.records import ImageRecord

__all__ = ["BIDS_PATTERN", "BIDS_WORDS", "PatientProposal", "agrees", "bids_subjects", "people_of", "propose_patients"]

SEPARATOR, FIELD = r"[_\-. ()]", r"[^_\-. ()]+"
EXTENSION = r"(?:\.nii)?(?:\.[a-z][a-z0-9]*)?$"
# https://bids-specification.readthedocs.io/en/stable/common-principles.html: a file begins with sub-<label>, or a folder is called so; a label is of
# letters and digits, and what follows in a file's name begins with an underscore.
BIDS_PATTERN, BIDS_WORDS = r"^(sub-[A-Za-z0-9]+)(?=[_.]|$)", "the BIDS subject (sub-...)"
# Names that say themselves that they name a person.
MARKED = (
    (r"(?i)(?<![a-z0-9])(sub-[a-z0-9]+)", "the word sub- and a label"),
    (
        r"(?i)(?<![a-z])((?:patient|participant|subject|subj|sub|patid|pat|pid|case|person|volunteer)[-_ .#]*\d+)",
        "a word for a person and a number (such as patient12)",
    ),
    (r"(?i)(?<![a-z0-9])(p[-_]?\d{2,})(?![a-z0-9])", "the letter P and a number (such as P012)"),
)
SLICE = (
    rf"(?i)^(.+?){SEPARATOR}+(?:slice|slc|sl|axial|ax|coronal|cor|sagittal|sag|frame|fr|image|img|im|instance|inst|s|z){SEPARATOR}*\d+",
    "what stands before the number of the slice",
)
UNMARKED = (
    (rf"(?i)^(.+?){SEPARATOR}+{FIELD}\)?{EXTENSION}", "the name without its last part"),
    (rf"(?i)^(.*[^\W\d_])\d+{EXTENSION}", "the name without its running number"),
    (rf"(?i)^(.+?){SEPARATOR}+{FIELD}{SEPARATOR}+{FIELD}\)?{EXTENSION}", "the name without its last two parts"),
    (rf"^({FIELD}{SEPARATOR}+{FIELD}{SEPARATOR}+{FIELD}){SEPARATOR}", "the first three parts of the name"),
    (rf"^({FIELD}{SEPARATOR}+{FIELD}){SEPARATOR}", "the first two parts of the name"),
    (rf"^({FIELD}){SEPARATOR}", "the first part of the name"),
)
# Words that name a kind of image and not a person ...
KINDS = frozenset(
    re.findall(
        r"\w+",
        "train training test testing val valid validation holdout synthetic real fake generated sample samples image images img slice slices "
        "axial coronal sagittal ax cor sag left right ap pa lat frontal lateral mr mri ct xray cxr dx us pet dwi adc swi flair pd bold brain "
        "head chest lung spine knee cardiac heart abdomen liver prostate breast normal abnormal healthy control controls disease diseased "
        "positive negative benign malignant tumor tumour notumor no yes none glioma meningioma pituitary covid pneumonia bacteria bacterial "
        "virus viral lesion stroke ad mci cn anat func derivatives raw data dataset png jpg",
    )
)
# ... and such that do not with a number either.
NUMBERED_KINDS = frozenset(
    re.findall(
        r"\w+",
        "t batch fold part site center centre scanner ses session visit run series seq sequence scan epoch seed step class group grade stage "
        "split chunk shard set folder dir copy version v",
    )
)
MOST_FILES_OF_A_WORD = 50
LEAST_MATCHED = 0.5
MOST_WITHOUT = 0.05
LEAST_DISTINCT = 0.95


@dataclass(frozen=True)
class PatientProposal:
    """A partition of a set into people, as its names suggest it.

    Attributes:
        kind: ``name`` (of the file) or ``folder``.
        pattern: regular expression, searched in the file name, whose group 1 is the patient: what ``--patient-pattern`` takes; None for
            folders.
        words: what of the name or path is taken, in words that name nobody.
        patients: of each record; what the pattern does not match is a patient of its own.
        count: number of people.
        explicit: the names say themselves that they name a person (``sub-01``, ``patient12``).
    """

    kind: str
    pattern: str | None
    words: str
    patients: tuple[str, ...]
    count: int
    explicit: bool

    @property
    def rule(self) -> tuple[str, str | None, str]:
        """What makes it: the same of two sets that are named alike."""
        return self.kind, self.pattern, self.words

    @property
    def source(self) -> str:
        """Where patients are known from, in words."""
        return f"{self.kind} of the files ({self.words})"


def propose_patients(records: Sequence[ImageRecord]) -> tuple[PatientProposal, ...]:
    """Who may be whom, by file names and folders.

    A proposal makes at least two people, at least one of them with two files or volumes; names of kinds of images (``train``, ``axial``,
    ``glioma``, ``batch3``) are no people. Slices of one volume are always one person.

    Args:
        records: of one set.

    Returns:
        proposals, the best first, no two of the same partition; empty where the names say nothing (``img0001`` to ``img0999``).
    """
    first: dict[str, ImageRecord] = {}
    for record in records:
        first.setdefault(record.volume, record)
    volumes = list(first)
    paths = [os.path.abspath(record.paths[0]) for record in first.values()]
    proposals: list[PatientProposal] = []
    seen: set[bytes] = set()
    for explicit, (kind, pattern, words, names) in _ranked(paths):
        patients = [name or volume for name, volume in zip(names, volumes, strict=True)]
        numbers: dict[str, int] = {}
        partition = np.fromiter((numbers.setdefault(p, len(numbers)) for p in patients), np.int64, len(patients)).tobytes()
        if partition not in seen:
            seen.add(partition)
            of_volume = dict(zip(volumes, patients, strict=True))
            own = tuple(of_volume[r.volume] for r in records)
            proposals.append(PatientProposal(kind, pattern, words, own, len(numbers), explicit))
    return tuple(proposals)


def bids_subjects(records: Sequence[ImageRecord]) -> list[str | None]:
    """The subject that the name of each file tells by BIDS, else that of the nearest folder; None where neither does."""
    found = re.compile(BIDS_PATTERN)
    subjects: dict[str, str | None] = {}
    for record in records:
        path = record.paths[0]
        if path not in subjects:
            name, *folders = reversed(os.path.abspath(path).split(os.sep))
            told = [m.group(1) for m in [found.search(name), *map(re.compile(f"{BIDS_PATTERN}$").search, folders)] if m]
            subjects[path] = told[0] if told else None
    return [subjects[record.paths[0]] for record in records]


_Candidate = tuple[str, str | None, str, list[str | None]]


def _ranked(paths: list[str]) -> list[tuple[bool, _Candidate]]:
    """What partitions the files, the best first: whether it is explicit; kind, pattern, words and name of each file."""
    names = [os.path.basename(path) for path in paths]
    levels = _folders(paths)
    marked = [c for p, w in MARKED for c in _parting("name", p, w, _found(p, names))]
    for pattern, words in MARKED:
        for folders in levels:
            found = _found(pattern, [os.path.basename(folder or "") for folder in folders])
            whole = [folder if name else None for folder, name in zip(folders, found, strict=True)]
            marked += _parting("folder", None, f"the folder, named by {words}", whole)
    sliced: list[_Candidate] = []
    guessed = [c for folders in levels for c in _parting("folder", None, "the folder", folders, _are_people)]
    # 1.png of one folder and 1.png of another are not of one person: then names alone tell nothing.
    if len(set(names)) >= LEAST_DISTINCT * len(names):
        sliced = _parting("name", *SLICE, _found(SLICE[0], names), _are_people)
        guessed += [c for p, w in UNMARKED for c in _parting("name", p, w, _found(p, names), _are_people)]
    ranked = sliced + sorted(guessed, key=lambda candidate: -_people(candidate[3]))
    ranked.sort(key=lambda candidate: candidate[3].count(None) > MOST_WITHOUT * len(names))
    return [(True, candidate) for candidate in marked] + [(False, candidate) for candidate in ranked]


def _found(pattern: str, names: list[str]) -> list[str | None]:
    search = re.compile(pattern).search
    return [found.group(1) if (found := search(name)) else None for name in names]


def _folders(paths: list[str]) -> list[list[str | None]]:
    """Of each level below the folder that holds all files: the folder of each file down to it, the deepest level first."""
    folders = [os.path.dirname(path) for path in paths]
    different = set(folders)
    if len(different) < 2:
        return []
    top = os.path.commonpath(different)
    parts = {folder: os.path.relpath(folder, top).split(os.sep) if folder != top else [] for folder in different}
    levels = []
    for level in range(max(map(len, parts.values())), 0, -1):
        down_to = {folder: os.path.join(*p[:level]) if len(p) >= level else None for folder, p in parts.items()}
        levels.append([down_to[folder] for folder in folders])
    return levels


def _parting(
    kind: str,
    pattern: str | None,
    words: str,
    names: list[str | None],
    accepts: Callable[[Counter], bool] = lambda sizes: True,
) -> list[_Candidate]:
    """The candidate alone, when it says more than that every file is of its own or all are of one."""
    sizes = Counter(name for name in names if name)
    if (
        sizes.total() >= LEAST_MATCHED * len(names)
        and _people(names) >= 2
        and max(sizes.values(), default=0) >= 2
        and accepts(sizes)
    ):
        return [(kind, pattern, words, names)]
    return []


def _people(names: list[str | None]) -> int:
    """Number of people; a file without a name is one of its own."""
    return len({name for name in names if name}) + sum(not name for name in names)


def _are_people(sizes: Counter) -> bool:
    """Not by words for kinds of images, nor by words alone that many files share."""
    names = [os.path.basename(name) for name in sizes]
    if 2 * sum(map(_is_kind, names)) > len(names):
        return False
    return any(c.isdigit() for name in names for c in name) or max(sizes.values()) <= MOST_FILES_OF_A_WORD


def _is_kind(name: str) -> bool:
    words = re.findall(r"[a-z]+", name.lower())
    numbered = any(c.isdigit() for c in name)
    return bool(words) and all(word in NUMBERED_KINDS or (not numbered and word in KINDS) for word in words)


def people_of(count: int, pairs: Sequence[tuple[int, int]] | np.ndarray, named: Sequence[str | None] | None = None) -> list[str]:
    """People as the groups that pairs of images make: whoever is connected is one person.

    Args:
        count: number of images.
        pairs: [P, 2] indices of images that are of one person.
        named: the known patient of each image, None where nobody named one; images of one name are connected. With ``record.patient`` of
            each record, the slices of a volume are connected too: an unknown patient is the volume.

    Returns:
        the person of each image: the name, where one of the group has a name (the first, where it has several), else
        ``person N`` with N the group's first image, counted from 1.

    Raises:
        InputError: a pair names an image outside of the set, or ``named`` has another length.
    """
    edges = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if edges.size and not (edges.min() >= 0 and edges.max() < count):
        raise InputError(
            f"The 'pairs' parameter must hold indices of 0 to {count - 1}. Got {edges.min()} to {edges.max()} instead."
        )
    names = [None] * count if named is None else list(named)
    if len(names) != count:
        raise InputError(f"The 'named' parameter must have one entry for each of {count} images. Got {len(names)} instead.")
    first: dict[str, int] = {}
    same = [(first.setdefault(name, index), index) for index, name in enumerate(names) if name is not None]
    edges = np.concatenate([edges, np.array(same, np.int64).reshape(-1, 2)])
    graph = coo_matrix((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    groups = connected_components(graph, directed=False)[1].tolist()
    of_group: dict[int, str] = {}
    for group, name in zip(groups, names, strict=True):
        if name is not None:
            of_group.setdefault(group, name)
    for index, group in enumerate(groups):
        if group not in of_group:
            label = f"person {index + 1}"
            while label in first:
                label += "'"
            of_group[group] = label
    return [of_group[group] for group in groups]


def agrees(proposal: PatientProposal, pairs: Sequence[tuple[int, int]] | np.ndarray, most_apart: float = 0.02) -> bool:
    """Whether pairs that are known to be of one person are of one person in ``proposal`` too.

    Args:
        proposal: of the same images.
        pairs: [P, 2] indices of images that are of one person.
        most_apart: share of the pairs that may lie apart, since registration errs too.

    Returns:
        True as well where there are no pairs: nothing speaks against the proposal, nor for it.
    """
    patients = proposal.patients
    apart = sum(patients[a] != patients[b] for a, b in np.asarray(pairs, dtype=np.int64).reshape(-1, 2).tolist())
    return apart <= most_apart * len(pairs)
