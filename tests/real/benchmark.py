"""Planted copies of real patients: AUC, recall at 1 % false positives and source accuracy, per transform and source.

``python tests/real/benchmark.py MRI_DIR [--sources a,b] [--images 40] [--output FILE.json]``

Patients of each source (those that did not train the encoder, see split.py) are split into training and novel. Copies of
training images are planted with each of the 21 transforms; novel images go through the same transform, so that the transform
itself gives nothing away. Scores: the deepssim head, the whitened identity head (embedding), the Memorization Index
(similarity), the verified pair (detail, agreement), and the combined score that the audit ranks by. A pose is right within 1 degree and
1 % of the field of what was planted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from doppelscan.decide import PosedPairs, StoredRegistration, score_images
from doppelscan.images import COPY_TRANSFORMS, ImageRecord, ImageSet, PlantedCopies, plant_copy, read_pixels
from doppelscan.images.transforms import take_slice, window
from doppelscan.search import CandidateSearch, EmbeddedSet, EmbeddingStore, StoredFeatures, StoredThumbnails
from doppelscan.verify import Pose, Registration
from doppelscan.workflows import RecordDataset
from doppelscan.workflows.run import audit_workflow
from PIL import Image
from sklearn.metrics import roc_auc_score
from split import rows, trains

COLUMNS = ("deepssim", "embedding", "similarity", "detail", "agreement", "score")
POSES = {
    "rotation 3": Pose(rotation=3.0),
    "rotation 5": Pose(rotation=-5.0),
    "rotation 10": Pose(rotation=10.0),
    "rotation 15": Pose(rotation=-15.0),
    "flip-x": Pose(flip=True),
    "flip-y": Pose(flip=True, quarter_turns=2),
    "quarter turn": Pose(quarter_turns=1),
    "shift 6 %": Pose(shift_x=0.06, shift_y=-0.06),
    "crop 15 %": Pose(scale=1 / 0.85),
    "flip, rotation, noise": Pose(flip=True, rotation=8.0),
}


def pose_is_right(found: Pose, planted: Pose) -> bool:
    """Rotation within 1 degree and shift within 1 % of the field, of the whole maps: a turn of 89.5 degrees is one of 90."""

    def matrix(pose: Pose) -> np.ndarray:
        flip = np.diag([-1.0 if pose.flip else 1.0, 1.0, 1.0])
        turn = np.linalg.matrix_power(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), pose.quarter_turns)
        return flip @ turn @ np.vstack([pose.sampling_matrix(), [0, 0, 1]])

    between = np.linalg.inv(matrix(planted)) @ matrix(found)
    if np.linalg.det(between[:2, :2]) <= 0:
        return False
    angle = np.degrees(np.arctan2(between[1, 0] - between[0, 1], between[0, 0] + between[1, 1]))
    return bool(abs(angle) <= 1 and np.abs(between[:2, 2]).max() / 2 <= 0.01)


def load_source(mri: Path, source: str) -> list[tuple[str, np.ndarray]]:
    """(patient, pixels [H, W] in [0, 1]) of the test patients of a source; volumes give their middle slice."""
    name, _, plane = source.partition(":")
    found = []
    for row in rows(mri):
        if row["source"] != name or trains(name, row["subject"]) or (plane and row["plane"] != plane):
            continue
        pixels = read_pixels([str(mri / row["path"])])
        if pixels.ndim == 3:
            pixels = take_slice(pixels, 2, pixels.shape[2] // 2)
        found.append((row["subject"], window(pixels)))
    return found


def write(folder: Path, images: list[tuple[str, np.ndarray]], name: str) -> ImageSet:
    folder.mkdir(parents=True)
    records = []
    for number, (patient, pixels) in enumerate(images):
        path = folder / f"{number:05d}.png"
        Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path)
        records.append(ImageRecord(str(path), (str(path),), str(path), patient))
    return ImageSet(name, records)


def evaluate(
    mri: Path, source: str, count: int, work: Path, seed: int, names: list[str], weights: str | None, clustered: bool = False
) -> dict:
    planted = PlantedCopies(load_source(mri, source), count, seed=seed)
    rng, training, novel, copied = planted.rng, planted.training, planted.novel, planted.copied
    chosen = [novel[i] for i in planted.chosen]
    workflow = audit_workflow(output_dir=str(work / "out"), **({"ckpt_path": weights} if weights else {}))
    workflow.initialize()
    evaluator, preprocessing = (workflow.parser.get_parsed_content(name) for name in ("evaluator", "preprocessing"))
    outputs = evaluator.output_slices

    def embed(image_set: ImageSet, poses: int) -> EmbeddedSet:
        store = EmbeddingStore(work / image_set.name, "benchmark")
        records, keys = evaluator.embed(RecordDataset(image_set, preprocessing), store, poses, image_set.name)
        return EmbeddedSet(records, keys, store, outputs)

    reference = embed(write(work / "training", training, "training-store"), 1)
    posed = embed(write(work / "posed", training, "posed-store"), 8)
    differences = evaluator.view_differences(reference.thumbnails(range(min(300, len(reference)))))
    search = CandidateSearch(clustered=clustered).fit(
        StoredFeatures.searched(reference),
        reference.patients,
        posed.features(),
        np.arange(len(posed)),
        view_differences=differences,
        thumbnails=StoredThumbnails(reference),
    )
    registration = StoredRegistration(
        Registration(), EmbeddingStore(work / "verified", "benchmark"), PosedPairs(EmbeddingStore(work / "registered", "benchmark"))
    )
    result = {
        "training": len(training),
        "patients": len({p for p, _ in training}),
        "copies": len(copied),
        "novel": len(chosen),
        "transforms": {},
    }
    for name in names:
        partner = [novel[int(rng.integers(len(novel)))][1] for _ in range(len(copied) + len(chosen))]
        made = [(training[i][0], plant_copy(training[i][1], name, rng, partner[n])) for n, i in enumerate(copied)]
        made += [(p, plant_copy(x, name, rng, partner[len(copied) + n])) for n, (p, x) in enumerate(chosen)]
        folder = name.replace(" ", "_").replace("/", "-").replace("%", "pc").replace(",", "")
        queries = embed(write(work / folder, made, f"{folder}-store"), 8)
        start = time.perf_counter()
        scored = score_images(queries, reference, search, registration, name)
        seconds = (time.perf_counter() - start) / max(1, len(scored))
        truth = np.array([s.row < len(copied) for s in scored])
        entry: dict = {"ms_an_image": round(1e3 * seconds, 1)}
        for column in COLUMNS:
            values = np.array([getattr(s, column) for s in scored])
            if not np.isfinite(values).all():
                continue
            threshold = np.quantile(values[~truth], 0.99, method="higher")
            entry[column] = {
                "auc": float(roc_auc_score(truth, values)),
                "recall_at_1pc": float((values[truth] > threshold).mean()),
            }
        entry["source_right"] = float(
            np.mean([training[s.match][0] == made[s.row][0] and s.match == copied[s.row] for s in scored if truth[s.row]])
        )
        right = [s for s in scored if truth[s.row] and s.match == copied[s.row]]
        entry["pose_right"] = float(np.mean([pose_is_right(s.pose, POSES.get(name, Pose())) for s in right])) if right else 0.0
        entry.update(retrieval(queries, search, copied))
        entry["verdict_right"] = float(np.mean([s.ssim > 0.60 for s in scored if truth[s.row]]))
        result["transforms"][name] = entry
        print(
            f"{source:22s} {name:24s}",
            " ".join(f"{c} {entry[c]['auc']:.3f}" for c in COLUMNS if c in entry),
            f"right {entry['source_right']:.2f} pose {entry['pose_right']:.2f} first {entry['retrieved_first']:.2f} top20 {entry['retrieved_20']:.2f}",
            flush=True,
        )
    return result


def retrieval(queries: EmbeddedSet, search: CandidateSearch, copied: list[int]) -> dict[str, float]:
    """Of the embedding alone: nearest is the source; the source is among the candidates (union with the index)."""
    proposals = search.propose(queries.features(list(range(len(copied)))))
    nearest = [int(r[np.argmax(e)]) for r, e in zip(proposals.rows, proposals.embedding, strict=True)]
    return {
        "retrieved_first": float(np.mean([n == c for n, c in zip(nearest, copied, strict=True)])),
        "retrieved_20": float(np.mean([c in r.tolist() for c, r in zip(copied, proposals.rows, strict=True)])),
    }


def table(results: dict) -> str:
    lines = [
        "| source | transform | "
        + " | ".join(f"AUC {c}" for c in COLUMNS)
        + " | recall at 1 % FP | source right | pose right | in first 20 |",
        "|---" * 12 + "|",
    ]
    for source, result in results.items():
        sums = defaultdict(list)
        for name, e in [*result["transforms"].items(), ("**mean**", None), ("**worst**", None)]:
            if e is not None:
                values = [e.get(c, {}).get("auc", float("nan")) for c in COLUMNS]
                values += [e["score"]["recall_at_1pc"], e["source_right"], e["pose_right"], e["retrieved_20"]]
                for i, v in enumerate(values):
                    sums[i].append(v)
            else:
                values = [(np.mean if "mean" in name else np.min)(sums[i]) for i in range(10)]
            lines.append(f"| {source} | {name} | " + " | ".join(f"{v:.3f}" for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mri", type=Path)
    parser.add_argument("--sources", default="ds002748_t1:axial,ds002748_t1:coronal,figshare_t1ce,spider_spine_t2,msd_hippocampus")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--transforms", default=";".join(COPY_TRANSFORMS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", help="weights of the encoder, the shipped ones by default")
    parser.add_argument(
        "--index", choices=("exact", "ivf"), default="exact", help="ivf searches in clusters, as audits of many training images do"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = {}
    for source in options.sources.split(","):
        with tempfile.TemporaryDirectory() as work:
            results[source] = evaluate(
                options.mri,
                source,
                options.images,
                Path(work),
                options.seed,
                options.transforms.split(";"),
                options.weights,
                options.index == "ivf",
            )
        if options.output:  # after each source: a long run that dies keeps what it measured
            options.output.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
