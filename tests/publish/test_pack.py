"""A packed bundle is whole, the same every time, and told apart from one that somebody changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from doppelscan.deepssim import WeightsError, file_sha256
from doppelscan.images import InputError
from doppelscan.publish import pack, verify, write_label_app
from doppelscan.publish.verification import _versions
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
BUNDLES = ("deepssim_encoder", "mi_scorer")


@pytest.fixture
def changed(packed, tmp_path) -> Path:
    """A copy of a packed bundle to spoil."""
    return Path(shutil.copytree(packed / "deepssim_encoder", tmp_path / "deepssim_encoder"))


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_packed_bundle_holds_every_part(packed, bundle):
    folder = packed / bundle
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {
        "LICENSE", "README.md", "requirements.txt", "checksums.json", "configs/metadata.json", "configs/inference.json", "configs/train.json",
        "docs/README.md", "models/model.pt", "models/model.ts", "models/model.onnx", "models/model.safetensors", "models/canary.safetensors",
        "doppelscan/__init__.py", "doppelscan/report/templates/report.html", "doppelscan/verify/same_patient.safetensors", "doppelscan/bundle/configs/audit.json",
    } <= files  # fmt: skip
    assert {"configs/inference_3d.json", "configs/metadata_3d.json"} <= files
    assert ("models/model_3d.onnx" in files) == ("models/model_3d.ts" in files) == (bundle == "deepssim_encoder")
    assert not [name for name in files if "__pycache__" in name]
    sums = json.loads((folder / "checksums.json").read_text())
    assert set(sums) == files - {"checksums.json"}
    assert all(file_sha256(folder / name) == sha256 for name, sha256 in sums.items())


@pytest.mark.parametrize("bundle", ["mi_scorer", pytest.param("deepssim_encoder", marks=pytest.mark.slow)])
def test_packed_twice_is_the_same_bytes_wherever_it_is_packed(packed, tmp_path, bundle):
    repository = tmp_path / "another" / "clone"
    shutil.copytree(ROOT / "scripts", repository / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", repository / "configs")
    shutil.copytree(ROOT / "bundles", repository / "bundles", ignore=shutil.ignore_patterns("eval", "contrastive.pt"))
    shutil.copyfile(
        ROOT / "bundles/deepssim_encoder/models/contrastive.pt", repository / "bundles/deepssim_encoder/models/contrastive.pt"
    )
    code = "import sys; from doppelscan.publish import pack; pack(sys.argv[1], sys.argv[2])"
    environment = {**os.environ, "PYTHONPATH": str(repository / "scripts"), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", code, f"bundles/{bundle}", str(tmp_path / bundle)], cwd=repository, env=environment,
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / bundle / "checksums.json").read_text() == (packed / bundle / "checksums.json").read_text()


def test_no_folder_of_this_machine_is_in_a_pack(packed):
    home = str(ROOT).encode()
    for path in (p for p in packed.rglob("*") if p.is_file()):
        assert home not in path.read_bytes(), path
    with zipfile.ZipFile(packed / "mi_scorer" / "models" / "model.ts") as archive:
        assert not [name for name in archive.namelist() if home in archive.read(name)]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_good_pack_passes_every_check(packed, bundle):
    checks = {check.name: check.passed for check in verify(packed / bundle)}
    outputs = ["canary", "inference", "torchscript", "onnx"]
    if bundle == "deepssim_encoder":  # a scorer of volumes has to be fitted on volumes first
        outputs += [f"{name}_3d" for name in outputs]
    assert checks == dict.fromkeys(("files", "metadata", "package", "versions", "weights", "safetensors", *outputs), True)


def test_versions_that_a_bundle_was_not_tested_with_are_told():
    here = {name: version(name).partition("+")[0] for name in ("torch", "monai", "numpy")}
    tested = {"pytorch_version": here["torch"], "monai_version": here["monai"], "numpy_version": here["numpy"]}
    assert _versions(tested) == f"torch {here['torch']}, monai {here['monai']}, numpy {here['numpy']}, as tested"
    assert _versions({**tested, "monai_version": "0.1"}) == f"monai {here['monai']} where it was tested with 0.1"


def test_one_changed_byte_is_found_and_nothing_is_loaded(changed):
    path = changed / "models" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (check,) = verify(changed)
    assert check.passed is False and "models/model.onnx has the sha256" in check.words


@pytest.mark.parametrize("name", ["torch.py", "configs/other.json", "doppelscan/report/extra.py"])
def test_a_file_that_was_slipped_in_is_found(changed, name):
    (changed / name).write_text("raise SystemExit('run')")
    (check,) = verify(changed)
    assert check.passed is False and f"{name} is not listed" in check.words


def test_what_the_hub_and_a_run_leave_behind_is_no_change(changed):
    for name in (".gitattributes", ".cache/huggingface/download/x.metadata", "eval/images.csv"):
        (changed / name).parent.mkdir(parents=True, exist_ok=True)
        (changed / name).write_text("")
    assert all(check.passed for check in verify(changed))


def _relist(folder: Path) -> None:
    """As somebody would who wants the hashes to fit."""
    for listed in (folder / "models" / "checksums.json", folder / "checksums.json"):
        base = listed.parent
        sums = {name: file_sha256(base / name) for name in json.loads(listed.read_text())}
        listed.write_text(json.dumps(sums))


def test_weights_that_compute_something_else_fail_the_canary_though_their_hashes_fit(changed):
    state = torch.load(changed / "models" / "model.pt", weights_only=True)
    state = state.get("model", state)
    state["stem.0.weight"] = state["stem.0.weight"] * 1.5
    torch.save(state, changed / "models" / "model.pt")
    save_file({name: value.contiguous() for name, value in state.items()}, changed / "models" / "model.safetensors")
    _relist(changed)
    failed = {check.name for check in verify(changed) if check.passed is False}
    assert failed == {"canary", "inference", "canary_3d", "inference_3d"}


def test_safetensors_of_other_weights_are_told(changed):
    state = load_file(changed / "models" / "model.safetensors")
    state["stem.0.weight"][0] = 0
    save_file(state, changed / "models" / "model.safetensors")
    _relist(changed)
    assert {check.name for check in verify(changed) if check.passed is False} == {"safetensors"}


def test_weights_of_another_network_are_refused_strictly(changed):
    state = load_file(changed / "models" / "model.safetensors")
    state.pop("stem.0.weight")
    torch.save(state, changed / "models" / "model.pt")
    _relist(changed)
    failed = [check for check in verify(changed) if check.passed is False]
    assert [check.name for check in failed] == ["weights"] and "1 missing keys" in failed[0].words


def test_a_folder_that_is_no_pack_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"must be a packed bundle.*doppelscan pack"):
        verify(tmp_path)


def test_pack_does_not_overwrite_somebodys_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a new or empty folder"):
        pack("mi_scorer", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_pack_that_fails_leaves_the_earlier_one(changed, tmp_path):
    before = (changed / "checksums.json").read_text()
    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"^The weights .* must be a plain state dict"):
        pack("deepssim_encoder", changed, weights=tmp_path / "bad.pt")
    assert (changed / "checksums.json").read_text() == before and all(check.passed for check in verify(changed))


@pytest.mark.slow
def test_own_weights_are_packed_and_a_large_file_needs_the_address_it_will_have(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["doppelscan.publish.pack"], "LARGE", 13_350_000)
    state = load_file(packed / "deepssim_encoder" / "models" / "model.safetensors")
    state["stem.0.weight"] += 0.01
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(InputError, match="'repo' parameter must be OWNER/NAME"):
        pack("deepssim_encoder", tmp_path / "out", weights=tmp_path / "mine.pt")
    assert not (tmp_path / "out").exists()
    folder = pack("deepssim_encoder", tmp_path / "out", weights=tmp_path / "mine.pt", repo="lab/encoder")
    assert file_sha256(folder / "models" / "model.pt") == file_sha256(tmp_path / "mine.pt")
    assert all(check.passed for check in verify(folder))
    large = (folder / "large_files.yml").read_text()
    assert "https://huggingface.co/lab/encoder/resolve/" in large and file_sha256(tmp_path / "mine.pt") in large


def test_an_unknown_bundle_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"deepssim_encoder or mi_scorer. Got 'nothing' instead"):
        pack("nothing", tmp_path / "out")


def test_pack_without_onnx_says_what_to_install_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"\.\[onnx\]"):
        pack("deepssim_encoder", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_label_app_does_not_replace_a_folder_with_a_model_of_its_own(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "main.py").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        write_label_app(tmp_path)
    assert (tmp_path / "main.py").read_text() == "mine"
