"""Encoders that are not ours, from a file: TorchScript such as the released DeepSSIM, ONNX, or weights of any network."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from doppelscan.deepssim.hub import HUB_PREFIX, hub_encoder
from doppelscan.deepssim.roles import RoleEncoder
from doppelscan.deepssim.weights import file_sha256, load_weights, require_listed_sha256
from doppelscan.errors import InputError, WeightsError

__all__ = ["OnnxEncoder", "TorchScriptEncoder", "encoder_file", "export_onnx", "load_encoder"]

PREFIX = "torchscript:"
RUNTIMES = ("torch", "bfloat16", "onnx")


def encoder_file(encoder: str | os.PathLike | None) -> str | None:
    """The file that an ``--encoder`` value names: PATH, torchscript:PATH, or hf://OWNER/NAME@VERSION, see :func:`~doppelscan.deepssim.hub_encoder`; of
    "none" and None no file."""
    named = "none" if encoder is None else os.fspath(encoder)
    if named == "none":
        return None
    return hub_encoder(named) if named.startswith(HUB_PREFIX) else named.removeprefix(PREFIX)


def load_encoder(
    network: Any,
    encoder: str | os.PathLike | None,
    runtime: str = "torch",
    device: str | torch.device = "cpu",
    roles: Mapping[str, Any] | None = None,
    spatial_size: int = 128,
) -> Any:
    """The encoder that ``encoder`` names, in evaluation mode, see :class:`~doppelscan.deepssim.Encoder`.

    Args:
        network: takes the weights: by its method ``with_weights(path)`` if it has one, else key by key.
        encoder: PATH or hf://OWNER/NAME@VERSION loads weights into ``network``, torchscript:PATH replaces it, "none" or None takes it
            as it is.
        runtime: "torch"; "bfloat16": the same under autocast, for a GPU or a CPU that computes in it; or "onnx": exported in memory and run by
            onnxruntime.
        device: where onnxruntime is to run; the PyTorch network is moved by whoever asked for it.
        roles: which output plays which role, see :class:`~doppelscan.deepssim.RoleEncoder`; None as the network says.
        spatial_size: side of the images, for a network whose outputs have to be tried.

    Raises:
        WeightsError: see :func:`~doppelscan.deepssim.load_weights`, :class:`TorchScriptEncoder` and :class:`OnnxEncoder`.
        InputError: an unknown runtime, or roles that the network does not have.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"The 'runtime' parameter must be one of {', '.join(RUNTIMES)}. Got {runtime!r} instead.")
    if encoder is not None and os.fspath(encoder).startswith(PREFIX):
        loaded: Any = TorchScriptEncoder(encoder_file(encoder) or "", None, roles, spatial_size)
    else:
        if not isinstance(network, nn.Module):
            raise InputError(
                f"The 'network_def' parameter must be a PyTorch network. Got {type(network).__name__}; name its class, such as "
                '\'{"_target_": "monai.networks.nets.resnet18", "spatial_dims": 2, "n_input_channels": 1, "num_classes": 256}\'.'
            )
        weights = encoder_file(encoder)
        if weights is None:
            loaded = network.eval()
        else:
            take = getattr(network, "with_weights", partial(load_weights, network))
            loaded = take(weights)
        if roles is not None or hasattr(loaded, "roles") or not hasattr(loaded, "output_slices"):
            loaded = RoleEncoder(loaded, roles, spatial_size).eval()
    if runtime == "bfloat16":
        return MixedPrecisionEncoder(loaded).eval()
    return loaded if runtime == "torch" else OnnxEncoder.of(loaded, device, spatial_size)


