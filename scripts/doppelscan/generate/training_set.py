"""What a generator is trained on: the images of a set, prepared and held in memory, and their latents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from monai.data import Dataset

from doppelscan.errors import InputError, WeightsError
from doppelscan.generate.conditioning import Condition
from doppelscan.generate.duplication import draw_repeats
from doppelscan.generate.generator import Autoencoder
from doppelscan.generate.networks import require_size
from doppelscan.images import ImageRecord, SkippedImage, SliceChoice, find_images, prepared, table_values, unit_float
from doppelscan.progress import progress

__all__ = ["Latents", "TrainingImages"]


class TrainingImages(Dataset):
    """Images of a set, each prepared once; slices of volumes count as images, or volumes whole.

    Args:
        source: folder, .csv or .json, see :func:`doppelscan.images.find_images`.
        preprocessing: MONAI transform of an item {"image": paths, "slice", "axis", "channel"} that leaves a ``thumbnail`` uint8 [1, S, S], of
            whole volumes a cube [1, S, S, S] and its ``cube_frame``.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        slice_axis: axis of volumes; 0, 1, 2, sagittal, coronal or axial.
        slice_range: first and last slice, as shares of the axis.
        slice_step: every n-th slice; None for at most 16 a volume.
        channel: which volume of 4D files.
        duplication: see :func:`~doppelscan.generate.draw_repeats`.
        seed: of the duplication.
        name: of the parameter in messages.
        apart_from: a set whose patients must not be in this one; None allows any.
        volumes: ``as-slices``, or ``whole``: of a volume one item, of which the slice choices say nothing.

    Items are {"image": float32 [1, S, S] or [1, S, S, S] in [0, 1], "label": the same, what an autoencoder is to give, "index": int}.

    Attributes:
        images: uint8 [N, 1, S, S], or cubes [N, 1, S, S, S].
        records: where each came from.
        repeats: how often each is shown.
        values: of each, what the table says: column -> text.
        skipped: images that could not be prepared, with their reasons.
        voxel_size: mean side of the cubes' voxels in mm; None of images.

    Raises:
        InputError: fewer than two images, all the same, or a patient of ``apart_from``.
    """

    def __init__(
        self,
        source: str | os.PathLike,
        preprocessing: Callable,
        patient_pattern: str | None = None,
        slice_axis: int | str = 2,
        slice_range: Sequence[float] = (0.25, 0.75),
        slice_step: int | None = None,
        channel: int | None = None,
        duplication: str = "none",
        seed: int = 0,
        name: str = "dataset_dir",
        apart_from: TrainingImages | None = None,
        volumes: Literal["whole", "as-slices"] = "as-slices",
    ) -> None:
        if not isinstance(source, (str, os.PathLike)):
            raise InputError(
                f"The '{name}' parameter must be an existing folder, .csv or .json. Got {source!r} instead; pass --{name} DIR."
            )
        slices = SliceChoice(slice_axis, float(slice_range[0]), float(slice_range[1]), slice_step, channel)
        found = find_images(source, name=name, patient_pattern=patient_pattern, slices=slices, volumes=volumes)
        self.skipped = list(found.skipped)
        self.records: list[ImageRecord] = []
        images: list[torch.Tensor] = []
        voxels: list[float] = []
        for record in progress(found.records, "prepare images", "image"):
            made = prepared(record, preprocessing)
            if isinstance(made, SkippedImage):
                self.skipped.append(made)
                continue
            images.append(torch.as_tensor(made["thumbnail"]))
            if "cube_frame" in made:
                voxels.append(made["cube_frame"].voxel)
            self.records.append(record)
        if len(images) < 2:
            left_out = "".join(
                f" and {len(self.skipped)} that cannot be used, the first {one.path!r}: {one.reason}" for one in self.skipped[:1]
            )
            raise InputError(
                f"The '{name}' parameter must name at least 2 images to train on. Got {len(images)} in {str(source)!r}{left_out}; name more."
            )
        self.images = torch.stack(images)
        self.voxel_size = sum(voxels) / len(voxels) if voxels else None
        if bool((self.images == self.images[0]).all()):
            raise InputError(f"The '{name}' parameter must name different images. Got {len(images)} that are all the same.")
        self.repeats = draw_repeats(self.records, duplication, seed)
        told = table_values(source, name)
        self.values = [told.get(record.paths[0], {}) for record in self.records]
        both = {record.patient for record in self.records} & {one.patient for one in (apart_from.records if apart_from else ())}
        if both:
            raise InputError(
                f"The '{name}' parameter must name other patients than training. Got {len(both)} of training; leave them out."
            )
        super().__init__(data=list(range(len(images))))

    @property
    def spatial_size(self) -> int:
        """Side of the images."""
        return self.images.shape[-1]

    @property
    def digest(self) -> str:
        """sha256 of the pixels and of how often each image is shown: what a resumed training must find again."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(str(self.repeats).encode())
        return digest.hexdigest()

    def _transform(self, index: int) -> dict[str, Any]:
        image = unit_float(self.images[index])
        return {"image": image, "label": image, "index": index}


class Latents(Dataset):
    """The latents (means) of training images, encoded once, scaled to unit variance: nothing is augmented, so they stay what they are.

    Args:
        images: what is encoded.
        autoencoder: encodes them.
        unet: settings of the network that the latents are for; their size must suit it.
        condition: what each is shown with.
        scale_factor: of the latents; None measures it here, as 1 / standard deviation of all values.
        batch_size: images that are encoded at a time.

    Items are {"image": float32 [C, h, w] or [C, h, w, d], "index": int} and, where there is a condition, "condition": float32 [1, size].

    Raises:
        InputError: the images have another size than the autoencoder was trained with, or one that the networks cannot halve.
        WeightsError: the latents are not finite, or all the same.
    """

    def __init__(
        self,
        images: TrainingImages,
        autoencoder: Autoencoder,
        unet: dict[str, Any],
        condition: Condition,
        scale_factor: float | None = None,
        batch_size: int = 32,
    ) -> None:
        require_size(autoencoder.spatial_size, autoencoder.network_settings, unet)
        if images.spatial_size != autoencoder.spatial_size:
            raise InputError(
                f"The 'spatial_size' parameter must be the {autoencoder.spatial_size} of the autoencoder. Got {images.spatial_size} instead."
            )
        parts = [
            autoencoder.encode(unit_float(part)) for part in progress(images.images.split(batch_size), "encode images", "batch")
        ]
        latents = torch.cat(parts)
        deviation = float(latents.std())
        if not deviation > 0 or not bool(torch.isfinite(latents).all()):
            raise WeightsError(
                f"The autoencoder must give latents that differ and are finite. Got a standard deviation of {deviation}; train it again."
            )
        self.scale_factor = 1 / deviation if scale_factor is None else float(scale_factor)
        self.latents = latents * self.scale_factor
        self.tokens = torch.stack([condition.embed(condition.of(values)) for values in images.values])
        super().__init__(data=list(range(len(latents))))

    def _transform(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {"image": self.latents[index], "index": index}
        if self.tokens.shape[-1]:
            item["condition"] = self.tokens[index]
        return item
