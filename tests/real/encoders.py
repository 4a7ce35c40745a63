"""Weights of the encoder side by side: planted copies by the embedding alone, the same images and seeds for each.

``python tests/real/encoders.py SPLIT_DIR --weights NAME=FILE ... [--copies 6] [--sources ...] [--transforms ...] [--output FILE.json]``

SPLIT_DIR holds the tables that tests/real/split.py writes; the sources are their test parts. Copies, novel images and seeds are those of evaluate.json, and
so is the embedding: whitened, best of 8 poses, no registration. FILE is model.pt, or an ONNX file that ``make export`` wrote. Beside its 21 transforms stand those that :data:`HARDER` adds, which no table had before
the weights 0.4. A file that does not exist yet is told and left out.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from doppelscan.deepssim import CopyDetectionMetric, DeepSSIMEncoder, OnnxEncoder, load_encoder
from doppelscan.images import COPY_TRANSFORMS, DarkSurroundd, LoadSliced, PlantedCopies, Windowd
from doppelscan.search import EncoderSimilarity, PoseEmbedder
from doppelscan.workflows import EvaluationImages
from monai.transforms import Compose
from PIL import Image
from scipy import ndimage

SOURCES = ("ds002748_t1", "ds002748_t1_coronal", "figshare_t1ce", "spider_spine_t2", "msd_hippocampus", "kermany")
SEED = 20260212
SHOWN = ("auc", "source_accuracy", "source_in_20")


def _surrounded(image: np.ndarray, level: float) -> np.ndarray:
    """The dark that reaches the border, in gray or white."""
    dark, _ = ndimage.label(image < 0.08)
    border = np.unique(np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]]))
    return np.where(np.isin(dark, border[border > 0]), level, image)


def _lettered(image: np.ndarray, level: float) -> np.ndarray:
    """A quarter of the height more above and below."""
    return np.pad(image, ((image.shape[0] // 4,) * 2, (0, 0)), constant_values=level)


def _coarse(image: np.ndarray, side: int = 36) -> np.ndarray:
    """Through ``side`` pixels of the longer side, as few components leave it."""
    share = side / max(image.shape)
    picture = Image.fromarray(image.astype(np.float32))
    small = picture.resize([max(4, round(length * share)) for length in picture.size], Image.Resampling.BILINEAR)
    return np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC))


HARDER: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gray background": lambda i: _surrounded(i, 0.5),
    "white background": lambda i: _surrounded(i, 1.0),
    "white bars": lambda i: _lettered(i, 1.0),
    "36 pixels": _coarse,
}


def queries_of(planted: PlantedCopies, transform: str) -> tuple[list[np.ndarray], np.ndarray]:
    if transform not in HARDER:
        found = planted.queries(transform)
        return found.pixels, found.sources
    found = planted.queries("exact")
    return [np.clip(HARDER[transform](one), 0, 1).astype(np.float32) for one in found.pixels], found.sources


def measured(values: np.ndarray, sources: np.ndarray) -> dict[str, float]:
    own = values[np.arange(len(values)), np.maximum(sources, 0)]
    metric = CopyDetectionMetric()
    rank = (values > own[:, None]).sum(1)
    metric(torch.from_numpy(values.max(1)), torch.from_numpy(sources >= 0), torch.from_numpy(rank))
    return {name: float(value) for name, value in metric.aggregate().items()}


def embedding_of(weights: str) -> EncoderSimilarity:
    if weights.endswith(".onnx"):
        exported = OnnxEncoder(weights, DeepSSIMEncoder().output_slices)
        return EncoderSimilarity(PoseEmbedder(exported, device="cpu"), part=exported.output_slices["embedding"], whiten=True)
    network = load_encoder(DeepSSIMEncoder(outputs=["embedding"]), weights).to(memory_format=torch.channels_last)
    return EncoderSimilarity(PoseEmbedder(network, device="cpu"), whiten=True)


def print_table(rows: dict[str, dict[str, dict[str, float]]], names: list[str]) -> None:
    """Of a source: mean and worst of each value over the transforms, then the rows in which an AUC is under 0.97."""
    print("| | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
    for part, chosen in (("as evaluate.json", set(COPY_TRANSFORMS)), ("harder", set(HARDER))):
        own = {name: [row for transform, row in rows[name].items() if transform in chosen] for name in names}
        for key in SHOWN if own[names[0]] else ():
            cells = [f"{np.mean([r[key] for r in own[n]]):.3f} ({min(r[key] for r in own[n]):.3f})" for n in names]
            print(f"| {part}: {key} | " + " | ".join(cells) + " |")
    for transform in rows[names[0]]:
        if min(rows[name][transform]["auc"] for name in names) < 0.97:
            print(f"| {transform} | " + " | ".join(f"{rows[name][transform]['auc']:.3f}" for name in names) + " |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("split", type=Path)
    parser.add_argument("--weights", nargs="+", required=True, metavar="NAME=FILE")
    parser.add_argument("--copies", type=int, default=6)
    parser.add_argument("--most", type=int, default=400, help="images of a source")
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--transforms", default=";".join([*COPY_TRANSFORMS, *HARDER]), help="names, with ; between them")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = dict(one.split("=", 1) for one in options.weights)
    for name in [name for name, file in files.items() if not Path(file).is_file()]:
        print(f"{name}: no file {files.pop(name)!r} yet")
    preprocessing = Compose([LoadSliced(keys="image"), DarkSurroundd(keys="image"), Windowd(keys="image")])
    result: dict[str, dict] = {}
    for source in options.sources.split(","):
        start = time.perf_counter()
        images = EvaluationImages([str(options.split / f"{source}_test.csv")], preprocessing, most=options.most)
        cohort = next(iter(images.cohorts.values()))
        similarities = {name: embedding_of(file) for name, file in files.items()}
        planted = PlantedCopies(cohort, options.copies, seed=SEED)
        training = images.squares([pixels for _, pixels in planted.training], 256)
        for similarity in similarities.values():
            similarity.fit(training)
        rows: dict[str, dict[str, dict[str, float]]] = {name: {} for name in files}
        for transform in options.transforms.split(";"):
            pixels, sources = queries_of(planted, transform)
            squares = images.squares(pixels, 256)
            for name, similarity in similarities.items():
                rows[name][transform] = measured(similarity.similarity(squares), sources)
        result[source] = rows
        print(
            f"\n{source}: {len(planted.training)} training images, {len(planted.copied)} copies, {time.perf_counter() - start:.0f} s"
        )
        print_table(rows, list(files))
        if options.output:
            options.output.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
