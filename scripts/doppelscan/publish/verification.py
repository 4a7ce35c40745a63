"""``doppelscan verify``: is a packed bundle what was packed, and does it still compute what it computed then?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai
import numpy
import torch
from safetensors.torch import load_file

from doppelscan.deepssim import read_checkpoint
from doppelscan.errors import InputError, WeightsError
from doppelscan.publish.checksums import CHECKSUMS, changed_files
from doppelscan.publish.export import build_networks, canary_file, exported_kinds
from doppelscan.version import __version__

__all__ = ["TOLERANCE", "Check", "verify"]

# Of embeddings of unit length and of similarities, between machines and runtimes.
TOLERANCE = 1e-4
CHANGES_TOLD = 3


@dataclass(frozen=True)
class Check:
    """One line of a verification.

    Attributes:
        name: what was looked at.
        passed: True, False, or None when it could not be looked at here.
        words: what was found.
    """

    name: str
    passed: bool | None
    words: str

    def __str__(self) -> str:
        return f"{ {True: 'ok', False: 'FAILED', None: 'skipped'}[self.passed]:8} {self.name:14} {self.words}"


def verify(bundle: str | os.PathLike) -> list[Check]:
    """Check a packed bundle.

    The sha256 of every file comes first: when one is wrong nothing of the bundle is loaded. Then the version, the package, the installed versions, a strict load of
    model.pt, the same tensors in model.safetensors, and the stored input through PyTorch, TorchScript and ONNX against the stored output.

    Args:
        bundle: folder of a packed bundle.

    Returns:
        the checks in order; the bundle is good when none has ``passed`` False.

    Raises:
        InputError: no packed bundle there.
    """
    folder = Path(bundle).expanduser().resolve()
    try:
        count, wrong = changed_files(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The 'bundle' parameter must be a packed bundle, with {CHECKSUMS} in its folder. Got {str(bundle)!r}; make one: doppelscan pack BUNDLE --output DIR."
        ) from error
    if wrong:
        more = f" and {len(wrong) - CHANGES_TOLD} more" if len(wrong) > CHANGES_TOLD else ""
        return [Check("files", False, "; ".join(wrong[:CHANGES_TOLD]) + more)]
    return [Check("files", True, f"{count} files have the sha256 that {CHECKSUMS} lists"), *_checks(folder)]


def _checks(folder: Path) -> Iterator[Check]:
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    own = metadata["version"]
    listed = own in metadata.get("changelog", {})
    yield Check("metadata", listed, f"version {own} is {'' if listed else 'not '}in the changelog")
    carried = _package_version(folder)
    yield Check(
        "package", True, f"doppelscan {carried}" + ("" if carried == __version__ else f"; checked by doppelscan {__version__}")
    )
    yield Check("versions", True, _versions(metadata))
    models = folder / "models"
    kinds = exported_kinds(folder)
    try:
        every = {kind: build_networks(folder, kind) for kind in kinds}
        networks = every[kinds[0]]
        tensors = read_checkpoint(models / "model.safetensors")
    except WeightsError as error:
        yield Check("weights", False, str(error))
        return
    state = networks["pred"].state_dict()
    yield Check("weights", True, f"model.pt loads strictly, {sum(v.numel() for v in state.values()):,} values")
    same = set(state) == set(tensors) and all(torch.equal(torch.nan_to_num(state[k]), torch.nan_to_num(tensors[k])) for k in state)
    yield Check(
        "safetensors", same, f"model.safetensors holds {'the' if same else 'other'} tensors {'of' if same else 'than'} model.pt"
    )
    for kind, both in every.items():
        yield from _outputs(models, kind, both)


def _outputs(models: Path, kind: str, networks: Mapping[str, torch.nn.Module]) -> Iterator[Check]:
    """The stored input of ``kind`` through everything that takes it."""
    canary = load_file(models / canary_file(kind))
    image = canary["image"]
    with torch.no_grad():
        for name, network in networks.items():
            yield _compared(f"{'canary' if name == 'pred' else 'inference'}{kind}", network(image).float(), canary[name])
        script = torch.jit.load(str(models / f"model{kind}.ts"), map_location="cpu")
        yield _compared(f"torchscript{kind}", script(image).float(), canary["pred"])
    try:
        import onnxruntime
    except ImportError:
        yield Check(f"onnx{kind}", None, 'onnxruntime is missing: pip install ".[onnx]"')
        return
    session = onnxruntime.InferenceSession(str(models / f"model{kind}.onnx"), providers=["CPUExecutionProvider"])
    yield _compared(f"onnx{kind}", torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), canary["pred"])


def _compared(name: str, found: torch.Tensor, stored: torch.Tensor) -> Check:
    passed = found.shape == stored.shape and torch.allclose(found, stored, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    difference = float((found - stored).nan_to_num().abs().max()) if found.shape == stored.shape else float("inf")
    of = ", NaN where it was NaN" if torch.isnan(stored).any() else ""
    return Check(name, passed, f"the stored input gives {list(found.shape)}, off by {difference:.1g} (at most {TOLERANCE:g}){of}")


def _versions(metadata: Mapping[str, Any]) -> str:
    """What is installed beside what the bundle was tested with; whether it computes the same, the stored output says."""
    tested = {"torch": metadata["pytorch_version"], "monai": metadata["monai_version"], "numpy": metadata["numpy_version"]}
    # Of the modules themselves: a bundle may run from folders that no package manager knows of.
    here = {one.__name__: str(one.__version__).partition("+")[0] for one in (torch, monai, numpy)}
    other = [f"{name} {here[name]} where it was tested with {tested[name]}" for name in tested if here[name] != tested[name]]
    same = [f"{name} {here[name]}" for name in tested if here[name] == tested[name]]
    return "; ".join(other) if other else f"{', '.join(same)}, as tested"


def _package_version(folder: Path) -> str:
    for line in (folder / "doppelscan" / "version.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.partition("=")[2].strip().strip('"')
    return "of unknown version"
