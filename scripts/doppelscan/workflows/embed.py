"""Embedding a set: MONAI dataset, evaluator and handler that fill an embedding store, skipping what is already there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader, default_collate

from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import ViewInferer, in_parts, quarter_turn_poses, rotated, view_differences, volume_view_differences
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import (
    ForegroundSquared,
    ImageRecord,
    ImageSet,
    SkippedImage,
    SliceChoice,
    content_hash,
    find_images,
    in_three_planes,
    of_stacks,
    prepared,
)
from doppelscan.progress import progress
from doppelscan.search import EmbeddingStore, content_of, describe, fingerprint, output_columns, rounded
from doppelscan.workers import THIS_PROCESS, Workers

__all__ = [
    "EmbeddingEvaluator",
    "EmbeddingWriter",
    "PoseInferer",
    "RecordDataset",
    "collate_readable",
    "embedding_fingerprint",
    "gathered",
    "own_share",
]


# Of a control of volumes beside 2D images, slices a plane: one person's are not independent.
PLANE_SLICES = 8
# Of images, not of volumes: see SquareThumbnaild.
AS_READ = ("as_read", "read_shape", "surround")
GPU_IMAGES = 64  # of 8 views each, at a time


class RecordDataset(Dataset):
    """The images of a set as MONAI items; an image that cannot be read becomes an item with its reason.

    Args:
        source: folder, .csv or .json (see :func:`doppelscan.images.find_images`), or an :class:`~doppelscan.images.ImageSet`; None is
            an empty set, which :meth:`require` refuses.
        transform: the preprocessing; what it raises of kind ``ImageError`` or ``OSError`` is kept as the item's ``error``.
        name: name of the set in messages.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        slice_axis: axis of volumes; 0, 1, 2, sagittal, coronal or axial.
        slice_range: first and last share of the axis.
        slice_step: every n-th slice; None for at most 16 a volume.
        channel: which volume of 4D files.
        limit: images of a random sample of ``source``, see :func:`~doppelscan.images.find_images`; None takes all.
        seed: of that sample.
        volumes: ``whole``, or ``as-slices``, see :func:`~doppelscan.images.find_images`. Whole volumes are no items of this dataset: an audit embeds
            them as volumes.

    Items hold the transform's keys and ``index``, or ``index`` and ``error``.
    """

    def __init__(
        self,
        source: str | os.PathLike | ImageSet,
        transform: Callable,
        name: str = "dataset_dir",
        patient_pattern: str | None = None,
        slice_axis: int | str = 2,
        slice_range: Sequence[float] = (0.25, 0.75),
        slice_step: int | None = None,
        channel: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        volumes: Literal["whole", "as-slices"] = "as-slices",
    ) -> None:
        self.patient_pattern, self.volumes = patient_pattern, volumes
        self.slices = SliceChoice(slice_axis, float(slice_range[0]), float(slice_range[1]), slice_step, channel)
        if source is None:  # a config can be built and checked before its data is named; running it refuses
            source = ImageSet(name, [])
        elif not isinstance(source, ImageSet):
            source = find_images(
                source, name=name, patient_pattern=patient_pattern, slices=self.slices, limit=limit, seed=seed, volumes=volumes
            )
            source = of_stacks(source)
        self.image_set = source
        super().__init__(data=source.records, transform=transform)

    def require(self) -> None:
        """Raise ``InputError`` when no data was named."""
        if not self.data:
            name = self.image_set.name
            raise InputError(f"The '{name}' parameter must be a folder, .csv or .json with images. Got nothing; pass --{name} DIR.")

    def with_source(self, source: str | os.PathLike | ImageSet, name: str) -> RecordDataset:
        """The same transform and choices on another set, which is taken whole; volumes beside a set of 2D images are cut along three planes."""
        choice = self.slices
        made = RecordDataset(
            source,
            self.transform,
            name,
            self.patient_pattern,
            choice.axis,
            (choice.start, choice.stop),
            choice.step,
            choice.channel,
            volumes=self.volumes,
        )
        if made.image_set.whole_volumes and self.data and not self.image_set.whole_volumes:
            fewer = {} if name == "training" else {"most": PLANE_SLICES}
            return self.with_source(in_three_planes(made.image_set, choice, **fewer), name)
        return made

    def with_records(self, records: list[ImageRecord], transform: Callable | None = None) -> RecordDataset:
        """The same choices on some of the images, with ``transform`` or the same one."""
        made = self.with_source(ImageSet(self.image_set.name, list(records)), self.image_set.name)
        # Not "transform or ...": asking a Compose for its length seeds its transforms anew.
        made.transform = self.transform if transform is None else transform  # type: ignore[assignment]
        return made

    @property
    def foreground_size(self) -> int:
        """Side of the foreground squares that the transform makes; 0 when it makes none."""
        return next((t.spatial_size for t in _steps(self.transform) if isinstance(t, ForegroundSquared)), 0)

    def transform_settings(self) -> list:
        """The transforms with all their settings, see :func:`~doppelscan.search.describe`."""
        return describe(getattr(self.transform, "transforms", [self.transform]))

    def _transform(self, index: int) -> dict[str, Any]:
        record: ImageRecord = self.data[index]
        made = prepared(record, self.transform)
        if isinstance(made, SkippedImage):
            return {"index": index, "error": made.reason}
        return {
            "image": torch.as_tensor(np.asarray(made["image"])),
            "thumbnail": made["thumbnail"],
            "native_shape": made["native_shape"],
            **{name: made[name] for name in AS_READ if name in made},
            "index": index,
        }


def _steps(transform: Any) -> Iterator[Any]:
    """A transform, or those that it is composed of."""
    if hasattr(transform, "transforms"):
        for one in transform.transforms:
            yield from _steps(one)
    else:
        yield transform


def collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate the items that could be read; the others come along as ``errors``, a list of (index, reason)."""
    errors = [(item["index"], item["error"]) for item in items if "error" in item]
    good = [item for item in items if "error" not in item]
    return {**(default_collate(good) if good else {"image": torch.zeros(0, 1, 1, 1)}), "errors": errors}


