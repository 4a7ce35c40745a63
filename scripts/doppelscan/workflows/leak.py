"""``doppelscan.leak`` and ``doppelscan.duplicates``: who and what is there twice, in two sets of real images or in one."""

from __future__ import annotations

import os
from typing import Any

from doppelscan.errors import InputError
from doppelscan.progress import starting
from doppelscan.settings import DuplicatesSettings, LeakSettings, OverlapSettings
from doppelscan.workflows.embed import RecordDataset
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.overlap_run import OverlapResult, OverlapRun
from doppelscan.workflows.run import audit_workflow, quiet
from doppelscan.workflows.volume_overlap import VolumeOverlapRun

__all__ = ["duplicates", "leak"]

# Of an audit's settings those that say how images are read and embedded.
ENGINE = ("volumes", "slice_axis", "slice_range", "slice_step", "channel", "patient_pattern", "rotations", "seed", "batch_size", "num_workers",
          "runtime", "device", "encoder", "roles", "spatial_size")  # fmt: skip


def leak(*, a: str | os.PathLike, b: str | os.PathLike, output: str | os.PathLike, **settings: Any) -> OverlapResult:
    """Find the images and the people of one set in another: training and test, or two releases.

    Args:
        a: folder, .csv or MONAI data list of real images.
        b: the other set.
        output: folder for groups.csv, pairs.csv, summary.json and report.html.
        settings: any other of :class:`~doppelscan.settings.LeakSettings`, such as ``patient_pattern``, ``split``, ``redact``.

    Returns:
        conclusion, summary, rows of groups.csv and the exit status.

    Raises:
        InputError, WeightsError, StoreError, ReportError: a mistake in what was passed, in one line.
    """
    own = LeakSettings(a=a, b=b, output=output, **settings)
    return _run("leak", own, {"a": own.a, "b": own.b})


def duplicates(images: str | os.PathLike, *, output: str | os.PathLike, **settings: Any) -> OverlapResult:
    """Find the images of a set that are there twice, and those that are of one person.

    Args:
        images: folder, .csv or MONAI data list of real images.
        output: folder for groups.csv, pairs.csv, summary.json and report.html.
        settings: any other of :class:`~doppelscan.settings.DuplicatesSettings`, such as ``patient_pattern``, ``split``, ``keep``.

    Returns:
        conclusion, summary, rows of groups.csv and the exit status.

    Raises:
        InputError, WeightsError, StoreError, ReportError: a mistake in what was passed, in one line.
    """
    own = DuplicatesSettings(images=images, output=output, **settings)
    return _run("duplicates", own, {"images": own.images}, own.keep)


def _run(command: str, own: OverlapSettings, sources: dict[str, Any], keep: str | None = None) -> OverlapResult:
    own.require_private()
    own.require_place()
    for name, source in sources.items():
        if source is None:
            raise InputError(f"The '{name}' parameter must be an existing folder, image, .csv or .json. Got nothing.")
    with starting(), quiet(), told_in_one_line():
        return _chosen(command, own, sources, keep)()


def _chosen(command: str, own: OverlapSettings, sources: dict[str, Any], keep: str | None) -> OverlapRun:
    """The search that the sets ask for: of volumes where they hold volumes that are read whole, else of images."""
    config = audit_workflow(**{name: getattr(own, name) for name in ENGINE}, output=own.output).parser
    like: RecordDataset = config.get_parsed_content("dataset")
    datasets = [like.with_source(source, name) for name, source in sources.items()]
    whole = [one.image_set.whole_volumes for one in datasets]
    if any(whole) and not all(whole):
        one = datasets[whole.index(False)].image_set
        raise InputError(
            f"The '{one.name}' parameter must name volumes, as the other set does. Got {len(one.records)} 2D images, or slices of thick stacks; give "
            "the volumes, or pass --volumes as-slices."
        )
    return (VolumeOverlapRun if any(whole) else OverlapRun)(command, own, datasets, config, keep)