class MixedPrecisionEncoder(nn.Module):
    """An encoder that runs under ``torch.autocast`` in bfloat16.

    Args:
        network: an :class:`~doppelscan.deepssim.Encoder`; convolutions and products are computed in bfloat16, weights stay as they are.

    Attributes:
        runtime: what really runs.

    Shape:
        image float32 [B, 1, H, W], z-scored -> float32 [B, D].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.runtime = f"torch {torch.__version__} bfloat16"

    @property
    def output_slices(self) -> Mapping[str, slice]:
        """Of the network."""
        network: Any = self.network
        return network.output_slices

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(image.device.type, torch.bfloat16):
            return self.network(image).float()


class TorchScriptEncoder(RoleEncoder):
    """A TorchScript encoder: our own export, or the one that the authors of arXiv 2509.16582 released (``best_model_jit.pt``).

    Theirs takes 3 channels and gives one embedding, which then plays every role.

    Args:
        path: the file; TorchScript holds the architecture, so nothing else is needed.
        output_slices: where each output lies in the prediction; None as the file says, or all of it as one output.
        roles: see :class:`~doppelscan.deepssim.RoleEncoder`.
        spatial_size: side of the input that the shapes are checked with.

    Shape:
        image float32 [B, 1, H, W], z-scored (repeated where the file takes 3 channels) -> float32 [B, D].

    Raises:
        WeightsError: no such file, no TorchScript, or it takes neither [B, 1, H, W] nor [B, 3, H, W] to [B, D].
    """

    # The file's sha256 stands for all that is in it.
    without_effect = ("network",)

    def __init__(
        self,
        path: str | os.PathLike,
        output_slices: Mapping[str, slice] | None = None,
        roles: Mapping[str, Any] | None = None,
        spatial_size: int = 128,
    ) -> None:
        _require_file(path, "TorchScript")
        require_listed_sha256(path)
        try:
            script = torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as error:
            raise WeightsError(
                f"The encoder {str(path)!r} must be a TorchScript file. Got: {_reason(error)}; "
                "for a checkpoint pass --encoder PATH without torchscript:."
            ) from error
        super().__init__(script, roles, spatial_size, output_slices, name=repr(str(path)))
        self.sha256 = file_sha256(path)


class OnnxEncoder(nn.Module):
    """Our ONNX export, run by onnxruntime: CUDA where it is asked for and the runtime has it, else the CPU.

    Args:
        model: path of the file, or its bytes.
        output_slices: where each output lies in the prediction.
        threads: of the CPU; 0 takes as many as PyTorch.
        device: "cpu" keeps to the CPU.

    Attributes:
        sha256: of the model.
        runtime: what really runs, read from the session, such as ``onnxruntime 1.31.1 CPUExecutionProvider``.

    Shape:
        image float32 [B, 1, H, W], z-scored -> float32 [B, D].

    Raises:
        WeightsError: no such file, or onnxruntime cannot run it.
        WeightsError: onnxruntime is missing.
    """

    # The model's sha256 stands for all that is in it.
    without_effect = ("session",)

    def __init__(
        self,
        model: str | os.PathLike | bytes,
        output_slices: Mapping[str, slice],
        threads: int = 0,
        device: str | torch.device = "cuda",
    ) -> None:
        super().__init__()
        onnxruntime = _onnxruntime()
        if not isinstance(model, bytes):
            _require_file(model, "ONNX")
            require_listed_sha256(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        wanted = (
            ("CUDAExecutionProvider", "CPUExecutionProvider") if torch.device(device).type == "cuda" else ("CPUExecutionProvider",)
        )
        known = onnxruntime.get_available_providers()
        name = "of this audit" if isinstance(model, bytes) else repr(str(model))
        try:
            self.session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=[one for one in wanted if one in known]
            )
        except Exception as error:
            raise WeightsError(f"The encoder {name} must be an ONNX model. Got: {_reason(error)}") from error
        self.output_slices = dict(output_slices)
        self.sha256 = hashlib.sha256(model).hexdigest() if isinstance(model, bytes) else file_sha256(model)
        # A provider that could not start (no driver, another CUDA) is not in the session's list, though it is in the runtime's.
        self.runtime = f"onnxruntime {onnxruntime.__version__} {self.session.get_providers()[0]}"

    @classmethod
    def of(cls, network: nn.Module, device: str | torch.device = "cpu", spatial_size: int = 128) -> OnnxEncoder:
        """``network`` exported in memory, for any batch.

        Raises:
            WeightsError: onnxruntime or onnx is missing, or the network cannot be exported.
        """
        _onnxruntime()
        outputs: Any = network.output_slices
        buffer = io.BytesIO()
        try:
            export_onnx(network.cpu().eval(), torch.zeros(2, 1, spatial_size, spatial_size), buffer)
        except Exception as error:
            raise WeightsError(
                f"The encoder must be one that ONNX can express for --runtime onnx. Got: {_reason(error)}"
            ) from error
        return cls(buffer.getvalue(), outputs, device=device)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.detach().cpu().float().contiguous().numpy()
        (out,) = self.session.run(None, {self.session.get_inputs()[0].name: pixels})
        return torch.from_numpy(out).to(image.device)


def export_onnx(network: nn.Module, image: torch.Tensor, target: Any) -> None:
    """Write ``network`` as ONNX to ``target``, a path or an open file: input ``image`` like ``image``, output ``pred``, of any batch."""
    with warnings.catch_warnings():  # the tracer warns of every shape that a network asks for
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (image,),
            target,
            input_names=["image"],
            output_names=["pred"],
            dynamic_axes={"image": {0: "batch"}, "pred": {0: "batch"}},
            dynamo=False,
        )


def _onnxruntime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise WeightsError('The onnx runtime needs onnxruntime: pip install ".[onnx]", or ".[onnx-gpu]" where a GPU is.') from error
    return onnxruntime


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]


def _require_file(path: str | os.PathLike, kind: str) -> None:
    if not Path(path).is_file():
        raise WeightsError(f"The 'encoder' parameter must name a file of kind {kind}. Got {str(path)!r}, which does not exist.")
