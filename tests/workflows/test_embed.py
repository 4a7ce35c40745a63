"""Views, stores and handlers of the embedding stage."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import doppelscan
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, RoleEncoder, file_sha256, load_encoder, quarter_turn_poses, rotated
from doppelscan.errors import DoppelscanError, StoreError
from doppelscan.images import ForegroundSquared, LoadSliced, SquareThumbnaild, Windowd
from doppelscan.locations import audit_root
from doppelscan.search import EmbeddingStore, shards
from doppelscan.workers import Workers
from doppelscan.workflows import EmbeddingEvaluator, PoseInferer, RecordDataset, bundle_root, embedding_fingerprint
from doppelscan.workflows.errors import user_mistake
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import Compose, Lambdad, NormalizeIntensityd


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepSSIMEncoder(channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4).eval()


def test_views_are_poses_or_rotations(network):
    images = torch.randn(3, 1, 64, 64)
    posed, turned = PoseInferer(8, (0, 10), batch_size=5)(images, network), PoseInferer(1, (0, 10))(images, network)
    assert posed.shape == (3, 8, 24) and turned.shape == (3, 2, 24)
    torch.testing.assert_close(posed[:, 6], network(quarter_turn_poses(images)[6]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned[:, 1], network(rotated(images, 10)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(turned[:, 0], posed[:, 0], atol=1e-5, rtol=1e-4)


def test_a_view_turns_as_a_pose_says(cohort):
    image = torch.from_numpy(cohort[0])[None, None]
    torch.testing.assert_close(
        rotated(image, 90)[..., 2:-2, 2:-2], torch.rot90(image, 1, (-2, -1))[..., 2:-2, 2:-2], atol=1e-3, rtol=1e-3
    )


def test_number_of_poses_is_checked():
    with pytest.raises(ValueError, match="1 or 8"):
        PoseInferer(4)
    with pytest.raises(ValueError, match="1 or 8"):
        PoseInferer(8).with_poses(2)


def test_another_number_of_poses_is_another_inferer(network):
    inferer = PoseInferer(1, (0, 10))
    images = torch.randn(2, 1, 64, 64)
    assert inferer.with_poses(8)(images, network).shape == (2, 8, 24) and inferer(images, network).shape == (2, 2, 24)


def test_embedding_a_set_leaves_the_inferer_as_it_was(network, folders, tmp_path):
    dataset = RecordDataset(folders["synthetic"], steps())
    inferer = PoseInferer(1, (0, 10))
    evaluator = EmbeddingEvaluator("cpu", network, dataset, inferer)
    _, keys = evaluator.embed(dataset, (store := EmbeddingStore(tmp_path, "f")), 8, "synthetic")
    found = store.read(keys, list(network.output_slices))
    assert {name: block.shape for name, block in found.items()} == {
        name: (4, 8, part.stop - part.start) for name, part in network.output_slices.items()
    }
    assert evaluator.inferer is inferer and inferer.poses == 1


def steps(*more, size=64):
    return Compose([LoadSliced("image"), Windowd("image"), SquareThumbnaild("image", 32), ForegroundSquared("image", size), *more])


CHANGES = {
    "a setting": (steps(), steps(size=32), {}),
    "a setting in a nested transform": (
        Compose([steps(), Compose([NormalizeIntensityd("image", nonzero=True)])]),
        Compose([steps(), Compose([NormalizeIntensityd("image", nonzero=False)])]),
        {},
    ),
    "a function": (steps(Lambdad("image", lambda x: x * 2)), steps(Lambdad("image", lambda x: x * 3)), {}),
    "poses": (steps(), steps(), {"poses": 8}),
    "rotations": (steps(), steps(), {"rotations": (0, 5)}),
}


@pytest.mark.parametrize(("before", "after", "views"), CHANGES.values(), ids=CHANGES)
def test_embeddings_of_another_preparation_or_view_have_another_fingerprint(network, before, after, views):
    first = embedding_fingerprint(before, network, PoseInferer(1, (0, 10)))
    assert first != embedding_fingerprint(after, network, PoseInferer(**{"poses": 1, "rotations": (0, 10), **views}))
    assert first == embedding_fingerprint(before, network, PoseInferer(1, (0.0, 10.0), batch_size=7))


def test_rotations_that_are_not_looked_at_change_no_fingerprint(network):
    made = [embedding_fingerprint(steps(), network, PoseInferer(8, turned)) for turned in ((0,), (0, 10))]
    assert made[0] == made[1]


def test_the_foreground_square_is_found_in_a_nested_transform(network, folders):
    dataset = RecordDataset(folders["synthetic"], Compose([Compose([steps(size=48)]), NormalizeIntensityd("image")]))
    assert dataset.foreground_size == 48


def test_settings_of_the_preparation_are_told_in_full(folders):
    told = RecordDataset(folders["synthetic"], steps(NormalizeIntensityd("image", nonzero=True))).transform_settings()
    assert told[3]["spatial_size"] == 64 and told[4]["normalizer"]["nonzero"] is True


def test_only_what_is_missing_is_embedded_and_equal_files_once(network, folders, tmp_path, monkeypatch):
    called = PoseInferer.__call__
    (folders["training"] / "again.png").write_bytes((folders["training"] / "p00.png").read_bytes())
    read = steps()
    dataset = RecordDataset(folders["training"], read)
    evaluator = EmbeddingEvaluator("cpu", network, dataset, PoseInferer(), batch_size=4)
    store = EmbeddingStore(tmp_path / "store", "f")
    records, keys = evaluator.embed(dataset, store, 1, "training")
    assert len(records) == 11 and len(set(keys)) == 10 and len(store) == 10
    seen = []
    monkeypatch.setattr(
        PoseInferer, "__call__", lambda self, inputs, net, *a, **k: seen.append(len(inputs)) or called(self, inputs, net)
    )
    evaluator.embed(RecordDataset(folders["training"], read), EmbeddingStore(tmp_path / "store", "f"), 1, "again")
    assert not seen
    evaluator.embed(RecordDataset(folders["synthetic"], read), EmbeddingStore(tmp_path / "store", "f"), 1, "more")
    assert sum(seen) == 4
    read_back = store.read(keys[:1], ["embedding"])["embedding"]
    part = network.output_slices["embedding"]
    assert read_back.shape == (1, 1, part.stop - part.start) and np.isfinite(read_back).all()


def test_a_fault_of_ours_is_not_listed_as_an_unreadable_image(network, folders):
    def broken(item):
        raise KeyError("a bug")

    with pytest.raises((KeyError, RuntimeError), match=r"a bug|applying transform"):
        RecordDataset(folders["training"], broken)[0]


ENCODER = Path(bundle_root("deepssim_encoder"))


def inferred(folders, output, poses, weights):
    """Run the encoder bundle's inference; rows in its store, or the user's mistake."""
    workflow = ConfigWorkflow(
        str(ENCODER / "configs" / "inference.json"), workflow_type="infer", logging_file=False, dataset_dir=str(folders["synthetic"]),
        output_dir=str(output), poses=poses, ckpt_path=str(weights), network_def=SMALL,
    )  # fmt: skip
    workflow.initialize()
    try:
        workflow.run()
    except Exception as error:
        return user_mistake(error) or error
    return sum(pq.ParquetFile(path).metadata.num_rows for path in (output / "embeddings").glob("*.parquet"))


SMALL = {
    "_target_": "doppelscan.deepssim.DeepSSIMEncoder", "channels": [4, 8, 8, 16], "blocks": [1, 1, 1, 1], "embedding_size": 12,
    "reduced_channels": 4,
}  # fmt: skip


def test_the_bundles_inference_adds_nothing_twice_and_mixes_no_poses_and_no_weights(network, folders, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    torch.save({name: value + 0.5 for name, value in network.state_dict().items()}, tmp_path / "b.pt")
    assert inferred(folders, tmp_path / "out", 1, tmp_path / "a.pt") == 4
    table = (tmp_path / "out" / "images.csv").read_text()
    assert inferred(folders, tmp_path / "out", 1, tmp_path / "a.pt") == 4
    assert (tmp_path / "out" / "images.csv").read_text() == table
    for poses, weights in ((8, "a.pt"), (1, "b.pt")):
        mistake = inferred(folders, tmp_path / "out", poses, tmp_path / weights)
        assert isinstance(mistake, StoreError) and "\n" not in str(mistake)
        assert "in other views" in str(mistake) and "remove that folder or write to another one" in str(mistake)
    assert inferred(folders, tmp_path / "out8", 8, tmp_path / "a.pt") == 4


PLAIN = {
    "_target_": "monai.networks.nets.ResNet", "block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 16, 32],
    "spatial_dims": 2, "n_input_channels": 3, "num_classes": 24,
}  # fmt: skip


def test_a_plain_network_serves_a_whole_audit(folders, tmp_path):
    torch.manual_seed(3)
    made = ConfigParser({"network": PLAIN}).get_parsed_content("network")
    torch.save(made.state_dict(), tmp_path / "own.pt")
    result = doppelscan.audit(
        **folders, output=tmp_path / "report", network_def=PLAIN, encoder=str(tmp_path / "own.pt"), spatial_size=64, device="cpu"
    )
    rows = {Path(row["image"]).name: row for row in result.scores}
    assert Path(rows["copy.png"]["match"]).name == "p03.png" and rows["copy.png"]["pose"].startswith("flip-x")
    assert rows["copy.png"]["deepssim"] > 0.99 and np.isfinite(rows["copy.png"]["mi"])
    assert result.summary["weights_sha256"] == file_sha256(tmp_path / "own.pt")


def test_the_documented_network_loads_with_every_role():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    command = next(block for block in text.split("```")[1::2] if "--network_def" in block).removeprefix("bash")
    words = shlex.split(command.replace("\\\n", " "))
    network = ConfigParser({"n": json.loads(words[words.index("--network_def") + 1])}).get_parsed_content("n")
    found = load_encoder(network, words[words.index("--encoder") + 1])
    assert found.output_slices["embedding"] == found.output_slices["deepssim"] == slice(0, 256)
    assert any(name.startswith("layer") for name in found.output_slices)
    for roles in re.findall(r"--roles '(.*?)'", text):
        RoleEncoder(network, json.loads(roles))


@pytest.mark.parametrize(
    ("network", "own", "settings", "message"),
    [
        ({**SMALL, "outputs": ["embedding", "layer4"]}, True, {}, "without deepssim, with embedding, layer4"),
        (PLAIN, False, {}, "build the network as they were trained"),
        (PLAIN, True, {"roles": {"layers": ["layer7"]}}, "Got 'layer7' for layers"),
        ({"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [4, 8],
          "strides": [2]}, True, {}, "must take float32"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_serve_an_audit_is_told_in_one_line(folders, tmp_path, network, own, settings, message):
    if own:
        made = ConfigParser({"network": network}).get_parsed_content("network")
        torch.save(made.state_dict(), tmp_path / "own.pt")
        settings = {**settings, "encoder": str(tmp_path / "own.pt")}
    with pytest.raises(DoppelscanError, match=message) as told:
        doppelscan.audit(**folders, output=tmp_path / "report", device="cpu", network_def=network, **settings)
    assert "\n" not in str(told.value)


def test_processes_fill_the_store_that_one_would_and_tell_what_they_cannot_read(network, folders, tmp_path):
    (folders["holdout"] / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    rows, skipped = {}, {}
    for name, workers in (("one", Workers()), ("two", Workers(2))):
        dataset = RecordDataset(folders["holdout"], steps(), "holdout")
        store = EmbeddingStore(tmp_path / name, "f")
        evaluator = EmbeddingEvaluator("cpu", network, dataset, PoseInferer(8, (0, 10)), batch_size=4)
        records, keys = evaluator.embed(dataset, store, 8, name, workers)
        rows[name] = keys, store.read(keys, ["embedding", "thumbnail", "native_shape"])
        skipped[name] = dataset.image_set.skipped
        assert len(records) == 20
    assert len(list((tmp_path / "two").glob("*.parquet"))) == 2, "each block is on disk when it is done"
    assert skipped["one"] == skipped["two"] and len(skipped["two"]) == 1 and rows["one"][0] == rows["two"][0]
    for name, values in rows["one"][1].items():
        np.testing.assert_allclose(rows["two"][1][name], values, atol=1e-5)


def test_what_other_processes_embedded_is_waited_for_and_never_told_as_unreadable(network, folders, tmp_path, monkeypatch):
    """A listing on a network file system that is behind: readable images were left out of the audit, as the same bytes as an unreadable one."""
    usual = shards.ShardFolder.names
    monkeypatch.setattr("doppelscan.search.store.LISTING_LAG", 20.0)

    def behind(self):
        return [name for name in usual(self) if os.stat(self.path / name).st_mtime < time.time() - 1.0]

    monkeypatch.setattr(shards.ShardFolder, "names", behind)
    dataset = RecordDataset(folders["holdout"], steps(), "holdout")
    evaluator = EmbeddingEvaluator("cpu", network, dataset, PoseInferer(1), batch_size=4)
    store = EmbeddingStore(tmp_path / "store", "f")
    records, keys = evaluator.embed(evaluator.dataset, store, 1, "training", Workers(2, least=4))
    told = [one.path for one in dataset.image_set.skipped if "damaged" not in one.path]
    assert told == [] and len(records) == 20 and all(key in store for key in keys)


def test_a_store_that_processes_do_not_share_is_an_error(network, folders, tmp_path, monkeypatch):
    monkeypatch.setattr("doppelscan.search.store.LISTING_LAG", 0.0)
    monkeypatch.setattr(shards.ShardFolder, "names", lambda self: [])
    dataset = RecordDataset(folders["training"], steps(), "training")
    evaluator = EmbeddingEvaluator("cpu", network, dataset, PoseInferer(1), batch_size=4)
    with pytest.raises(StoreError, match="must be one folder that all processes share"):
        evaluator.embed(evaluator.dataset, EmbeddingStore(tmp_path / "store", "f"), 1, "training", Workers(2, least=4))


def by_torchrun(cwd: Path, files: list[Path], *settings: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle", "run"]
    words = [*command, "--config_file", str([str(file) for file in files]), "--backend", "gloo", "--device", "cpu", *settings]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def stored(folder: Path) -> dict[str, np.ndarray]:
    """Key -> embedding of every shard."""
    tables = [pq.read_table(path) for path in folder.glob("*.parquet")]
    return {
        key: np.array(row) for one in tables for key, row in zip(one["key"].to_pylist(), one["embedding"].to_pylist(), strict=True)
    }


@pytest.mark.slow
def test_two_processes_of_torchrun_fill_the_store_that_one_would(network, folders, tmp_path):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    (folders["synthetic"] / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    assert inferred(folders, tmp_path / "one", 8, tmp_path / "a.pt") == 4
    configs = [ENCODER / "configs" / name for name in ("inference.json", "multi_gpu_inference.json")]
    settings = (
        "--dataset_dir",
        "synthetic",
        "--output_dir",
        "two",
        "--poses",
        "8",
        "--ckpt_path",
        "a.pt",
        "--network_def",
        json.dumps(SMALL),
    )
    by_torchrun(tmp_path, configs, *settings)
    one, two = (stored(tmp_path / name / "embeddings") for name in ("one", "two"))
    assert one.keys() == two.keys() and len(list((tmp_path / "two" / "embeddings").glob("*.parquet"))) == 2, "each wrote its share"
    for key, embedding in one.items():
        np.testing.assert_allclose(two[key], embedding, atol=1e-5)
    tables = [re.sub(r"[^\n,]*/", "", (tmp_path / name / "images.csv").read_text()) for name in ("one", "two")]
    assert tables[0] == tables[1] and tables[0].count("\n") == 5


@pytest.mark.slow
def test_an_audit_embeds_nothing_that_torchrun_embedded(folders, tmp_path, monkeypatch):
    sets = [word for name in folders for word in (f"--{name}_dir", name)]
    root = Path(audit_root()) / "configs"
    by_torchrun(
        tmp_path, [root / "audit.json", root / "multi_gpu_embed.json"], *sets, "--output_dir", "report", "--rotations", "[0]"
    )
    monkeypatch.setattr(EmbeddingEvaluator, "embed_rows", lambda *a, **k: pytest.fail("an image was embedded again"))
    result = doppelscan.audit(**folders, output=tmp_path / "report", rotations=(0,), device="cpu")
    assert len(result.scores) == 4
