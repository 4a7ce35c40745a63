"""Training images in cohorts, batches of look-alikes, and the views and targets that are made of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.data import Dataset
from torch.utils.data import Sampler

from doppelscan.deepssim.augment import ViewStrength, augment, foreground_views, misalign, quarter_turn_poses, through_window
from doppelscan.deepssim.ssim import align_to_first, pairwise_ssim
from doppelscan.errors import InputError
from doppelscan.images import (
    ImageRecord,
    SkippedImage,
    SliceChoice,
    find_images,
    gaussian_blur,
    generate_cohort,
    prepared,
    smooth_fields,
    warp,
)
from doppelscan.wording import counted

__all__ = ["CohortBatchSampler", "CohortDataset", "EpochBatches", "MakeViews", "held_out_share", "require_counts"]

logger = logging.getLogger(__name__)


class CohortDataset(Dataset):
    """Images of several cohorts (one folder or table each, and generated ones), held as thumbnails in memory.

    Args:
        sources: a folder, .csv or .json file, or several, one cohort each; see :func:`doppelscan.images.find_images`.
        generated_cohorts: number of generated cohorts to add.
        generated_patients: patients a generated cohort; each has two neighbouring slices.
        preprocessing: MONAI transform of an item {"image": path, ...} that leaves a ``thumbnail`` uint8 [1, S, S].
        spatial_size: S.
        patient_pattern: see :func:`~doppelscan.images.find_images`.
        seed: of the generated cohorts.
        held_out: share of the patients of each source that are left out, evenly spread in the order of their files, at least 2 and leaving 2; the same ones of
            the same sources in every dataset.
        take_held_out: these are the dataset, and the others are left out.

    Items are {"image": uint8 [1, S, S], "patient": int, "cohort": int, "index": int}.

    Attributes:
        paths: where each image came from; "" for a generated one.
        skipped: the images that could not be prepared, with their reasons.

    Raises:
        InputError: fewer than two images, one patient only, all images the same, or patients to be held out of a source of fewer than 4.
    """

    def __init__(
        self,
        sources: str | Sequence[str] = (),
        generated_cohorts: int = 0,
        generated_patients: int = 8,
        preprocessing: Any = None,
        spatial_size: int = 160,
        patient_pattern: str | None = None,
        seed: int = 0,
        held_out: float = 0.0,
        take_held_out: bool = False,
    ) -> None:
        sources = [sources] if isinstance(sources, str) else sources
        read = read_cohorts(sources, preprocessing, patient_pattern, SliceChoice(), lambda record: record.id)
        if held_out:
            read = part_of(read, held_out, take_held_out)
        images, patients, cohorts, self.paths, self.skipped = read
        self.real_cohorts = len(sources)
        next_patient = max(patients, default=-1) + 1
        if generated_cohorts:
            logger.info(f"Generating {counted(generated_cohorts, 'cohort')} of {counted(generated_patients, 'patient')} each.")
        for index in range(generated_cohorts):
            made, who = generate_cohort(generated_patients, 2, spatial_size, seed * 100_003 + index)
            images.extend(made)
            patients.extend((who + next_patient).tolist())
            cohorts.extend([self.real_cohorts + index] * len(made))
            next_patient += generated_patients
            self.paths += [""] * len(made)
        if generated_cohorts:
            logger.info(f"Generated {counted(self.paths.count(''), 'image')}.")
        if len(images) < 2:
            left_out = [
                f" and {len(self.skipped)} that cannot be used, the first {one.path!r}: {one.reason}" for one in self.skipped[:1]
            ]
            raise InputError(
                f"Training needs at least 2 images. Got {len(images)}{''.join(left_out)}; name a folder with more, or generated cohorts."
            )
        if len(set(patients)) < 2:
            raise InputError(
                "Training needs at least 2 patients: copies are told apart from other patients. Got 1; pass --patient_pattern."
            )
        self.images = torch.stack(images)
        if bool((self.images == self.images[0]).all()):
            raise InputError(f"Training needs different images. Got {len(images)} that are all the same.")
        self.patients = torch.tensor(patients)
        self.cohorts = torch.tensor(cohorts)
        super().__init__(data=list(range(len(images))))

    def _transform(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "patient": self.patients[index], "cohort": self.cohorts[index], "index": index}


class ReadCohorts(NamedTuple):
    """Real images, a cohort each source: thumbnails uint8 [1, S, S] or [1, S, S, S], patient and cohort by number, where each came from, and what was
    left out."""

    images: list[torch.Tensor]
    patients: list[int]
    cohorts: list[int]
    paths: list[str]
    skipped: list[SkippedImage]


def read_cohorts(
    sources: Sequence[str],
    preprocessing: Any,
    patient_pattern: str | None,
    slices: SliceChoice,
    named: Callable[[ImageRecord], str],
) -> ReadCohorts:
    """Prepare the images of ``sources``; ``named`` says by what an image, or one that is left out, goes."""
    read = ReadCohorts([], [], [], [], [])
    names: dict[tuple[int, str], int] = {}
    for cohort, source in enumerate(sources):
        found = find_images(source, name="dataset_dir", patient_pattern=patient_pattern, slices=slices)
        read.skipped.extend(found.skipped)
        for record in found.records:
            item = prepared(record, preprocessing)
            if isinstance(item, SkippedImage):
                read.skipped.append(SkippedImage(named(record), item.reason))
                continue
            read.images.append(torch.as_tensor(item["thumbnail"]))
            read.patients.append(names.setdefault((cohort, record.patient), len(names)))
            read.cohorts.append(cohort)
            read.paths.append(named(record))
    return read


def part_of(read: ReadCohorts, held_out: float, take_held_out: bool) -> ReadCohorts:
    """The images of the patients who are not held out, or of those who are.

    Raises:
        InputError: ``held_out`` is no share below 1, or a source has fewer than 4 patients.
    """
    if not 0 < held_out < 1:
        raise InputError(f"The 'validation_share' parameter must be a share from 0 to below 1. Got {held_out!r} instead.")
    apart: set[int] = set()
    for cohort in sorted(set(read.cohorts)):
        patients = list(dict.fromkeys(p for p, c in zip(read.patients, read.cohorts, strict=True) if c == cohort))
        if len(patients) < 4:
            raise InputError(
                f"The 'validation_share' parameter needs at least 4 patients of each source, two to train on and two to validate on. Got {len(patients)}; "
                "pass --validation_share 0 to validate on the training images, or --validation_dir DIR."
            )
        count = min(max(2, round(held_out * len(patients))), len(patients) - 2)
        apart |= {patients[(2 * i + 1) * len(patients) // (2 * count)] for i in range(count)}
    kept = [row for row, patient in enumerate(read.patients) if (patient in apart) == take_held_out]
    chosen = [[column[row] for row in kept] for column in read[:4]]
    return ReadCohorts(chosen[0], chosen[1], chosen[2], chosen[3], read.skipped)  # type: ignore[arg-type]


def held_out_share(dataset_dir: Any, validation_dir: Any, share: float) -> float:
    """``share``, the patients of ``dataset_dir`` that are kept for validation; 0 where ``validation_dir`` names others."""
    return share if dataset_dir == validation_dir else 0.0


def coarse_look(images: torch.Tensor) -> torch.Tensor:
    """Unit vectors [N, 256] of uint8 images [N, 1, S, S]; their inner product is the correlation of the images at 16 x 16."""
    small = torch.cat([F.interpolate(part.float(), (16, 16), mode="area").flatten(1) for part in images.split(256)])
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def require_counts(**counts: Any) -> None:
    """Refuse what is no whole number from 1 on, by its name.

    Raises:
        InputError: it is none.
    """
    wrong = [
        f"{name}={value!r}" for name, value in counts.items() if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
    if wrong:
        names = " and ".join(f"'{name}'" for name in counts)
        raise InputError(f"The parameters {names} must be whole numbers from 1 on. Got {', '.join(wrong)} instead.")


class EpochBatches(Sampler[list[int]]):
    """As many batches an epoch, drawn by :meth:`batch` from the seed, the epoch and the rank.

    Args:
        batches: batches an epoch.
        seed: with the epoch and the rank, decides the batches.
        rank: of this process; each rank draws its own batches.
    """

    def __init__(self, batches: int, seed: int, rank: int) -> None:
        self.batches, self.seed, self.rank, self.epoch = batches, seed, rank, 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """The next batches are those of ``epoch`` (from 0), so that resumed training goes on where it stopped."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch * 1009 + self.rank)
        self.epoch += 1  # unless somebody says which, the next one
        for _ in range(self.batches):
            yield self.batch(generator)

    def batch(self, generator: torch.Generator) -> list[int]:
        """The indices of one batch."""
        raise NotImplementedError


