"""Embeddings for rivals: the shipped contrastive encoder, any TorchScript file, any folder of a transformers model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from doppelscan.deepssim import DeepSSIMEncoder, TorchScriptEncoder, foreground_views, load_weights, quarter_turn_poses, zscore
from doppelscan.errors import InputError, MissingPackageError, WeightsError
from doppelscan.images import unit_float
from doppelscan.locations import bundle_root

__all__ = [
    "CLIP_PREPARATION",
    "SSCD_PREPARATION",
    "ContrastiveEmbedder",
    "Embedder",
    "Preparation",
    "ScriptEmbedder",
    "TransformersEmbedder",
    "embedder_of",
]

BATCH = 32


class Embedder(Protocol):
    """Vectors of images.

    Attributes:
        poses: in how many of the 8 flip and quarter-turn poses a query is to be looked at: 1 or 8.
    """

    poses: int

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D] of ``images`` float32 [N, 1, S, S] in [0, 1]."""


@dataclass(frozen=True)
class Preparation:
    """How a network that was trained on RGB photographs wants its input.

    Attributes:
        resize: side to which the images are resized, bicubic.
        crop: side of the middle that is kept of it.
        mean: of each channel, of intensities in [0, 1].
        std: of each channel.
    """

    resize: int
    crop: int
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, 3, crop, crop] of ``images`` float32 [N, 1, S, S] in [0, 1]."""
        if images.shape[-1] != self.resize:
            images = F.interpolate(images, (self.resize, self.resize), mode="bicubic", antialias=True).clamp(0, 1)
        edge = (self.resize - self.crop) // 2
        images = images[..., edge : edge + self.crop, edge : edge + self.crop]
        mean, std = (images.new_tensor(value).view(1, -1, 1, 1) for value in (self.mean, self.std))
        return (images - mean) / std


# As SSCD's authors resize a whole image (arXiv 2202.10261), and as CLIP and BiomedCLIP were trained.
SSCD_PREPARATION = Preparation(288, 288)
CLIP_PREPARATION = Preparation(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class ContrastiveEmbedder:
    """The plain contrastive encoder that is shipped beside ours for comparison: the same data, network and steps, InfoNCE only.

    It sees foreground squares, z-scored, as it was trained on. Its training turned views by 20 degrees and flipped none, so the
    query is looked at in 8 poses.

    Args:
        network: image float32 [B, 1, size, size] -> float32 [B, D]; None loads ``models/contrastive.pt`` of the bundle deepssim_encoder.
        poses: 1 or 8.
        spatial_size: the network's input.
        device: where it runs.

    Raises:
        WeightsError: the shipped weights are missing or damaged.
    """

    def __init__(
        self,
        network: torch.nn.Module | None = None,
        poses: int = 8,
        spatial_size: int = 128,
        device: str | torch.device = "cpu",
    ) -> None:
        if network is None:
            network = load_weights(
                DeepSSIMEncoder(outputs=("embedding",)).eval(), Path(bundle_root("deepssim_encoder")) / "models" / "contrastive.pt"
            )
        self.network, self.poses, self.spatial_size, self.device = network.to(device), poses, spatial_size, torch.device(device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D]."""
        found = [
            self.network(foreground_views(unit_float(part), self.spatial_size).to(self.device)).float().cpu()
            for part in images.split(BATCH)
        ]
        return torch.cat(found)


