"""What the CI of MONAI's model zoo asks of a bundle, asked of both packed bundles, offline."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out
from monai.bundle.config_parser import ConfigParser
from monai.bundle.properties import InferProperties, MetaProperties, TrainProperties
from warm import run_warm

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "tests" / "bundles" / "meta_schema_20240725.json"
BUNDLES = ("deepssim_encoder", "mi_scorer")
LIMIT = 25 * 2**20


@pytest.fixture(params=BUNDLES)
def bundle(request, packed) -> Path:
    return packed / request.param


def test_the_directory_has_the_specified_files(bundle):
    for name in ("configs/metadata.json", "LICENSE", "README.md", "docs/README.md", "docs/data_license.txt", "models/model.pt"):
        assert (bundle / name).is_file(), name
    assert "Apache License" in (bundle / "LICENSE").read_text()


def test_the_version_is_in_the_changelog_and_new_versions_are_larger(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    numbers = [tuple(map(int, one.split("."))) for one in metadata["changelog"]]
    assert numbers == sorted(numbers, reverse=True) and numbers[0] == tuple(map(int, metadata["version"].split(".")))


def test_the_metadata_follows_the_schema_without_a_network(bundle):
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(SCHEMA))


def test_the_network_takes_and_gives_the_shapes_that_the_metadata_says(bundle):
    verify_net_in_out(
        net_id="network_def", meta_file=str(bundle / "configs/metadata.json"), config_file=str(bundle / "configs/inference.json"),
        bundle_root=str(bundle), device="cpu",
    )  # fmt: skip


def test_the_checkpoint_is_exported_and_the_file_that_is_shipped_loads(bundle, tmp_path):
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "verify_model.ts"), ckpt_file=str(bundle / "models/model.pt"),
        meta_file=str(bundle / "configs/metadata.json"), config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle),
    )  # fmt: skip
    image = torch.randn(3, 1, 128, 128)
    first, second = (torch.jit.load(path)(image) for path in (tmp_path / "verify_model.ts", bundle / "models/model.ts"))
    torch.testing.assert_close(first, second, equal_nan=True)


def test_the_shipped_torchscript_carries_the_metadata_as_monai_stores_it(bundle):
    from monai.data import load_net_with_metadata

    _, metadata, _ = load_net_with_metadata(str(bundle / "models" / "model.ts"))
    assert metadata["version"] == json.loads((bundle / "configs" / "metadata.json").read_text())["version"]


def test_files_over_25_mb_are_listed_as_large(bundle):
    large = [p.relative_to(bundle).as_posix() for p in bundle.rglob("*") if p.is_file() and p.stat().st_size > LIMIT]
    listed = (bundle / "large_files.yml").read_text() if (bundle / "large_files.yml").is_file() else ""
    assert all(f'"{name}"' in listed for name in large)
    assert bool(large) == bool(listed)


def test_the_requirements_name_packages_that_the_code_runs_on_and_all_that_it_imports(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = {"monai": metadata["monai_version"], "torch": metadata["pytorch_version"], "numpy": metadata["numpy_version"]}
    needed |= metadata["required_packages_version"]
    assert set((bundle / "requirements.txt").read_text().split()) == {f"{name}=={one}" for name, one in needed.items()}
    for name, wanted in needed.items():
        assert version(name).split("+")[0].split(".")[0] == wanted.split(".")[0], name
    declared = re.findall(r'^    "([a-z-]+)>', (ROOT / "pyproject.toml").read_text(), re.M)
    assert set(declared) <= set(needed)


@pytest.mark.parametrize(("config", "kind"), [("inference.json", InferProperties), ("train.json", TrainProperties)])
def test_the_required_properties_are_in_the_configs(bundle, config, kind):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / config))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    wanted = {**kind, **MetaProperties}
    missing = [name for name, one in wanted.items() if one["required"] and one["id"] not in parser]
    assert missing == []


def test_the_card_has_the_front_matter_that_the_hub_reads(bundle):
    import yaml

    text = (bundle / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "apache-2.0" and front["library_name"] == "monai"
    assert {"monai", "mri", "memorization"} <= set(front["tags"]) and front["metrics"] and front["datasets"]
    assert front["model-index"][0]["results"][0]["metrics"]
    for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", text):
        assert (bundle / target).exists(), target
    assert "bundles/" not in text


def test_monais_own_loader_gives_the_network_with_its_weights(bundle, tmp_path):
    code = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from monai.bundle import load
from safetensors.torch import load_file
net = load(sys.argv[2], bundle_dir=sys.argv[3], source="huggingface_hub", repo="x/y", workflow_type="inference", device="cpu").eval()
canary = load_file(sys.argv[1] + "/models/canary.safetensors")
torch.testing.assert_close(net(canary["image"]), canary["pred"], equal_nan=True)
print("the same")
"""
    done = run_warm(["-c", code, bundle, bundle.name, bundle.parent], tmp_path, alone=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("the same")
