"""The store: whole shards or none, one fingerprint, exact search."""

from __future__ import annotations

import errno

import numpy as np
import pyarrow.parquet as pq
import pytest
from doppelscan.search import CandidateSearch, EmbeddingStore, StoreError, best_of_poses, fingerprint, top_k


def row(i):
    return {"embedding": np.arange(6, dtype=np.float32).reshape(2, 3) + i, "thumbnail": np.full((1, 4, 4), i, np.uint8)}


def fill(store, count, start=0):
    for i in range(start, start + count):
        store.add(f"k{i}", row(i))


def test_rows_come_back_in_the_order_asked(tmp_path):
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 10)
    store.flush()
    read = EmbeddingStore(tmp_path, "f").read(["k9", "k0", "k5", "k0"], ["embedding", "thumbnail"])
    assert read["embedding"].shape == (4, 2, 3) and read["thumbnail"].dtype == np.uint8
    assert read["embedding"][:, 0, 0].tolist() == [9, 0, 5, 0] and read["thumbnail"][2].max() == 5


def test_a_killed_run_loses_at_most_one_shard(tmp_path):
    fill(EmbeddingStore(tmp_path, "f", shard_size=4), 10)  # no flush: the last two rows die with the process
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    assert len(store) == 8 and "k7" in store and "k8" not in store
    fill(store, 2, 8)
    store.flush()
    assert len(EmbeddingStore(tmp_path, "f")) == 10


def test_other_weights_are_refused(tmp_path):
    store = EmbeddingStore(tmp_path, fingerprint("weights-1"))
    fill(store, 1)
    store.flush()
    with pytest.raises(StoreError, match="other weights"):
        EmbeddingStore(tmp_path, fingerprint("weights-2"))


def test_a_row_is_stored_once(tmp_path):
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 3)
    fill(store, 6)  # three of them wait, three are new
    store.flush()
    again = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(again, 6)
    again.flush()
    assert sum(pq.ParquetFile(path).metadata.num_rows for path in tmp_path.glob("*.parquet")) == 6


def test_rows_of_unequal_shape_are_refused_not_broadcast(tmp_path):
    for key, poses in (("one", 1), ("eight", 8)):
        store = EmbeddingStore(tmp_path, "f")
        store.add(key, {"embedding": np.zeros((poses, 3), np.float32)})
        store.flush()
    with pytest.raises(
        StoreError, match=r"rows of one shape. Got 'embedding' of \[(1|8), 3\] and \[(8|1), 3\]; remove that folder"
    ):
        EmbeddingStore(tmp_path, "f").read(["eight", "one"], ["embedding"])


def test_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 4)

    def full(table, path, **kwargs):
        path.write_bytes(b"PAR1 half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StoreError, match="No space left"):
        fill(store, 4, 4)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.tmp")) and len(EmbeddingStore(tmp_path, "f")) == 4


def test_a_damaged_shard_is_not_taken_for_whole(tmp_path):
    store = EmbeddingStore(tmp_path, "f", shard_size=2)
    fill(store, 4)
    shard = sorted(tmp_path.glob("*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    (tmp_path / "left.tmp").write_bytes(b"half")
    again = EmbeddingStore(tmp_path, "f")
    assert len(again) == 2 and again.unreadable == [shard.name] and not list(tmp_path.glob("*.tmp"))


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        EmbeddingStore(tmp_path / "file" / "store", "f")


def test_pandas_reads_a_shard(tmp_path):
    pd = pytest.importorskip("pandas")
    store = EmbeddingStore(tmp_path, "f")
    fill(store, 3)
    store.flush()
    frame = pd.read_parquet(next(tmp_path.glob("*.parquet")))
    assert frame["key"].tolist() == ["k0", "k1", "k2"] and len(frame["embedding"][0]) == 6


def test_top_k_is_exact_in_blocks_of_any_size():
    rng = np.random.default_rng(0)
    queries, reference = rng.normal(size=(7, 16)).astype(np.float32), rng.normal(size=(53, 16)).astype(np.float32)
    expected = np.argsort(-(queries @ reference.T), axis=1)[:, :5]
    for block in (3, 10, 53, 1000):
        similarity, rows = top_k(queries, reference, 5, block)
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(similarity, np.take_along_axis(queries @ reference.T, expected, 1), rtol=1e-4, atol=1e-5)


def test_top_k_breaks_ties_by_row_and_stops_at_the_size():
    reference = np.ones((4, 3), np.float32)
    for block in (1, 2, 4):
        assert top_k(np.ones((1, 3), np.float32), reference, 9, block)[1].tolist() == [[0, 1, 2, 3]]


def test_best_of_poses_names_row_and_pose():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(20, 8)).astype(np.float32)
    queries = rng.normal(size=(3, 8, 8)).astype(np.float32) * 0.1
    queries[1, 6] = reference[13]
    similarity, rows, poses = best_of_poses(queries, reference, 4)
    assert rows[1, 0] == 13 and poses[1, 0] == 6
    every = np.einsum("mpd,nd->mpn", queries, reference).max(1)
    np.testing.assert_array_equal(rows, np.argsort(-every, axis=1)[:, :4])
    np.testing.assert_allclose(similarity, np.sort(every)[:, ::-1][:, :4], rtol=1e-5)


def training(count=12):
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(count, 8)).astype(np.float32) for name in ("deepssim", "embedding", "layer4")}


def test_union_of_embedding_and_index_holds_the_best_of_both():
    reference = training()
    queries = {name: np.random.default_rng(4).normal(size=(2, 8, 8)).astype(np.float32) for name in reference}
    queries["embedding"][0, 2] = reference["embedding"][5]
    queries["layer4"][0, 1] = reference["layer4"][9]
    found = CandidateSearch(candidates=4).fit(reference, list(map(str, range(12)))).propose(queries)
    assert found.rows[0, 0] == 5 and 9 in found.rows[0] and len(set(found.rows[0].tolist())) == 4
    assert found.embedding[0, 0] > 0.99


def test_one_training_image_still_proposes_it():
    reference = training(1)
    queries = {name: np.ones((1, 8, 8), np.float32) for name in reference}
    search = CandidateSearch().fit(reference, ["p"])
    assert search.index is None and "at least" in search.index_reason
    assert search.propose(queries).rows.tolist() == [[0]]
