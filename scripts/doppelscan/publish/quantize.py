"""8-bit ONNX of an exported encoder: convolutions in int8, calibrated on generated patients, heads in float."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from doppelscan.deepssim import ViewStrength, augment, foreground_views
from doppelscan.errors import WeightsError
from doppelscan.images import generate_cohort

__all__ = ["quantize_int8"]


def quantize_int8(
    model: str | os.PathLike, output: str | os.PathLike, spatial_size: int = 128, cohorts: int = 16, seed: int = 0
) -> str:
    """Write an int8 form of the ONNX file ``model`` to ``output``.

    The ranges of activations are taken on augmented views of ``cohorts`` generated cohorts of 8 images: no patient is needed.

    Args:
        model: of ``make export``.
        output: the file to write.
        spatial_size: side of the model's input.
        cohorts: generated cohorts to calibrate on.
        seed: of the cohorts and views.

    Returns:
        the path written.

    Raises:
        WeightsError: no such file.
        ImportError: onnxruntime is missing; ``pip install ".[onnx]"``.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ImportError('quantize_int8 needs onnxruntime and onnx: pip install ".[onnx]"') from error
    if not Path(model).is_file():
        raise WeightsError(
            f"The 'model' parameter must be an ONNX file. Got {str(model)!r}, which does not exist; run make export."
        )
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number in range(cohorts):
        images, _ = generate_cohort(4, 2, 160, seed * 1009 + number)
        views = augment(images.float() / 255, ViewStrength(), generator)
        batches.append({"image": foreground_views(views, spatial_size).numpy()})

    class Views(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self):
            return next(self.batches, None)

    quantize_static(
        str(model),
        str(output),
        Views(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return str(output)
