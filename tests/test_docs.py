"""Every command and every Python block of README and docs is run, in a folder that holds the sample cohort."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.cli import COMMANDS
from doppelscan.deepssim import read_checkpoint
from doppelscan.images import generate_head
from made_bundles import VERSIONS, tiny_bundle
from made_volumes import write_nifti
from packaging.requirements import Requirement
from warm import run_warm

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

# The Hub of the documented commands is on this machine.
pytestmark = pytest.mark.loopback
ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("bundles/*/docs/README.md"))]
# Commands that make or need an environment of their own, each with what stands for running it here. A new one is run, or has to be added.
ENVIRONMENT = ("python -m venv", "source label-env")  # the environment of the MONAI Label server
SERVER = "monailabel start_server"  # make test-monailabel runs it, by tests/publish/monailabel_server.py


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (p.relative_to(ROOT).as_posix(), b) for p in PAGES for b in re.findall(rf"```{language}\n(.*?)```", p.read_text(), re.S)
    ]


def commands() -> list[tuple[str, str]]:
    """(page, command) of all bash blocks, each command once; continued lines joined, comments dropped."""
    found: dict[str, str] = {}
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"\s+#.*$", "", line).strip()
            if line and not line.startswith("#"):
                found.setdefault(" ".join(line.split()), page)
    return [(page, line) for line, page in found.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder that looks like the checkout to a reader of the docs, with a small sample cohort and small volumes in it."""
    from doppelscan.images.sample import write_sample

    folder = tmp_path_factory.mktemp("docs")
    write_sample(folder / "sample", training=7, holdout=7, novel=1, copies=3)
    for name, people in (("training", range(8)), ("synthetic", (3, 20))):
        (folder / "volumes" / name).mkdir(parents=True)
        for person in people:
            write_nifti(folder / "volumes" / name / f"{person}.nii.gz", generate_head(person, 24), np.diag([4.0, 4.0, 4.0, 1.0]))
    for name in VERSIONS:
        tiny_bundle(name, folder / "zoo")
    for audits in ("training-audits", "shared-store"):
        (folder / audits).mkdir()
    (folder / "training-audits" / "store").symlink_to(folder / "shared-store")
    (folder / "embeddings").symlink_to(folder / "shared-store")
    (folder / "audit.yaml").write_text(next(block for page, block in blocks("yaml") if page == "docs/command-line.md"))
    for name in ("configs", "bundles", "docs", "Makefile", "tests"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory):
    """The Hub that the documented commands publish to and download from."""
    from hub_server import TOKEN, LocalHub

    hub = LocalHub(tmp_path_factory.mktemp("hub") / "served")
    home = str(tmp_path_factory.mktemp("home"))
    HUB.update({"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": home})
    yield hub
    hub.stop()


HUB: dict[str, str] = {}


def run(arguments: list[str], place: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, **HUB, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    if arguments[0] == sys.executable:
        return run_warm(arguments[1:], place, environment)
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, timeout=400)


# Options of an audit that change nothing that is stored.
STORED_ALIKE = {
    "training",
    "synthetic",
    "holdout",
    "output",
    "store",
    "gate",
    "fdr",
    "candidates",
    "patient-pattern",
    "threads",
    "workers",
    "ray",
    "limit",
    "index",
}

BUNDLE_ALIKE = {"config_file", "training_dir", "synthetic_dir", "holdout_dir", "output_dir", "patient_pattern"}
OVERLAP_ALIKE = {"a", "b", "output", "store", "gate", "patient-pattern", "split", "folds", "parts", "keep"}


def share_store(words: list[str], place: Path) -> None:
    """Let audits that differ in nothing that is stored have one store: each image is embedded once."""
    options = {word.removeprefix("--"): value for word, value in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}
    searches = {"audit": STORED_ALIKE, "leak": OVERLAP_ALIKE, "duplicates": OVERLAP_ALIKE}
    if words[0] == "doppelscan" and words[1] in searches and set(options) <= searches[words[1]]:
        link_store(place / (options.get("store") or f"{options['output']}/store"), place)
    if (
        words[:4] == ["python", "-m", "monai.bundle", "run"]
        and set(options) <= BUNDLE_ALIKE
        and options["config_file"] == "configs/audit.json"
    ):
        link_store(place / options["output_dir"] / "store", place)


