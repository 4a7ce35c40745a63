"""The settings of an audit: names, types, choices and defaults in one place, for the command, Python, reviews and trainings alike."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from doppelscan.arguments import (
    AnyPath,
    Axis,
    Changes,
    Correction,
    Count,
    Degrees,
    Device,
    Encoder,
    Existing,
    Flag,
    Folder,
    Index,
    Keep,
    Parts,
    Pattern,
    Range,
    Rate,
    Ray,
    Roles,
    Runtime,
    Score,
    Source,
    Store,
    Volumes,
    Whole,
    check_fields,
    meant,
    parameters,
)
from doppelscan.errors import InputError
from doppelscan.locations import OVERLAP_FILES, REPORT_FILES, SPLIT_COLUMNS, VOLUMES_READ, audit_root, is_url

__all__ = [
    "GROUPS",
    "AuditSettings",
    "DuplicatesSettings",
    "LeakSettings",
    "OverlapSettings",
    "SearchSettings",
    "audit_command",
    "audit_overrides",
    "audit_settings",
    "masked_command",
    "overridable",
]

# Those that name images.
SETS = ("training", "synthetic", "holdout", "a", "b")
# Where the setting has another name than in configs/audit.json.
IDS = {
    "training": "training_dir",
    "synthetic": "synthetic_dir",
    "holdout": "holdout_dir",
    "output": "output_dir",
    "store": "store_dir",
    "encoder": "ckpt_path",
}
NAMES = {name: setting for setting, name in IDS.items()}
# Title -> settings of audits and searches, as their help tells them.
GROUPS = {
    "Sets": ("training", "synthetic", "holdout", "samples", "labels", "a", "b", "patient_pattern", "limit"),
    "Volumes and their slices": ("volumes", "slice_axis", "slice_range", "slice_step", "channel"),
    "What is written": ("output", "store", "redact", "key", "gate", "split", "folds", "parts", "keep"),
    "Search and decision": (
        "fdr", "correction", "score", "candidates", "index", "rotations", "regions", "control_size", "rival", "images", "transforms",
        "decisions", "seed",
    ),
    "Self-test": ("self_test", "reconstruct", "declared"),
    "Encoder": ("encoder", "roles", "spatial_size"),
    "Computing": ("device", "runtime", "threads", "workers", "ray", "batch_size", "num_workers"),
}  # fmt: skip
# Kinds of values that can name a path or a patient.
NAMING = (
    Source,
    Source | None,
    Folder,
    Folder | None,
    Store | None,
    Existing | None,
    AnyPath | None,
    Encoder | None,
    Pattern | None,
    Roles | None,
)


AN_AUDIT, A_SEARCH = "an audit", "leak or duplicates"


class PrivateOutput:
    """What is written where, of settings with ``output``, ``store``, ``redact`` and ``key``.

    Attributes:
        report_files: that a report consists of.
        report: whose it is.
    """

    report_files: ClassVar[tuple[str, ...]] = (*REPORT_FILES, VOLUMES_READ)
    report: ClassVar[str] = AN_AUDIT
    output: Any
    store: Any
    redact: Any
    key: Any

    @property
    def store_folder(self) -> Path | str:
        """Where the embeddings lie: not in the folder of a redacted report, which is handed on."""
        output = Path(self.output)
        if self.store is not None:
            return self.store if is_url(self.store) else Path(self.store)
        return output.resolve().with_name(output.resolve().name + "-store") if self.redact else output / "store"

    def require_private(self) -> None:
        """Refuse what would put names beside a redacted report.

        Raises:
            InputError: the store or the key would lie in it, it holds other files, or a key is asked for of a report that names everybody.
        """
        if not self.redact:
            if self.key is not None:
                raise InputError(
                    f"The 'key' parameter must come with --redact. Got {str(self.key)!r} for a report that names everybody."
                )
            return
        output = Path(self.output)
        for name, path in (("store", self.store_folder), ("key", self.key)):
            if path is not None and not is_url(path) and output.resolve() in (Path(path).resolve(), *Path(path).resolve().parents):
                raise InputError(
                    f"The '{name}' parameter must lie outside of the output folder of a redacted report, which is handed on. Got {str(path)!r}; "
                    f"pass another --{name}."
                )
        others = (
            sorted(one.name for one in output.iterdir() if one.name.removesuffix(".tmp") not in self.report_files)
            if output.is_dir()
            else []
        )
        if others:
            raise InputError(
                f"The 'output' parameter must be a new or empty folder, or an earlier redacted report, for a redacted report. Got {str(output)!r}, which "
                f"also holds {len(others)} files or folders such as {others[0]!r} that may name patients; pass another --output."
            )

    def require_place(self) -> None:
        """Refuse an output folder that holds the report of another command: two reports in one folder are told apart by nobody; and one that holds the
        images, among which pictures of the report would lie.

        Raises:
            InputError: it does.
        """
        for name in SETS:
            given = getattr(self, name, None)
            if isinstance(given, str | os.PathLike) and not is_url(given) and Path(given).resolve() == Path(self.output).resolve():
                raise InputError(
                    f"The 'output' parameter must be another folder than the images lie in. Got {str(self.output)!r} for {name!r} and 'output'; pass "
                    "another --output."
                )
        held = _report_in(Path(self.output))
        if held is not None and held != self.report:
            raise InputError(
                f"The 'output' parameter must be a new folder, or one of an earlier report of the same kind. Got {str(self.output)!r}, which holds "
                f"the report of {held}; pass another --output."
            )


@dataclass(frozen=True, kw_only=True)
class SearchSettings(PrivateOutput):
    """What an audit and a search for who is there twice ask for alike, each made what its type says; None leaves what configs/audit.json has.

    Args:
        store: folder of the embeddings, shared between audits and searches; by default in the output folder.
        patient_pattern: what in the name of a file is its patient.
        volumes: how volumes are compared: whole, in 3D, or as-slices, each slice as an image.
        slice_axis: axis of volumes that slices are taken along where they are compared as slices, in RAS+ orientation.
        slice_range: first and last slice, as shares of the axis.
        slice_step: every n-th slice; by default at most 16 slices a volume.
        channel: which volume of 4D files.
        index: how images are searched: exact, or ivf, in clusters, which can miss one and says how many; auto is exact up to 8,192.
        rotations: rotations in which an image is looked for.
        redact: leave pictures, paths and patients out of everything that is written.
        key: private file that says which pseudonym of a redacted report stands for what.
        gate: exit status 3 when something was found, 4 when nothing can be concluded.
        seed: of folds and draws.
        batch_size: images that are embedded at a time.
        num_workers: processes that read images; 0 reads in this one.
        threads: threads that compute; by default as many as this process may use, of a control group's quota too.
        workers: processes that embed and compare; by default as many as this process may use processors, and this process alone below 256 images.
        runtime: what runs the encoder.
        device: where the encoder runs; by default the GPU when there is one.
        encoder: other weights or another encoder than the one that comes with doppelscan.
        roles: which outputs of another encoder play which role; by default its one output plays both heads.
        spatial_size: pixels a side that the encoder sees.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    store: Store | None = None
    patient_pattern: Pattern | None = None
    volumes: Volumes = "whole"
    slice_axis: Axis = 2
    slice_range: Range = (0.25, 0.75)
    slice_step: Count | None = None
    channel: Whole | None = None
    index: Index = "auto"
    rotations: Degrees = (0, -12, 12)
    redact: Flag = False
    key: AnyPath | None = None
    gate: Flag = False
    seed: Whole = 0
    batch_size: Count = 16
    num_workers: Whole = 0
    threads: Count | None = None
    workers: Count | None = None
    runtime: Runtime = "torch"
    device: Device | None = None
    encoder: Encoder | None = None
    roles: Roles | None = None
    spatial_size: Count = 128

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class AuditSettings(SearchSettings):
    """Settings of an audit; those that a search shares are told of :class:`SearchSettings`.

    Args:
        training: the images that the model was trained on; .csv with a column path, .json a MONAI data list.
        synthetic: the images that the model made.
        output: folder for scores.csv, control.csv, summary.json and report.html.
        holdout: real images of other patients of the same kind, the control; without it the control comes from the training set.
        fdr: false discovery rate of the flags.
        correction: Benjamini-Hochberg, or Benjamini-Yekutieli.
        score: what ranks the images and is calibrated.
        candidates: training images that are verified for each image.
        control_size: images that a control from the training set holds at most.
        gate: exit status 3 when memorization was found, 4 when the audit cannot conclude.
        self_test: plant copies in this cohort and say which of them would have been found; without it no set is called clean.
        reconstruct: TorchScript autoencoder through which copies are planted, too.
        declared: changes that a claim of none found is to cover; by default all that the self-test plants.
        decisions: .csv of reviewers' decisions on synthetic images, as the page saves it: counted beside the flags, which they do not change.
        limit: audit a random sample of so many synthetic images, for a first answer on a large set; its page says what it can have missed.
        ray: Ray cluster that embeds and scores instead; it has to reach the same files and the store.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    training: Source | None = None
    synthetic: Source | None = None
    output: Folder = "audit"
    holdout: Source | None = None
    fdr: Rate = 0.05
    correction: Correction = "bh"
    score: Score = "combined"
    candidates: Count = 20
    control_size: Count = 300
    self_test: Flag = True
    reconstruct: Existing | None = None
    declared: Changes | None = None
    decisions: Existing | None = None
    limit: Count | None = None
    ray: Ray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "reconstruct" in (self.declared or ()) and self.reconstruct is None:
            raise InputError(
                "The 'declared' parameter must name changes that are planted. Got 'reconstruct' without an autoencoder; pass --reconstruct FILE.ts."
            )


@dataclass(frozen=True, kw_only=True)
class OverlapSettings(SearchSettings):
    """Settings of a search for images and people who are there twice; those that an audit shares are told of :class:`SearchSettings`.

    Args:
        output: folder for groups.csv, pairs.csv, summary.json and report.html.
        split: csv to write with a part for each file, people apart.
        folds: parts of one size that the split has; 5 unless parts are given.
        parts: shares of the parts, such as training, validation and test.
        regions: look for regions of one image in another, too; compares each image without a match with all others; not of whole volumes.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    report_files: ClassVar[tuple[str, ...]] = OVERLAP_FILES
    report: ClassVar[str] = A_SEARCH
    sources: ClassVar[tuple[str, ...]] = ()

    output: Folder = "overlap"
    split: AnyPath | None = None
    folds: Count | None = None
    parts: Parts | None = None
    regions: Flag = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.folds is not None and self.parts is not None:
            raise InputError(f"The 'folds' parameter must come without --parts. Got {self.folds} and {self.parts}; leave one out.")
        if self.folds == 1:
            raise InputError("The 'folds' parameter must be an integer >= 2. Got 1 instead.")
        if self.split is None and (self.folds is not None or self.parts is not None):
            name = "folds" if self.parts is None else "parts"
            raise InputError(f"The '{name}' parameter must come with a table to write. Got no --split; pass --split FILE.csv.")
        if self.split is not None and self.redact and _inside(self.split, self.output):
            raise InputError(
                f"The 'split' parameter must lie outside of the output folder of a redacted report, as it names files. Got {str(self.split)!r}; "
                "pass another --split."
            )
        if self.split is not None and (
            os.path.isdir(self.split) or not os.path.isdir(os.path.dirname(os.path.abspath(self.split)))
        ):
            raise InputError(
                f"The 'split' parameter must be a file in a folder that exists. Got {str(self.split)!r}; pass another --split."
            )
        if self.split is not None:
            self._refuse_overwriting(os.path.realpath(self.split))

    def _refuse_overwriting(self, split: str) -> None:
        """Refuse a split in the place of what is read, or of what else is written."""
        read = {
            os.path.realpath(getattr(self, name)): f"the table of '{name}'"
            for name in self.sources
            if getattr(self, name) is not None
        }
        own = {os.path.realpath(os.path.join(self.output, name)): "a file of the report" for name in self.report_files}
        keys = {} if self.key is None else {os.path.realpath(self.key): "the --key"}
        what = (read | own | keys).get(split) or (
            "a file of another kind" if os.path.isfile(split) and not _is_split(split) else None
        )
        if what is not None:
            raise InputError(
                f"The 'split' parameter must be a new file, or an earlier split. Got {str(self.split)!r}, which is {what}; pass another --split."
            )

    def recorded(self) -> dict[str, Any]:
        """All settings by name, as summary.json keeps them; of a redacted report without the values that can name a path or a patient."""
        told: dict[str, Any] = {}
        for name, one in parameters(type(self)).items():
            value = getattr(self, name)
            hidden = self.redact and value is not None and one.annotation in NAMING
            told[name] = "(not told)" if hidden else str(value) if isinstance(value, os.PathLike) else value
        return told


