"""State dicts of a random ConvNeXt, under the key names of torchvision's file."""

from __future__ import annotations

import torch

DEPTHS, SIZES = (1, 2, 1, 1), (4, 8, 12, 16)


def torchvision_state(depths=DEPTHS, sizes=SIZES, seed=0) -> dict[str, torch.Tensor]:
    """A random state dict under the key names of torchvision's ``convnext_base``, with its classifier."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def layer(name, *shape, bias=None):
        state[f"{name}.weight"] = torch.randn(*shape, generator=generator) * 0.3
        state[f"{name}.bias"] = torch.randn(bias or shape[0], generator=generator) * 0.3

    layer("features.0.0", sizes[0], 3, 4, 4)
    layer("features.0.1", sizes[0])
    for stage, (depth, size) in enumerate(zip(depths, sizes, strict=True)):
        if stage:
            layer(f"features.{2 * stage}.0", sizes[stage - 1])
            layer(f"features.{2 * stage}.1", size, sizes[stage - 1], 2, 2)
        for block in range(depth):
            name = f"features.{2 * stage + 1}.{block}"
            state[f"{name}.layer_scale"] = torch.randn(size, 1, 1, generator=generator)
            layer(f"{name}.block.0", size, 1, 7, 7)
            layer(f"{name}.block.2", size)
            layer(f"{name}.block.3", 4 * size, size)
            layer(f"{name}.block.5", size, 4 * size)
    layer("classifier.0", sizes[-1])
    layer("classifier.2", 1000, sizes[-1])
    return state