class CohortBatchSampler(EpochBatches):
    """Batches made of groups; a group holds images of one cohort, ``look_alikes`` of them the nearest look-alikes of its first.

    Args:
        dataset: the cohorts.
        groups: groups a batch.
        group_size: images a group.
        batches: batches an epoch.
        real_share: share of the groups that come from real cohorts, when there are any.
        weights: of the real cohorts, in the order of ``sources``; None weighs each by the root of its size.
        seed: with the epoch and the rank, decides the batches.
        rank: of this process; each rank draws its own batches.
        look_alikes: share of a group that is drawn from the ``2 * group_size`` images nearest to its first.

    Raises:
        InputError: a number below 1, no cohort of two images, or ``weights`` that are not one number from 0 on for each source, one of them above 0.
    """

    def __init__(
        self,
        dataset: CohortDataset,
        groups: int = 4,
        group_size: int = 12,
        batches: int = 100,
        real_share: float = 0.5,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        rank: int = 0,
        look_alikes: float = 0.5,
    ) -> None:
        require_counts(groups=groups, group_size=group_size, batches=batches)
        super().__init__(batches, seed, rank)
        self.near = int(look_alikes * group_size)
        self.dataset, self.groups, self.group_size, self.real_share = dataset, groups, group_size, real_share
        self.tiny = coarse_look(dataset.images)
        if weights is not None and (not weights or len(weights) != dataset.real_cohorts or min(weights) < 0 or max(weights) <= 0):
            raise InputError(
                f"The 'weights' parameter must have one number from 0 on for each of the {dataset.real_cohorts} sources, one above 0. Got {list(weights)}."
            )
        members = [(dataset.cohorts == c).nonzero().flatten() for c in range(int(dataset.cohorts.max()) + 1)]
        self.real = [m for m in members[: dataset.real_cohorts] if len(m) >= 2]
        self.generated = [m for m in members[dataset.real_cohorts :] if len(m) >= 2]
        if not self.real and not self.generated:
            raise InputError("The 'dataset_dir' parameter must name a source of two images or more. Got sources of one image each.")
        # By the root of the size: a large cohort is seen more, a small one is not lost.
        shares = [len(m) ** 0.5 for m in members] if weights is None else weights
        self.weights = torch.tensor([float(w) for w, m in zip(shares, members, strict=False) if len(m) >= 2][: len(self.real)])

    def batch(self, generator: torch.Generator) -> list[int]:
        """Its groups, one after the other."""
        return [index for _ in range(self.groups) for index in self._group(generator)]

    def _group(self, generator: torch.Generator) -> list[int]:
        use_real = bool(self.real) and (not self.generated or float(torch.rand((), generator=generator)) < self.real_share)
        if use_real:
            members = self.real[int(torch.multinomial(self.weights, 1, generator=generator))]
        else:
            members = self.generated[int(torch.randint(len(self.generated), (), generator=generator))]
        anchor = int(members[torch.randint(len(members), (), generator=generator)])
        order = members[(self.tiny[members] @ self.tiny[anchor]).argsort(descending=True)]
        order = order[order != anchor]
        near = order[: 2 * self.group_size]
        near = near[torch.randperm(len(near), generator=generator)][: self.near]
        rest = members[torch.randperm(len(members), generator=generator)]
        group = [anchor, *near.tolist()]
        group += [i for i in rest.tolist() if i not in set(group)]
        while len(group) < self.group_size:  # a cohort smaller than a group repeats; repeats are no negatives of each other
            group += group
        return group[: self.group_size]


