"""Training volumes in cohorts, and the views and targets that are made of a batch: :mod:`pairs` in 3D."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor
from monai.transforms import MapTransform

from doppelscan.deepssim.augment import zscore
from doppelscan.deepssim.pairs import read_cohorts
from doppelscan.deepssim.ssim import pairwise_ssim
from doppelscan.deepssim.volume_views import VolumeStrength, augment_volumes, cube_views, smooth_volumes
from doppelscan.errors import ImageError, InputError
from doppelscan.images import AXIS_POSES, SliceChoice, axis_pose, cut_cubes, generate_volumes

__all__ = ["CubeThumbnaild", "MakeVolumeViews", "VolumeCohortDataset"]

# One record a volume: which slice it names does not matter.
ONE_SLICE = SliceChoice(start=0.5, stop=0.501, step=1000)


class CubeThumbnaild(MapTransform):
    """The cube that holds the anatomy of a volume, isotropic in mm: uint8 [1, S, S, S] under ``thumbnail_key``.

    Volumes are MONAI's ``MetaTensor`` [1, X, Y, Z] in [0, 1] and RAS+, as ``LoadImaged`` and ``Orientationd`` give them; the spacing comes from
    their affine.

    Args:
        keys: of the volumes.
        spatial_size: S.
        thumbnail_key: where the cube goes.
        allow_missing_keys: see MONAI's ``MapTransform``.

    Raises:
        ImageError: no volume of one channel, NaN or Inf, a constant volume, or a spacing that is not three positive numbers.
    """

    def __init__(
        self, keys: KeysCollection, spatial_size: int = 48, thumbnail_key: str = "thumbnail", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_size, self.thumbnail_key = spatial_size, thumbnail_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            volume = item[key]
            if volume.ndim != 4 or len(volume) != 1:
                raise ImageError(f"shape {tuple(volume.shape[1:])} with {len(volume)} channels; one volume of three axes is needed")
            voxels = torch.as_tensor(np.asarray(volume), dtype=torch.float32)
            # MetaTensor.pixdim takes a spacing of 0 for 1.
            affine = np.asarray(volume.affine, np.float64) if isinstance(volume, MetaTensor) else np.eye(4)
            spacing = np.linalg.norm(affine[:3, :3], axis=0).tolist()
            if not all(math.isfinite(one) and one > 0 for one in spacing):
                raise ImageError(f"a spacing of {spacing} mm in the header")
            if not bool(torch.isfinite(voxels).all()):
                raise ImageError(f"{int((~torch.isfinite(voxels)).sum())} of {voxels.numel()} voxels are NaN or Inf")
            if float(voxels.max()) <= float(voxels.min()):
                raise ImageError(f"a constant volume (every voxel is {float(voxels.flatten()[0]):g})")
            cube = cut_cubes(voxels[None], self.spatial_size, spacing)[0]
            item[self.thumbnail_key] = (cube.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        return item


class VolumeCohortDataset(Dataset):
    """Volumes of several cohorts (one folder or table each, and generated ones), held as cubes in memory.

    Args:
        sources: folders, .csv or .json files, one cohort each; see :func:`doppelscan.images.find_images`.
        generated_cohorts: number of generated cohorts to add.
        generated_people: people a generated cohort.
        preprocessing: MONAI transform of an item {"image": paths} that leaves a ``thumbnail`` uint8 [1, S, S, S].
        spatial_size: S.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        seed: of the generated cohorts.

    Items are {"image": uint8 [1, S, S, S], "patient": int, "cohort": int, "index": int}.

    Attributes:
        paths: where each volume came from; "" for a generated one.
        skipped: the volumes that could not be prepared, with their reasons.

    Raises:
        InputError: fewer than two people.
    """

    def __init__(
        self,
        sources: Sequence[str] = (),
        generated_cohorts: int = 0,
        generated_people: int = 12,
        preprocessing: Any = None,
        spatial_size: int = 48,
        patient_pattern: str | None = None,
        seed: int = 0,
    ) -> None:
        read = read_cohorts(sources, preprocessing, patient_pattern, ONE_SLICE, lambda record: record.volume)
        cubes, patients, cohorts, self.paths, self.skipped = read
        self.real_cohorts, people = len(sources), len(set(read.patients))
        for index in range(generated_cohorts):
            made, who = generate_volumes(generated_people, spatial_size, seed * 100_003 + index)
            cubes.extend(made)
            patients += (who + people + index * generated_people).tolist()
            cohorts += [self.real_cohorts + index] * len(made)
            self.paths += [""] * len(made)
        if len(set(patients)) < 2:
            left_out = "".join(
                f" The first of {len(self.skipped)} left out: {one.path!r}: {one.reason}." for one in self.skipped[:1]
            )
            raise InputError(
                f"Training needs volumes of at least 2 people: copies are told apart from other people. Got {len(set(patients))}; name a "
                f"folder with more, pass --patient_pattern, or add generated cohorts.{left_out}"
            )
        self.images = torch.stack(cubes)
        self.patients = torch.tensor(patients)
        self.cohorts = torch.tensor(cohorts)
        super().__init__(data=list(range(len(self.images))))

    def _transform(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "patient": self.patients[index], "cohort": self.cohorts[index], "index": index}


class MakeVolumeViews:
    """``prepare_batch`` of the trainer: two augmented views of each volume, and the targets of all pairs of a group.

    As :class:`~doppelscan.deepssim.MakeViews` in 3D: a group is looked at whole or through one window of up to ``zoom``, in one of the 48
    axis poses; the second view is made of a variant (a blend, a volume joined from two, a bent or a smoothed one) in a share of the batch.

    Args:
        group_size: volumes a group, as in the sampler.
        spatial_size: side of the network's input.
        working_size: side at which volumes are augmented.
        target_size: side of the cubes that SSIM is taken of.
        seed: with the epoch, decides the augmentation.
        zoom: largest magnification of a window.
        zoom_share: share of the groups that are looked at through a window.
        near_duplicates: share of the second views that are made of a near-duplicate.
        strength: of the second view, see :class:`VolumeStrength`.
        mild: of the first view, which stands for the training volume as it is.

    Returns of a call (batch, device, ...):
        cubes float32 [2B, 1, size, size, size] and the targets of :class:`~doppelscan.deepssim.DeepSSIMLoss`.
    """

    def __init__(
        self,
        group_size: int = 12,
        spatial_size: int = 32,
        working_size: int = 36,
        target_size: int = 24,
        seed: int = 0,
        zoom: float = 2.4,
        zoom_share: float = 0.4,
        near_duplicates: float = 0.4,
        strength: dict | None = None,
        mild: dict | None = None,
    ) -> None:
        self.group_size, self.spatial_size, self.working_size = group_size, spatial_size, working_size
        self.target_size, self.zoom, self.zoom_share, self.seed, self.near_duplicates = (
            target_size,
            zoom,
            zoom_share,
            seed,
            near_duplicates,
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.strength = VolumeStrength(**(strength or {}))
        quiet = {"probability": 0.25, "geometry": 0.25, "rotation": 6.0, "shift": 0.04, "scale": 1.08, "crop": 0.0, "half": 0.0}
        self.mild = VolumeStrength(**(mild or quiet))

    def set_epoch(self, epoch: int) -> None:
        """Draw what belongs to ``epoch`` (from 0), so that resumed training goes on where it stopped."""
        self.generator.manual_seed(self.seed * 1009 + epoch)

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        volumes = batchdata["image"].to(device, non_blocking=non_blocking).float() / 255
        clean = torch.cat([self._seen(group) for group in volumes.split(self.group_size)])
        variant, is_copy = self._variants(clean)
        targets = {
            "ssim": self._targets(clean, variant),
            "is_copy": is_copy.to(clean.device),
            "patient": batchdata["patient"].to(clean.device),
            "index": batchdata["index"].to(clean.device),
        }
        views = [augment_volumes(clean, self.mild, self.generator), augment_volumes(variant, self.strength, self.generator)]
        return cube_views(torch.cat(views), self.spatial_size), targets

    def _seen(self, group: torch.Tensor) -> torch.Tensor:
        """A group in one axis pose at the working size, whole or through one window; each member's window is jittered a little."""
        pose = int(torch.randint(len(AXIS_POSES), (), generator=self.generator))
        draw = torch.rand(5, generator=self.generator).tolist()
        zoomed = draw[0] < self.zoom_share
        share = self.zoom ** -(0.25 + 0.75 * draw[1]) if zoomed else 1.0
        theta = torch.zeros(len(group), 3, 4)
        theta[:, range(3), range(3)] = share
        if zoomed:
            theta[:, :, 3] = (torch.tensor(draw[2:]) * 2 - 1) * (1 - share) * 0.8
            theta[:, :, 3] += 0.03 * torch.randn(len(group), 3, generator=self.generator)
        grid = F.affine_grid(theta.to(group), [len(group), 1, *[self.working_size] * 3], align_corners=False)
        seen = F.grid_sample(group, grid, align_corners=False)
        if zoomed:  # a window on the background alone keeps its own (dark) scale
            seen = seen / seen.amax((1, 2, 3, 4), keepdim=True).clamp_min(0.2)
        # A group keeps one pose, or its members would be told apart by their pose.
        return axis_pose(seen, pose)

    def _variants(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count, size = len(clean), clean.shape[-1]
        draw = torch.rand(count, generator=self.generator) / max(self.near_duplicates, 1e-9)
        amount = torch.rand(count, generator=self.generator)
        is_copy = torch.ones(count, dtype=torch.bool)
        variant = clean.clone()
        partner = torch.arange(count).view(-1, self.group_size).roll(1, 1).flatten()
        blended = (draw < 0.4).nonzero().flatten()
        share = 0.25 + 0.7 * amount[blended].view(-1, 1, 1, 1, 1).to(clean.device)
        variant[blended] = share * clean[blended] + (1 - share) * clean[partner[blended]]
        is_copy[blended] = share.cpu().flatten() >= 0.6
        for index in ((draw >= 0.4) & (draw < 0.6)).nonzero().flatten().tolist():  # a part of one, the rest of another
            axis, upper = torch.randint(3, (), generator=self.generator), torch.randint(2, (), generator=self.generator)
            length = round(size * (0.3 + 0.25 * float(amount[index])))
            start = size - length if upper else 0
            variant[index].narrow(1 + int(axis), start, length).copy_(clean[partner[index]].narrow(1 + int(axis), start, length))
        bent = ((draw >= 0.6) & (draw < 0.85)).nonzero().flatten()
        if len(bent):
            fields = smooth_volumes(3 * len(bent), size, 7, self.generator).view(len(bent), 3, size, size, size)
            fields = (fields * (0.08 * amount[bent]).view(-1, 1, 1, 1, 1)).permute(0, 2, 3, 4, 1)
            place = F.affine_grid(torch.eye(3, 4).expand(len(bent), 3, 4), [len(bent), 1, size, size, size], align_corners=False)
            variant[bent] = F.grid_sample(clean[bent], (place + fields).to(clean), align_corners=False, padding_mode="border")
            is_copy[bent] = amount[bent] < 0.5
        smoothed = ((draw >= 0.85) & (draw < 1.0)).nonzero().flatten()
        if len(smoothed):
            small = max(8, round(size * (0.3 + 0.4 * float(amount[smoothed[0]]))))
            low = F.interpolate(clean[smoothed], (small, small, small), mode="area")
            variant[smoothed] = F.interpolate(low, (size, size, size), mode="trilinear")
        return variant, is_copy

    def _targets(self, clean: torch.Tensor, variant: torch.Tensor) -> torch.Tensor:
        """SSIM of the pairs clean x variant of each group: [G, g, g]. A cohort lies in one frame, that of its foreground cubes."""
        with torch.no_grad():
            size = [self.target_size] * 3
            a, b = (zscore(F.interpolate(part, size, mode="area")) for part in (clean, variant))
            parts = zip(a.split(self.group_size), b.split(self.group_size), strict=True)
            return torch.stack([pairwise_ssim(one, other, window_size=5, stride=2) for one, other in parts])