@dataclass(frozen=True, kw_only=True)
class LeakSettings(OverlapSettings):
    """Settings of :func:`doppelscan.leak`, see :class:`OverlapSettings`.

    Args:
        a: one set, such as the training set; .csv with a column path, .json a MONAI data list.
        b: the other, such as the test set, or a later release.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    sources: ClassVar[tuple[str, ...]] = ("a", "b")

    a: Source | None = None
    b: Source | None = None


@dataclass(frozen=True, kw_only=True)
class DuplicatesSettings(OverlapSettings):
    """Settings of :func:`doppelscan.duplicates`, see :class:`OverlapSettings`.

    Args:
        images: the set; .csv with a column path, .json a MONAI data list.
        keep: one writes remove.csv, which files can go so that each image is there once; nothing is removed.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    sources: ClassVar[tuple[str, ...]] = ("images",)

    images: Source | None = None
    keep: Keep | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is not None and self.redact:
            raise InputError("The 'keep' parameter must come without --redact, as remove.csv names files. Got both; leave one out.")


def _report_in(folder: Path) -> str | None:
    """Whose report a folder holds, None where there is none: the tables are asked, as a summary may be gone, and then the summary."""
    if (folder / "scores.csv").is_file():
        return AN_AUDIT
    if (folder / "groups.csv").is_file():
        return A_SEARCH
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(summary, dict) or "conclusion" not in summary:
        return None
    return A_SEARCH if summary.get("command") in ("leak", "duplicates") else AN_AUDIT


