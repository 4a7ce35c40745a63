"""State dicts of a randomly initialised SAM, under the key names of the published files."""

from __future__ import annotations

import torch


def sam_state(size=24, layers=3, grid=8, window=3, heads=3, adapters=(), relative=True, seed=0) -> dict[str, torch.Tensor]:
    """State dict of a SAM with the original key names, decoder keys and all."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.1

    state = {"pos_embed": random(1, grid, grid, size), "patch_embed.proj.weight": random(size, 3, 16, 16)}
    state |= {
        "patch_embed.proj.bias": random(size),
        "neck.0.weight": random(256, size, 1, 1),
        "neck.2.weight": random(256, 256, 3, 3),
    }
    state |= {f"neck.{i}.{part}": random(256) for i in (1, 3) for part in ("weight", "bias")}
    for i in range(layers):
        block = f"blocks.{i}."
        state |= {f"{block}norm{k}.{part}": random(size) + (part == "weight") for k in (1, 2) for part in ("weight", "bias")}
        for name, rows, columns in (("attn.qkv", 3, 1), ("attn.proj", 1, 1), ("mlp.lin1", 4, 1), ("mlp.lin2", 1, 4)):
            state |= {f"{block}{name}.weight": random(rows * size, columns * size), f"{block}{name}.bias": random(rows * size)}
        if relative:
            side = grid if i % 3 == 2 else window
            state |= {f"{block}attn.rel_pos_{axis}": random(2 * side - 1, size // heads) for axis in "hw"}
        if i in adapters:
            for name in ("MLP_Adapter", "Space_Adapter", "Depth_Adapter"):
                state |= {f"{block}{name}.D_fc1.weight": random(size // 4, size), f"{block}{name}.D_fc1.bias": random(size // 4)}
                state |= {f"{block}{name}.D_fc2.weight": random(size, size // 4), f"{block}{name}.D_fc2.bias": random(size)}
    state = {f"image_encoder.{name}": value for name, value in state.items()}
    return state | {"prompt_encoder.pe_layer.x": random(2), "mask_decoder.iou_token.weight": random(1, 4), "pixel_mean": random(3)}
