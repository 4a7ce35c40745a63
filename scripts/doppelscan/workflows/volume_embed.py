"""Embedding volumes: each is read, cut to the cube around its anatomy and embedded by its slices, skipping what the store holds; :mod:`embed` in 3D."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import VolumeSliceInferer, volume_view_differences
from doppelscan.errors import InputError, reason_of_image
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import CubeFrame, ImageRecord, ImageSet, SkippedImage, content_hash, cut_cube, read_volume
from doppelscan.images.cubes import CUBE
from doppelscan.images.transforms import window
from doppelscan.progress import progress
from doppelscan.search import EmbeddedVolumes, EmbeddingStore, describe, fingerprint, frame_row, output_columns, rounded

__all__ = ["VolumeEmbedder", "Voxels", "read_voxels"]

# Outputs of the encoder that are kept of volumes: the head that finds candidates, and the layer that tells scanners apart.
OUTPUTS = ("embedding", "layer2")
# Voxels along an axis that a volume is read with, at most: twice those of the cube, whatever the size of the file.
LARGEST = 2 * CUBE
# Volumes a shard: half a megabyte each, which are held until it is full.
SHARD = 32
UNKNOWN_SPACING = (1.0, 1.0, 1.0)

# Voxels float32 [X, Y, Z] in [0, 1], their spacing in mm, and the shape as it is on disk.
Voxels = tuple[np.ndarray, tuple[float, float, float], tuple[int, ...]]


def read_voxels(record: ImageRecord) -> Voxels:
    """A volume windowed to [0, 1]; where its file does not say how large its voxels are, they are taken for cubes of 1 mm.

    Raises:
        ImageError: it cannot be read, see :func:`~doppelscan.images.read_volume`.
    """
    volume = read_volume(record, largest=LARGEST)
    known = volume.geometry.known
    shape = volume.pixels.shape if record.geometry is None else record.geometry.shape
    return window(volume.pixels), volume.geometry.spacing if known else UNKNOWN_SPACING, shape


class VolumeEmbedder:
    """Fills embedding stores with volumes, one set after the other.

    Args:
        network: encoder of slices, see :class:`~doppelscan.deepssim.Encoder`.
        device: of the network.
        spatial_size: side of its input.
        size: voxels a side of the cubes.

    Raises:
        InputError: when volumes are embedded and the encoder has no head ``embedding``.
    """

    def __init__(
        self, network: torch.nn.Module, device: str | torch.device = "cpu", spatial_size: int = 128, size: int = CUBE
    ) -> None:
        self.network, self.device, self.spatial_size, self.size = network, torch.device(device), spatial_size, size

    @cached_property
    def outputs(self) -> dict[str, slice]:
        """Where each output that is kept lies in what the network gives."""
        network: Any = self.network
        outputs = {name: part for name, part in network.output_slices.items() if name in OUTPUTS}
        if "embedding" not in outputs:
            raise InputError(
                f"The 'network_def' parameter must be an encoder with the head 'embedding' for volumes. Got {', '.join(network.output_slices)}; "
                "see --roles."
            )
        return outputs

    @cached_property
    def inferer(self) -> VolumeSliceInferer:
        """Of what is searched: as it is, turned and halved."""
        return VolumeSliceInferer(self.outputs, spatial_size=self.spatial_size)

    @cached_property
    def plain(self) -> VolumeSliceInferer:
        """Of what the whitening is fitted with: in one view."""
        head = {"embedding": self.outputs["embedding"]}
        return VolumeSliceInferer(head, degrees=0.0, halves=False, spatial_size=self.spatial_size)

    def fingerprint(self, poses: int) -> str:
        """Of the embeddings that :meth:`embed` makes."""
        return fingerprint("volumes", IMAGES, DEEPSSIM, LARGEST, self.size, self.network, self.inferer.with_poses(poses))

    def settings(self) -> list[object]:
        """What a summary says of the preparation, see :func:`~doppelscan.search.describe`."""
        return [{"cube": self.size, "largest": LARGEST}, describe(self.inferer)]

    def store(self, directory: Any, poses: int) -> EmbeddingStore:
        """Of volumes in 1 or 48 axis poses."""
        return EmbeddingStore(directory, self.fingerprint(poses), SHARD)

    def embed(self, image_set: ImageSet, store: EmbeddingStore, poses: int, label: str) -> EmbeddedVolumes:
        """Embed what ``store`` does not hold yet.

        Args:
            image_set: records of whole volumes; the unreadable ones are added to its ``skipped``.
            store: filled.
            poses: 1, with turned and halved views, or 48.
            label: of the progress bar.
        """
        keys: dict[str, str] = {}
        store.refresh()  # what another audit has embedded since the store was opened
        for record in progress(image_set.records, f"embed {label}", "volume"):
            key = self._key(record, image_set)
            if key is None:
                continue
            if key not in store:
                try:
                    voxels = read_voxels(record)
                except Exception as error:
                    reason = reason_of_image(error)
                    if reason is None:
                        raise
                    image_set.skipped.append(SkippedImage(record.id, reason))
                    continue
                self.add(store, key, voxels, poses)
            keys[record.id] = key
        store.flush()
        kept = [record for record in image_set.records if record.id in keys]
        return EmbeddedVolumes(kept, [keys[record.id] for record in kept], store, self.inferer.output_slices)

    @staticmethod
    def _key(record: ImageRecord, image_set: ImageSet) -> str | None:
        try:
            return content_hash(record)
        except OSError as error:
            image_set.skipped.append(SkippedImage(record.id, f"cannot be opened: {error.strerror}"))
            return None

    def add(self, store: EmbeddingStore, key: str, voxels: Voxels, poses: int) -> None:
        """Embed one volume and keep it under ``key``."""
        pixels, spacing, shape = voxels
        cube, frame = cut_cube(pixels, spacing, self.size)
        self._add(store, key, np.round(cube.clip(0, 1) * 255).astype(np.uint8)[None], frame, np.array(shape, np.int32), poses)

    def posed(self, volumes: EmbeddedVolumes, store: EmbeddingStore, label: str) -> EmbeddedVolumes:
        """``volumes`` in 48 axis poses, of the cubes that they are there with: no file is read again."""
        store.refresh()
        for row, key in enumerate(progress(volumes.keys, f"embed {label}", "volume")):
            if key not in store:
                shape = volumes.native_shapes([row])[0]
                cube = volumes.thumbnails([row])[0].numpy()
                self._add(store, key, cube, volumes.frames([row])[0], shape, self.inferer.known)
        store.flush()
        return EmbeddedVolumes(volumes.records, volumes.keys, store, volumes.outputs)

    @torch.inference_mode()
    def _add(self, store: EmbeddingStore, key: str, cube: np.ndarray, frame: CubeFrame, shape: np.ndarray, poses: int) -> None:
        self.network.eval()
        made = self.inferer.with_poses(poses)(torch.from_numpy(cube)[None].to(self.device), self.network)[0].cpu().numpy()
        outputs: Mapping[str, slice] = self.inferer.output_slices
        features = {name: rounded(made[..., outputs[name]]) for name in dict.fromkeys(output_columns(outputs).values())}
        content = hashlib.sha256(cube.tobytes() + frame_row(frame).tobytes()).digest()
        store.add(
            key,
            {
                **features,
                "thumbnail": cube,
                "native_shape": np.asarray(shape, np.int32),
                "frame": frame_row(frame),
                "content": np.frombuffer(content, np.uint8),
            },
        )

    def view_differences(self, volumes: EmbeddedVolumes, rows: Sequence[int], seed: int = 0) -> np.ndarray:
        """float32 [V, C], what views of some ``volumes`` change in their embedding, see :func:`~doppelscan.deepssim.volume_view_differences`."""
        self.network.eval()

        def embed(cubes: torch.Tensor) -> torch.Tensor:
            return self.plain(cubes.to(self.device), self.network)[:, 0].cpu()

        return volume_view_differences(embed, volumes.thumbnails(rows), seed=seed).numpy()
