"""Pairs of images with their registered SSIM, aligned and misaligned: what the deepssim head is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import Dataset
from monai.inferers import SimpleInferer
from torch.nn import functional as F

from doppelscan.deepssim.augment import foreground_views, misalign, quarter_turn_poses, whole_views
from doppelscan.deepssim.pair_head import PairSSIM, pair_columns
from doppelscan.deepssim.pairs import coarse_look
from doppelscan.deepssim.ssim import published_ssim, registered_ssim
from doppelscan.deepssim.texture import best_views
from doppelscan.errors import InputError
from doppelscan.images import gaussian_blur, smooth_fields, warp

__all__ = ["PairDataset", "PairInferer", "PreparePairs"]

# Kinds of pairs in the order in which they are drawn, again and again, and of pairs with partners.
TURN = (
    *("other image", "other image", "look-alike", "look-alike", "blend", "blend"),
    *("other image", "elastic", "blur", "look-alike", "same image", "same image"),
)
WITH_PARTNERS = ("other image", "look-alike")


class PairDataset(Dataset):
    """Pairs of one cohort, from unrelated to identical: half are two images, the others an image and a near-duplicate; each cohort has every kind.

    Args:
        images: uint8 [N, 1, S, S], square images of one cohort or more.
        cohorts: int [N]; the two of a pair are of one cohort.
        pairs: how many.
        seed: of the choice and of the near-duplicates.
        spatial_size: side of the foreground squares that the target is measured on.
        published: measure :func:`~doppelscan.deepssim.published_ssim` on whole images instead.
        partners: uint8 [M, 1, S, S], such as a generator's samples: the second image of each pair is one of them, any or one of the 8 that look most
            like the first, as the paper pairs training images with samples. None takes the second image, or a near-duplicate, from ``images``.

    Items are {"image": float32 [2, 1, S, S] in [0, 1], "label": float32, the registered SSIM of the clean pair}.

    Raises:
        InputError: fewer than two images of a cohort.
    """

    def __init__(
        self,
        images: torch.Tensor,
        cohorts: Sequence[int],
        pairs: int = 600,
        seed: int = 0,
        spatial_size: int = 128,
        published: bool = False,
        partners: torch.Tensor | None = None,
    ) -> None:
        self.images, self.partners, self.generator = images, partners, torch.Generator().manual_seed(seed)
        cohort = torch.as_tensor(cohorts)
        needed = 2 if partners is None else 1
        usable = [c for c in cohort.unique().tolist() if int((cohort == c).sum()) >= needed]
        if not usable:
            raise InputError("Pairs need at least 2 images of one cohort. Got one image of each; name a folder with more.")
        self.members = [(cohort == c).nonzero().flatten() for c in usable]
        self.tiny = coarse_look(images)
        self.tiny_partners = None if partners is None else coarse_look(partners)
        items = []
        draw_pair, turn = (self._pair, TURN) if partners is None else (self._partnered, WITH_PARTNERS)
        for number in range(pairs):
            block, place = divmod(number, len(turn))
            # Each block moves on by one cohort, or a cohort whose number shares a factor with the block's length would meet some kinds only.
            items.append((turn[place], *draw_pair(turn[place], self.members[(place + block) % len(self.members)])))
        self.kinds = [kind for kind, _, _ in items]
        first, second = torch.stack([a for _, a, _ in items]), torch.stack([b for _, _, b in items])
        view, target = (whole_views, published_ssim) if published else (foreground_views, registered_ssim)
        labels = [
            target(view(a, spatial_size), view(b, spatial_size)) for a, b in zip(first.split(32), second.split(32), strict=True)
        ]
        self.labels = torch.cat(labels) if labels else torch.zeros(0)
        self.pairs = torch.stack([first, second], 1)
        super().__init__(data=list(range(len(self.pairs))))

    def _partnered(self, kind: str, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.partners is not None and self.tiny_partners is not None
        draw = torch.rand(2, generator=self.generator).tolist()
        anchor = int(members[int(draw[0] * len(members))])
        order = (self.tiny_partners @ self.tiny[anchor]).argsort(descending=True)
        near = int(order[int(draw[1] * (min(8, len(order)) if kind == "look-alike" else len(order)))])
        return self.images[anchor].float() / 255, self.partners[near].float() / 255

    def _pair(self, kind: str, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.rand(3, generator=self.generator).tolist()
        anchor = int(members[int(draw[0] * len(members))])
        order = members[(self.tiny[members] @ self.tiny[anchor]).argsort(descending=True)]
        order = order[order != anchor]
        near = int(order[int(draw[1] * min(8, len(order)))]) if kind != "other image" else int(order[int(draw[1] * len(order))])
        a, b = self.images[anchor].float() / 255, self.images[near].float() / 255
        size = a.shape[-1]
        if kind in ("other image", "look-alike"):
            return a, b
        if kind == "blend":
            return a, (0.3 + 0.7 * draw[2]) * a + (0.7 - 0.7 * draw[2]) * b
        if kind == "elastic":
            field = smooth_fields(2, size, size / 14, self.generator)[None] * (6 * draw[2] * size / 160)
            return a, warp(a[None], field)[0]
        if kind == "blur":
            return a, gaussian_blur(a[None], (0.3 + 3 * draw[2]) * size / 160)[0]
        return a, a.clone()

    def _transform(self, index: int) -> dict[str, Any]:
        return {"image": self.pairs[index], "label": self.labels[index]}


class PreparePairs:
    """``prepare_batch`` of an evaluator: foreground views of both images of each pair.

    Args:
        spatial_size: side of the network's input.
        probability: of each effect of :func:`misalign` on each image; 0 leaves the pairs aligned.
        poses: 8 looks at the second image in all flip and quarter-turn poses.
        seed: of the misalignment.
        whole: look at whole images, as the published form does, not at their foreground squares.

    Returns of a call:
        image float32 [(1 + poses) * B, 1, size, size], the first images, then the second ones pose by pose; and labels [B].
    """

    def __init__(
        self, spatial_size: int = 128, probability: float = 0.0, poses: int = 1, seed: int = 0, whole: bool = False
    ) -> None:
        self.spatial_size, self.probability, self.poses = spatial_size, probability, poses
        self.view = whole_views if whole else foreground_views
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batchdata, device=None, non_blocking=False, **kwargs):
        first, second = batchdata["image"].to(device, non_blocking=non_blocking).unbind(1)
        if self.probability > 0:
            first = misalign(first, self.probability, self.generator)
            second = misalign(second, self.probability, self.generator)
        a, b = self.view(first, self.spatial_size), self.view(second, self.spatial_size)
        views = quarter_turn_poses(b).flatten(0, 1) if self.poses == 8 else b
        return torch.cat([a, views]), batchdata["label"].to(device)


class PairInferer(SimpleInferer):
    """Run the encoder on the views of :class:`PreparePairs` and give each pair's similarity.

    Args:
        size: values of the deepssim head, the first ones of the prediction, of a network that does not say where that lies (``output_slices``).
        poses: as in :class:`PreparePairs`.
        head: predicts the SSIM beside the cosine, from the encoder's outputs :data:`~doppelscan.deepssim.PAIR_OUTPUTS`; None leaves the cosine alone.

    Returns of a call:
        cosine of the deepssim heads float32 [B], the best of the second image's poses; with a head [B, 2], the cosine and what the head predicts.

    Raises (of a call):
        InputError: the encoder does not give what the head takes.
    """

    def __init__(self, size: int = 256, poses: int = 1, head: PairSSIM | None = None) -> None:
        super().__init__()
        self.size, self.poses, self.head = size, poses, head

    def __call__(self, inputs: torch.Tensor, network, *args, **kwargs) -> torch.Tensor:
        features = super().__call__(inputs, network, *args, **kwargs).float()
        part = getattr(network, "output_slices", {}).get("deepssim", slice(0, self.size))
        heads = F.normalize(features[:, part], dim=1)
        pairs = len(heads) // (1 + self.poses)
        cosine = (heads[:pairs] * heads[pairs:].view(self.poses, pairs, -1)).sum(2).amax(0)
        if self.head is None:
            return cosine
        taken = features[:, pair_columns(network.output_slices).to(features.device)]
        size = self.head.embedding_size
        first, second = taken[:pairs], taken[pairs:].view(self.poses, pairs, -1)
        turned, pose = best_views(first[:, size:], second[..., size:])
        posed = second[pose, torch.arange(pairs, device=pose.device), :size]
        return torch.stack([cosine, self.head(first, torch.cat([posed, turned], 1))], 1)
