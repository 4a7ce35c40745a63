"""The rivals by name, and ``--rival NAME:FILE``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from doppelscan.arguments import meant
from doppelscan.errors import InputError
from doppelscan.rivals.cosine import EmbeddingRival, chen_rival, semdedup_rival
from doppelscan.rivals.dar import DarRival, FittedDarRival
from doppelscan.rivals.distances import CalibratedDistance, M3Memorization
from doppelscan.rivals.encoders import CLIP_PREPARATION, SSCD_PREPARATION, ContrastiveEmbedder, Preparation, embedder_of
from doppelscan.rivals.pixels import fsim_rival, mse_rival, ncc_rival, phash_rival, ssim_rival
from doppelscan.rivals.ranking import Rival

__all__ = ["FILE_RIVALS", "RIVALS", "rivals"]

# What needs no file. The contrastive encoder stands in for the encoders of Dar et al., SemDeDup and M3-Score.
RIVALS: dict[str, Callable[[], Rival]] = {
    "mse": mse_rival,
    "ncc": ncc_rival,
    "ncc-poses": partial(ncc_rival, 8),
    "ssim": ssim_rival,
    "fsim": fsim_rival,
    "phash": phash_rival,
    "phash-poses": partial(phash_rival, 8),
    "calibrated": CalibratedDistance,
    "dar": DarRival,
    "dar-fitted": FittedDarRival,
    "semdedup": lambda: semdedup_rival(ContrastiveEmbedder()),
    "m3": M3Memorization,
}

# Methods that take an encoder: NAME:FILE. Any other NAME is the cosine of the encoder's embedding.
FILE_RIVALS: dict[str, Callable[..., Rival]] = {
    "chen": chen_rival,
    "semdedup": semdedup_rival,
    "dar": DarRival,
    "calibrated": CalibratedDistance,
    "m3": M3Memorization,
}

# How the input of a TorchScript file is prepared, where the method or the name of the encoder says it.
PREPARATIONS: Mapping[str, Preparation] = {
    "chen": SSCD_PREPARATION,
    "sscd": SSCD_PREPARATION,
    "semdedup": CLIP_PREPARATION,
    "biomedclip": CLIP_PREPARATION,
    "clip": CLIP_PREPARATION,
}


def rivals(names: Iterable[str] = (), files: Iterable[str] = (), device: Any = "cpu") -> list[Rival]:
    """The rivals that are asked for, ready to rank.

    Args:
        names: of :data:`RIVALS`.
        files: NAME:FILE each. FILE is a TorchScript file or a folder of a transformers model; NAME is a method of :data:`FILE_RIVALS`,
            or any other word, under which the cosine of the encoder's embedding stands in the table.
        device: where encoders from ``files`` run.

    Raises:
        InputError: an unknown name, one name twice, or a value of ``files`` that is none.
        MissingPackageError: a package is missing; the text names the extra.
        WeightsError: a file that holds no encoder.
    """
    made = [_named(name) for name in names] + [_of_file(value, device) for value in files]
    twice = sorted({rival.name for rival in made if sum(other.name == rival.name for other in made) > 1})
    if twice:
        raise InputError(
            f"The rivals must have a name each. Got {', '.join(twice)} twice; pass --rival NAME:FILE with another NAME."
        )
    return made


def _named(name: str) -> Rival:
    if name in RIVALS:
        return RIVALS[name]()
    if name in FILE_RIVALS:
        raise InputError(
            f"The rival {name!r} needs its encoder, a TorchScript file or a folder of a transformers model: pass files=['{name}:FILE'], or --rival {name}:FILE."
        )
    if ":" in name:
        raise InputError(f"The 'names' parameter must be rivals without a file. Got {name!r}; pass files=[{name!r}].")
    raise InputError(f"There is no rival {name!r}; {meant(name, RIVALS)}")


def _of_file(value: str, device: Any) -> Rival:
    name, found, path = str(value).partition(":")
    if not (name and found and path):
        raise InputError(
            f"The 'rival' parameter must be NAME:FILE, such as dinov2:/models/dinov2-base, or one of {', '.join(RIVALS)}. Got {value!r} instead."
        )
    if name in RIVALS and name not in FILE_RIVALS:
        raise InputError(f"The rival {name!r} takes no file; pass {name} alone. Got {value!r} instead.")
    embedder = embedder_of(path, PREPARATIONS.get(name.lower()), device)
    if name in FILE_RIVALS:
        return FILE_RIVALS[name](embedder, name=f"{name}:{Path(path).stem}")
    return EmbeddingRival(name, embedder)
