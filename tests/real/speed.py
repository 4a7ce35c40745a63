"""Embeddings a second: the bare forward pass with data in memory, and the inference workflow from PNG files, for each runtime.

``python tests/real/speed.py IMAGE_DIR EXPORT_DIR [--images 400] [--convnext]``; EXPORT_DIR is what ``make export`` wrote.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from doppelscan.deepssim import ConvNeXtEncoder, DeepSSIMEncoder, OnnxEncoder, load_weights
from monai.bundle import ConfigWorkflow

BATCHES = (1, 16, 64)
ENCODER = Path(__file__).parents[2] / "bundles" / "deepssim_encoder"


def rate(network: torch.nn.Module, size: int, images: int, batch: int = 64) -> float:
    """Images a second of a network on random images of its input size, the better of two runs."""
    data = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    best = 0.0
    with torch.inference_mode():
        network(data)
        for _ in range(2):
            start, done = time.perf_counter(), 0
            while done < images:
                network(data)
                done += batch
            best = max(best, done / (time.perf_counter() - start))
    return best


def workflow_rate(folder: Path, images: int, poses: int, config: str | None, **overrides) -> float:
    """Images a second of the inference workflow, from files to stored embeddings, the better of two runs."""
    files = [str(ENCODER / "configs" / name) for name in ("inference.json", *([config] if config else []))]
    best = 0.0
    for _ in range(2):
        with tempfile.TemporaryDirectory() as work:
            table = Path(work) / "images.csv"
            chosen = sorted(p.resolve() for p in folder.iterdir())[:images]
            table.write_text("path\n" + "\n".join(map(str, chosen)) + "\n")
            run = ConfigWorkflow(
                files,
                workflow_type="infer",
                logging_file=False,
                dataset_dir=str(table),
                output_dir=work,
                poses=poses,
                **overrides,
            )
            run.initialize()
            evaluator = run.parser.get_parsed_content("evaluator")
            start = time.perf_counter()
            evaluator.run()
            best = max(best, len(chosen) / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images_dir", type=Path)
    parser.add_argument("export_dir", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument(
        "--convnext", action="store_true", help="also ConvNeXt-Base at 136 px (the paper's slices) and 224, needs transformers"
    )
    options = parser.parse_args()
    network = load_weights(DeepSSIMEncoder(), ENCODER / "models" / "model.pt").to(memory_format=torch.channels_last)
    result = {"threads": torch.get_num_threads()}
    onnx = {path.stem: path for path in sorted(options.export_dir.glob("*.onnx")) if not path.stem.endswith("_3d")}
    for batch in BATCHES:
        result[f"forward pytorch, {batch} at a time"] = rate(network, 128, options.images, batch)
        for name, path in onnx.items():
            result[f"forward {name}.onnx, {batch} at a time"] = rate(
                OnnxEncoder(path, network.output_slices), 128, options.images, batch
            )
    for poses in (1, 8):
        count = options.images if poses == 1 else options.images // 4
        result[f"workflow pytorch, {poses} poses"] = workflow_rate(options.images_dir, count, poses, None)
        for name, path in onnx.items():
            made = workflow_rate(options.images_dir, count, poses, "inference_onnx.json", onnx_path=str(path))
            result[f"workflow {name}.onnx, {poses} poses"] = made
    if options.convnext:
        for side in (136, 224):
            for batch in (BATCHES[0], BATCHES[-1]):
                result[f"forward ConvNeXt-Base, {side} px, {batch} at a time"] = rate(ConvNeXtEncoder().eval(), side, 8, batch)
    print(json.dumps({name: round(value, 1) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()