def link_store(store: Path, place: Path) -> None:
    if not store.exists():
        store.parent.mkdir(parents=True, exist_ok=True)
        store.symlink_to(place / "shared-store")


def is_run(line: str) -> bool:
    return not line.startswith(("make ", "pip install", SERVER, *ENVIRONMENT))


# What the documented fine-tunes start from, by their output folders.
FINE_TUNED = {"finetuned": "model.pt", "pair-head": "pair_ssim.safetensors"}


@pytest.mark.parametrize(("page", "line"), [c for c in commands() if is_run(c[1])], ids=lambda v: v[:60])
def test_documented_command_runs(place, page, line):
    words = shlex.split(line)
    if "--ray" in words:
        pytest.importorskip("ray")
    if words[:2] == ["doppelscan", "dossier"] and "dossier.pdf" in words:
        pytest.importorskip("reportlab")
    if words[:2] == ["doppelscan", "sample"]:
        words = [*words[:-1], "another-sample"]
    share_store(words, place)
    # One page's audits plant copies: that takes longer than the rest of so small an audit.
    if page != "README.md" and words[:2] == ["doppelscan", "audit"]:
        words.append("--self-test=false")
    if page == "docs/zoo-generators.md" and "--training_dir" in words:
        words += ["--audit::self_test" if "audited.json" in line else "--self_test", "False"]
    program = str(Path(sys.executable).parent / words[0])
    words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, program]
    done = run(words, place)
    assert done.returncode == 0, f"{page}: {line}\n{done.stderr[-2000:]}"
    tuned = FINE_TUNED.get(words[words.index("--output_dir") + 1]) if "--output_dir" in words else None
    if tuned:
        before, after = (
            read_checkpoint(models / tuned)
            for models in (ROOT / "bundles/deepssim_encoder/models", place / words[words.index("--output_dir") + 1] / "models")
        )
        assert any(not torch.equal(before[name], value) for name, value in after.items()), "nothing was trained"


