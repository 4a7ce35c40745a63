"""The files of models/ in a packed bundle: TorchScript, ONNX and safetensors of model.pt, and the canary; of volumes too, where a bundle has such a network."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from safetensors.torch import save_file

from doppelscan.deepssim import export_onnx, foreground_views, load_weights
from doppelscan.errors import InputError, WeightsError
from doppelscan.images import cut_cubes, generate_cohort, generate_volumes

__all__ = ["build_networks", "canary_file", "export_models", "exported_kinds"]

PACKAGE = Path(__file__).resolve().parents[1]
CANARY_IMAGES = 2
CANARY_SEED = 20260212
# What stands behind the name of a config, its metadata and its exports: of images, and of volumes.
IMAGES, VOLUMES = "", "_3d"


def exported_kinds(bundle: Path) -> tuple[str, ...]:
    """Suffixes of the networks that a packed bundle holds exports of.

    A scorer of volumes is fitted on volumes: an encoder of slices serves both, a file fitted on slices would score volumes wrongly.
    """
    both = (bundle / "configs" / f"inference{VOLUMES}.json").is_file() and not (bundle / "models" / "encoder.pt").is_file()
    return (IMAGES, VOLUMES) if both else (IMAGES,)


def canary_file(kind: str) -> str:
    """Name of the file in models/ that holds an input and what the networks of ``kind`` make of it."""
    return f"canary{kind}.safetensors"


def build_networks(bundle: Path, kind: str = IMAGES) -> dict[str, torch.nn.Module]:
    """The two networks of a packed bundle's inference config on the CPU, in evaluation mode.

    Args:
        bundle: its folder.
        kind: one of :func:`exported_kinds`.

    Returns:
        ``pred``: its ``network_def`` with models/model.pt, loaded strictly; ``network``: what its inference runs.

    Raises:
        WeightsError: see :func:`~doppelscan.deepssim.load_weights`.
    """
    # Each from a parser of its own: networks of one parser share the parts that the config names once.
    pred = load_weights(_config(bundle, kind).get_parsed_content("network_def"), bundle / "models" / "model.pt")
    return {"pred": pred, "network": _config(bundle, kind).get_parsed_content("network").eval()}


def _config(bundle: Path, kind: str) -> ConfigParser:
    carried = bundle / "models" / "encoder.pt"
    weights = carried if carried.is_file() else bundle / "models" / "model.pt"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / f"inference{kind}.json"))
    parser.read_meta(str(bundle / "configs" / f"metadata{kind}.json"))
    parser.update({"bundle_root": str(bundle), "ckpt_path": str(weights), "device": "$torch.device('cpu')"})
    return parser


def export_models(bundle: Path) -> None:
    """Write model.ts, model.onnx, model.safetensors and the canary beside models/model.pt of ``bundle``, and where it has a network of volumes with the
    same weights model_3d.ts, model_3d.onnx and their canary.

    In a process of its own: TorchScript's names and the order of its constants hang on what a process has scripted before and on its hash
    seed, and the same bundle must give the same bytes.

    Raises:
        InputError: onnx is missing.
        WeightsError: the weights are not the network's.
        RuntimeError: the export failed otherwise; its last words are in the message.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise InputError('A packed bundle holds an ONNX file, which needs onnx: pip install ".[onnx]".') from error
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    code = "import sys; from doppelscan.publish.export import write_models; write_models(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        kind, _, words = last.partition(": ")
        if kind.endswith(WeightsError.__name__):
            raise WeightsError(words)
        raise RuntimeError(f"the export of {bundle.name} failed: {last}")


def write_models(folder: str) -> None:
    """What :func:`export_models` runs in its process."""
    torch.set_num_threads(1)
    bundle = Path(folder)
    models = bundle / "models"
    if not (models / "model.pt").is_file():
        _write_unfitted(bundle)
    for kind in exported_kinds(bundle):
        _write_exports(bundle, kind)


def _write_exports(bundle: Path, kind: str) -> None:
    models = bundle / "models"
    metadata = json.loads((bundle / "configs" / f"metadata{kind}.json").read_text())
    image = canary_image(metadata)
    networks = build_networks(bundle, kind)
    _refuse_another_encoder(networks)
    with torch.no_grad():
        outputs = {name: network(image).float() for name, network in networks.items()}
    save_file({"image": image, **outputs}, models / canary_file(kind))
    network = networks["pred"]
    if kind == IMAGES:  # the same weights for both
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, models / "model.safetensors")
    _write_torchscript(network, metadata, models / f"model{kind}.ts")
    export_onnx(network, image, str(models / f"model{kind}.onnx"))


def _write_unfitted(bundle: Path) -> None:
    """model.pt of a scorer whose reference is the user's to fit: the encoder's weights, and a null of NaN."""
    network = _config(bundle, IMAGES).get_parsed_content("network_def")
    load_weights(network.encoder, bundle / "models" / "encoder.pt")
    torch.save(network.state_dict(), bundle / "models" / "model.pt")


def _refuse_another_encoder(networks: Mapping[str, torch.nn.Module]) -> None:
    """A scorer fitted on one encoder's features says nothing about another's."""
    encoder: Any = getattr(networks["pred"], "encoder", None)
    if encoder is not None:
        fitted, carried = encoder.state_dict(), networks["network"].state_dict()
        if any(not torch.equal(fitted[name], carried[name]) for name in carried):
            raise WeightsError(
                "The 'weights' parameter must hold a scorer that was fitted with this bundle's encoder. Got one with another encoder; fit it again."
            )


def canary_image(metadata: Mapping[str, Any]) -> torch.Tensor:
    """Generated patients as the network's input, float32 [2, 1, S, S], or cubes [2, 1, S, S, S]: nobody is in them."""
    shape = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    if len(shape) == 3:
        volumes = generate_volumes(CANARY_IMAGES, shape[0], CANARY_SEED)[0]
        return (cut_cubes(volumes.float(), shape[0]) / 255).contiguous()
    images, _ = generate_cohort(CANARY_IMAGES, 1, 160, CANARY_SEED)
    return foreground_views(images.float() / 255, shape[0]).contiguous()


def _write_torchscript(network: torch.nn.Module, metadata: Mapping[str, Any], path: Path) -> None:
    # As MONAI's save_net_with_metadata stores it, but without its timestamp.
    torch.jit.save(torch.jit.script(network), str(path), _extra_files={"metadata.json": json.dumps(dict(metadata))})
    # The source lines that TorchScript adds for debugging name the folders of this machine.
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", ".data/serialization_id")):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
    path.write_bytes(buffer.getvalue())
