"""The paper's encoder: ConvNeXt with ImageNet weights from a file, whether torchvision or transformers wrote it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.deepssim.weights import file_sha256, read_checkpoint, require_listed_sha256
from doppelscan.errors import InputError, MissingPackageError, WeightsError

__all__ = ["ConvNeXtEncoder", "imagenet_state"]

# From the key names of torchvision's convnext_base (and _tiny, _small, _large) to those of transformers' ConvNextModel; stages and steps between
# them take turns in torchvision's ``features``: 1, 3, 5, 7 are stages, 2, 4, 6 the steps into the next.
TORCHVISION = (
    (r"^features\.0\.0\.", "embeddings.patch_embeddings."),
    (r"^features\.0\.1\.", "embeddings.layernorm."),
    (r"^features\.([1357])\.(\d+)\.layer_scale$", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
    (r"^features\.([1357])\.(\d+)\.block\.0\.", r"encoder.stages.\1.layers.\2.dwconv."),
    (r"^features\.([1357])\.(\d+)\.block\.2\.", r"encoder.stages.\1.layers.\2.layernorm."),
    (r"^features\.([1357])\.(\d+)\.block\.3\.", r"encoder.stages.\1.layers.\2.pwconv1."),
    (r"^features\.([1357])\.(\d+)\.block\.5\.", r"encoder.stages.\1.layers.\2.pwconv2."),
    (r"^features\.([246])\.([01])\.", r"encoder.stages.\1.downsampling_layer.\2."),
    (r"^classifier\.0\.", "layernorm."),
)
# The classes of ImageNet, in either naming.
NOT_RUN = re.compile(r"^classifier\.(2\.)?(weight|bias)$")
STATE_FILES = ("model.safetensors", "pytorch_model.bin")
NAMED_BY_HASH = re.compile(r"-([0-9a-f]{8})\.pth$")  # as torchvision names its files

logger = logging.getLogger(__name__)


def imagenet_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The weights of a ConvNeXt under the key names of transformers' ``ConvNextModel``.

    Args:
        path: state dict of torchvision's ``convnext_base`` (``convnext_base-6075fbad.pth``) or of a transformers ``ConvNext...`` model (its
            ``model.safetensors``, ``pytorch_model.bin``, or the folder that holds one); of other sizes too.

    Returns:
        key -> tensor; the classifier is left out.

    Raises:
        WeightsError: no such file, a sha256 other than that in its name or in the ``checksums.json`` beside it, or no plain state dict.
    """
    file = Path(path)
    if file.is_dir():
        file = next((file / name for name in STATE_FILES if (file / name).is_file()), file / STATE_FILES[0])
    if not file.is_file():
        raise WeightsError(
            f"The 'pretrained' parameter must name ImageNet weights of ConvNeXt. Got {str(path)!r}, which does not exist; nothing is "
            "downloaded: bring torchvision's convnext_base-6075fbad.pth or a model.safetensors of transformers."
        )
    require_listed_sha256(file)
    digest, named = file_sha256(file), NAMED_BY_HASH.search(file.name)
    if named and not digest.startswith(named[1]):
        raise WeightsError(
            f"The weights {str(file)!r} must have a sha256 that begins with {named[1]}, as their name says. Got {digest[:8]}...; the file is "
            "damaged: copy it again."
        )
    state = read_checkpoint(file)
    state = state.get("model", state.get("state_dict", state))
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"The weights {str(file)!r} must be a plain state dict. Got one with other things in it.")
    found = {}
    for name, value in state.items():
        name = name.removeprefix("module.").removeprefix("convnext.")
        if not NOT_RUN.match(name):
            found[_renamed(name)] = value.flatten() if name.endswith(".layer_scale") else value
    logger.info(f"ImageNet weights {str(file)!r}: sha256 {digest}, {len(found)} of {len(state)} tensors are the backbone's.")
    return found


def _renamed(name: str) -> str:
    for pattern, new in TORCHVISION:
        renamed, hits = re.subn(pattern, new, name)
        if hits:
            return re.sub(r"^encoder\.stages\.(\d)", lambda m: f"encoder.stages.{int(m[1]) // 2}", renamed)
    return name


