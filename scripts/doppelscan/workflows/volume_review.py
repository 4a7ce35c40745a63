"""One whole volume against the training volumes, for a person who looks at it: its nearest one, in which pose, and where the two agree."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser

from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES, CubeFrame, ImageRecord, SkippedImage, find_images, prepared
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.locations import bundle_root
from doppelscan.memorization import MemorizationIndex, spread_over_patients
from doppelscan.search import EmbeddedSet, EmbeddingStore, VolumeSearch
from doppelscan.verify import VolumeRegistration
from doppelscan.workflows.embed import EmbeddingEvaluator
from doppelscan.workflows.errors import told_in_one_line
from doppelscan.workflows.index import IndexFitter
from doppelscan.workflows.review import ReviewedImage

__all__ = ["VolumeReview", "on_volume"]

# Training volumes whose views the whitening mutes, as the encoder bundle's tables are with.
VIEWED = 25


@dataclass(frozen=True, eq=False)
class _Seen:
    """A volume that was read: uint8 cube [1, S, S, S], float32 image of it, its frame, and the affine of its array in RAS+."""

    cube: torch.Tensor
    image: torch.Tensor
    frame: CubeFrame
    affine: np.ndarray


@dataclass(frozen=True, eq=False)
class _Reference:
    """Training volumes, embedded, and what was fitted on them; the index is None where they are too few for a null."""

    evaluator: EmbeddingEvaluator
    training: EmbeddedSet
    features: Mapping[str, np.ndarray]
    search: VolumeSearch
    index: MemorizationIndex | None


class VolumeReview:
    """Whole volumes against a training set of volumes, by the configs of the two bundles; nothing is judged, as no control is asked.

    Args:
        training: folder, .csv or .json of the training volumes.
        output: folder of the embeddings and of the fitted index; made when missing, holds patient data.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        device: where to compute.
        candidates: training volumes that are registered.
    """

    def __init__(
        self,
        training: str | os.PathLike,
        output: str | os.PathLike,
        patient_pattern: str | None = None,
        device: str | torch.device = "cpu",
        candidates: int = 5,
    ) -> None:
        self.training, self.output, self.patient_pattern = training, Path(output), patient_pattern
        self.device, self.candidates = torch.device(device), int(candidates)
        self.registration = VolumeRegistration(device=self.device)
        self._lock = threading.Lock()

    @cached_property
    def of_volumes(self) -> bool:
        """Whether the training set is one of volumes."""
        try:
            return find_images(self.training, patient_pattern=self.patient_pattern, volumes="whole").whole_volumes
        except InputError:  # volumes and pictures in one folder: slices can be compared
            return False

    def takes(self, path: str | os.PathLike) -> bool:
        """Whether ``path`` is a volume and can be compared whole."""
        if not self.of_volumes:
            return False
        try:
            return find_images(path, name="image", volumes="whole").whole_volumes
        except InputError:
            return False

    def image(self, path: str | os.PathLike) -> ReviewedImage:
        """The training volume that is nearest to the volume ``path`` after registration.

        Returns:
            ``values``: match, match_patient, pose (what maps the match on the volume, in mm), score, ssim, agreement, share (see
            :class:`~doppelscan.verify.VolumeAgreement`), embedding (whitened) and deepssim cosines, mi and oni where the training set is large
            enough; ``agreement``: the map in the volume's own array and affine, 0 where nothing can be said.

        Raises:
            InputError: it cannot be read as a volume.
        """
        with self._lock, told_in_one_line():
            records = find_images(path, name="image", volumes="whole").records
            reference = self.reference
            seen = _read(records[0], reference) if records else SkippedImage(os.fspath(path), "no volume")
            if isinstance(seen, SkippedImage):
                raise InputError(
                    f"The 'image' parameter must be a volume that can be read. Got {os.fspath(path)!r}: {seen.reason}."
                )
            values, agreement = self._compared(seen, reference)
        agreement, affine = on_volume(agreement, seen.frame, path, seen.affine)
        return ReviewedImage(values, agreement, affine)

    @cached_property
    def reference(self) -> _Reference:
        """Embedded and fitted when it is first asked for; embeddings are kept."""
        parser = ConfigParser()
        parser.read_config(str(Path(bundle_root("deepssim_encoder")) / "configs" / "inference_3d.json"))
        asked = {
            "dataset_dir": os.fspath(self.training), "patient_pattern": self.patient_pattern, "device": self.device, "degrees": 15,
            "halves": True, "encoder_def::outputs": ["deepssim", "embedding", "layer2", "layer3", "layer4"], "handlers": [],
        }  # fmt: skip
        parser.update(asked)
        evaluator: EmbeddingEvaluator = parser.get_parsed_content("evaluator")
        made_by = evaluator.fingerprint(evaluator.dataset, 1)
        store = EmbeddingStore(self.output / f"volumes-{made_by[:8]}", made_by)
        records, keys = evaluator.embed(evaluator.dataset, store, 1, "training volumes")
        if not records:
            raise evaluator.dataset.image_set.unreadable()
        training = EmbeddedSet(records, keys, store, evaluator.output_slices)
        features = training.features()
        inferer: Any = evaluator.pose_inferer
        rows = spread_over_patients(training.patients, VIEWED, 0)
        differences = evaluator.view_differences(training.thumbnails(rows))
        search = VolumeSearch(self.candidates, inferer.slots, self.device)
        search.fit(features["embedding"], differences["embedding"], inferer.view_weights)
        return _Reference(evaluator, training, features, search, self._index(len(records), len(set(training.patients))))

    def _index(self, volumes: int, patients: int) -> MemorizationIndex | None:
        if volumes < MemorizationIndex.smallest_images or patients < MemorizationIndex.smallest_patients:
            return None
        parser = ConfigParser()
        parser.read_config(str(Path(bundle_root("mi_scorer")) / "configs" / "train_3d.json"))
        parser.update(
            {
                "dataset_dir": os.fspath(self.training),
                "patient_pattern": self.patient_pattern,
                "device": self.device,
                "output_dir": str(self.output / "index"),
            }
        )
        fitter: IndexFitter = parser.get_parsed_content("train::trainer")
        fitter.run()
        return fitter.index

    def _compared(self, seen: _Seen, reference: _Reference) -> tuple[dict[str, Any], np.ndarray]:
        evaluator, training = reference.evaluator, reference.training
        evaluator.network.eval()
        with torch.no_grad():
            posed = evaluator.pose_inferer.with_poses(len(AXIS_POSES))(seen.image[None].to(self.device), evaluator.network)
        rows = {name: posed[..., part].cpu().numpy() for name, part in evaluator.output_slices.items()}
        found = reference.search.propose(rows["embedding"])
        wanted, poses, candidates = [], [], []
        for place, row in enumerate(found.rows[0].tolist()):
            other = _read(training.records[row], reference) if row >= 0 else None
            if isinstance(other, _Seen):
                candidates.append(other)
                wanted.append(place)
                poses.append([inverse_axis_pose(int(one)) for one in found.poses[0, place]])
        if not candidates:
            raise InputError(f"The 'training' parameter must name volumes that are still there. Got {os.fspath(self.training)!r}.")
        cubes = torch.stack([one.cube for one in candidates])[None]
        frames = [one.frame for one in candidates]
        best = self.registration(seen.cube[None], cubes, [seen.frame], [frames], poses=np.array([poses]))[0][0]
        match = candidates[best.candidate]
        (aligned,) = self.registration.pairs(seen.cube[None], match.cube[None], [seen.frame], [match.frame], [best.pose])
        place = wanted[best.candidate]
        row, pose = int(found.rows[0, place]), int(found.poses[0, place, 0])
        record = training.records[row]
        values: dict[str, Any] = {
            "match": record.id,
            "match_patient": record.patient,
            "pose": best.pose.words(),
            "score": best.score,
            "ssim": best.ssim,
            "agreement": best.agreement,
            "share": best.share,
            "embedding": float(found.similarity[0, place]),
            "deepssim": float(rows["deepssim"][0, pose] @ reference.features["deepssim"][row, 0]),
        }
        if reference.index is not None:
            scores = reference.index.score({name: rows[name] for name in reference.index.reference})
            values |= {
                "similarity": float(scores.similarity[0]),
                "mi": float(scores.mi[0]),
                "oni": float(scores.oni[0]),
                "mi_match": training.records[int(scores.match[0])].id,
            }
        return values, np.nan_to_num(aligned.agreement_map).clip(0, 1)


def _read(record: ImageRecord, reference: _Reference) -> _Seen | SkippedImage:
    made = prepared(record, reference.evaluator.dataset.transform)
    if isinstance(made, SkippedImage):
        return made
    return _Seen(
        torch.as_tensor(made["thumbnail"]), torch.as_tensor(made["image"]), made["cube_frame"], made["volume_geometry"].affine
    )


def on_volume(
    values: np.ndarray, frame: CubeFrame, path: str | os.PathLike, affine: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Bring a map of a cube back on the volume that it was cut of.

    Args:
        values: float32 [S, S, S].
        frame: of the cube; its volume may have been reduced when it was read.
        path: of the volume's file.
        affine: float64 [4, 4] of the array in RAS+ that was read.

    Returns:
        the map, float32 [X, Y, Z], and its affine: of a NIfTI file the file's own array and affine, whatever its orientation, else in RAS+.
    """
    shape: tuple[int, ...] = frame.shape
    turn = None
    name = os.fspath(path).lower()
    if name.endswith((".nii", ".nii.gz")):
        image: Any = nib.load(path)
        affine = image.affine
        orientation = nib.orientations.io_orientation(affine)
        turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), orientation)
        stored = image.shape[:3]
        shape = tuple(int(stored[axis]) for axis in np.argsort(orientation[:, 0]))
    extent = np.asarray(frame.shape) * np.asarray(frame.spacing)
    axes = [((np.arange(count) + 0.5) / count - 0.5) * extent[axis] for axis, count in enumerate(shape)]
    places = frame.from_mm(np.stack(np.meshgrid(*axes, indexing="ij"), -1))
    # Sampling counts axes from the last one.
    grid = torch.from_numpy(np.ascontiguousarray(places[None, ..., ::-1])).float()
    made = F.grid_sample(torch.from_numpy(values)[None, None].float(), grid, align_corners=False)[0, 0].numpy()
    if turn is not None:
        made = np.ascontiguousarray(nib.orientations.apply_orientation(made, turn))
    return made, affine if np.isfinite(affine).all() else None
