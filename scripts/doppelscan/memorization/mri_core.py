"""MRI-CORE (Dong et al., arXiv 2506.12186), the feature extractor of the Memorization Index paper: a SAM ViT-B image encoder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.deepssim import read_checkpoint
from doppelscan.errors import InputError, WeightsError

__all__ = ["MRICoreEncoder", "load_mri_core"]

PREFIX = "image_encoder."
GLOBAL_EVERY = 3  # every third block of ViT-B looks at the whole grid, the others at windows
# From the original key names to those of transformers' SamVisionModel.
RENAMED = (
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^blocks\.(\d+)\.norm([12])\.", r"layers.\1.layer_norm\2."),
    (r"^blocks\.(\d+)\.mlp\.fc([12])\.", r"layers.\1.mlp.lin\2."),
    (r"^blocks\.", "layers."),
    (r"^neck\.0\.", "neck.conv1."),
    (r"^neck\.1\.", "neck.layer_norm1."),
    (r"^neck\.2\.", "neck.conv2."),
    (r"^neck\.3\.", "neck.layer_norm2."),
)
# Parts of the published file that an encoder of single slices does not run: the decoder, and the adapter between slices.
NOT_RUN = re.compile(r"^(prompt_encoder|mask_decoder)\.|^pixel_(mean|std)$|\.Depth_Adapter\.")


class Adapter(nn.Module):
    """Bottleneck beside a frozen layer; key names as in the published file."""

    def __init__(self, size: int, hidden: int, skip: bool) -> None:
        super().__init__()
        self.D_fc1, self.D_fc2, self.skip = nn.Linear(size, hidden), nn.Linear(hidden, size), skip

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.D_fc2(F.gelu(self.D_fc1(tokens)))
        return tokens + found if self.skip else found


class AdaptedAttention(nn.Module):
    """Attention followed by the adapter over space."""

    def __init__(self, attention: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.attention, self.adapter = attention, adapter

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, weights = self.attention(*args, **kwargs)
        return self.adapter(tokens), weights


class AdaptedMLP(nn.Module):
    """MLP with half of its adapter's output beside it."""

    def __init__(self, mlp: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.mlp, self.adapter = mlp, adapter

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.mlp(tokens) + 0.5 * self.adapter(tokens)


class MRICoreEncoder(nn.Module):
    """SAM ViT-B whose tokens after some blocks, averaged over space, are the layer features (arXiv 2602.13066, section on features).

    Args:
        spatial_size: side of the input in pixels, a multiple of 16; the published weights were trained at 1024.
        blocks: counted from 0; the paper takes 3, 7 and 11.
        adapters: blocks that have adapters, and the width of the adapters.
        relative_positions: the attention has relative position embeddings, as in SAM.
        hidden_size, layers, heads, window: of the transformer; ViT-B by default.

    Shape:
        image float32 [B, 1, S, S] -> float32 [B, len(blocks) * hidden_size]; each image is scaled to [0, 1], repeated to three channels
        and normalised as ImageNet, as MRI-CORE does.

    Raises:
        ImportError: transformers is missing; ``pip install ".[mri-core]"``.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        spatial_size: int = 1024,
        blocks: Sequence[int] = (3, 7, 11),
        adapters: Mapping[int, int] | None = None,
        relative_positions: bool = True,
        hidden_size: int = 768,
        layers: int = 12,
        heads: int = 12,
        window: int = 14,
    ) -> None:
        super().__init__()
        try:
            from transformers import SamVisionConfig, SamVisionModel
        except ImportError as error:
            raise ImportError('MRICoreEncoder needs transformers: pip install ".[mri-core]"') from error
        if spatial_size < 16 or spatial_size % 16:
            raise InputError(
                f"The 'spatial_size' parameter of MRICoreEncoder must be a multiple of 16. Got {spatial_size!r} instead."
            )
        wrong = [block for block in blocks if not 0 <= block < layers]
        if wrong or not blocks:
            raise InputError(
                f"The 'blocks' parameter of MRICoreEncoder must name blocks from 0 to {layers - 1}. Got {list(blocks)!r} instead."
            )
        self.settings: dict[str, Any] = {
            "spatial_size": spatial_size, "blocks": tuple(blocks), "hidden_size": hidden_size, "layers": layers, "heads": heads,
            "window": window,
        }  # fmt: skip
        self.blocks = tuple(blocks)
        config = SamVisionConfig(
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            mlp_dim=4 * hidden_size,
            image_size=spatial_size,
            window_size=window,
            use_rel_pos=relative_positions,
            global_attn_indexes=[number for number in range(layers) if number % GLOBAL_EVERY == GLOBAL_EVERY - 1],
        )
        self.sam = SamVisionModel(config).vision_encoder
        for number, width in (adapters or {}).items():
            block: Any = self.sam.layers[number]
            block.attn = AdaptedAttention(block.attn, Adapter(hidden_size, width, skip=True))
            block.mlp = AdaptedMLP(block.mlp, Adapter(hidden_size, width, skip=False))
        self.register_buffer("pixel_mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    @property
    def output_slices(self) -> dict[str, slice]:
        """Where each block's features lie in the prediction."""
        size = self.settings["hidden_size"]
        return {f"block{block}": slice(i * size, (i + 1) * size) for i, block in enumerate(self.blocks)}

    @property
    def roles(self) -> dict[str, Any]:
        """In an audit the last block's features play both heads, and every block is a layer of the index."""
        last = f"block{self.blocks[-1]}"
        return {"deepssim": last, "embedding": last, "layers": list(self.output_slices)}

    def with_weights(self, path: str | os.PathLike) -> MRICoreEncoder:
        """See :func:`load_mri_core`."""
        return load_mri_core(self, path)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        pixels = ((image - low) / (high - low).clamp(min=1e-6)).expand(-1, 3, -1, -1)
        tokens = self.sam.patch_embed((pixels - self.pixel_mean) / self.pixel_std) + self.sam.pos_embed
        found = []
        for number, block in enumerate(self.sam.layers):
            after = block(tokens)
            tokens = after[0] if isinstance(after, tuple) else after  # transformers 4 gives a tuple
            if number in self.blocks:
                found.append(tokens.mean((1, 2)))
        order = sorted(self.blocks)
        return torch.cat([found[order.index(block)] for block in self.blocks], 1).float()


def load_mri_core(encoder: MRICoreEncoder, path: str | os.PathLike) -> MRICoreEncoder:
    """``encoder``'s architecture with the weights of a SAM ViT-B or MRI-CORE file under the original key names.

    The file says whether it has adapters and relative positions, and the network is built so; positional embeddings are interpolated
    to the encoder's image size. Prompt encoder, mask decoder and the adapters between slices are not run and not read.

    Args:
        encoder: gives image size, blocks and transformer sizes.
        path: state dict, bare or under ``model``, ``teacher`` or ``student``; keys with or without ``image_encoder.``.

    Raises:
        WeightsError: no such file, or keys and shapes that are not those of the architecture; they are listed.
    """
    state = {_renamed(name): value for name, value in _image_encoder_state(path).items()}
    adapters = {
        int(match[1]): int(value.shape[0])
        for name, value in state.items()
        if (match := re.match(r"layers\.(\d+)\.mlp\.adapter\.D_fc1\.weight", name)) and int(match[1]) < encoder.settings["layers"]
    }
    # mlp and attention are wrapped where there is an adapter.
    state = {_wrapped(name, adapters): value for name, value in state.items()}
    built = MRICoreEncoder(adapters=adapters, relative_positions=any(".rel_pos_" in name for name in state), **encoder.settings)
    own = built.sam.state_dict()
    _interpolate(state, own)
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{k} {tuple(state[k].shape)} not {tuple(own[k].shape)}" for k in own if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        raise WeightsError(
            f"The weights {str(path)!r} must be those of a SAM ViT-B image encoder. Got {len(missing)} missing keys {missing}, "
            f"{len(unexpected)} unexpected {unexpected}, {len(shapes)} of another shape {shapes}; they are of another architecture."
        )
    built.sam.load_state_dict(state, strict=True)
    return built.eval()


