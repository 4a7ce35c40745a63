"""What the pair head is trained on: features of both images of a pair, computed once, and their registered SSIM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from monai.data import Dataset
from torch.utils.data import WeightedRandomSampler

from doppelscan.deepssim.augment import quarter_turn_poses, through_window
from doppelscan.deepssim.evaluation import PairDataset, PreparePairs
from doppelscan.deepssim.pairs import CohortDataset
from doppelscan.deepssim.texture import best_views, texture, texture_poses
from doppelscan.errors import InputError
from doppelscan.progress import progress

__all__ = ["PairFeatures", "even_sampler", "prepare_features", "zoomed_cohorts"]

# Pairs whose images are held at a time.
CHUNK = 256
# Members of a cohort that are seen through one window, and the grey below which a window shows background alone.
SEEN, DARK = 24, 51
BINS = 14  # of the SSIM from 0.3 to 1.0


def zoomed_cohorts(
    images: torch.Tensor, cohorts: torch.Tensor, generator: torch.Generator, zoom: float = 2.4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each cohort through one window, as a field of view of its own: anatomy that no training image shows.

    Args:
        images: uint8 [N, 1, S, S].
        cohorts: int [N].
        generator: of the choice.
        zoom: largest.

    Returns:
        uint8 [n, 1, S, S], at most 24 images of a cohort, each a little aside, and their cohorts, int [n].
    """
    seen, numbers = [images[:0]], [cohorts[:0]]
    for cohort in cohorts.unique().tolist():
        members = (cohorts == cohort).nonzero().flatten()
        chosen = members[torch.randperm(len(members), generator=generator)[:SEEN]]
        draw = torch.rand(3, generator=generator)
        cut = through_window(images[chosen].float(), draw, images.shape[-1], zoom, 0.02, generator)
        top = cut.amax((1, 2, 3), keepdim=True)
        clear = top.flatten() > DARK
        seen.append((cut * (255 / top.clamp_min(1)))[clear].round().to(torch.uint8))
        numbers.append(cohorts[chosen][clear])
    return torch.cat(seen), torch.cat(numbers)


