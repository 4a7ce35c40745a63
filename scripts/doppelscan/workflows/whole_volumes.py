"""A set of volumes as MONAI items, one a volume."""

from __future__ import annotations

import os
from collections.abc import Callable

from doppelscan.errors import InputError
from doppelscan.images import ImageSet, SliceChoice, find_images
from doppelscan.workflows.embed import RecordDataset

__all__ = ["WholeVolumes"]


class WholeVolumes(RecordDataset):
    """:class:`RecordDataset` of volumes that are read whole; stacks of thick slices too.

    Args:
        source: folder, .csv or .json (see :func:`doppelscan.images.find_images`), or an :class:`~doppelscan.images.ImageSet`; None is an empty set.
        transform: the preprocessing, see :class:`~doppelscan.images.LoadVolumed`.
        name: name of the set in messages.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        channel: which volume of 4D files.

    Raises:
        InputError: see :func:`~doppelscan.images.find_images`, or a set of 2D images.
    """

    def __init__(
        self,
        source: str | os.PathLike | ImageSet,
        transform: Callable,
        name: str = "dataset_dir",
        patient_pattern: str | None = None,
        channel: int | None = None,
    ) -> None:
        if source is not None and not isinstance(source, ImageSet):
            choice = SliceChoice(channel=channel)
            source = find_images(source, name=name, patient_pattern=patient_pattern, slices=choice, volumes="whole")
            if source.records and not source.whole_volumes:
                raise InputError(
                    f"The '{name}' parameter must name volumes. Got {len(source.records)} 2D images; take the config for images, without _3d."
                )
        super().__init__(source, transform, name, patient_pattern, channel=channel)

    def with_source(self, source: str | os.PathLike | ImageSet, name: str) -> WholeVolumes:
        """The same transform and choices on another set."""
        return WholeVolumes(source, self.transform, name, self.patient_pattern, self.slices.channel)
