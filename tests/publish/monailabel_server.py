"""Start a MONAI Label server with the app of ``doppelscan label-app``, ask it as Slicer or OHIF would, and stop it: make test-monailabel.

Everything is on loopback. Exit status 1 and the server's last words when an answer is wrong.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from email.parser import BytesParser
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

VOLUME = "volume0000"


def studies(output: Path) -> tuple[dict[str, str], int]:
    """The sample cohort, and a NIfTI volume that holds a training image as its middle slice; returns truth and number of novel images."""
    from doppelscan.images.sample import write_sample

    write_sample(output / "sample", training=24, holdout=24, novel=4, copies=5)
    shutil.copytree(output / "sample" / "synthetic", output / "studies")
    with open(output / "sample" / "truth.csv") as file:
        rows = list(csv.DictReader(file))
    copies = {Path(row["image"]).stem: Path(row["source"]).name for row in rows if row["source"]}
    source = sorted((output / "sample" / "training").glob("*.png"))[0]
    picture = np.asarray(Image.open(source).convert("L"))
    novel = sorted((output / "sample" / "holdout").glob("*.png"))[:2]
    slices = [np.asarray(Image.open(novel[0]).convert("L")), picture, np.asarray(Image.open(novel[1]).convert("L"))]
    volume = np.stack([np.rot90(one, -1) for one in slices], 2).astype(np.uint8)
    nib.save(
        nib.Nifti1Image(volume[::-1], np.diag([-0.9, 0.9, 3.0, 1.0])), output / "studies" / f"{VOLUME}.nii.gz"
    )  # stored right to left
    copies[VOLUME] = source.name
    return copies, sum(1 for row in rows if not row["source"])


def volumes(output: Path) -> str:
    """A training set of volumes; as a study one of them turned and stored right to left, back to front; returns the training volume's name."""
    from doppelscan.images import generate_head, plant_volume

    training, own = output / "training", output / "studies"
    training.mkdir(parents=True)
    own.mkdir()
    heads = [generate_head(seed, 48) for seed in range(10)]
    for number, head in enumerate(heads):
        nib.save(
            nib.Nifti1Image(np.round(head * 255).astype(np.uint8), np.diag([3.0, 3.0, 3.0, 1.0])), training / f"p{number}.nii.gz"
        )
    turned = plant_volume(heads[4], (3.0, 3.0, 3.0), "rotation 10 x", np.random.default_rng(0))
    stored = np.round(turned.pixels * 255).astype(np.uint8)[::-1, ::-1]
    nib.save(nib.Nifti1Image(stored, np.diag([-3.0, -3.0, 3.0, 1.0])), own / f"{VOLUME}.nii.gz")
    return "p4.nii.gz"


class Server:
    """``monailabel start_server`` in a process group of its own, on the studies in ``output``."""

    def __init__(self, app: Path, environment: Path, output: Path, *sets: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = output / "server.log"
        variables = {
            **os.environ, "PATH": f"{(environment / 'bin').resolve()}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "",
            "HOME": str(output),
        }  # fmt: skip
        variables.pop("PYTHONPATH", None)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                ["monailabel", "start_server", "--app", str(app.resolve()), "--studies", str(output / "studies"), "--host", "127.0.0.1",
                 "--port", str(self.port), "--conf", "models", "deepssim_encoder,mi_scorer", *sets,
                 "--conf", "output", str(output / "audits")],
                env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=output,
            )  # fmt: skip

    def ask(self, path: str, method: str = "GET", timeout: float = 300):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.headers, answer.read()

    def wait(self, seconds: float = 180) -> dict:
        end = time.time() + seconds
        while time.time() < end and self.process.poll() is None:
            try:
                return json.loads(self.ask("/info/")[1])
            except OSError:
                time.sleep(1)
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def infer(server: Server, model: str, image: str) -> tuple[dict, bytes, str]:
    """result, bytes of the map, and its file name."""
    headers, body = server.ask(f"/infer/{model}?image={image}", "POST")
    message = BytesParser().parsebytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
    parts = {part.get_param("name", header="content-disposition"): part for part in message.walk() if not part.is_multipart()}
    return (
        json.loads(parts["params"].get_payload(decode=True))["result"],
        parts["image"].get_payload(decode=True),
        parts["image"].get_filename(),
    )