def _is_split(path: str) -> bool:
    """Whether a file is a table that ``--split`` wrote, or holds nothing."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline(1000).strip() in ("", ",".join(SPLIT_COLUMNS))
    except (OSError, UnicodeDecodeError):
        return False


def _inside(path: Any, folder: Any) -> bool:
    place = Path(path).resolve()
    return Path(folder).resolve() in (place, *place.parents)


def overridable() -> list[str]:
    """The ids of configs/audit.json; ``ID::KEY`` reaches into one of them."""
    return list(json.loads((Path(audit_root()) / "configs" / "audit.json").read_text()))


def audit_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` by their names, each checked and made what its type says; what is None is left out.

    Args:
        settings: those of :class:`AuditSettings`, by name or by id of configs/audit.json, and other ids such as
            ``network_def::channels``, whose values are not checked.

    Raises:
        InputError: a name that is neither, or a value that is wrong.
    """
    known = parameters(AuditSettings)
    given = {NAMES.get(name, name): value for name, value in settings.items() if value is not None}
    own = {name: value for name, value in given.items() if name in known}
    others = {name: value for name, value in given.items() if name not in known}
    ids, ordered = overridable(), [name for names in GROUPS.values() for name in names if name in known]
    for name in others:
        first = re.split("::|#", name)[0]
        if first not in ids:
            raise InputError(f"There is no setting {name} of an audit; {meant(first, ordered if first == name else ids)}")
    made = AuditSettings(**own)
    if "output" in own:
        made.require_private()
    return {name: getattr(made, name) for name in own} | others


