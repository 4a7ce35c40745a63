"""The Memorization Index as one network: image in, similarity, MI and ONI out, for TorchScript, ONNX and a gate beside a generator."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from doppelscan.deepssim import quarter_turn
from doppelscan.errors import InputError
from doppelscan.memorization.index import MemorizationIndex
from doppelscan.memorization.scores import EPS

__all__ = ["MemorizationScorer"]


class LayerScorer(nn.Module):
    """Whitened cosine of one layer's features with the nearest reference image (eq. 1 and 2).

    Args:
        start: first column of the layer in the encoder's output.
        stop: one after the last.
    """

    mean: torch.Tensor
    matrix: torch.Tensor
    reference: torch.Tensor

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop
        self.register_buffer("mean", torch.zeros(stop - start))
        self.register_buffer("matrix", torch.zeros(stop - start, stop - start))
        self.register_buffer("reference", torch.zeros(1, stop - start))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        # The reference has as many rows as the training set that it was fitted on.
        saved = state_dict.get(f"{prefix}reference")
        if saved is not None and saved.ndim == 2 and saved.shape[1] == self.reference.shape[1]:
            self.reference = self.reference.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        white = F.normalize((features[:, self.start : self.stop] - self.mean) @ self.matrix, dim=1)
        return (white @ self.reference.t()).amax(1)


class MemorizationScorer(nn.Module):
    """Encoder, whiteners, reference and null of a fitted Memorization Index as one network (arXiv 2602.13066, eq. 1-6).

    Everything that was fitted is a buffer, so the state dict, a TorchScript or an ONNX file of it holds all that a score needs. Before
    :meth:`fill` or ``load_state_dict`` MI and ONI are NaN: a network that was not fitted does not guess.

    Args:
        encoder: image -> layer features [B, D], with ``output_slices``.
            A :class:`~doppelscan.deepssim.VolumeEncoder` makes a scorer of volumes.
        poses: 8 scores each image in its best flip and quarter-turn pose, 48 each volume in its best axis pose; 1 as it is, also for a reference
            that holds the poses.

    Shape:
        image float32 [B, 1, S, S], or cubes [B, 1, S, S, S], prepared as for the encoder -> float32 [B, 3]: similarity, MI, ONI.
    """

    null: torch.Tensor

    def __init__(self, encoder: Any, poses: int = 8) -> None:
        super().__init__()
        known = getattr(encoder, "known_poses", 8)
        if poses not in (1, known):
            raise InputError(f"The 'poses' parameter of MemorizationScorer must be 1 or {known}. Got {poses!r} instead.")
        # An encoder of volumes knows its axis poses from the poses of its slices.
        self.encoder = encoder.with_poses(poses) if hasattr(encoder, "with_poses") else encoder
        self.poses, self.eps = poses, EPS
        self.layer_names = list(encoder.output_slices)
        self.layers = nn.ModuleList([LayerScorer(part.start, part.stop) for part in encoder.output_slices.values()])
        self.register_buffer("null", torch.full((2,), float("nan")))

    def fill(self, index: MemorizationIndex) -> "MemorizationScorer":
        """Take the whiteners, reference and null of a fitted ``index`` over the encoder's layers.

        Raises:
            ValueError: the index has other layers, or was not fitted.
        """
        if list(index.reference) != self.layer_names:
            raise InputError(f"The index must be fitted on the layers {self.layer_names}. Got {list(index.reference)} instead.")
        for name, layer in zip(self.layer_names, self.layers, strict=True):
            reference = np.asarray(index.reference[name][:], dtype=np.float32)
            like = self.null.device
            layer.mean = torch.tensor(index.whiteners[name].mean, dtype=torch.float32, device=like)
            layer.matrix = torch.tensor(index.whiteners[name].matrix, dtype=torch.float32, device=like)
            layer.reference = torch.tensor(reference.reshape(-1, reference.shape[-1]), device=like)
        self.null = torch.tensor([index.null_mean, index.null_std], dtype=torch.float32, device=self.null.device)
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # Written so that torch.jit.script takes it.
        views = image
        if self.poses == 8:
            # Not stacked and flattened: the ONNX export would lose the images' size.
            views = torch.cat([quarter_turn(image, number) for number in range(8)])
        features = self.encoder(views)
        if features.dim() == 3:  # [B, 48, D] of volumes
            features = features.transpose(0, 1).flatten(0, 1)
        logarithm = torch.zeros(image.shape[0], dtype=torch.float32, device=image.device)
        for layer in self.layers:
            best = layer(features).view(self.poses, -1).amax(0)
            logarithm = logarithm + torch.log(best.clamp(0.0, 1.0) + self.eps)
        similarity = torch.exp(logarithm / len(self.layers))
        mi = (similarity - self.null[0]) / self.null[1]
        return torch.stack([similarity, mi, -torch.tanh(mi)], 1)
