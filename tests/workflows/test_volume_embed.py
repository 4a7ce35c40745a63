"""Embedding of volumes: shared among the processes of torchrun, and nothing twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import doppelscan
import nibabel as nib
import numpy as np
import pytest
from doppelscan.deepssim import DeepSSIMEncoder
from doppelscan.images import content_hash, find_images, generate_head
from doppelscan.locations import audit_root
from doppelscan.search import EmbeddingStore
from doppelscan.workflows import VolumeEmbedder, embed, volume_embed
from doppelscan.workflows.volume_embed import OfFile

SMALL = {"spatial_size": 64, "volume_embedder::size": 32, "self_test": False}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "training"
    made.mkdir()
    for number in range(5):
        head = np.round(generate_head(number, 24) * 255).astype(np.uint8)
        nib.save(nib.Nifti1Image(head, np.diag([2.0, 2.0, 2.0, 1.0])), made / f"p{number}.nii.gz")
    bad = np.full((24, 24, 24), np.nan, np.float32)
    nib.save(nib.Nifti1Image(bad, np.eye(4)), made / "p5.nii.gz")
    return made


def test_each_process_of_torchrun_embeds_its_share_and_tells_what_it_could_not_read(folder, tmp_path, monkeypatch):
    network = DeepSSIMEncoder(outputs=["embedding", "layer2"], blocks=(1, 1, 1, 1)).eval()
    embedder = VolumeEmbedder(network, spatial_size=64, size=32)
    records = find_images(folder, name="training", volumes="whole").records
    keys, made = [content_hash(one) for one in records], [OfFile(one) for one in records]
    told: list[tuple[str, str]] = []

    def gathered(own):
        told.extend(own)
        return list(told)

    monkeypatch.setattr(volume_embed, "gathered", gathered)
    monkeypatch.setattr(embed.idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(EmbeddingStore, "require", EmbeddingStore.refresh)  # the other process of this test comes after the first
    monkeypatch.setattr("doppelscan.search.store.LISTING_LAG", 0.0)
    stores = []
    for rank in range(2):
        monkeypatch.setattr(embed.idist, "get_rank", lambda rank=rank: rank)
        stores.append(embedder.store(tmp_path / f"{rank}", 1))
        failed = embedder.fill(stores[rank], keys, made, 1, "share")
    assert [len(one) for one in stores] == [3, 2] and not set(stores[0]._where) & set(stores[1]._where)
    assert list(failed) == keys[5:] and "NaN" in failed[keys[5]]


@pytest.mark.slow
def test_an_audit_of_volumes_embeds_nothing_that_torchrun_embedded(folder, tmp_path, monkeypatch):
    synthetic = tmp_path / "synthetic"
    synthetic.mkdir()
    for number in (1, 7):
        head = np.round(generate_head(number, 24) * 255).astype(np.uint8)
        nib.save(nib.Nifti1Image(head, np.diag([2.0, 2.0, 2.0, 1.0])), synthetic / f"s{number}.nii.gz")
    root = Path(audit_root()) / "configs"
    files = str([str(root / name) for name in ("audit.json", "multi_gpu_embed.json")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    settings = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    sets = ["--training_dir", str(folder), "--synthetic_dir", str(synthetic), "--output_dir", str(tmp_path / "out")]
    words = [*command, "--config_file", files, "--backend", "gloo", "--device", "cpu", *sets, *settings]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    shards = [len(list((tmp_path / "out" / "store" / name).glob("*.parquet"))) for name in ("volumes-1", "volumes-48")]
    # Of training, then of synthetic and of training in all poses: each process wrote its share.
    assert shards == [2, 4]
    monkeypatch.setattr(VolumeEmbedder, "add", lambda *a, **k: pytest.fail("a volume was embedded again"))
    result = doppelscan.audit(training=folder, synthetic=synthetic, output=tmp_path / "out", device="cpu", **SMALL)
    assert len(result.scores) == 2
