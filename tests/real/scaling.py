"""Seconds and peak memory of whole audits of growing sets, beside what the hardware allows; one line of JSON a run, one plot of all of them.

``python tests/real/scaling.py make DIR --training 10000 --synthetic 10000`` writes generated patients as PNG of 128 x 128 pixels; with ``--volumes FOLDER``
slices of real ones (NIfTI, a file a person) across all three axes, people apart.
``python tests/real/scaling.py run DIR --training 1000 --synthetic 1000 --holdout 300 --output RESULTS.jsonl [--source SCRIPTS] [-- --no-self-test ...]``
audits the first images of each; ``--source`` is the folder ``scripts`` of another release.
``python tests/real/scaling.py limit DIR --training 1000 ... --output RESULTS.jsonl`` times what no audit can do without: decoding a file, the forward pass of
its views, and a bare exact search by FAISS of one vector a view.
``python tests/real/scaling.py plot RESULTS.jsonl FIGURE.png``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

PATIENTS, SLICES, SIZE = 100, 2, 128
COPIED, COPIES = 0.05, ("exact", "rotation 10", "flip-x", "noise")
SETS = ("training", "synthetic", "holdout")
VIEWS, TRAINING_VIEWS, DIMENSIONS = 8, 3, 256


def generated(seeds: Iterator[int]) -> Iterator[tuple[str, np.ndarray]]:
    """Patient and image uint8 [128, 128], without end, a cohort of 100 patients a seed."""
    from doppelscan.images import generate_cohort

    for seed in seeds:
        images, patients = generate_cohort(PATIENTS, SLICES, SIZE, seed)
        yield from (
            (f"{seed:04d}{patient:03d}", image) for image, patient in zip(images[:, 0].numpy(), patients.tolist(), strict=True)
        )


def cut(files: list[Path]) -> list[tuple[str, np.ndarray]]:
    """Patient and image uint8 [128, 128] of every slice of which a tenth or more is no background, in random order."""
    import nibabel
    import torch
    from doppelscan.images import whole_squares

    slices = []
    for file in files:
        voxels = np.asarray(nibabel.as_closest_canonical(nibabel.load(file)).dataobj, np.float32)
        low, high = np.percentile(voxels, (0.5, 99.5))
        voxels = ((voxels - low) / max(high - low, 1e-6)).clip(0, 1)
        for plane in (plane for axis in range(3) for plane in np.moveaxis(voxels, axis, 0)):
            if (plane > 0.1).mean() > 0.1:
                square = whole_squares(torch.from_numpy(np.ascontiguousarray(plane))[None, None], SIZE)[0, 0].numpy()
                slices.append((file.name.split("_")[0], np.round(255 * square).astype(np.uint8)))
    return [slices[place] for place in np.random.default_rng(0).permutation(len(slices))]


def by_people(folder: Path, counts: dict[str, int]) -> dict[str, list[Path]]:
    """The files of each set: other people in each, as many as it has images, of the control at least ten."""
    files = sorted(folder.glob("*.nii*"))
    order = [files[place] for place in np.random.default_rng(1).permutation(len(files))]
    holdout = max(10, round(len(files) * counts["holdout"] / sum(counts.values())))
    training = round((len(files) - holdout) * counts["training"] / (counts["training"] + counts["synthetic"]))
    return {"holdout": order[:holdout], "training": order[holdout : holdout + training], "synthetic": order[holdout + training :]}


def make(output: Path, counts: dict[str, int], volumes: Path | None = None) -> None:
    """Write the sets; one in twenty synthetic images is a copy, in order, so that every beginning of the set holds as many."""
    from doppelscan.images import plant_copy
    from doppelscan.progress import progress

    rng, seeds = np.random.default_rng(0), itertools.count()
    kept: list[np.ndarray] = []
    files = by_people(volumes, counts) if volumes else {}
    for name in SETS:
        (output / name).mkdir(parents=True, exist_ok=True)
        images = cut(files[name]) if volumes else generated(seeds)
        with progress(None, name, "image", total=counts[name]) as bar:
            for number, (patient, image) in enumerate(itertools.islice(images, counts[name])):
                if name == "training" and len(kept) < 1000:
                    kept.append(image)  # all that are copied are among the first 1,000
                path = output / name / f"{number:07d}_p{patient}.png"
                if name == "synthetic" and number % round(1 / COPIED) == 0:
                    source = kept[int(rng.integers(len(kept)))]
                    transform = COPIES[number // round(1 / COPIED) % len(COPIES)]
                    copy = plant_copy(source.astype(np.float32) / 255, transform, rng)
                    image, path = np.round(copy * 255).astype(np.uint8), output / name / f"{number:07d}_copy.png"
                Image.fromarray(image).save(path)
                bar.update()
        if number + 1 < counts[name]:
            raise SystemExit(f"{name}: {counts[name]} images were asked for, {volumes} has {number + 1} of its people.")


def table(folder: Path, count: int, place: Path) -> Path:
    """A table of the first ``count`` files of a folder."""
    path = place / f"{folder.name}.csv"
    files = sorted(folder.iterdir())[:count]
    lines = [f"{file},{file.stem.split('_')[1]}{'' if '_p' in file.stem else file.stem[:7]}" for file in files]
    path.write_text("path,patient\n" + "\n".join(lines) + "\n")
    return path


def _memory(pid: int) -> dict[str, int]:
    """Bytes of a process and those that it started: ``together``, a page that several hold counted once, and ``own``, of that what is no page of a file,
    which the system could not drop and read again."""
    total = {"together": 0, "own": 0}
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(OSError, ValueError, psutil.Error):
                lines = dict(line.split(":", 1) for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:])
                for name, field in (("together", "Pss"), ("own", "Pss_Anon")):
                    total[name] += 1024 * int(lines[field].split()[0])
    return total


def run(folder: Path, counts: dict[str, int], source: Path, further: list[str], label: str = "") -> dict:
    """One audit in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        sets = {name: table(folder / name, counts[name], Path(work)) for name in SETS}
        command = [sys.executable, "-m", "doppelscan.cli", "audit", "--output", f"{work}/report"]
        command += [part for name, path in sets.items() for part in (f"--{name}", str(path))] + further
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(source)}
        memory = {"together": 0, "own": 0}
        with open(f"{work}/told", "w+") as told:
            process = subprocess.Popen(command, env=environment, stdout=told, stderr=told)
            while process.poll() is None:
                for name, value in _memory(process.pid).items():
                    memory[name] = max(memory[name], value)
                time.sleep(1)
            told.seek(0)
            words = told.read()
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            raise SystemExit(words[-2000:])
        summary = json.loads(Path(work, "report", "summary.json").read_text())
        rows = Path(work, "report", "scores.csv").read_text().splitlines()
        flag = rows[0].split(",").index("flagged")
        flagged = [row.split(",")[0] for row in rows[1:] if row.split(",")[flag] == "true"]
        stored = sum(path.stat().st_size for path in Path(work).rglob("*.parquet"))
    return {
        "kind": "audit",
        "release": summary["versions"]["doppelscan"],
        "label": label or summary["versions"]["doppelscan"],
        **counts,
        "options": further,
        "seconds": round(seconds, 1),
        "cpu": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "megabytes": round(after.ru_maxrss / 1024),
        "all processes": round(memory["together"] / 2**20),
        "without files": round(memory["own"] / 2**20),
        "stored": round(stored / 2**20),
        "copies": f"{sum('_copy' in name for name in flagged)} of {-(-counts['synthetic'] // round(1 / COPIED))}",
        "others": sum("_copy" not in name for name in flagged),
        "stages": summary["seconds"],
    }


