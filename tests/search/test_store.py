"""The store: whole shards or none, one fingerprint, several readers."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from doppelscan.search import EmbeddingStore, StoreError, fingerprint
from doppelscan.search import store as module


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
    again = EmbeddingStore(tmp_path, "f")
    assert len(again) == 2 and again.unreadable == [shard.name]
    again.refresh()
    assert again.unreadable == [shard.name]


def test_what_a_killed_run_left_is_cleared_and_what_another_process_is_writing_is_not(tmp_path):
    for name, age in (("left", 2 * module.LEFT_BEHIND), ("writing", 1)):
        (tmp_path / f"{name}.tmp").write_bytes(b"half")
        os.utime(tmp_path / f"{name}.tmp", times=2 * (time.time() - age,))
    EmbeddingStore(tmp_path, "f")
    assert [p.name for p in tmp_path.glob("*.tmp")] == ["writing.tmp"]


def test_a_refresh_reads_the_shards_that_are_new_and_no_others(tmp_path, monkeypatch):
    store, other = EmbeddingStore(tmp_path, "f", shard_size=2), EmbeddingStore(tmp_path, "f", shard_size=2)
    fill(store, 4)
    fill(other, 4)  # the same keys: every row of the first store's shards is named by a later one
    opened = []
    monkeypatch.setattr(module.EmbeddingStore, "_index", lambda self, path: opened.append(path))
    store.refresh()
    assert len(opened) == 2
    store.refresh()
    assert len(opened) == 2


def test_threads_that_read_at_once_see_what_one_would(tmp_path, monkeypatch):
    class Slow(dict):
        """Between a block that is kept and its use there is time for another thread to drop it."""

        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            time.sleep(0.001)

    monkeypatch.setattr(module, "KEPT_SHARDS", 2)
    store = EmbeddingStore(tmp_path, "f", shard_size=1)
    fill(store, 6)
    store._columns = Slow()
    with ThreadPoolExecutor(4) as pool:
        for key, found in pool.map(lambda i: (i % 6, store.read([f"k{i % 6}"], ["thumbnail"], keep=True)), range(60)):
            assert (found["thumbnail"] == key).all()


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
