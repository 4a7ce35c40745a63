"""Install the built wheel alone, without extras, and do what a stranger does in an empty folder: make test-wheel.

Exit status 1, and what was told, when a command ends otherwise than it should.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

COHORT = """
from pathlib import Path
from PIL import Image
from doppelscan.images import generate_cohort
images = generate_cohort(90, 1, 128, 0)[0][:, 0].numpy()
for number, image in enumerate(images):
    name = "train" if number < 60 else "other"
    Path(name).mkdir(exist_ok=True)
    Image.fromarray(image).save(f"{name}/{name}{number:02d}.png")
Path("synthetic").mkdir(exist_ok=True)
for number in range(20):
    Image.fromarray(images[number][:, ::-1] if number < 3 else generate_cohort(1, 1, 128, 100 + number)[0][0, 0].numpy()).save(f"synthetic/sample{number:02d}.png")
"""
PYTHON = """
import doppelscan
result = doppelscan.audit(training="train", synthetic="synthetic", holdout="other", output="from-python", self_test=False)
assert sum(row["flagged"] for row in result.scores) == 3, result.summary["flagged"]
"""
SETS = ["--training", "train", "--synthetic", "synthetic", "--holdout", "other"]
# Command, exit status, and words of its last line: of what it prints, or of the error.
STEPS = [
    (["doppelscan", "audit", *SETS, "--output", "report"], 0, "Report: "),
    (["doppelscan", "audit", *SETS, "--output", "gated", "--store", "report/store", "--self-test=false", "--gate"], 3, "Report: "),
    (["python", "-c", PYTHON], 0, ""),
    (["doppelscan", "leak", "--a", "train", "--b", "synthetic", "--output", "leaks"], 0, "Report: "),
    (["doppelscan", "duplicates", "synthetic", "--output", "doubles"], 0, "Report: "),
    (["doppelscan", "compare", "report", "gated", "--output", "change"], 0, ""),
    (["doppelscan", "dossier", "report", "--output", "dossier.html"], 0, "Dossier: "),
    (["doppelscan", "dossier", "report", "--output", "dossier.json"], 0, "Dossier: "),
    (["doppelscan", "dossier", "report", "--output", "dossier.pdf"], 2, 'pip install ".[dossier]"'),
    (["doppelscan", "sample", "--output", "sample"], 2, "pip install '.[sample]'"),
    (["doppelscan", "pack", "deepssim_encoder", "--output", "packed"], 2, 'pip install ".[onnx]"'),
]
WITH_ONNX = [
    (["doppelscan", "pack", "deepssim_encoder", "--output", "packed-encoder"], 0, "packed-encoder"),
    (["doppelscan", "pack", "mi_scorer", "--output", "packed-scorer"], 0, "packed-scorer"),
]


def take(steps: list[tuple[list[str], int, str]], environment: Path, folder: Path) -> None:
    """Run ``steps`` in ``folder``, of the programs of ``environment``."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for (program, *arguments), status, words in steps:
        done = subprocess.run(
            [environment / "bin" / program, *arguments], cwd=folder, env=variables, capture_output=True, text=True
        )
        told = (done.stdout if status in (0, 3) else done.stderr).strip().splitlines() or [""]
        print(f"{done.returncode}  {program} {' '.join(arguments)[:100]!r}: {told[-1][:150]}", flush=True)
        if done.returncode != status or words not in told[-1] or "Traceback" in done.stderr:
            sys.exit(f"expected exit status {status} and {words!r}\n{done.stdout}\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    environment = given.environment.resolve()
    given.output.mkdir(parents=True)
    take([(["python", "-c", COHORT], 0, ""), *STEPS], environment, given.output)
    install = ["python", "-m", "pip", "install", "--quiet", f"{given.wheel.resolve()}[onnx]"]
    take([(install, 0, ""), *WITH_ONNX], environment, given.output)


if __name__ == "__main__":
    main()