class ConvNeXtEncoder(nn.Module):
    """The encoder of arXiv 2509.16582: ConvNeXt, global average pool, BatchNorm, Linear 512, GELU, Dropout 0.33, Linear 256.

    Args:
        depths: blocks of the four stages; the default is ConvNeXt-Base.
        hidden_sizes: channels of the four stages.
        embedding_size: size of the embedding.
        dropout: in the head.
        drop_path: rate of stochastic depth at the last block, rising from 0 at the first; 0.5 in torchvision's ``convnext_base``, which the paper
            trains.
        freeze: stages that are not trained, of ``stem``, ``stage1`` .. ``stage4``. The paper names the first two stages; its code
            froze 58.6 % of the parameters by a substring match, so the list is explicit here. With random weights they are refused when
            training starts, see :func:`~doppelscan.deepssim.start_from`.
        pretrained: file of ImageNet weights, see :func:`imagenet_state`; None starts from random ones. Nothing is downloaded.

    Attributes:
        frozen_at_random: what is frozen without trained weights.

    Shape:
        image float32 [B, 1, H, W], z-scored -> float32 [B, embedding_size] of unit length.

    Raises:
        MissingPackageError: transformers is missing; ``pip install ".[paper]"``.
        InputError: an unknown name in ``freeze``, or sizes that are no ConvNeXt.
        WeightsError: ``pretrained`` is no such file, or of another architecture; the keys are listed.
    """

    start_options = "--pretrained FILE (ImageNet weights) or --init_ckpt FILE"

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 27, 3),
        hidden_sizes: Sequence[int] = (128, 256, 512, 1024),
        embedding_size: int = 256,
        dropout: float = 0.33,
        drop_path: float = 0.5,
        freeze: Sequence[str] = (),
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        try:
            from transformers import ConvNextConfig, ConvNextModel
        except ImportError as error:
            raise MissingPackageError('ConvNeXtEncoder needs transformers: pip install ".[paper]"') from error
        if len(depths) != 4 or len(hidden_sizes) != 4:
            raise InputError(
                f"The parameters of ConvNeXtEncoder must be four depths and four hidden_sizes. Got {list(depths)} and {list(hidden_sizes)} instead."
            )
        if not (0 <= dropout < 1 and 0 <= drop_path < 1):
            raise InputError(
                f"The parameters 'dropout' and 'drop_path' must be from 0 to below 1. Got {dropout!r} and {drop_path!r} instead."
            )
        settings = ConvNextConfig(depths=list(depths), hidden_sizes=list(hidden_sizes), drop_path_rate=drop_path)
        self.backbone = ConvNextModel(settings)
        if pretrained is not None:
            self._take(imagenet_state(pretrained), pretrained)
        width, self.embedding_size = list(hidden_sizes)[-1], embedding_size
        self.head = nn.Sequential(
            nn.BatchNorm1d(width), nn.Linear(width, 512), nn.GELU(), nn.Dropout(dropout), nn.Linear(512, embedding_size)
        )
        # The norm before ImageNet's classifier has no part in the embedding.
        self.backbone.layernorm.requires_grad_(False)
        parts: dict[str, nn.Module] = {"stem": self.backbone.embeddings}
        parts |= {f"stage{i}": stage for i, stage in enumerate(self.backbone.encoder.stages, 1)}
        unknown = [name for name in freeze if name not in parts]
        if unknown:
            raise InputError(f"The 'freeze' parameter must name some of {', '.join(parts)}. Got {', '.join(unknown)} instead.")
        for name in freeze:
            parts[name].requires_grad_(False)
        self.frozen_at_random = tuple(freeze) if pretrained is None else ()

    def _take(self, state: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
        own = self.backbone.state_dict()
        missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [
            f"{k} {tuple(state[k].shape)} not {tuple(v.shape)}" for k, v in own.items() if k in state and state[k].shape != v.shape
        ]
        if missing or unexpected or shapes:
            raise WeightsError(
                f"The weights {str(path)!r} must be those of a ConvNeXt of these sizes. Got {len(missing)} missing keys {missing[:3]}, "
                f"{len(unexpected)} unexpected {unexpected[:3]}, {len(shapes)} of another shape {shapes[:3]}; pass the file of convnext_base."
            )
        self.backbone.load_state_dict(state, strict=True)

    @property
    def output_slices(self) -> dict[str, slice]:
        """The one embedding plays every role."""
        return dict.fromkeys(("deepssim", "embedding", "layer"), slice(0, self.embedding_size))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(image.expand(-1, 3, -1, -1)).last_hidden_state
        return F.normalize(self.head(hidden.mean((2, 3))).float(), dim=1)
