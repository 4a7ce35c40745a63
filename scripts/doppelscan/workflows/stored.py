"""What every search over real images stands on: a folder to write to, embeddings and registered pairs that are kept, who computes, with what."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from doppelscan.decide import PosedPairs, StoredRegistration, StoredVolumes
from doppelscan.deepssim import ALGORITHM as DEEPSSIM
from doppelscan.deepssim import require_heads
from doppelscan.errors import InputError
from doppelscan.images import ALGORITHM as IMAGES
from doppelscan.images import ImageSet
from doppelscan.search import EmbeddedSet, EmbeddedVolumes, EmbeddingStore, fingerprint, part_of
from doppelscan.verify import Registration, VolumeRegistration
from doppelscan.version import __version__
from doppelscan.workers import THIS_PROCESS, Workers
from doppelscan.workflows.embed import EmbeddingEvaluator, RecordDataset
from doppelscan.workflows.volume_embed import VolumeEmbedder

__all__ = [
    "chosen_workers",
    "embedding_store",
    "made_folder",
    "missing_in",
    "stored_registration",
    "stored_set",
    "stored_view_differences",
    "stored_volume_differences",
    "stored_volumes",
    "versions",
]


def made_folder(output: Path, name: str = "output") -> None:
    """Make ``output`` where it is missing, and see that it can be written; ``name`` is that of the parameter.

    Raises:
        InputError: it cannot.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".doppelscan-write-test"
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)  # another process of torchrun may be as far
    except OSError as error:
        raise InputError(
            f"The '{name}' parameter must {'be' if name == 'output' else 'lie in'} a folder that can be written. Got {str(output)!r}: {error.strerror}; pass "
            f"another --{name}."
        ) from error


def chosen_workers(
    images: int, device: torch.device, workers: int | None = None, threads: int | None = None, ray: str | None = None
) -> Workers:
    """Who embeds and scores ``images`` images, see :meth:`~doppelscan.workers.Workers.chosen`; a GPU is asked by one process.

    Raises:
        InputError: a Ray cluster with a GPU of this machine.
    """
    if device.type == "cpu":
        return Workers.chosen(images, workers, threads, ray)
    if ray is not None:
        raise InputError(
            f"The 'ray' parameter must come with the device cpu. Got {ray!r} with {device}; pass --device cpu, or leave --ray out."
        )
    return THIS_PROCESS


def missing_in(store: EmbeddingStore, image_set: ImageSet) -> int:
    """How many images of a set ``store`` does not hold; their files are hashed for that, which embedding does anyway."""
    keys = {key for key in image_set.content_keys(image_set.name) if key is not None}
    return sum(key not in store for key in keys)


def embedding_store(evaluator: EmbeddingEvaluator, dataset: RecordDataset, folder: str | Path, poses: int) -> EmbeddingStore:
    """Where images that are prepared as those of ``dataset`` lie in ``folder``, in 1 or 8 poses."""
    return EmbeddingStore(part_of(folder, f"poses-{poses}"), evaluator.fingerprint(dataset, poses))


def stored_set(
    evaluator: EmbeddingEvaluator, dataset: RecordDataset, folder: str | Path, poses: int, label: str, workers: Workers
) -> EmbeddedSet:
    """``dataset`` in the store in ``folder``, in 1 or 8 poses.

    Raises:
        InputError: no image of it can be read, or the encoder lacks a head.
    """
    outputs = evaluator.output_slices
    require_heads(outputs)
    store = embedding_store(evaluator, dataset, folder, poses)
    records, keys = evaluator.embed(dataset, store, poses, label, workers)
    if not records:
        raise dataset.image_set.unreadable()
    return EmbeddedSet(records, keys, store, outputs)


def stored_view_differences(
    evaluator: EmbeddingEvaluator, dataset: RecordDataset, images: EmbeddedSet, folder: str | Path, seed: int
) -> dict[str, np.ndarray]:
    """What views of ``images`` of ``dataset`` change, see :meth:`~doppelscan.workflows.EmbeddingEvaluator.view_differences`, kept in ``folder``: a
    further set is compared with the same training images."""
    store = EmbeddingStore(part_of(folder, "views"), fingerprint("views", DEEPSSIM, evaluator.fingerprint(dataset, 1)), 1)
    key = hashlib.sha256(repr((images.keys, seed)).encode()).hexdigest()
    if key not in store:
        found = evaluator.view_differences(images.thumbnails(range(len(images))), seed)
        if not found:
            return {}
        store.add(key, found)
        store.flush()
    return {name: rows[0] for name, rows in store.read([key], list(evaluator.output_slices)).items()}


def stored_registration(registration: Registration, dataset: RecordDataset, folder: str | Path) -> StoredRegistration:
    """Registration of images that were prepared as those of ``dataset``, whose pairs are kept in ``folder``."""
    # What weights propose is named by the key of each row: a pair is the same pair whoever proposed it.
    made_by = fingerprint("verified", IMAGES, dataset.transform, registration.settings())
    verified, posed = (EmbeddingStore(part_of(folder, name), made_by, 512) for name in ("verified", "registered"))
    return StoredRegistration(registration, verified, PosedPairs(posed))


def stored_volume_differences(
    embedder: VolumeEmbedder, volumes: EmbeddedVolumes, rows: Sequence[int], folder: str | Path, seed: int
) -> np.ndarray:
    """What views of some ``volumes`` change, see :meth:`~doppelscan.workflows.VolumeEmbedder.view_differences`, kept in ``folder``."""
    store = EmbeddingStore(part_of(folder, "views-volumes"), fingerprint("views", DEEPSSIM, embedder.fingerprint(1)), 1)
    key = hashlib.sha256(repr(([volumes.keys[row] for row in rows], seed)).encode()).hexdigest()
    if key not in store:
        store.add(key, {"embedding": embedder.view_differences(volumes, rows, seed)})
        store.flush()
    return store.read([key], ["embedding"])["embedding"][0]


def stored_volumes(embedder: VolumeEmbedder, registration: VolumeRegistration, folder: str | Path) -> StoredVolumes:
    """Registration of volumes that were cut by ``embedder``, whose pairs are kept in ``folder``."""
    made_by = fingerprint("verified volumes", IMAGES, embedder.cubes(), registration.settings())
    verified, posed = (EmbeddingStore(part_of(folder, f"{name}-volumes"), made_by, 64) for name in ("verified", "registered"))
    return StoredVolumes(registration, verified, PosedPairs(posed, registration.columns))


def versions() -> dict[str, str]:
    """Package -> version, of what a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("monai", "pytorch-ignite", "numpy", "faiss-cpu", "pyarrow", "nibabel", "pydicom"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found |= {"doppelscan": __version__, "torch": torch.__version__}
    return found