@pytest.mark.parametrize("line", [line for _, line in commands() if line.startswith("make ")])
def test_documented_targets_would_run_what_is_there(line):
    """They make an environment of their own: what they would run is told by make, and every file and command in it must exist."""
    told = subprocess.run(["make", "-n", *shlex.split(line)[1:], "DATA=x"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    recipe = told.stdout.replace("\\\n", " ")
    assert any(word in recipe for word in ("doppelscan", "pytest", "monai.bundle"))
    named = re.findall(r"(?<![\w/.-])(?:bundles|configs|tests|scripts|docs)/[\w/.-]+", recipe)
    assert all((ROOT / name).exists() for name in named), named
    options = re.findall(r"bin/doppelscan (\w[\w-]*)", recipe)
    assert set(options) <= {name.replace("_", "-") for name in COMMANDS}, options


@pytest.mark.parametrize("line", [line for _, line in commands() if line.startswith("pip install")])
def test_documented_installations_name_what_can_be_installed(line):
    """Each requirement is one that pip can read; extras are the project's, versions of torch the one that the Makefile installs."""
    words = shlex.split(line)[2:]
    for number, word in enumerate(words):
        if word == "-r":
            assert words[number + 1] == "app/requirements.txt", "what doppelscan label-app writes, see tests/publish"
        elif words[number - 1] != "-r":
            requirement = Requirement(re.sub(r"^\.", "doppelscan", word))
            assert requirement.name in ("doppelscan", "torch"), word
            assert requirement.extras <= set(PROJECT["optional-dependencies"]), word
            assert requirement.name != "torch" or f"torch{requirement.specifier}" in (ROOT / "Makefile").read_text(), word


def test_the_documented_server_is_the_one_that_is_started_and_asked():
    (line,) = [line for _, line in commands() if line.startswith(SERVER)]
    started = (ROOT / "tests" / "publish" / "monailabel_server.py").read_text()
    for option in re.findall(r"--conf (\w+)", line):
        assert f'"{option}"' in started, option
    assert '"monailabel", "start_server", "--app"' in started and '"--studies"' in started
    assert all(any(text.startswith(one) for _, text in commands()) for one in ENVIRONMENT), (
        "a rule for a command that is not documented"
    )


@pytest.mark.parametrize(("page", "block"), [(p, b) for b, p in {b: p for p, b in blocks("python")}.items()], ids=lambda v: v[:40])
def test_documented_python_runs(place, page, block):
    for output in re.findall(r'doppelscan\.\w+\(.*\boutput="([\w-]+)"', block):
        link_store(place / output / "store", place)
    done = run([sys.executable, "-c", block], place)
    assert done.returncode == 0, f"{page}\n{done.stderr[-2000:]}"


NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def test_the_cells_of_the_notebook_run(tmp_path):
    """In order, in one process, as a kernel runs them: what a cell ends with is shown. The cohort is smaller than the one that readers see."""
    pytest.importorskip("pandas")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in cells]
    small = [
        re.sub(r"training=\d+, holdout=\d+, novel=\d+, copies=\d+", "training=7, holdout=7, novel=1, copies=3", one) for one in code
    ]
    assert small[0] != code[0] and small[1:] == code[1:]
    done = run([sys.executable, "-c", RUN_CELLS, json.dumps(small)], tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = json.loads(done.stdout.splitlines()[-1])
    assert [bool(one) for one in shown] == [False, True, False, True, True], "cells that end with a value show it as HTML"
    assert "memorization found" in shown[1] and (tmp_path / "report" / "report.html").is_file()


RUN_CELLS = """
import ast, json, sys
shown, names = [], {}
for cell in json.loads(sys.argv[1]):
    tree = ast.parse(cell)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    shown.append("" if value is None else value._repr_html_())
print(json.dumps(shown))
"""


def test_the_notebook_is_executed_and_small():
    notebook = json.loads(NOTEBOOK.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it anew, from its first cell"
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [one for one in outputs if one["output_type"] == "error"] and NOTEBOOK.stat().st_size < 60_000
    assert sum("text/html" in one.get("data", {}) for one in outputs) == 3 and "/tmp/" not in NOTEBOOK.read_text()


def test_the_documented_pipeline_stops_before_the_release(place):
    """Every step of the example that is a command, in order, as a runner does: the first that fails ends the job."""
    import yaml

    (block,) = [block for page, block in blocks("yaml") if page == "docs/gate.md"]
    job = yaml.safe_load(block)["jobs"]["audit"]
    folder = place / "pipeline"
    folder.mkdir()
    for name in ("training", "holdout"):
        (folder / name).symlink_to(place / "sample" / name)
    (folder / "generate.py").write_text(
        "import shutil, sys; shutil.copytree('../sample/synthetic', sys.argv[sys.argv.index('--output') + 1])"
    )
    (folder / "release.py").write_text("open('released', 'w')")
    link_store(folder / "audit-store", place)  # where a redacted audit has it
    statuses = {}
    for step in job["steps"]:
        if "run" in step:
            statuses[step["name"]] = run(
                ["bash", "-e", "-c", f"PATH={Path(sys.executable).parent}:$PATH; " + step["run"]], folder
            ).returncode
            if statuses[step["name"]]:
                break
    assert statuses == {"generate": 0, "audit": 3}
    assert (folder / "audit" / "report.html").is_file() and not (folder / "released").exists()
    assert any("audit/report.html" in str(step.get("with", "")) for step in job["steps"])


def test_the_site_is_built_without_a_warning_and_names_no_other_host(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    method = (tmp_path / "site" / "method.html").read_text()
    assert method.count("<math") > 20 and "$$" not in method and "$`" not in method
    for page in (tmp_path / "site").glob("*.html"):
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text())
        assert not loaded, (page.name, loaded)  # a browser in the hospital asks nobody


def test_every_page_is_in_the_site():
    import yaml

    def pages(entries) -> list[str]:
        return [p for entry in entries for value in entry.values() for p in ([value] if isinstance(value, str) else pages(value))]

    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(p.name for kind in ("*.md", "*.ipynb") for p in (ROOT / "docs").glob(kind))


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def test_doctests_of_the_package():
    import doctest

    from doppelscan.memorization import index

    assert doctest.testmod(index).attempted > 0 and doctest.testmod(index).failed == 0


def test_every_wish_is_answered_by_a_test_that_there_is():
    rows = [
        line.split("|")[1:-1] for line in (ROOT / "docs" / "wishes.md").read_text().splitlines() if re.match(r"\| \d+ \|", line)
    ]
    assert [int(row[0]) for row in rows] == list(range(1, 37))
    for number, _, answer, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
        assert named and answer.strip(), number
        for file, test in named:
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.M), f"wish {number.strip()}: {file}::{test}"
