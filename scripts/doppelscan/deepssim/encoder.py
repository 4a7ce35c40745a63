"""The DeepSSIM encoder: one backbone, two heads, and the layer features that the Memorization Index is taken on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from monai.networks.nets import DenseNet, ResNet
from torch import nn

from doppelscan.deepssim.roles import slices_of
from doppelscan.deepssim.texture import TEXTURE_SIZE, texture
from doppelscan.errors import InputError

__all__ = ["DeepSSIMEncoder"]

HEADS = ("deepssim", "embedding")
BACKBONES = ("basic", "bottleneck", "densenet")


def _backbone(name: str, in_channels: int, channels: Sequence[int], blocks: Sequence[int]) -> tuple[nn.Module, nn.ModuleList, list]:
    """Stem, four stages and the channels that each stage gives."""
    if name == "densenet":  # channels are the growth rates' eighths: a dense block adds ``channels[0]`` / 2 a layer
        dense = DenseNet(2, in_channels, 2, init_features=channels[0], growth_rate=channels[0] // 2, block_config=tuple(blocks))
        parts = dict(dense.features.named_children())
        stem = nn.Sequential(parts["conv0"], parts["norm0"], parts["relu0"], parts["pool0"])
        stages, width, widths = nn.ModuleList(), channels[0], []
        for i, layers in enumerate(blocks, 1):
            width += layers * (channels[0] // 2)
            last = parts[f"transition{i}"] if i < len(blocks) else parts["norm5"]
            stages.append(nn.Sequential(parts[f"denseblock{i}"], last))
            width = width // 2 if i < len(blocks) else width
            widths.append(width)
        return stem, stages, widths
    net = ResNet(name, list(blocks), list(channels), 2, in_channels, conv1_t_stride=2, feed_forward=False)
    stem = nn.Sequential(net.conv1, net.bn1, nn.ReLU(inplace=True), net.maxpool)
    expansion = 4 if name == "bottleneck" else 1
    return stem, nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4]), [c * expansion for c in channels]


class DeepSSIMEncoder(nn.Module):
    """Image -> L2-normalised embeddings whose inner products are similarities.

    The ``deepssim`` head is the paper's: its cosine is trained to be the SSIM of the two images after registration
    (arXiv 2509.16582, section 3). The ``embedding`` head is trained to tell images apart; retrieval uses it. ``layer1`` to
    ``layer4`` are the stages' features pooled on a ``feature_grid`` x ``feature_grid`` grid, for the Memorization Index.

    Args:
        in_channels: channels of the input image.
        backbone: "basic" or "bottleneck" (residual blocks, He et al. 2016) or "densenet" (Huang et al. 2017), from MONAI.
        channels: channels of the four stages of a residual backbone; the first is a dense backbone's width, half of it its growth.
        blocks: blocks (layers of a dense block) of the four stages.
        embedding_size: size of each head's output.
        reduced_channels: channels that keep their place (4 x 4 for a 128 px image) on the way to the heads.
        dropout: in the heads, in training only. It lowers the cosines that training sees, so that without it they come out
            too high; 0 where the cosine has to be an SSIM.
        outputs: which of deepssim, embedding, layer1 .. layer4 and texture are concatenated, in this order. ``texture`` is computed from the image
            alone, see :func:`~doppelscan.deepssim.texture`; the pair head takes it beside ``deepssim``.
        feature_grid: layer features are averaged over this many cells a side.
        frozen_norm: batch normalisation keeps its running statistics in training too. A batch of look-alikes is normalised by what
            they share, so a network trained that way over-states their cosine when it meets one image at a time; the last part of
            training is done with frozen statistics.

        freeze: parts that are not trained, by the beginning of their parameters' names, such as ``stem`` or ``heads.embedding``.

    Shape:
        image float32 [B, in_channels, H, W], z-scored -> float32 [B, D], D the sum of the outputs' sizes
        (:attr:`output_slices`).
    """

    __jit_unused_properties__ = ("output_slices",)

    def __init__(
        self,
        in_channels: int = 1,
        backbone: str = "basic",
        channels: Sequence[int] = (32, 64, 128, 256),
        blocks: Sequence[int] = (2, 2, 2, 2),
        embedding_size: int = 256,
        reduced_channels: int = 32,
        dropout: float = 0.0,
        outputs: Sequence[str] = HEADS,
        feature_grid: int = 2,
        frozen_norm: bool = False,
        freeze: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.outputs = list(outputs)
        self.frozen_norm = frozen_norm
        self.feature_grid = feature_grid
        self.embedding_size = embedding_size
        if backbone not in BACKBONES:
            raise InputError(f"The 'backbone' parameter must be one of {', '.join(BACKBONES)}. Got {backbone!r} instead.")
        self.stem, self.stages, channels = _backbone(backbone, in_channels, channels, blocks)
        self.reduce = nn.Conv2d(channels[-1], reduced_channels, 1)
        width = channels[-1] + reduced_channels * 16
        self.neck = nn.BatchNorm1d(width)
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(
                    nn.Linear(width, embedding_size), nn.GELU(), nn.Dropout(dropout), nn.Linear(embedding_size, embedding_size)
                )
                for name in HEADS
            }
        )
        sizes = {name: embedding_size for name in HEADS}
        sizes |= {f"layer{i + 1}": c * feature_grid**2 for i, c in enumerate(channels)}
        sizes["texture"] = TEXTURE_SIZE
        unknown = [name for name in self.outputs if name not in sizes]
        if unknown:
            raise InputError(f"The 'outputs' parameter must name some of {', '.join(sizes)}. Got {', '.join(unknown)} instead.")
        self.output_sizes = {name: sizes[name] for name in self.outputs}
        self.frozen_at_random = tuple(freeze)
        parameters = dict(self.named_parameters())
        for part in freeze:
            found = [name for name in parameters if name == part or name.startswith(f"{part}.")]
            if not found:
                raise InputError(
                    f"The 'freeze' parameter must name parts of the network. Got {part!r}, which no parameter belongs to."
                )
            for name in found:
                parameters[name].requires_grad_(False)

    def train(self, mode: bool = True) -> DeepSSIMEncoder:
        """See ``nn.Module.train``; with ``frozen_norm`` the normalisation layers stay in evaluation mode."""
        super().train(mode)
        if mode and self.frozen_norm:
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    module.eval()
        return self

    def settings_for(self, state: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """The ``embedding_size`` that weights were trained with, where it is not this network's: a message names it."""
        head = state.get("heads.deepssim.0.weight")
        return {} if head is None or len(head) == self.embedding_size else {"embedding_size": len(head)}

    @property
    def output_slices(self) -> dict[str, slice]:
        """Where each output lies in the vector that :meth:`forward` returns."""
        return slices_of(self.output_sizes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Written so that torch.jit.script takes it.
        vectors: dict[str, torch.Tensor] = {}
        hidden = self.stem(image)
        for i, stage in enumerate(self.stages):
            hidden = stage(hidden)
            layer = f"layer{i + 1}"
            if layer in self.outputs:
                vectors[layer] = F.adaptive_avg_pool2d(hidden, self.feature_grid).flatten(1)
        placed = F.adaptive_avg_pool2d(self.reduce(hidden), 4).flatten(1)
        pooled = self.neck(torch.cat([hidden.mean([2, 3]), placed], 1))
        for name, head in self.heads.items():
            if name in self.outputs:
                vectors[name] = F.normalize(head(pooled).float(), dim=1)
        if "texture" in self.outputs:
            vectors["texture"] = texture(image).float()
        return torch.cat([vectors[name] for name in self.outputs], 1)