class ScriptEmbedder:
    """A TorchScript encoder.

    Args:
        path: the file, see :class:`~doppelscan.deepssim.TorchScriptEncoder`.
        preparation: of the input, for a network of photographs; None gives it whole images, z-scored, at ``spatial_size``.
        spatial_size: side of the input without a preparation.
        device: where it runs.

    Raises:
        WeightsError: no such file, no TorchScript, or no encoder.
    """

    poses = 1

    def __init__(
        self,
        path: str | os.PathLike,
        preparation: Preparation | None = None,
        spatial_size: int = 128,
        device: str | torch.device = "cpu",
    ) -> None:
        self.preparation, self.device = preparation, torch.device(device)
        self.spatial_size = preparation.crop if preparation else spatial_size
        self.encoder = TorchScriptEncoder(path, spatial_size=self.spatial_size).to(device)
        self.part = self.encoder.output_slices["embedding"]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D]."""
        return torch.cat([self._embedded(unit_float(part)).float().cpu() for part in images.split(BATCH)])

    def _embedded(self, images: torch.Tensor) -> torch.Tensor:
        if self.preparation:
            return self.encoder.network(self.preparation(images).to(self.device))
        whole = F.interpolate(images, (self.spatial_size, self.spatial_size), mode="bilinear", antialias=True)
        return self.encoder(zscore(whole).to(self.device))[:, self.part]


class TransformersEmbedder:
    """A vision model of ``transformers`` in a local folder: DINOv2, DINOv3, RAD-DINO, CLIP, ViT, ConvNeXt and whatever ``AutoModel`` knows.

    The vector is the projected image embedding of a model that has one (``get_image_features``), else the pooled output where the
    folder has weights for it, else the class token, else the mean of a map. The input is resized, cropped and normalised as the folder's
    ``preprocessor_config.json`` says; nothing is downloaded.

    Args:
        folder: with ``config.json``, the weights and ``preprocessor_config.json``.
        device: where it runs.

    Raises:
        MissingPackageError: transformers is missing; ``pip install ".[rivals]"``.
        InputError: no folder of a transformers model.
        WeightsError: weights that do not fit.
    """

    poses = 1

    def __init__(self, folder: str | os.PathLike, device: str | torch.device = "cpu") -> None:
        self.folder, self.device = Path(folder), torch.device(device)
        self._require_folder()
        self.preparation = self._preparation()
        self.model, self.pooled = self._loaded()

    def _require_folder(self) -> None:
        if (self.folder / "open_clip_config.json").is_file():
            raise InputError(
                f"The folder {str(self.folder)!r} must be of a transformers model. Got one of open_clip; pass its image tower as TorchScript: "
                "torch.jit.trace(model.visual, torch.zeros(1, 3, 224, 224)).save(FILE)."
            )
        if not (self.folder / "config.json").is_file():
            raise InputError(f"The folder {str(self.folder)!r} must be of a transformers model. Got no config.json in it.")

    def _preparation(self) -> Preparation:
        for name in ("preprocessor_config.json", "processor_config.json"):
            path = self.folder / name
            if path.is_file():
                found = json.loads(path.read_text())
                return _preparation_of(found.get("image_processor", found))
        raise InputError(
            f"The folder {str(self.folder)!r} must hold preprocessor_config.json, which says how the model wants its input. Got none; "
            "copy it from where the model comes from."
        )

    def _loaded(self) -> tuple[Any, bool]:
        """The model, and whether its pooled output is trained."""
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise MissingPackageError('An encoder of transformers needs it: pip install ".[rivals]"') from error
        try:
            model, told = AutoModel.from_pretrained(self.folder, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise WeightsError(f"The folder {str(self.folder)!r} must be of a transformers model. Got: {reason}") from error
        untrained = [name for name in told["missing_keys"] if "pooler" not in name]
        if untrained:
            raise WeightsError(
                f"The folder {str(self.folder)!r} must hold all weights of the model. Got {len(untrained)} missing, such as {untrained[0]}."
            )
        return model.eval().to(self.device), not told["missing_keys"]

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [N, D]."""
        parts = [self._vector(self.preparation(unit_float(p)).to(self.device)) for p in images.split(BATCH)]
        return torch.cat([part.float().cpu() for part in parts])

    def _vector(self, pixels: torch.Tensor) -> torch.Tensor:
        if hasattr(self.model, "get_image_features"):
            found = self.model.get_image_features(pixel_values=pixels)
            return found if isinstance(found, torch.Tensor) else found.pooler_output
        output = self.model(pixel_values=pixels)
        pooled = getattr(output, "pooler_output", None)
        if self.pooled and pooled is not None:
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        return hidden[:, 0] if hidden.ndim == 3 else hidden.mean((2, 3))


def _side(size: Any) -> int:
    """The side that a size of an image processor comes to for a square image."""
    if isinstance(size, dict):
        return int(next(size[name] for name in ("shortest_edge", "height", "longest_edge") if size.get(name)))
    return int(size)


def _preparation_of(found: dict[str, Any]) -> Preparation:
    size, crop = found.get("size"), found.get("crop_size")
    if size is None and crop is None:
        raise InputError(f"A preprocessor_config.json must have 'size' or 'crop_size'. Got {', '.join(found)}.")
    resize = _side(size if size is not None and found.get("do_resize", True) else crop)
    kept = _side(crop) if crop is not None and found.get("do_center_crop", False) else resize
    kept = min(kept, resize)
    if not found.get("do_normalize", True):
        return Preparation(resize, kept, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    plain = Preparation(resize, kept)
    return replace(plain, mean=tuple(found.get("image_mean", plain.mean)), std=tuple(found.get("image_std", plain.std)))


def embedder_of(
    path: str | os.PathLike, preparation: Preparation | None = None, device: str | torch.device = "cpu"
) -> ScriptEmbedder | TransformersEmbedder:
    """The encoder in ``path``: a folder of a transformers model, or a TorchScript file.

    Args:
        path: the folder or file.
        preparation: of a TorchScript file's input; a folder says its own.
        device: where it runs.

    Raises:
        InputError: neither a file nor a folder.
    """
    if Path(path).is_dir():
        return TransformersEmbedder(path, device)
    if not Path(path).is_file():
        raise InputError(
            f"The file of a rival must be a TorchScript file or a folder of a transformers model. Got {str(path)!r}, which does not exist."
        )
    return ScriptEmbedder(path, preparation, device=device)


def query_poses(embedder: Embedder, images: torch.Tensor) -> list[torch.Tensor]:
    """``images`` in the poses that ``embedder`` asks for."""
    return list(quarter_turn_poses(images)) if embedder.poses == 8 else [images]