class MakeViews:
    """``prepare_batch`` of the trainer: two augmented views of each image, and the targets of all pairs of a group.

    A group is looked at whole or through one window of up to ``zoom``: a part of an image is an anatomy of its own that fills
    the field of view, with finer structure. The second view is made of a *variant* of the image: mostly the image itself,
    else a near-duplicate (elastic, a blend with another of its group, resampled), so that the SSIM targets reach from
    unrelated to identical. Variants that are still a copy are positives of the identity head, averages are negatives of all, the
    others take no part in it; the other image of a blend is no negative of it.

    Args:
        group_size: images a group, as in the sampler.
        spatial_size: side of the network's input.
        working_size: side at which images are augmented.
        seed: with the epoch, decides the augmentation.
        zoom: largest magnification of a window.
        zoom_share: share of the groups that are looked at through a window.
        near_duplicates: share of the second views that are made of a near-duplicate.
        ssim_targets: False leaves the targets 0, for a loss without SSIM.
        paper_augmentation: probability of each effect of the paper's augmentation (:func:`misalign`), which then makes both views;
            None uses ``strength`` and ``mild``.
        strength: of the second view, see :class:`ViewStrength`.
        mild: of the first view, which stands for the training image as it is.
        blends: share of the second views that are made, whatever else was drawn, of 65 to 85 % the image and for the rest another of its
            group: copies of it, as a generator that mixes two gives them.
        averages: share of the second views that are, whatever else was drawn, the mean of four others of its group, as a generator that knows
            only the cohort gives it: a copy of nobody, and a negative of all.

    Returns of a call (batch, device, ...):
        image float32 [2B, 1, size, size] and the targets of :class:`~doppelscan.deepssim.DeepSSIMLoss`.
    """

    def __init__(
        self,
        group_size: int = 12,
        spatial_size: int = 128,
        working_size: int = 160,
        seed: int = 0,
        zoom: float = 2.4,
        zoom_share: float = 0.5,
        near_duplicates: float = 0.55,
        ssim_targets: bool = True,
        paper_augmentation: float | None = None,
        strength: dict | None = None,
        mild: dict | None = None,
        blends: float = 0.0,
        averages: float = 0.0,
    ) -> None:
        if averages > 0 and group_size < 5:
            raise InputError(
                f"The 'averages' parameter is the share of means of four others, which 'group_size' must hold: 5 or more. Got {group_size}."
            )
        self.group_size, self.spatial_size, self.working_size = group_size, spatial_size, working_size
        self.zoom, self.zoom_share, self.seed = zoom, zoom_share, seed
        self.near_duplicates, self.blends, self.averages, self.ssim_targets = near_duplicates, blends, averages, ssim_targets
        self.paper_augmentation = paper_augmentation
        self.generator = torch.Generator().manual_seed(seed)
        self.strength = ViewStrength(**(strength or {}))
        self.mild = ViewStrength(
            **(mild or {"probability": 0.25, "geometry": 0.25, "rotation": 6.0, "shift": 0.04, "scale": 1.08, "occlusion": 0.0})
        )

    def set_epoch(self, epoch: int) -> None:
        """Draw what belongs to ``epoch`` (from 0), so that resumed training goes on where it stopped."""
        self.generator.manual_seed(self.seed * 1009 + epoch)

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        clean = batchdata["image"].to(device, non_blocking=non_blocking).float() / 255
        clean = self._turn(self._window(clean))
        variant, is_copy, other, averaged = self._variants(clean)
        first, second = self._targets(clean, variant)
        targets = {
            "ssim": second,
            "ssim_first": first,
            "is_copy": is_copy.to(device),
            "other": other.to(device),
            "averaged": averaged.to(device),
            "patient": batchdata["patient"].to(device),
            "index": batchdata["index"].to(device),
        }
        if self.paper_augmentation is not None:
            views = misalign(torch.cat([clean, variant]), self.paper_augmentation, self.generator)
        else:
            views = torch.cat([augment(clean, self.mild, self.generator), augment(variant, self.strength, self.generator)])
        return foreground_views(views, self.spatial_size), targets

    def _window(self, images: torch.Tensor) -> torch.Tensor:
        """Bring a group to the working size, whole or through one window; each member's window is jittered a little."""
        size = [self.working_size] * 2
        result = []
        for group in images.split(self.group_size):
            draw = torch.rand(4, generator=self.generator)
            if float(draw[0]) >= self.zoom_share:
                result.append(F.interpolate(group, size, mode="bilinear", antialias=True))
                continue
            seen = through_window(group, draw[1:], self.working_size, self.zoom, 0.03, self.generator)
            top = seen.amax((1, 2, 3), keepdim=True)  # a window on the background alone keeps its own (dark) scale
            result.append(seen / top.clamp_min(0.2))
        return torch.cat(result)

    def _turn(self, images: torch.Tensor) -> torch.Tensor:
        """One random quarter-turn pose for each image: both views share it, since the audit looks at all 8 anyway."""
        poses = quarter_turn_poses(images)
        chosen = torch.randint(8, (len(images),), generator=self.generator).to(images.device)
        # A group keeps one pose, or its members would be told apart by their pose.
        chosen = chosen[torch.arange(len(images), device=images.device) // self.group_size * self.group_size]
        return poses[chosen, torch.arange(len(images), device=images.device)]

    def _variants(self, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """A variant of each image, whether it is a copy, whose row of the batch is blended into it (its own: nobody's), and whether it is an
        average of others."""
        count, size = len(clean), clean.shape[-1]
        draw = torch.rand(count, generator=self.generator) / max(self.near_duplicates, 1e-9) * 0.55
        amount = torch.rand(count, generator=self.generator)
        is_copy = torch.ones(count, dtype=torch.bool)
        variant = clean.clone()
        other = torch.arange(count)
        partner = other.view(-1, self.group_size).roll(1, 1).flatten()

        def blend(rows: torch.Tensor, share: torch.Tensor) -> None:
            mixed = share.view(-1, 1, 1, 1).to(clean.device)
            variant[rows] = mixed * clean[rows] + (1 - mixed) * clean[partner[rows]]
            is_copy[rows], other[rows] = share >= 0.6, partner[rows]

        blended = (draw < 0.25).nonzero().flatten()
        blend(blended, 0.25 + 0.7 * amount[blended])
        bent = ((draw >= 0.25) & (draw < 0.45)).nonzero().flatten()
        if len(bent):
            sigma = size / 14
            fields = smooth_fields(2 * len(bent), size, sigma, self.generator).view(len(bent), 2, size, size)
            fields = fields * (amount[bent] * 7 * size / 160).view(-1, 1, 1, 1)
            variant[bent] = warp(clean[bent], fields.to(clean.device))
            is_copy[bent] = amount[bent] < 0.5
        smoothed = ((draw >= 0.45) & (draw < 0.55)).nonzero().flatten()
        if len(smoothed):
            variant[smoothed] = gaussian_blur(clean[smoothed], (0.5 + 2.5 * float(amount[smoothed[0]])) * size / 160)
        if self.blends > 0:
            mixed = (torch.rand(count, generator=self.generator) < self.blends).nonzero().flatten()
            blend(mixed, 0.65 + 0.2 * torch.rand(len(mixed), generator=self.generator))
        averaged = torch.zeros(count, dtype=torch.bool)
        if self.averages > 0:
            averaged = torch.rand(count, generator=self.generator) < self.averages
            places = torch.arange(count).view(-1, self.group_size)
            four = torch.stack([clean[places.roll(step, 1).flatten()] for step in range(1, 5)]).mean(0)
            variant[averaged], is_copy[averaged], other[averaged] = four[averaged], False, averaged.nonzero().flatten()
        return variant, is_copy, other, averaged

    def _targets(self, clean: torch.Tensor, variant: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """SSIM of the clean pairs of each group, registered on its first image: both [G, g, g], clean x clean and x variant."""
        groups = (len(clean) // self.group_size, self.group_size, self.group_size)
        if not self.ssim_targets:
            return clean.new_zeros(groups), clean.new_zeros(groups)
        first, second = [], []
        with torch.no_grad():
            a, b = foreground_views(clean, self.spatial_size), foreground_views(variant, self.spatial_size)
            for i in range(0, len(clean), self.group_size):
                group, near = align_to_first(a[i : i + self.group_size], b[i : i + self.group_size])
                both = pairwise_ssim(group, torch.cat([group, near]), stride=4)
                first.append(both[:, : self.group_size])
                second.append(both[:, self.group_size :])
        return torch.stack(first), torch.stack(second)
