"""A project's file: its sets stand there once, the command line wins, nothing that is mistyped is passed over."""

from __future__ import annotations

import inspect
import json
import sys

import doppelscan
import pytest
from doppelscan import cli
from doppelscan.errors import InputError, user_mistake

YAML = r"""
training: data/training
synthetic: data/synthetic
patient-pattern: '(sub-\d+)'
seed: 3
output: report
key: ../key.csv
slice_range: 0.1,0.9
redact: yes
holdout:
encoder: torchscript:net.ts
network_def::channels: [8, 8]
leak:
  a: data/training
  b: /elsewhere/test
  output: leaks
dossier:
  output: dossier.pdf
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with its data, seen from another folder."""
    project = tmp_path / "project"
    for name in ("training", "synthetic"):
        (project / "data" / name).mkdir(parents=True)
    for name in ("net.ts", "dossier.pdf"):
        (project / name).touch()
    (project / "report").mkdir()
    (tmp_path / "cwd" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    return project


def given(command: str, *line: str) -> dict:
    options = {word[2:].replace("-", "_"): value for word, value in zip(line[::2], line[1::2], strict=True)}
    return cli._arguments(f"doppelscan {command}", command, [], options)


def written(place, text: str, name: str = "audit.yaml") -> str:
    (place / name).write_text(text)
    return str(place / name)


def test_a_file_holds_the_sets_and_its_paths_start_at_its_folder(place):
    found = given("audit", "--config", written(place, YAML))
    assert found == {
        "training": f"{place}/data/training", "synthetic": f"{place}/data/synthetic", "patient_pattern": r"(sub-\d+)", "seed": 3,
        "output": f"{place}/report", "key": f"{place}/../key.csv", "slice_range": [0.1, 0.9], "redact": True,
        "encoder": f"torchscript:{place}/net.ts", "network_def::channels": [8, 8],
    }  # fmt: skip


def test_the_command_line_wins_and_its_paths_start_where_it_runs(place):
    found = given("audit", "--config", written(place, YAML), "--training", "other", "--seed", "7", "--redact", "False")
    assert (found["training"], found["seed"], found["redact"]) == ("other", 7, False)
    assert found["synthetic"] == f"{place}/data/synthetic"


def test_a_command_has_its_own_part_and_what_is_written_by_the_audit_is_not_written_over(place):
    (place / "data" / "test").mkdir()
    config = written(place, YAML.replace("/elsewhere/test", "data/test"))
    found = given("leak", "--config", config)
    assert found["a"] == f"{place}/data/training" and found["b"] == f"{place}/data/test" and found["output"] == f"{place}/leaks"
    assert found["seed"] == 3 and found["redact"] is True and "key" not in found and "training" not in found
    with pytest.raises(InputError, match=r"needs IMAGES, --output, also beside .*audit\.yaml"):
        given("duplicates", "--config", config)


def test_a_dossier_is_of_the_audit_of_the_same_file(place):
    found = given("dossier", "--config", written(place, YAML))
    assert (found["audit"], found["output"]) == (f"{place}/report", f"{place}/dossier.pdf")
    assert given("dossier", "--config", f"{place}/audit.yaml", "--audit", "other")["audit"] == "other"


@pytest.mark.parametrize("name", ["a.json", "a.toml", "a.yml"])
def test_the_three_formats_say_the_same(place, name):
    if name == "a.toml" and sys.version_info < (3, 11):
        pytest.importorskip("tomli")
    options = {"training": "data/training", "synthetic": "data/synthetic", "output": "report", "rotations": [0, -12], "gate": True}
    text = {
        "a.json": json.dumps({**options, "leak": {"b": "x"}}),
        "a.toml": "".join(f"{name} = {json.dumps(value)}\n" for name, value in options.items()) + '[leak]\nb = "x"\n',
        "a.yml": "".join(f"{name}: {json.dumps(value)}\n" for name, value in options.items()) + "leak: {b: x}\n",
    }[name]
    found = given("audit", "--config", written(place, text, name))
    assert found["gate"] is True and found["rotations"] == [0, -12] and found["output"] == f"{place}/report" and len(found) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainng: data\n", r"no option 'trainng' of doppelscan, in '.*audit\.yaml'; did you mean training\?"),
        ("leak: {fdr: 0.1}\n", r"no option 'fdr' of doppelscan leak, in '.*'; see doppelscan leak --help for what there is\."),
        ("duplicats: {images: x}\n", r"did you mean duplicates\?"),
        ("netwrk_def::channels: 3\n", "no option 'netwrk-def::channels'"),
        ("training: nowhere\n", r"'training' parameter must be an existing folder.* Got '.*project/nowhere', which does not exist\. It stands in '.*audit\.yaml'\."),
        ("fdr: high\n", r"'fdr' parameter must be a number between 0 and 1\. Got 'high' instead\. It stands in"),
        ("seed: [1]\n", r"'seed' parameter must be an integer"),
        ("training: 2024\n", r"Got 2024 instead\. It stands in"),
        ("fdr: 0.1\nfdr: 0.2\n", r"which is damaged: 'fdr' is there twice; correct it\."),
        ("a: [1\n", "which is damaged: "),
        ("- training\n", "which holds no names with values"),
        ("!!python/object/apply:os.system [true]\n", "which is damaged: could not determine a constructor"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line_that_names_it(place, text, words):
    with pytest.raises(InputError, match=words) as error:
        given("audit", "--config", written(place, text))
    assert "\n" not in str(error.value) and user_mistake(error.value) is error.value


def test_an_empty_file_says_nothing(place):
    with pytest.raises(InputError, match="needs --training, --synthetic, --output, also beside"):
        given("audit", "--config", written(place, "\n"))


def test_python_reads_the_same_file_as_the_command_line(place):
    """There was no way to pass a project's file to doppelscan.audit."""
    file = written(place, YAML.replace("/elsewhere/test", "data/synthetic"))
    for command in ("audit", "leak"):
        assert doppelscan.read_project(file, command) == given(command, "--config", file)
    assert doppelscan.read_project(file)["seed"] == 3 and {**doppelscan.read_project(file), "seed": 1}["seed"] == 1
    inspect.signature(doppelscan.audit).bind(**doppelscan.read_project(file))
    inspect.signature(doppelscan.leak).bind(**doppelscan.read_project(file, "leak"))


def test_a_command_that_has_no_file_and_a_file_that_is_none_are_one_line(place):
    with pytest.raises(InputError, match="'command' parameter must be one of audit, leak"):
        doppelscan.read_project(written(place, YAML), "sample")
    with pytest.raises(InputError, match="'config' parameter"):
        doppelscan.read_project(place / "none.yaml")
    with pytest.raises(InputError, match=r"seed.*It stands in"):
        doppelscan.read_project(written(place, "seed: many"))