def limit(folder: Path, counts: dict[str, int]) -> dict:
    """What no audit can do without, in one process with the threads that it may use: decoding, bare forward passes, a bare exact search by FAISS."""
    import faiss
    import torch
    from doppelscan.deepssim import DeepSSIMEncoder
    from doppelscan.threads import team

    files = sorted((folder / "synthetic").iterdir())[:300]
    with team() as threads, torch.inference_mode():
        faiss.omp_set_num_threads(threads)
        start = time.perf_counter()
        for file in files:
            np.asarray(Image.open(file))
        decode = (time.perf_counter() - start) / len(files)
        layers = ("deepssim", "embedding", "layer1", "layer2", "layer3", "layer4")
        network = DeepSSIMEncoder(outputs=layers).eval().to(memory_format=torch.channels_last)
        forward = min(_forward(network, size) for size in (16, 64))
    rng = np.random.default_rng(0)
    index = faiss.IndexFlatIP(DIMENSIONS)
    for start_row in range(0, counts["training"], 10_000):
        rows = rng.standard_normal((min(10_000, counts["training"] - start_row), DIMENSIONS), np.float32)
        index.add(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    query = rng.standard_normal((64 * VIEWS, DIMENSIONS), np.float32)
    start = time.perf_counter()
    index.search(query, 20)
    search = (time.perf_counter() - start) / 64
    asked = counts["synthetic"] + counts["holdout"]
    encoder = asked * (decode + VIEWS * forward) + counts["training"] * (decode + TRAINING_VIEWS * forward)
    return {
        "kind": "limit",
        "threads": threads,
        **counts,
        "decode": round(1e3 * decode, 3),
        "forward": round(1e3 * forward, 3),
        "search": round(1e3 * search, 3),
        "an image": round(1e3 * (decode + VIEWS * forward), 2),
        "bare encoder": round(encoder, 1),
        "bare search": round(asked * search, 1),
    }


def _forward(network: Callable, size: int) -> float:
    """Seconds of one image in batches of ``size``."""
    import torch

    images = torch.randn(size, 1, 128, 128).contiguous(memory_format=torch.channels_last)
    network(images)
    start = time.perf_counter()
    for _ in range(512 // size):
        network(images)
    return (time.perf_counter() - start) / 512


def plot(results: Path, figure: Path) -> None:
    """What an image costs, whole audit and its own two stages, and megabytes over the number of training images, a line a label, and the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made = [json.loads(line) for line in results.read_text().splitlines()]
    audits = [one for one in made if one["kind"] == "audit"]
    bound = next((one for one in made if one["kind"] == "limit"), None)
    _, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for label in dict.fromkeys(one["label"] for one in audits):
        own = sorted((one for one in audits if one["label"] == label), key=lambda one: one["training"])
        sizes = [one["training"] for one in own]
        for axis, values in zip(
            axes, ([_of_all(one) for one in own], [_of_its_own(one) for one in own], [one["megabytes"] for one in own]), strict=True
        ):
            axis.plot(sizes, values, "o-" if len(sizes) > 1 else "o", label=label)
    if bound:
        for axis in axes[:2]:
            axis.axhline(bound["an image"], color="gray", linestyle=":", label="decoding and 8 forward passes alone")
    titles = ("the whole audit, ms an image", "embedding and scoring, ms an image", "peak memory of the largest process, MB")
    sizes = sorted({one["training"] for one in audits})
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xlabel="training images", title=title, xscale="log", ylim=(0, None))
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
    axes[0].legend(frameon=False, fontsize="small")
    pyplot.savefig(figure, dpi=150)


def _of_all(audit: dict) -> float:
    return 1e3 * audit["seconds"] / (audit["synthetic"] + audit["holdout"])


def _of_its_own(audit: dict) -> float:
    """Milliseconds of embedding and of scoring one synthetic image."""
    return 1e3 * (audit["stages"]["embed synthetic"] + audit["stages"]["score synthetic"]) / audit["synthetic"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("make", "run", "limit", "plot"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("figure", type=Path, nargs="?")
    for name, count in zip(SETS, (1000, 1000, 300), strict=True):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--volumes", type=Path, help="make: slices of these in place of generated patients")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--source", type=Path, default=Path(__file__).parents[2] / "scripts")
    parser.add_argument("--label", default="", help="name of the line in the plot; the release by itself")
    options, further = parser.parse_known_args()
    counts = {name: getattr(options, name) for name in SETS}
    if options.what == "make":
        make(options.folder, counts, options.volumes)
    elif options.what == "plot":
        plot(options.folder, options.figure)
    else:
        made = (
            limit(options.folder, counts)
            if options.what == "limit"
            else run(options.folder, counts, options.source, [one for one in further if one != "--"], options.label)
        )
        print(json.dumps(made, indent=1))
        if options.output:
            with open(options.output, "a") as file:
                file.write(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