class PoseInferer(ViewInferer):
    """Run the network on views of an image: its flip and quarter-turn poses, or the image as it is and rotated.

    Of two images one is posed and the other rotated: together they meet in poses x rotations, for the price of the sum.

    Args:
        poses: 8 for all flips and quarter turns, of what is looked for; 1 for the image in its own pose, of what is searched.
        rotations: degrees, 0 first, of an image in its own pose. Copies turned by more than the encoder is invariant to are found by
            the turned view.
        batch_size: views that the network sees at a time; a CPU sees fewer, see :func:`~doppelscan.deepssim.in_parts`.

    Returns of a call (image [B, 1, S, S], network):
        float32 [B, V, D]; the first view is the image as it is.
    """

    # How many at a time, and the rotations that are not used: ``turned`` are.
    without_effect = ("batch_size", "rotations")
    known, straight = 8, (0.0,)

    def __init__(self, poses: int = 1, rotations: Sequence[float] = (0.0,), batch_size: int = 512) -> None:
        super().__init__()
        self.rotations, self.batch_size = tuple(map(float, rotations)), batch_size
        self._set_poses(poses)

    @property
    def turns(self) -> tuple[float, ...]:
        """Degrees."""
        return self.rotations

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        if len(inputs) == 0:
            return torch.zeros(0, 1, 1)
        views = quarter_turn_poses(inputs) if self.poses == 8 else torch.stack([rotated(inputs, r) for r in self.turned])
        return self._of_views(views, network, self.batch_size, torch.channels_last)


def embedding_fingerprint(preprocessing: Callable, network: Any, inferer: Any) -> str:
    """What stored embeddings are bound to: how images are prepared, network with weights, views, and what these rooms compute.

    Args:
        preprocessing: a dataset's transform.
        network: as it is, loaded.
        inferer: a :class:`PoseInferer`, or another one.
    """
    return fingerprint("embeddings", IMAGES, DEEPSSIM, preprocessing, network, inferer)