class PairFeatures(Dataset):
    """Features of pairs of images and their registered SSIM. Features are kept at half precision; images are forgotten.

    Args:
        images: of some cohorts; the two of a pair are of one cohort.
        network: z-scored image float32 [B, 1, S, S] -> float32 [B, D], the encoder's outputs ``deepssim`` and ``texture``.
        pairs: how many.
        misaligned: share of the pairs that are there a second time, with the target of the clean pair, but misaligned as evaluation misaligns them
            and the second image seen in 8 poses.
        partners: such as samples of a generator that learned from ``images``: the second image of half of the pairs is one of them, any or one of the 8
            that look most like the first.
        windows: draw pairs of :func:`zoomed_cohorts` too, as many as of the real cohorts.
        seed: of the pairs.
        spatial_size: S.
        probability: of each effect of :func:`~doppelscan.deepssim.misalign`.

    Items are {"image": float32 [2, D], "label": float32}.

    Raises:
        InputError: ``pairs`` below 1, ``misaligned`` is no share, or no cohort has two images.
    """

    def __init__(
        self,
        images: CohortDataset,
        network: Any,
        pairs: int = 4000,
        misaligned: float = 0.5,
        windows: bool = True,
        seed: int = 0,
        spatial_size: int = 128,
        probability: float = 0.8,
        partners: CohortDataset | None = None,
    ) -> None:
        if not isinstance(pairs, int) or isinstance(pairs, bool) or pairs < 1:
            raise InputError(f"The 'pairs' parameter must be a whole number from 1 on. Got {pairs!r} instead.")
        if not 0 <= misaligned <= 1:
            raise InputError(f"The 'misaligned' parameter must be a share from 0 to 1. Got {misaligned!r} instead.")
        self.images, self.network, self.windows, self.seed = images, network, windows, seed
        self.spatial_size, self.partners = spatial_size, partners
        parts: list[tuple[torch.Tensor, torch.Tensor]] = []
        aligned, moved = PreparePairs(spatial_size), PreparePairs(spatial_size, probability, seed=seed + 7)
        with progress(None, "features of pairs", "pair", total=pairs) as bar:
            for start in range(0, pairs, CHUNK):
                for made in self._pairs(min(CHUNK, pairs - start), seed * 1009 + start):
                    again = round(len(made) * misaligned)
                    parts.append((self._features(made.pairs, aligned, 1), made.labels))
                    if again:
                        parts.append((self._features(made.pairs[:again], moved, 8), made.labels[:again]))
                    bar.update(len(made))
        self.features = torch.cat([features for features, _ in parts])
        self.labels = torch.cat([labels for _, labels in parts]).clamp(max=1.0)
        super().__init__(data=list(range(len(self.labels))))

    def _pairs(self, count: int, seed: int) -> Iterator[PairDataset]:
        pixels, cohorts = self.images.images, self.images.cohorts
        real = cohorts < self.images.real_cohorts
        if self.partners is not None:
            others, mixed = self.partners.images, (count + 1) // 2
            yield PairDataset(pixels[real], cohorts[real].tolist(), mixed, seed + 1, self.spatial_size, partners=others)
            count -= mixed
        if not count:
            return
        if self.windows and bool(real.any()):
            seen, numbers = zoomed_cohorts(pixels[real], cohorts[real], torch.Generator().manual_seed(seed))
            pixels, cohorts = torch.cat([pixels, seen]), torch.cat([cohorts, numbers + (int(cohorts.max()) + 1)])
        yield PairDataset(pixels, cohorts.tolist(), count, seed, self.spatial_size)

    @torch.no_grad()
    def _features(self, pairs: torch.Tensor, prepare: PreparePairs, poses: int) -> torch.Tensor:
        self.network.eval()
        device = next(self.network.parameters()).device
        found = []
        for images in pairs.split(32):
            views, _ = prepare({"image": images, "label": torch.zeros(len(images))}, device)
            first, second = views.chunk(2)
            # The textures say which pose it is, so that the network looks at that one alone.
            textures = texture_poses(texture(second))[:poses]
            turned, pose = best_views(texture(first), textures)
            shown = torch.cat([first, quarter_turn_poses(second)[pose, torch.arange(len(pose), device=device)]])
            features = self.network(shown.contiguous(memory_format=torch.channels_last)).float()
            a, b = features.chunk(2)
            found.append(torch.stack([a, torch.cat([b[:, : -turned.shape[1]], turned], 1)], 1).half().cpu())
        return torch.cat(found)

    def _transform(self, index: int) -> dict[str, Any]:
        return {"image": self.features[index].float(), "label": self.labels[index]}


def even_sampler(dataset: PairFeatures, pairs: int, seed: int = 0) -> WeightedRandomSampler:
    """Draws ``pairs`` pairs an epoch, each bin of 0.05 of the SSIM from 0.3 to 1.0 by the root of its share, as the deepssim head's loss weighs."""
    bins = ((dataset.labels.clamp(0.3, 0.999) - 0.3) * (BINS / 0.7)).long()
    weights = torch.bincount(bins, minlength=BINS).float().clamp_min(1).rsqrt()[bins]
    return WeightedRandomSampler(weights.tolist(), pairs, generator=torch.Generator().manual_seed(seed))


def prepare_features(batchdata: dict, device: Any = None, non_blocking: bool = False, **kwargs: Any) -> tuple:
    """``prepare_batch`` of the pair head: its first images [B, D], the targets [B], and its second images as a further argument."""
    first, second = batchdata["image"].to(device, non_blocking=non_blocking).unbind(1)
    return first, batchdata["label"].to(device, non_blocking=non_blocking), (second,), {}
