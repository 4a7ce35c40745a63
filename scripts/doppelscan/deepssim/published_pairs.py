"""Training as arXiv 2509.16582 publishes it: pairs of whole images, their SSIM, and independently augmented views of the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import Randomizable
from monai.utils import convert_to_tensor

from doppelscan.deepssim.augment import zscore
from doppelscan.deepssim.pairs import EpochBatches, read_cohorts, require_counts
from doppelscan.deepssim.ssim import published_ssim
from doppelscan.errors import InputError
from doppelscan.images import SliceChoice

__all__ = ["ImagePairs", "PairSampler", "PairViews"]


class ImagePairs(Dataset):
    """All pairs of a first and a second set of images, as the rows and columns of the paper's matrix of real x synthetic images.

    Args:
        sources: folders, .csv or .json of the first images; see :func:`doppelscan.images.find_images`.
        synthetic: of the second images, in the paper what a generator that memorized gave; none takes the first images again, each with itself
            among them.
        preprocessing: MONAI transform of an item {"image": path, ...} that leaves a ``thumbnail`` uint8 [1, S, S], the whole image.

    Items, of pair ``a * columns + b``, are {"image": uint8 [2, 1, S, S], "index": int64 [2], the rows of :attr:`paths`}.

    Attributes:
        rows, columns: how many first and second images.
        paths: where each image came from, the first ones before the second ones.
        cohorts: int64, by number which source each is of.
        skipped: the images that could not be prepared, with their reasons.

    Raises:
        InputError: fewer than two images, or all images the same.
    """

    def __init__(self, sources: Sequence[str] = (), synthetic: Sequence[str] = (), preprocessing: Any = None) -> None:
        sources, synthetic = ([one] if isinstance(one, str) else list(one) for one in (sources, synthetic))
        first = read_cohorts(sources, preprocessing, None, SliceChoice(), lambda record: record.id)
        second = read_cohorts(synthetic, preprocessing, None, SliceChoice(), lambda record: record.id)
        self.skipped = first.skipped + second.skipped
        for name, given, read in (("dataset_dir", True, first), ("synthetic_dir", synthetic, second)):
            if given and len(read.images) < 2:
                reason = [f", and {len(read.skipped)} that cannot be used, the first: {one.reason}" for one in read.skipped[:1]]
                raise InputError(
                    f"The '{name}' parameter must hold at least 2 images for pairs. Got {len(read.images)}{''.join(reason)}; "
                    "name a folder with more: the published form trains on no generated patients."
                )
        self.images = torch.stack(first.images + second.images)
        if bool((self.images == self.images[0]).all()):
            raise InputError(f"Training needs different images. Got {len(self.images)} that are all the same.")
        self.paths = first.paths + second.paths
        self.cohorts = torch.tensor(first.cohorts + [len(sources) + number for number in second.cohorts])
        self.rows = len(first.images)
        self.columns, self.offset = (len(second.images), self.rows) if synthetic else (self.rows, 0)
        super().__init__(data=range(self.rows * self.columns))

    def _transform(self, index: int) -> dict[str, Any]:
        pair = torch.tensor([index // self.columns, self.offset + index % self.columns])
        return {"image": self.images[pair], "index": pair}


class PairSampler(EpochBatches):
    """Batches of pairs, each drawn from all pairs alike, whatever they look like.

    Args:
        dataset: the pairs.
        batch_size: pairs a batch; 32 in the paper.
        batches: batches an epoch.
        seed: with the epoch and the rank, decides the batches.
        rank: of this process; each rank draws its own batches.

    Raises:
        InputError: ``batch_size`` or ``batches`` below 1.
    """

    def __init__(self, dataset: ImagePairs, batch_size: int = 32, batches: int = 100, seed: int = 0, rank: int = 0) -> None:
        require_counts(batch_size=batch_size, batches=batches)
        super().__init__(batches, seed, rank)
        self.dataset, self.batch_size = dataset, batch_size

    def batch(self, generator: torch.Generator) -> list[int]:
        """Pairs by their numbers."""
        return torch.randint(len(self.dataset), (self.batch_size,), generator=generator).tolist()


class PairViews:
    """``prepare_batch`` of the trainer: T_a(I_a) and T_b(I_b) of each pair, and SSIM(I_a, phi(I_b)) of the clean pair.

    The target is measured on the whole clean images, z-scored, at the size that the network sees; see
    :func:`~doppelscan.deepssim.published_ssim`. The paper computes it once, before training: of clean images it is the same whenever it is.

    Args:
        augmentation: transform of an image float32 [1, S, S], z-scored; what is random in it is seeded anew in each epoch. None augments nothing.
        seed: with the epoch, decides the augmentation.

    Returns of a call (batch, device, ...):
        image float32 [2B, 1, S, S], first images before second ones, and the targets {"ssim": float32 [B, 1, 1], "index": int64 [B, 2]} of
        :class:`~doppelscan.deepssim.DeepSSIMLoss`: B groups of one pair, so that no image is compared with another than its own partner.
    """

    def __init__(self, augmentation: Callable | None = None, seed: int = 0) -> None:
        self.augmentation, self.seed = augmentation, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw what belongs to ``epoch`` (from 0), so that resumed training goes on where it stopped."""
        if isinstance(self.augmentation, Randomizable):
            self.augmentation.set_random_state(self.seed * 1009 + epoch)

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        pairs = batchdata["image"].to(device, non_blocking=non_blocking).float()
        first, second = (zscore(images) for images in pairs.unbind(1))
        with torch.no_grad():
            target = published_ssim(first, second)
        views = torch.cat([self._augmented(first), self._augmented(second)])
        return views, {"ssim": target.view(-1, 1, 1), "index": batchdata["index"].to(device)}

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        if self.augmentation is None:
            return images
        return torch.stack([convert_to_tensor(self.augmentation(image), dtype=torch.float32) for image in images])
