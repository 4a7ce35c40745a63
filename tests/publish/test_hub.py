"""A bundle that is published, downloaded and used by name, against a Hub on this machine; and everything that goes wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, HubError, file_sha256, hub_encoder, load_encoder
from doppelscan.images import InputError
from doppelscan.publish import info, pack, publish, verify
from hub_server import TOKEN, LocalHub, git
from warm import run_warm

pytestmark = pytest.mark.loopback
REPO = "lab/deepssim_encoder"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    hub = LocalHub(tmp_path_factory.mktemp("hub") / "served")
    yield hub
    hub.stop()


@pytest.fixture
def hub(served, tmp_path, monkeypatch):
    """The Hub as this process sees it, with an empty cache and a token that may write."""
    for name, value in {
        "ENDPOINT": served.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": served.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's tries
    served.cut = served.spoil = None
    served.requests.clear()
    return served


@pytest.fixture(scope="module")
def environment(served, tmp_path_factory) -> dict[str, str]:
    """The same for commands."""
    home = str(tmp_path_factory.mktemp("home"))
    return {**os.environ, "HF_ENDPOINT": served.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": home}


@pytest.fixture(scope="module")
def published(served, packed, environment) -> LocalHub:
    """The encoder, published by the command."""
    done = run_warm(["-m", "doppelscan.cli", "publish", packed / "deepssim_encoder", "--repo", REPO], packed, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(private)" in done.stdout and "latest_version points to it" in done.stdout
    return served


@pytest.fixture
def newer(packed, tmp_path):
    """Make a packed bundle of another version."""

    def make(version: str) -> Path:
        folder = Path(shutil.copytree(packed / "deepssim_encoder", tmp_path / version))
        path = folder / "configs" / "metadata.json"
        metadata = json.loads(path.read_text())
        metadata["changelog"][version] = "of the test"
        metadata["version"] = version
        path.write_text(json.dumps(metadata))
        sums = json.loads((folder / "checksums.json").read_text())
        sums["configs/metadata.json"] = file_sha256(path)
        (folder / "checksums.json").write_text(json.dumps(sums))
        return folder

    return make


def version_of(packed: Path) -> str:
    return json.loads((packed / "deepssim_encoder" / "configs" / "metadata.json").read_text())["version"]


def test_a_dry_run_shows_everything_and_opens_no_connection(packed, hub):
    planned = publish(packed / "deepssim_encoder", "lab/never", dry_run=True)
    assert hub.requests == [] and planned.commit is None
    assert {"README.md", "models/model.safetensors", "checksums.json"} <= set(planned.files)
    assert "--repo lab/never" in planned.card and planned.card.startswith("---\nlicense")


def test_what_is_published_is_one_commit_with_two_tags_and_the_bytes_that_were_packed(published, packed):
    repository = published.repository(REPO)
    version = version_of(packed)
    assert git(repository, "tag").split() == sorted([version, "latest_version"])
    assert (
        git(repository, "rev-parse", version)
        == git(repository, "rev-parse", "latest_version")
        == git(repository, "rev-parse", "main")
    )
    assert git(repository, "log", "--format=%s").splitlines() == [f"Version {version}", "initial commit"]
    assert published.private[REPO] is True
    for name in ("models/model.pt", "models/model.safetensors", "configs/inference.json", "doppelscan/cli.py"):
        assert file_sha256(repository / name) == file_sha256(packed / "deepssim_encoder" / name)
    assert f"--repo {REPO}" in (repository / "README.md").read_text()


def test_monai_downloads_the_latest_version_and_it_passes_every_check(published, packed, environment, tmp_path):
    words = ["--name", "deepssim_encoder", "--source", "huggingface_hub", "--repo", REPO, "--bundle_dir", tmp_path]
    done = run_warm(["-m", "monai.bundle", "download", *words], tmp_path, environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(check.passed for check in verify(tmp_path / "deepssim_encoder"))


@pytest.mark.slow
def test_an_audit_takes_the_encoder_from_the_hub_and_then_needs_no_network(published, packed, environment, folders, tmp_path):
    version = version_of(packed)
    command = ["-m", "doppelscan.cli", "audit", "--training", "training", "--synthetic", "synthetic", "--store", "kept"]
    before = len(published.requests)
    for output, encoder, endpoint in (
        ("named", f"hf://{REPO}@{version}", published.endpoint),
        ("again", f"hf://{REPO}@{version}", "http://127.0.0.1:9"),
        ("own", str(packed / "deepssim_encoder" / "models" / "model.pt"), "http://127.0.0.1:9"),
    ):
        done = run_warm([*command, "--output", output, "--encoder", encoder], tmp_path, {**environment, "HF_ENDPOINT": endpoint})
        assert done.returncode == 0, done.stderr[-2000:]
    fetched = {path.rpartition("/")[2] for method, path in published.requests[before:] if method == "GET" and "/resolve/" in path}
    assert fetched == {"checksums.json", "model.safetensors"}  # no code, and no more than what is needed
    tables = [(tmp_path / name / "scores.csv").read_text() for name in ("named", "again", "own")]
    assert tables[0] == tables[1] == tables[2]
    summary = json.loads((tmp_path / "named" / "summary.json").read_text())
    assert summary["weights_sha256"] == file_sha256(packed / "deepssim_encoder" / "models" / "model.safetensors")


def test_a_new_version_moves_the_latest_and_an_old_one_does_not(published, hub, newer, packed):
    repository = hub.repository(REPO)
    done = publish(newer("9.1.0"), REPO)
    assert done.latest and git(repository, "rev-parse", "latest_version") == done.commit == git(repository, "rev-parse", "9.1.0")
    assert git(repository, "rev-parse", version_of(packed)) != done.commit
    older = publish(newer("0.2.9"), REPO)
    assert not older.latest and git(repository, "rev-parse", "latest_version") == done.commit
    assert info(f"hf://{REPO}")["version"] == "9.1.0"
    assert info(f"{REPO}@{version_of(packed)}")["version"] == version_of(packed)


def test_a_file_that_the_new_version_has_not_is_gone_from_it(published, hub, newer):
    folder = newer("9.2.0")
    (folder / "docs" / "agreement.png").unlink()
    sums = json.loads((folder / "checksums.json").read_text())
    sums.pop("docs/agreement.png")
    (folder / "checksums.json").write_text(json.dumps(sums))
    publish(folder, REPO)
    assert not (hub.repository(REPO) / "docs" / "agreement.png").exists()


def test_a_published_version_is_never_overwritten(published, hub, packed):
    before = git(hub.repository(REPO), "rev-parse", "main")
    with pytest.raises(InputError, match=r"is on lab/deepssim_encoder already.*Raise 'version'"):
        publish(packed / "deepssim_encoder", REPO)
    assert git(hub.repository(REPO), "rev-parse", "main") == before


def test_an_upload_that_broke_off_before_its_tag_is_finished_by_the_same_command(hub, newer, monkeypatch):
    folder = newer("3.0.0")

    def break_off(*arguments, **settings):
        raise ConnectionError("the cable")

    with monkeypatch.context() as broken:
        broken.setattr(huggingface_hub.HfApi, "create_tag", break_off)
        with pytest.raises(HubError, match="broke off: the cable"):
            publish(folder, "lab/broken")
    done = publish(folder, "lab/broken")
    assert git(hub.repository("lab/broken"), "tag").split() == ["3.0.0", "latest_version"] and done.latest


def test_a_bundle_that_was_changed_after_packing_is_not_published(hub, newer):
    folder = newer("9.3.0")
    (folder / "configs" / "train.json").write_text("{}")
    with pytest.raises(InputError, match="must pass every check"):
        publish(folder, "lab/changed")
    assert hub.requests == []


def test_a_fitted_scorer_which_holds_features_of_patients_is_never_public(hub, packed, tmp_path):
    state = torch.load(packed / "mi_scorer" / "models" / "model.pt", weights_only=True)
    state = {name: value.repeat(12, 1) if name.endswith(".reference") else value for name, value in state.items()}
    torch.save({**state, "null": torch.tensor([0.5, 0.1])}, tmp_path / "fitted.pt")
    fitted = pack("mi_scorer", tmp_path / "mi_scorer", weights=tmp_path / "fitted.pt", repo="lab/scorer")
    with pytest.raises(InputError, match="features of 12 training images"):
        publish(fitted, "lab/scorer", public=True, dry_run=True)
    huggingface_hub.HfApi().create_repo("lab/open", private=False)
    with pytest.raises(InputError, match="must be private"):
        publish(fitted, "lab/open")
    assert publish(packed / "mi_scorer", "lab/scorer", public=True, dry_run=True).version
    assert not huggingface_hub.HfApi().list_repo_refs("lab/open").tags


def test_a_token_that_may_not_write_is_told_in_one_line(hub, packed, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_reads_only")
    with pytest.raises(HubError, match="hf auth login"):
        publish(packed / "deepssim_encoder", "lab/forbidden")


def test_an_interrupted_download_uses_nothing_and_goes_on_later(published, hub, packed, tmp_path):
    reference = f"hf://{REPO}@{version_of(packed)}"
    hub.cut = 3_000_000
    with pytest.raises(HubError, match="broke off"):
        hub_encoder(reference)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.cut = None
    assert file_sha256(hub_encoder(reference)) == file_sha256(packed / "deepssim_encoder" / "models" / "model.safetensors")


def test_weights_with_another_hash_are_refused_and_not_kept(published, hub, packed, tmp_path):
    reference = f"hf://{REPO}@{version_of(packed)}"
    hub.spoil = "model.safetensors"
    with pytest.raises(HubError, match="must have the sha256"):
        load_encoder(DeepSSIMEncoder(), reference)
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    hub.spoil = None
    load_encoder(DeepSSIMEncoder(), reference)


def test_cached_weights_that_were_changed_on_disk_are_refused(published, hub, packed):
    path = Path(hub_encoder(f"hf://{REPO}@{version_of(packed)}"))
    with open(path.resolve(), "r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0\1\2\3")
    with pytest.raises(HubError, match="must have the sha256"):
        hub_encoder(f"hf://{REPO}@{version_of(packed)}")


def test_a_commit_pins_too(published, hub, packed):
    commit = git(hub.repository(REPO), "rev-parse", version_of(packed))
    assert file_sha256(hub_encoder(f"hf://{REPO}@{commit}")) == file_sha256(packed / "deepssim_encoder/models/model.safetensors")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (f"hf://{REPO}@7.7.7", r"must be one that was published: .*latest_version. Got '7.7.7'"),
        (f"hf://{REPO}", r"must pin a version.*published are: .*latest_version"),
        ("hf://lab/nobody@0.1.0", "does not exist or is private"),
        ("hf://deepssim_encoder@0.1.0", "must be named OWNER/NAME"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_to_do(published, hub, reference, words):
    with pytest.raises(HubError, match=words):
        hub_encoder(reference)


def test_without_a_network_the_message_says_so(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(HubError, match=r"not in the cache and http://127.0.0.1:9 cannot be reached"):
        hub_encoder(f"hf://{REPO}@0.0.1")


def test_a_repository_that_is_no_bundle_is_told(hub, tmp_path, newer, monkeypatch):
    api = huggingface_hub.HfApi()
    api.create_repo("lab/other", private=True)
    api.create_tag("lab/other", tag="1.0.0")
    with pytest.raises(HubError, match="must be a packed bundle"):
        hub_encoder("hf://lab/other@1.0.0")
