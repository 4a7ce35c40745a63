"""Embedding volumes: each is read, cut to the cube around its anatomy and embedded by its slices, skipping what the store holds; :mod:`embed` in 3D."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import ignite.distributed as idist
import numpy as np
import torch
import torch.nn.functional as F

from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import VolumeSliceInferer, volume_view_differences
from doppelscan.errors import InputError, reason_of_image
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import CubeFrame, ImageRecord, ImageSet, SkippedImage, cut_cube, read_compared
from doppelscan.images.cubes import CUBE, CUBES, cut_stored_cube
from doppelscan.images.transforms import window
from doppelscan.images.volumes import LARGEST
from doppelscan.progress import progress
from doppelscan.search import EmbeddedVolumes, EmbeddingStore, fingerprint, frame_row, output_columns, rounded
from doppelscan.workers import THIS_PROCESS, Workers
from doppelscan.workflows.embed import gathered, own_share

__all__ = ["CutVolume", "VolumeEmbedder", "VolumeMaker", "Voxels", "read_voxels"]

# Outputs of the encoder that are kept of volumes: the head that finds candidates, and the layer that tells scanners apart.
OUTPUTS = ("embedding", "layer2")
# Voxels a side of the cube that is kept of a volume as it is stored, whatever its header says of its voxels.
STORED = 16
# Volumes a shard: half a megabyte each, which are held until it is full.
SHARD = 32

# Voxels float32 [X, Y, Z] in [0, 1], their spacing in mm, and the shape as it is on disk.
Voxels = tuple[np.ndarray, tuple[float, float, float], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class CutVolume:
    """What is kept of a volume.

    Attributes:
        cube: uint8 [1, S, S, S], around its anatomy.
        frame: where that lies.
        shape: int32 [3], as it is on disk.
        stored: uint8 [1, 16, 16, 16], the cube of the volume as it is stored, see :func:`~doppelscan.images.cubes.cut_stored_cube`.
    """

    cube: np.ndarray
    frame: CubeFrame
    shape: np.ndarray
    stored: np.ndarray


def as_bytes(values: np.ndarray) -> np.ndarray:
    """float in [0, 1] as uint8."""
    return np.round(values.clip(0, 1) * 255).astype(np.uint8)


class VolumeMaker(Protocol):
    """What makes a volume when its turn has come, in whatever process that is."""

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume: ...


def read_voxels(record: ImageRecord) -> Voxels:
    """A volume windowed to [0, 1]; where its file does not say how large its voxels are, they are taken for cubes of 1 mm.

    Raises:
        ImageError: it cannot be read, see :func:`~doppelscan.images.read_compared`.
    """
    volume = read_compared(record)
    shape = volume.pixels.shape if record.geometry is None else record.geometry.shape
    return window(volume.pixels), volume.spacing, shape


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
        return fingerprint("volumes", IMAGES, DEEPSSIM, self.cubes(), self.network, self.inferer.with_poses(poses))

    def cubes(self) -> dict[str, int]:
        """How volumes are cut."""
        return {"cube": self.size, "largest": LARGEST, "stored": STORED, "version": CUBES}

    def settings(self) -> list[object]:
        """What a summary says of the preparation."""
        inferer = self.inferer
        seen = {
            "places": list(inferer.places), "degrees": inferer.degrees, "halves": inferer.halves, "spatial_size": inferer.spatial_size,
            "outputs": list(inferer.outputs),
        }  # fmt: skip
        return [self.cubes(), seen]

    def store(self, directory: Any, poses: int) -> EmbeddingStore:
        """Of volumes in 1 or 48 axis poses."""
        return EmbeddingStore(directory, self.fingerprint(poses), SHARD)

    def embed(
        self, image_set: ImageSet, store: EmbeddingStore, poses: int, label: str, workers: Workers = THIS_PROCESS
    ) -> EmbeddedVolumes:
        """Embed what ``store`` does not hold yet.

        Args:
            image_set: records of whole volumes; the unreadable ones are added to its ``skipped``.
            store: filled.
            poses: 1, with turned and halved views, or 48.
            label: of the progress bar.
            workers: who embeds, see :meth:`fill`.
        """
        keys = image_set.content_keys(label)
        first: dict[str, ImageRecord] = {}
        for record, key in zip(image_set.records, keys, strict=True):
            if key is not None:
                first.setdefault(key, record)
        made = [OfFile(record) for record in first.values()]
        failed = self.fill(store, list(first), made, poses, f"embed {label}", workers)
        for record, key in zip(image_set.records, keys, strict=True):
            if key in failed:
                image_set.skipped.append(SkippedImage(record.id, failed[key]))
        kept = [(record, key) for record, key in zip(image_set.records, keys, strict=True) if key is not None and key not in failed]
        return EmbeddedVolumes([one for one, _ in kept], [key for _, key in kept], store, self.inferer.output_slices)

    def fill(
        self,
        store: EmbeddingStore,
        keys: Sequence[str],
        made: Sequence[VolumeMaker],
        poses: int,
        label: str,
        workers: Workers = THIS_PROCESS,
    ) -> dict[str, str]:
        """Make and embed the volumes whose keys ``store`` does not hold yet, one in memory at a time.

        Args:
            store: filled.
            keys: of the volumes.
            made: what makes each of them.
            poses: 1, with turned and halved views, or 48.
            label: of the progress bar.
            workers: who makes and embeds; a GPU is asked by this process alone.

        Returns:
            key -> reason, of the volumes that cannot be read.
        """
        store.refresh()  # what another audit has embedded since the store was opened
        task = BlockOfVolumes(self, store, keys, made, poses)
        missing = [row for row, key in enumerate(keys) if key not in store]
        # Under torchrun every process embeds its share; what it could not read is told to the others.
        mine, shared = own_share(missing), idist.get_world_size() > 1
        with progress(None, label, "volume", total=len(mine)) as bar:
            who = THIS_PROCESS if shared or self.device.type != "cpu" else workers
            parts = who.map(task, mine, bar.update)
        failed = dict(gathered([(keys[row], reason) for part in parts for row, reason in part.items()]))
        if shared or not who.alone:
            store.require({keys[row] for row in missing if keys[row] not in failed})
        return failed

    def cut(self, voxels: Voxels) -> CutVolume:
        """The cube of a volume."""
        pixels, spacing, shape = voxels
        cube, frame = cut_cube(pixels, spacing, self.size)
        stored = F.adaptive_avg_pool3d(torch.from_numpy(cut_stored_cube(pixels, shape, self.size)[0])[None], STORED).numpy()
        return CutVolume(as_bytes(cube[None]), frame, np.array(shape, np.int32), as_bytes(stored))

    def posed(
        self, volumes: EmbeddedVolumes, store: EmbeddingStore, label: str, workers: Workers = THIS_PROCESS
    ) -> EmbeddedVolumes:
        """``volumes`` in 48 axis poses, of the cubes that they are there with: no file is read again."""
        made = [OfStore(volumes, row) for row in range(len(volumes))]
        self.fill(store, volumes.keys, made, self.inferer.known, f"embed {label}", workers)
        return EmbeddedVolumes(volumes.records, volumes.keys, store, volumes.outputs)

    @torch.inference_mode()
    def add(self, store: EmbeddingStore, key: str, volume: CutVolume, poses: int) -> None:
        """Embed one volume and keep it under ``key``."""
        cube, frame = volume.cube, volume.frame
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
                "native_shape": np.asarray(volume.shape, np.int32),
                "frame": frame_row(frame),
                "stored": volume.stored,
                "content": np.frombuffer(content, np.uint8),
            },
        )

    def view_differences(self, volumes: EmbeddedVolumes, rows: Sequence[int], seed: int = 0) -> np.ndarray:
        """float32 [V, C], what views of some ``volumes`` change in their embedding, see :func:`~doppelscan.deepssim.volume_view_differences`."""
        self.network.eval()

        def embed(cubes: torch.Tensor) -> torch.Tensor:
            return self.plain(cubes.to(self.device), self.network)[:, 0].cpu()

        return volume_view_differences(embed, volumes.thumbnails(rows), seed=seed).numpy()


@dataclass(frozen=True)
class OfFile:
    """A volume of a set, read from its file."""

    record: ImageRecord

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume:
        return embedder.cut(read_voxels(self.record))


@dataclass(frozen=True)
class OfStore:
    """A volume that is embedded already, by its cube."""

    volumes: EmbeddedVolumes
    row: int

    def __call__(self, embedder: VolumeEmbedder) -> CutVolume:
        volumes, rows = self.volumes, [self.row]
        return CutVolume(
            volumes.thumbnails(rows)[0].numpy(),
            volumes.frames(rows)[0],
            volumes.native_shapes(rows)[0],
            volumes.stored_cubes(rows)[0].numpy(),
        )


@dataclass(frozen=True)
class BlockOfVolumes:
    """Embeds blocks of volumes; what it holds is what :meth:`VolumeEmbedder.fill` takes."""

    embedder: VolumeEmbedder
    store: EmbeddingStore
    keys: Sequence[str]
    made: Sequence[VolumeMaker]
    poses: int

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any] = lambda count: None) -> dict[int, str]:
        """Row -> reason of what cannot be read; the others are on disk when it returns."""
        failed: dict[int, str] = {}
        for row in rows:
            try:
                volume = self.made[row](self.embedder)
            except Exception as error:
                reason = reason_of_image(error)
                if reason is None:
                    raise
                failed[row] = reason
            else:
                self.embedder.add(self.store, self.keys[row], volume, self.poses)
            advance(1)
        self.store.flush()
        return failed