def audit_overrides(settings: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`audit_settings` by their ids in configs/audit.json, which they override."""
    return {IDS.get(name, name): value for name, value in audit_settings(settings).items()}


def audit_command(settings: Mapping[str, Any]) -> str:
    """The command line of an audit with ``settings``, as summary.json keeps it; of a redacted one see :func:`masked_command`."""
    known, made = parameters(AuditSettings), audit_settings(settings)
    words = ["doppelscan", "audit"]
    for name, value in made.items():
        words.append(f"--{name.replace('_', '-') if name in known else name}")
        words.append(",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    return masked_command(shlex.join(words)) if made.get("redact") else shlex.join(words)


def masked_command(command: str) -> str:
    """A command line of :func:`audit_command` without the values that can name a path or a patient; of any other, the program alone."""
    words = shlex.split(command)
    if words[:2] != ["doppelscan", "audit"]:
        return shlex.join([*words[:4], "..."]) if words else ""
    known = {f"--{name.replace('_', '-')}" for name, one in parameters(AuditSettings).items() if one.annotation not in NAMING}
    masked = [word if option in known else "(not told)" for option, word in zip(words[2::2], words[3::2], strict=True)]
    return shlex.join([*words[:2], *(word for pair in zip(words[2::2], masked, strict=True) for word in pair)])