class EmbeddingWriter:
    """ignite handler: put each batch's prediction, thumbnail and native shape into a store.

    Args:
        store: where to.
        dataset: what the engine runs over; its unreadable images are added to its ``image_set.skipped``.
        keys: content key of each image of the dataset; None computes them.
        table: path of a CSV (image, patient, key) that is written at the end; None writes none.
        advance: called with the number of images of each batch.
        outputs: which slice of the prediction is which output of the network: each is a column, rounded, which is what
            :class:`~doppelscan.search.EmbeddedSet` reads. None keeps the prediction as it is, as the one column ``embedding``.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        dataset: RecordDataset,
        keys: Sequence[str] | None = None,
        table: str | os.PathLike | None = None,
        advance: Callable[[int], Any] | None = None,
        outputs: Mapping[str, slice] | None = None,
    ) -> None:
        self.store, self.dataset, self.keys, self.table, self.advance = store, dataset, keys, table, advance
        self.outputs = outputs
        self.written: dict[int, str] = {}
        self._volumes: dict[tuple[str, ...], Any] = {}

    def attach(self, engine: Engine) -> list:
        """Follow ``engine``; returns the handles that remove the handler again."""
        return [
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed),
            engine.add_event_handler(Events.COMPLETED, self.completed),
        ]

    def iteration_completed(self, engine: Engine) -> None:
        state: Any = engine.state
        batch, predictions = state.batch, state.output["pred"]
        records, skipped = self.dataset.image_set.records, self.dataset.image_set.skipped
        for index, reason in batch["errors"]:
            skipped.append(SkippedImage(records[index].id, reason))
        for row, index in enumerate(batch["index"].tolist() if "index" in batch else []):
            key = content_hash(records[index], self._volumes) if self.keys is None else self.keys[index]
            self.written[index] = key
            features = self._features(predictions[row].cpu().numpy().astype(np.float32))
            thumbnail = np.asarray(batch["thumbnail"][row])
            native_shape = np.asarray(batch["native_shape"][row], dtype=np.int32)
            content = content_of(thumbnail, native_shape)
            as_read = {name: np.asarray(batch[name][row]) for name in AS_READ if name in batch}
            images = {"thumbnail": thumbnail, "native_shape": native_shape, "content": content, **as_read}
            self.store.add(key, {**features, **images})
        if self.advance is not None:
            self.advance(len(batch["errors"]) + len(batch.get("index", ())))

    def _features(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Column -> float32 [V, C]."""
        if self.outputs is None:
            return {"embedding": prediction}
        return {
            column: rounded(prediction[..., self.outputs[column]])
            for column in dict.fromkeys(output_columns(self.outputs).values())
        }

    def completed(self, engine: Engine) -> None:
        self.store.flush()
        if self.table is None:
            return
        records, written = self.dataset.image_set.records, sorted(dict(gathered(list(self.written.items()))).items())
        if idist.get_rank() == 0:
            rows = [{"image": records[i].id, "patient": records[i].patient, "key": key} for i, key in written]
            write_atomic(Path(self.table), to_csv(("image", "patient", "key"), rows))


def gathered(own: list) -> list:
    """The entries of every process, in order of the processes."""
    if idist.get_world_size() == 1:
        return own
    parts: list = [None] * idist.get_world_size()
    torch.distributed.all_gather_object(parts, own)
    return [one for part in parts for one in part]