def check(server: Server, copies: dict[str, str], novel: int, output: Path) -> None:
    info = server.wait()
    assert set(info["models"]) == {"deepssim_encoder", "mi_scorer"}, info["models"]
    assert "most_likely_memorized_first" in info["strategies"] and "memorization" in info["scoring"]
    assert info["datastore"]["total"] == len(copies) + novel, info["datastore"]
    print(f"/info: {info['name']}, {info['datastore']['total']} images")

    name, source = next((n, s) for n, s in copies.items() if n != VOLUME)
    results = {model: infer(server, model, name) for model in info["models"]}
    for model, (result, data, file) in results.items():
        assert Path(result["match"]).name == source, (model, result)
        assert result["pose"] and file.endswith(".png")
        picture = np.asarray(Image.open(io.BytesIO(data)))
        original = np.asarray(Image.open(output / "studies" / f"{name}.png"))
        assert picture.shape == original.shape[:2] and picture.max() > 200, "no agreement map"
        print(f"/infer/{model}: {name} score {result['score']:.3f}, match {source}, pose {result['pose']}, map {picture.shape}")
    assert results["deepssim_encoder"][0]["score"] == results["mi_scorer"][0]["combined_score"]
    assert results["mi_scorer"][0]["score"] == results["mi_scorer"][0]["mi"] > 5

    result, data, file = infer(server, "deepssim_encoder", VOLUME)
    assert Path(result["match"]).name == copies[VOLUME] and result["slice"] == 1 and file.endswith(".nii.gz"), result
    (output / "map.nii.gz").write_bytes(data)
    made, original = nib.load(output / "map.nii.gz"), nib.as_closest_canonical(nib.load(output / "studies" / f"{VOLUME}.nii.gz"))
    assert made.shape == original.shape and np.allclose(made.affine, original.affine)
    values = made.get_fdata()
    assert values[:, :, 1].mean() > 3 * max(values[:, :, 0].mean(), values[:, :, 2].mean()) / 2
    print(
        f"/infer/deepssim_encoder: {VOLUME} slice {result['slice']}, match {copies[VOLUME]}, map {made.shape} in the volume's geometry"
    )

    given = []
    for _ in range(len(copies) + novel):
        sample = json.loads(server.ask("/activelearning/most_likely_memorized_first", "POST")[1])
        given.append((sample["id"], sample["memorization"]))
    assert {one for one, _ in given[: len(copies)]} == set(copies), given
    order = [(values["flagged"], values["score"]) for _, values in given]
    assert order == sorted(order, reverse=True) and len({one for one, _ in given}) == len(given)
    print(f"/activelearning: {len(copies)} copies first, then {novel} novel images, each once, in order of risk")

    deadline = time.time() + 300
    while (status := json.loads(server.ask("/scoring/")[1]))["status"] == "RUNNING" and time.time() < deadline:
        time.sleep(2)
    assert status["status"] == "DONE", status
    result, _, _ = infer(server, "deepssim_encoder", name)
    assert result["flagged"] is True and result["finding"] == "copy" and 0 < result["p_value"] < 0.1
    print(f"/scoring: {status['status']}; {name} p {result['p_value']:.3f}, {result['finding']}")


def check_volumes(server: Server, source: str, output: Path) -> None:
    """A volume against a training set of volumes: compared whole, the map on its own voxels."""
    server.wait()
    stored = nib.load(output / "studies" / f"{VOLUME}.nii.gz")
    for model in ("deepssim_encoder", "mi_scorer"):
        result, data, file = infer(server, model, VOLUME)
        assert Path(result["match"]).name == source and "slice" not in result and file.endswith(".nii.gz"), result
        assert result["pose"].startswith("rot x -"), result
        (output / "map.nii.gz").write_bytes(data)
        made = nib.load(output / "map.nii.gz")
        assert made.shape == stored.shape and np.allclose(made.affine, stored.affine), (made.shape, made.affine)
        head = np.asarray(stored.dataobj) > 60
        assert made.get_fdata()[head].mean() > 0.7 * made.get_fdata().max(), "the map is not where the head is"
        print(
            f"/infer/{model}: a whole volume, score {result['score']:.3f}, match {source}, pose {result['pose']}, map {made.shape} in its own affine"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--app", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True, help="environment that has MONAI Label")
    parser.add_argument("--output", type=Path, required=True, help="folder for images and the server's log; emptied first")
    options = parser.parse_args()
    output = options.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    images, whole = output / "images", output / "volumes"
    images.mkdir()
    copies, novel = studies(images)
    sample = images / "sample"
    sets = ["--conf", "training", str(sample / "training"), "--conf", "holdout", str(sample / "holdout")]
    source = volumes(whole)
    cases: list[tuple[Path, list[str], Callable[[Server], None]]] = [
        (images, sets, lambda server: check(server, copies, novel, images)),
        (whole, ["--conf", "training", str(whole / "training")], lambda server: check_volumes(server, source, whole)),
    ]
    for folder, asked, checked in cases:
        server = Server(options.app, options.environment, folder, *asked)
        try:
            checked(server)
        except (AssertionError, OSError, KeyError, StopIteration) as error:
            print(f"FAILED: {error!r}\n{server.log.read_text()[-3000:]}", file=sys.stderr)
            return 1
        finally:
            server.stop()
    print("MONAI Label: every answer is right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
