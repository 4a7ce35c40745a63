"""Weights from disk: sha256 first, then a strict load without pickled code."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from doppelscan.digests import file_sha256
from doppelscan.errors import InputError, WeightsError

__all__ = [
    "file_sha256",
    "listed_sha256",
    "load_weights",
    "read_checkpoint",
    "require_listed_sha256",
    "start_from",
    "state_digest",
    "unwrapped",
]

CHECKSUMS = "checksums.json"


def read_checkpoint(path: str | os.PathLike) -> dict:
    """What a ``.safetensors`` file or a PyTorch checkpoint (``weights_only=True``) holds, on the CPU.

    Raises:
        WeightsError: it cannot be read, or is no dictionary.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    # Of a file that is no pickle, torch passes on whatever its bytes happen to mean: a KeyError, an IndexError.
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError, AttributeError) as error:
        first = (str(error).splitlines() or ["unknown"])[0]
        raise WeightsError(
            f"The weights {str(path)!r} must be a plain state dict. Got a file that cannot be read as one: {first[:120]}"
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"The weights {str(path)!r} must be a plain state dict. Got {type(state).__name__}.")
    return state


def listed_sha256(path: str | os.PathLike) -> dict[str, str]:
    """File name -> sha256, of a ``checksums.json``.

    Raises:
        WeightsError: it is no such table.
    """
    try:
        listed = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The file {str(path)!r} must list the sha256 of the weights beside it. Got no JSON: {error}; restore it."
        ) from error
    if not isinstance(listed, dict):
        raise WeightsError(
            f"The file {str(path)!r} must map names of weights to their sha256. Got a {type(listed).__name__}; restore it."
        )
    return listed


def state_digest(network: Any) -> str:
    """sha256 of a network's values in the order of their names, 64 hexadecimal digits, by which a head knows its encoder whatever file that came
    from; "" of a network without a state dict, such as one of onnxruntime."""
    state = network.state_dict() if isinstance(network, nn.Module) else {}
    digest = hashlib.sha256()
    for _, value in sorted(state.items()):
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest() if state else ""


def require_listed_sha256(path: str | os.PathLike) -> None:
    """Refuse a file whose sha256 is not the one that ``checksums.json`` beside it lists; one that is not listed is taken.

    Raises:
        WeightsError: another sha256.
    """
    path = Path(path)
    listed = path.parent / CHECKSUMS
    expected = listed_sha256(listed).get(path.name) if listed.is_file() else None
    if expected is None:
        return
    found = file_sha256(path)
    if found != expected:
        raise WeightsError(
            f"The weights {str(path)!r} must have the sha256 {expected[:16]}... that {CHECKSUMS} lists. Got {found[:16]}...; "
            "the file was changed or damaged: restore it, or list your own weights there."
        )


def load_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """Load ``path`` into ``network``, which is returned in evaluation mode.

    The file's sha256 must be the one that ``checksums.json`` beside it lists, where that lists one. ``.safetensors`` and
    PyTorch checkpoints (``weights_only=True``, bare or under the key ``model`` or ``state_dict``) are read.

    Raises:
        WeightsError: no such file, another sha256, values that are not finite (but where ``network`` has such itself), or keys and shapes that are not the network's; they are listed.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"The 'ckpt_path' parameter must be a weights file. Got {str(path)!r}, which does not exist; reinstall or train."
        )
    require_listed_sha256(path)
    state = read_checkpoint(path)
    state = dict(state.get("model", state.get("state_dict", state)))
    # What a network is built with as NaN says "not fitted yet" there, as the null of a Memorization Index without a reference; in a file too.
    unfitted = _not_finite(network)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        own = network.state_dict()
        missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [f"{k} {tuple(state[k].shape)}" for k, v in own.items() if k in state and state[k].shape != v.shape]
        raise WeightsError(
            f"The weights {str(path)!r} must fit the network. Got {len(missing)} missing keys {missing[:3]}, {len(unexpected)} unexpected "
            f"{unexpected[:3]}, {len(shapes)} of another shape {shapes[:3]}; they are of another architecture: build the network as they were trained "
            f"({_as_trained(network, state)}), or pass weights that this one was trained to."
        ) from error
    broken = sorted(_not_finite(network) - unfitted)
    if broken:
        raise WeightsError(
            f"The weights {str(path)!r} must be finite. Got NaN or Inf in {len(broken)} tensors, such as {broken[0]}: the file is damaged, or its training "
            "diverged; restore it, or train again."
        )
    return network.eval()


def _as_trained(network: nn.Module, state: dict) -> str:
    """The option that builds ``network`` as the weights ask for, where it can tell, else which option builds it."""
    found: dict[str, int] = getattr(network, "settings_for", lambda state: {})(state)
    said = " ".join(f"--network_def::{name} {value}" for name, value in found.items()) or "--network_def"
    return f"{said}; in ssim_pairs.json and mi_scorer it is called encoder_def"


def _not_finite(network: nn.Module) -> set[str]:
    return {name for name, value in network.state_dict().items() if not bool(torch.isfinite(value).all())}


def start_from(network: nn.Module, path: str | os.PathLike | None) -> nn.Module:
    """``network`` with the weights of ``path`` to train on from, or as it is (random) for None; see :func:`load_weights`.

    Raises:
        InputError: parts that are frozen would keep random weights: the network's ``frozen_at_random`` names them.
    """
    frozen = getattr(network, "frozen_at_random", ())
    if path is None and frozen:
        raise InputError(
            f"The 'freeze' parameter must name parts that have trained weights. Got {', '.join(frozen)} with random ones: pass "
            f'{getattr(network, "start_options", "--init_ckpt FILE")}, or freeze nothing (--freeze "[]" of paper.json, --network_def::freeze "[]" of others).'
        )
    return network if path is None else load_weights(network, path)


def unwrapped(item: Any) -> Any:
    """The network that DistributedDataParallel or DataParallel wraps, or ``item`` itself."""
    return item.module if isinstance(item, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else item
