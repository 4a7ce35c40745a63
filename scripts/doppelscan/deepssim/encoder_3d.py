"""The DeepSSIM encoder of volumes: one residual backbone in 3D, the two heads and the layer features of the 2D encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets.resnet import ResNetBlock
from torch import nn

from doppelscan.deepssim.roles import slices_of
from doppelscan.errors import InputError

__all__ = ["VolumeEncoder"]

HEADS = ("deepssim", "embedding")
PLACES = 4  # cells a side of the map that keeps its place on the way to the heads
# Of the four stages. The last one keeps the 4 x 4 x 4 voxels that a cube of 32 comes to: on maps of 2 x 2 x 2 voxels the gradient that oneDNN
# (PyTorch 2.13) gives the weights of a 3D convolution in bfloat16 holds what was in memory before, often NaN.
STRIDES = (1, 2, 2, 1)


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks; the first one brings its input to the stage's channels and size."""
    shortcut = None
    if stride > 1 or in_channels != channels:
        shortcut = nn.Sequential(nn.Conv3d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm3d(channels))
    first = ResNetBlock(in_channels, channels, 3, stride, shortcut)
    return nn.Sequential(first, *(ResNetBlock(channels, channels, 3) for _ in range(blocks - 1)))


class VolumeEncoder(nn.Module):
    """Cube -> L2-normalised embeddings whose inner products are similarities; see :class:`~doppelscan.deepssim.DeepSSIMEncoder`.

    The cosine of the ``deepssim`` head is trained to be the SSIM of two volumes in one frame (arXiv 2509.16582, section 3, in 3D); the
    ``embedding`` head is trained to tell volumes apart; ``layer1`` to ``layer4`` are the stages' features pooled on a ``feature_grid`` of
    cells a side, for the Memorization Index. The network knows one axis pose at a time: 48 views of a query find the pose.

    Args:
        in_channels: channels of the input.
        channels: of the four stages.
        blocks: residual blocks of the four stages (He et al. 2016; MONAI's).
        embedding_size: size of each head's output.
        reduced_channels: channels that keep their place (4 x 4 x 4) on the way to the heads.
        outputs: which of deepssim, embedding, layer1 .. layer4 are concatenated, in this order.
        feature_grid: layer features are averaged over this many cells a side.
        frozen_norm: batch normalisation keeps its running statistics in training too; for the last part of training.

    Shape:
        cubes float32 [B, in_channels, S, S, S], z-scored -> float32 [B, D], D the sum of the outputs' sizes (:attr:`output_slices`).

    Raises:
        InputError: ``outputs`` names something else.
    """

    __jit_unused_properties__ = ("output_slices",)

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (16, 48, 96, 144),
        blocks: Sequence[int] = (1, 1, 1, 1),
        embedding_size: int = 256,
        reduced_channels: int = 12,
        outputs: Sequence[str] = HEADS,
        feature_grid: int = 2,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.frozen_norm, self.feature_grid, self.embedding_size = frozen_norm, feature_grid, embedding_size
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, channels[0], 5, 2, 2, bias=False), nn.BatchNorm3d(channels[0]), nn.ReLU(inplace=True)
        )
        widths = zip([channels[0], *channels], channels, blocks, STRIDES, strict=False)
        self.stages = nn.ModuleList([_stage(*part) for part in widths])
        self.reduce = nn.Conv3d(channels[-1], reduced_channels, 1)
        width = channels[-1] + reduced_channels * PLACES**3
        self.neck = nn.BatchNorm1d(width)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, embedding_size), nn.GELU(), nn.Linear(embedding_size, embedding_size))
                for name in HEADS
            }
        )
        sizes = {name: embedding_size for name in HEADS}
        sizes |= {f"layer{i + 1}": c * feature_grid**3 for i, c in enumerate(channels)}
        unknown = [name for name in self.outputs if name not in sizes]
        if unknown:
            raise InputError(f"The 'outputs' parameter must name some of {', '.join(sizes)}. Got {', '.join(unknown)} instead.")
        self.output_sizes = {name: sizes[name] for name in self.outputs}

    def train(self, mode: bool = True) -> VolumeEncoder:
        """See ``nn.Module.train``; with ``frozen_norm`` the normalisation layers stay in evaluation mode."""
        super().train(mode)
        if mode and self.frozen_norm:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm3d)):
                    module.eval()
        return self

    @property
    def output_slices(self) -> dict[str, slice]:
        """Where each output lies in the vector that :meth:`forward` returns."""
        return slices_of(self.output_sizes)

    def forward(self, cubes: torch.Tensor) -> torch.Tensor:
        # Written so that torch.jit.script takes it.
        vectors: dict[str, torch.Tensor] = {}
        hidden = self.stem(cubes)
        for i, stage in enumerate(self.stages):
            hidden = stage(hidden)
            layer = f"layer{i + 1}"
            if layer in self.outputs:
                vectors[layer] = F.adaptive_avg_pool3d(hidden, self.feature_grid).flatten(1)
        placed = F.adaptive_avg_pool3d(self.reduce(hidden), 4).flatten(1)
        pooled = self.neck(torch.cat([hidden.mean([2, 3, 4]), placed], 1))
        for name, head in self.heads.items():
            if name in self.outputs:
                vectors[name] = F.normalize(head(pooled).float(), dim=1)
        return torch.cat([vectors[name] for name in self.outputs], 1)