def _image_encoder_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise WeightsError(
            f"The 'ckpt_path' parameter must name MRI-CORE's weights. Got {str(path)!r}, which does not exist; "
            "download them from the authors (github.com/mazurowski-lab/mri_foundation)."
        )
    state = read_checkpoint(path)
    for key in ("model", "state_dict", "teacher", "student"):
        if isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            f"The weights {str(path)!r} must be a plain state dict. Got {type(state).__name__} with other things in it."
        )
    state = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    return {name.removeprefix(PREFIX): value for name, value in state.items() if not NOT_RUN.search(name)}


def _renamed(name: str) -> str:
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name.replace(".Space_Adapter.", ".attn.adapter.").replace(".MLP_Adapter.", ".mlp.adapter.")


def _wrapped(name: str, adapters: Mapping[int, int]) -> str:
    match = re.match(r"(layers\.(\d+)\.)(attn|mlp)\.(?!adapter)(.*)", name)
    if not match or int(match[2]) not in adapters:
        return name
    return f"{match[1]}{match[3]}.{'attention' if match[3] == 'attn' else 'mlp'}.{match[4]}"


def _interpolate(state: dict[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> None:
    """Positional embeddings of another image size, in place: absolute ones over the grid, relative ones over the distance."""
    position = state.get("pos_embed")
    if position is not None and "pos_embed" in own:
        if position.ndim == 3:  # as a plain ViT stores them: class token first, then the grid in a row
            side = int((position.shape[1] - 1) ** 0.5)
            position = position[:, -side * side :].reshape(1, side, side, -1)
        target = own["pos_embed"].shape
        if position.shape[1:3] != target[1:3] and position.shape[3] == target[3]:
            grid = position.permute(0, 3, 1, 2).float()
            position = F.interpolate(grid, tuple(target[1:3]), mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        state["pos_embed"] = position.contiguous()
    for name, value in state.items():
        # Of the blocks that look at the whole grid; windows are of one size whatever the image.
        match = re.match(r"layers\.(\d+)\..*rel_pos_", name)
        if (
            match
            and int(match[1]) % GLOBAL_EVERY == GLOBAL_EVERY - 1
            and name in own
            and value.ndim == 2
            and len(value) != len(own[name])
        ):
            line = F.interpolate(value.T[None].float(), own[name].shape[0], mode="linear", align_corners=False)
            state[name] = line[0].T.contiguous()