def own_share(rows: Sequence[int]) -> list[int]:
    """What this process does of ``rows``: neighbours, so that one process reads a volume."""
    rank, processes = idist.get_rank(), idist.get_world_size()
    return list(rows[len(rows) * rank // processes : len(rows) * (rank + 1) // processes])


def prepare_images(batchdata: dict, device: torch.device, non_blocking: bool = False, **kwargs: Any):
    """``prepare_batch`` of engines without labels."""
    return batchdata["image"].to(device, non_blocking=non_blocking), None


class EmbeddingEvaluator(SupervisedEvaluator):
    """MONAI evaluator that fills embedding stores, one set after the other.

    Args:
        device: of the network.
        network: see :class:`~doppelscan.deepssim.Encoder`.
        dataset: the set that a plain ``run()`` embeds.
        inferer: a :class:`PoseInferer`.
        batch_size: images read at a time.
        num_workers: processes that read and preprocess.
        val_handlers: further ignite handlers.
    """

    def __init__(
        self,
        device: str | torch.device,
        network: torch.nn.Module,
        dataset: RecordDataset,
        inferer: PoseInferer,
        batch_size: int = 16,
        num_workers: int = 0,
        val_handlers: Sequence | None = None,
    ) -> None:
        # A GPU waits for Python where it is given little at a time.
        self.batch_size = batch_size if torch.device(device).type == "cpu" else max(batch_size, GPU_IMAGES)
        self.dataset, self.num_workers = dataset, num_workers
        self.pose_inferer = inferer
        super().__init__(
            device=torch.device(device),
            val_data_loader=self._loader(self._own_share(dataset)),
            network=network,
            prepare_batch=prepare_images,
            inferer=inferer,
            val_handlers=val_handlers,
            decollate=False,
        )

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Run over the current set; see MONAI's ``Evaluator.run``."""
        if not self.state.epoch_length:
            self.dataset.require()
        super().run(global_epoch)

    @property
    def output_slices(self) -> dict[str, slice]:
        """Where each output of the network lies in its prediction."""
        network: Any = self.network
        return network.output_slices

    @staticmethod
    def _own_share(dataset: RecordDataset) -> Any:
        """Under ``torchrun`` a plain run is over a share of the set. Where images are fewer than processes some do the last one again: each has
        to come to the end, where the table is gathered."""
        if idist.get_world_size() == 1 or not len(dataset):
            return dataset
        return torch.utils.data.Subset(dataset, own_share(range(len(dataset))) or [len(dataset) - 1])

    def _loader(self, dataset) -> DataLoader:
        return DataLoader(dataset, self.batch_size, num_workers=self.num_workers, collate_fn=collate_readable)

    def embed(
        self, dataset: RecordDataset, store: EmbeddingStore, poses: int, label: str, workers: Workers = THIS_PROCESS
    ) -> tuple[list[ImageRecord], list[str]]:
        """Embed what ``store`` does not hold yet.

        Args:
            dataset: the set.
            store: filled.
            poses: 1 or 8.
            label: of the progress bar.
            workers: who embeds. A network that cannot be sent to another process, such as a session of onnxruntime, is run in this one.

        Returns:
            the readable records and their keys in the store; the unreadable ones are added to the set's ``skipped``.
        """
        image_set = dataset.image_set
        hashed = image_set.content_keys(label)
        keys, readable = [key or "" for key in hashed], [key is not None for key in hashed]
        store.refresh()  # what another audit has embedded since the store was opened
        missing, seen = [], set()
        for index, key in enumerate(keys):
            if readable[index] and key not in store and key not in seen:
                missing.append(index)
                seen.add(key)
        # Every process embeds its share; what it could not read is told to the others.
        before = len(image_set.skipped)
        mine, shared = own_share(missing), idist.get_world_size() > 1
        here = workers.alone or shared or self.state.device.type != "cpu"
        if mine and here:
            with progress(None, f"embed {label}", "image", total=len(mine)) as bar:
                self.embed_rows(dataset, mine, keys, store, poses, bar.update)
        elif mine:
            store.flush()
            block = BlockEmbedder(self.network, dataset, self.pose_inferer, self.batch_size, keys, store, poses)
            with progress(None, f"embed {label}", "image", total=len(mine)) as bar:
                for skipped in workers.map(block, mine, bar.update):
                    image_set.skipped.extend(one for one in skipped if one not in image_set.skipped[before:])
        if shared:
            # What cannot be opened every process has met.
            image_set.skipped[before:] = list(dict.fromkeys(gathered(image_set.skipped[before:])))
        unread = {s.path for s in image_set.skipped}
        if shared or not here:
            # A listing may be behind; an image that was embedded is never one that cannot be read.
            store.require({keys[i] for i in missing if image_set.records[i].id not in unread})
        kept = [
            (r, k) for r, k, ok in zip(image_set.records, keys, readable, strict=True) if ok and k in store and r.id not in unread
        ]
        # A second file with the bytes of an unreadable one was not tried again: it is unreadable for the same reason.
        for record, key, ok in zip(image_set.records, keys, readable, strict=True):
            if ok and key not in store and record.id not in unread:
                image_set.skipped.append(SkippedImage(record.id, "the same bytes as another unreadable image"))
        return [r for r, _ in kept], [k for _, k in kept]

    def view_differences(self, thumbnails: torch.Tensor, seed: int = 0) -> dict[str, np.ndarray]:
        """Output name -> float32 [V, C], what views of ``thumbnails`` uint8 [n, 1, S, S], or cubes [n, 1, S, S, S], change in it; ``{}`` for
        another preprocessing than foreground squares or cubes."""
        size, cubes = self.dataset.foreground_size, thumbnails.ndim == 5
        if not size and not cubes:
            return {}
        self.network.eval()

        def embed(images: torch.Tensor) -> torch.Tensor:
            layout = torch.contiguous_format if cubes else torch.channels_last
            return in_parts(images.to(self.state.device).contiguous(memory_format=layout), self.network, len(images)).cpu()

        views = (
            volume_view_differences(embed, thumbnails, seed=seed) if cubes else view_differences(embed, thumbnails, size, seed=seed)
        )
        found = views.numpy()
        return {name: np.ascontiguousarray(found[:, part]) for name, part in self.output_slices.items()}

    def fingerprint(self, dataset: RecordDataset, poses: int) -> str:
        """Of the embeddings that :meth:`embed` makes, see :func:`embedding_fingerprint`."""
        return embedding_fingerprint(dataset.transform, self.network, self.pose_inferer.with_poses(poses))

    def embed_rows(
        self,
        dataset: RecordDataset,
        rows: Sequence[int],
        keys: Sequence[str],
        store: EmbeddingStore,
        poses: int,
        advance: Callable[[int], Any],
    ) -> None:
        """Embed some images of ``dataset``, whatever the store holds; parameters as of :class:`EmbeddingWriter` and :meth:`embed`."""
        self.inferer = self.pose_inferer.with_poses(poses)
        self.data_loader = self._loader(torch.utils.data.Subset(dataset, rows))
        self.state.epoch_length = len(self.data_loader)
        handles = EmbeddingWriter(store, dataset, keys, advance=advance, outputs=self.output_slices).attach(self)
        try:
            self.run()
        finally:
            self.inferer = self.pose_inferer
            for handle in handles:
                handle.remove()


@dataclass(frozen=True)
class BlockEmbedder:
    """Embeds blocks of a set in a process of its own.

    Attributes:
        network, dataset, inferer, batch_size: of the evaluator that each process makes.
        keys: content key of each image of the dataset.
        store: filled.
        poses: 1 or 8.
    """

    network: torch.nn.Module
    dataset: RecordDataset
    inferer: PoseInferer
    batch_size: int
    keys: Sequence[str]
    store: EmbeddingStore
    poses: int

    @cached_property
    def evaluator(self) -> EmbeddingEvaluator:
        """Of this process."""
        for name in ("monai.bundle.workflows", "ignite.engine.engine.EmbeddingEvaluator"):
            logging.getLogger(name).setLevel(logging.ERROR)
        network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return EmbeddingEvaluator("cpu", network, self.dataset, self.inferer, self.batch_size)

    def __call__(self, rows: Sequence[int], advance: Callable[[int], Any] = lambda count: None) -> list[SkippedImage]:
        """What could not be read of them; the embeddings are on disk when it returns."""
        skipped = self.dataset.image_set.skipped
        before = len(skipped)
        missing = [row for row in rows if self.keys[row] not in self.store]
        if missing:
            self.evaluator.embed_rows(self.dataset, missing, self.keys, self.store, self.poses, advance)
        return skipped[before:]
