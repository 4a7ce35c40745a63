"""Volumes cut into slices where they are not compared whole: along three planes for a set of 2D images, or along the stack that they are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from doppelscan.images.records import ImageRecord, ImageSet, SliceChoice, stack_words
from doppelscan.wording import counted

__all__ = ["PLANES", "in_three_planes", "of_stacks", "plane_position"]

# Across the axes x, y and z of the RAS+ array.
PLANES = ("sagittal", "coronal", "axial")
# Slices a plane where no step is chosen, at most; an image that lies between two of them is at most some mm from one.
MOST = 48
# Where no range is chosen: the ends of a field of view hold little.
ALL_BUT_ENDS = (0.1, 0.9)


def in_three_planes(volumes: ImageSet, choice: SliceChoice, most: int = MOST) -> ImageSet:
    """Whole volumes as their sagittal, coronal and axial slices, for images that may be any of them.

    Args:
        volumes: records of whole volumes.
        choice: its range and step, where they are not the default ones, hold for every plane.
        most: slices a plane and volume, at most, without a step.
    """
    start, stop = (
        ALL_BUT_ENDS if (choice.start, choice.stop) == (SliceChoice.start, SliceChoice.stop) else (choice.start, choice.stop)
    )
    records = []
    for record in volumes.records:
        for axis, plane in enumerate(PLANES):
            count = _length(record, axis)
            first, last = int(count * start), max(int(count * stop), 1)
            step = choice.step or max(1, -(-(last - first) // most))
            indices = range(first, last, step) or [count // 2]
            records += [_slice(record, axis, index, f"{record.id}#plane={plane},slice={index}") for index in indices]
    cut = counted(len(volumes.records), f"{volumes.name} volume")
    note = f"{cut} {'was' if len(volumes.records) == 1 else 'were'} cut into {counted(len(records), 'slice')} along three planes, for a synthetic set of 2D images"
    return replace(volumes, records=records, notes=[*volumes.notes, note])


def of_stacks(volumes: ImageSet) -> ImageSet:
    """A set of stacks of thick slices as those slices, all of them; any other set as it is.

    Interpolation through a stack makes anatomy up, so its slices are what can be compared. Of a set that is mostly stacks, a volume that is none
    is cut along the axis of the others.
    """
    axes = Counter(one.geometry.stack_axis for one in volumes.records if one.whole and one.geometry is not None)
    stacks = sum(count for axis, count in axes.items() if axis is not None)
    if 2 * stacks <= len(volumes.records):
        return volumes
    usual = next(axis for axis, _ in axes.most_common() if axis is not None)
    records: list[ImageRecord] = []
    for record in volumes.records:
        axis = record.geometry.stack_axis if record.geometry is not None else None
        axis = usual if axis is None else axis
        records += [_slice(record, axis, index, f"{record.id}#slice={index}") for index in range(_length(record, axis))]
    note = f"{stack_words(volumes, stacks)}: each slice is scored as an image"
    notes = [one for one in volumes.notes if one != stack_words(volumes, stacks)]
    return replace(volumes, records=records, notes=[*notes, note])


def plane_position(record: ImageRecord) -> tuple[str, float] | None:
    """The plane of a slice and its place in mm from the volume's centre, to the right, front or top; None of what is no slice of a known volume."""
    if record.slice is None or record.axis is None or record.geometry is None:
        return None
    # Where the file does not say how large a voxel is, NaN.
    return PLANES[record.axis], (record.slice - (_length(record, record.axis) - 1) / 2) * record.geometry.spacing[record.axis]


def _length(record: ImageRecord, axis: int) -> int:
    assert record.geometry is not None
    return record.geometry.shape[axis]


def _slice(record: ImageRecord, axis: int, index: int, name: str) -> ImageRecord:
    return replace(record, id=name, slice=index, axis=axis, slices=_length(record, axis), whole=False)
