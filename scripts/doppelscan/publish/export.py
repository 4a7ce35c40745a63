"""The files of models/ in a packed bundle: TorchScript, ONNX and safetensors of model.pt, and the canary."""

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
from doppelscan.images import generate_cohort

__all__ = ["CANARY", "build_networks", "export_models"]

PACKAGE = Path(__file__).resolve().parents[1]
CANARY = "canary.safetensors"
CANARY_IMAGES = 2


def build_networks(bundle: Path) -> dict[str, torch.nn.Module]:
    """The two networks of a packed bundle's inference.json on the CPU, in evaluation mode.

    Returns:
        ``pred``: its ``network_def`` with models/model.pt, loaded strictly; ``network``: what its inference runs.

    Raises:
        WeightsError: see :func:`~doppelscan.deepssim.load_weights`.
    """
    # Each from a parser of its own: networks of one parser share the parts that the config names once.
    pred = load_weights(_config(bundle).get_parsed_content("network_def"), bundle / "models" / "model.pt")
    return {"pred": pred, "network": _config(bundle).get_parsed_content("network").eval()}


def _config(bundle: Path) -> ConfigParser:
    carried = bundle / "models" / "encoder.pt"
    weights = carried if carried.is_file() else bundle / "models" / "model.pt"
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser.update({"bundle_root": str(bundle), "ckpt_path": str(weights), "device": "$torch.device('cpu')"})
    return parser


def export_models(bundle: Path) -> None:
    """Write model.ts, model.onnx, model.safetensors and the canary beside models/model.pt of ``bundle``.

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
        raise InputError('A packed bundle holds an ONNX file, which needs onnx: pip install "doppelscan[onnx]".') from error
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
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    image = canary_image(metadata)
    networks = build_networks(bundle)
    _refuse_another_encoder(networks)
    with torch.no_grad():
        outputs = {name: network(image).float() for name, network in networks.items()}
    save_file({"image": image, **outputs}, models / CANARY)
    network = networks["pred"]
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, models / "model.safetensors")
    _write_torchscript(network, metadata, models / "model.ts")
    export_onnx(network, image, str(models / "model.onnx"))


def _write_unfitted(bundle: Path) -> None:
    """model.pt of a scorer whose reference is the user's to fit: the encoder's weights, and a null of NaN."""
    network = _config(bundle).get_parsed_content("network_def")
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
    """Generated patients as the network's input, float32 [2, 1, S, S]: nobody is in them."""
    size = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"][0]
    images, _ = generate_cohort(CANARY_IMAGES, 1, 160, 20260212)
    return foreground_views(images.float() / 255, size).contiguous()


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
