"""The settings of a generator's training that are plain values, checked before an image is read or a network made."""

from __future__ import annotations

from dataclasses import dataclass

from doppelscan.arguments import (
    Axis,
    Conditioning,
    Count,
    Duplication,
    Folder,
    Number,
    Pattern,
    Range,
    Source,
    Whole,
    check_fields,
)

__all__ = ["TrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of configs/generator/autoencoder.json and diffusion.json, each made what its type says.

    Args:
        dataset_dir: images that are trained on.
        output_dir: folder for checkpoints and tables.
        validation_dir: images of other people.
        patient_pattern: see :func:`doppelscan.images.find_images`, as the next four.
        slice_axis: axis of volumes.
        slice_range: first and last slice, as shares of the axis.
        slice_step: every n-th slice.
        channel: which volume of 4D files.
        duplication: see :func:`~doppelscan.generate.draw_repeats`.
        conditioning: see :func:`~doppelscan.generate.fit_condition`.
        seed: of the duplication and the training.
        spatial_size: side of the images.
        batch_size: images of a step.
        batches: steps of an epoch.
        max_epochs: of the training.
        learning_rate: of the optimizer.
        snapshots: epochs between weights that are kept.

    Raises:
        InputError: one of them is something else, or is not there; one line.
    """

    dataset_dir: Source | None = None
    output_dir: Folder = "generator"
    validation_dir: Source | None = None
    patient_pattern: Pattern | None = None
    slice_axis: Axis = 2
    slice_range: Range = (0.25, 0.75)
    slice_step: Count | None = None
    channel: Whole | None = None
    duplication: Duplication = "none"
    conditioning: Conditioning = "none"
    seed: Whole = 0
    spatial_size: Count = 96
    batch_size: Count = 16
    batches: Count = 100
    max_epochs: Count = 80
    learning_rate: Number = 0.0006
    snapshots: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)
