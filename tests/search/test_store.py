"""The store: whole shards or none, one fingerprint, several readers and writers, disks and networks that fail."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import random
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doppelscan.errors import DoppelscanError, InputError
from doppelscan.search import EmbeddingStore, StoreError, fingerprint, shards
from doppelscan.search import store as module

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, so that none of them imports torch")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "LISTING_LAG", 0.05)
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.01)
    monkeypatch.setattr(module, "READ_AGAIN", (0.0, 0.0))
    monkeypatch.setattr(shards, "RENAME_AGAIN", (0.0, 0.0))


@pytest.fixture(params=["folder", "file://", "memory://"])
def directory(request, tmp_path):
    return {"folder": tmp_path, "file://": tmp_path.as_uri(), "memory://": f"memory://store/{uuid.uuid4().hex}"}[request.param]


def row(i):
    return {"embedding": np.arange(6, dtype=np.float32).reshape(2, 3) + i, "thumbnail": np.full((1, 4, 4), i % 256, np.uint8)}


def fill(store, count, start=0):
    for i in range(start, start + count):
        store.add(f"k{i}", row(i))


def table_of(store, count):
    return {name: block.tolist() for name, block in store.read([f"k{i}" for i in range(count)], ["embedding", "thumbnail"]).items()}


def expected(count):
    return {name: [row(i)[name].tolist() for i in range(count)] for name in row(0)}


def test_rows_come_back_in_the_order_asked(directory):
    store = EmbeddingStore(directory, "f", shard_size=4)
    fill(store, 10)
    store.flush()
    read = EmbeddingStore(directory, "f").read(["k9", "k0", "k5", "k0"], ["embedding", "thumbnail"])
    assert read["embedding"].shape == (4, 2, 3) and read["thumbnail"].dtype == np.uint8
    assert read["embedding"][:, 0, 0].tolist() == [9, 0, 5, 0] and read["thumbnail"][2].max() == 5


def test_rows_of_several_groups_of_a_shard_come_back_in_the_order_asked(directory, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 4)
    store = EmbeddingStore(directory, "f", shard_size=11)
    fill(store, 22)
    order = [21, 3, 3, 11, 10, 0, 8, 15]
    for keep in (False, True, True):
        read = store.read([f"k{i}" for i in order], ["embedding", "thumbnail"], keep)
        assert read["embedding"][:, 0, 0].tolist() == order and read["thumbnail"][:, 0, 0, 0].tolist() == order


def test_a_killed_run_loses_at_most_one_shard(directory):
    fill(EmbeddingStore(directory, "f", shard_size=4), 10)  # no flush: the last two rows die with the process
    store = EmbeddingStore(directory, "f", shard_size=4)
    assert len(store) == 8 and "k7" in store and "k8" not in store
    fill(store, 2, 8)
    store.flush()
    assert len(EmbeddingStore(directory, "f")) == 10


def test_other_weights_are_refused(directory):
    store = EmbeddingStore(directory, fingerprint("weights-1"))
    fill(store, 1)
    store.flush()
    with pytest.raises(StoreError, match="other weights"):
        EmbeddingStore(directory, fingerprint("weights-2"))


def test_a_store_of_another_format_is_refused_not_misread(tmp_path):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3, np.float32)), 3)
    metadata = {b"doppelscan.fingerprint": "f", b"doppelscan.shapes": json.dumps({"embedding": [[1, 3], "float32"]})}
    pq.write_table(pa.table({"key": ["k0"], "embedding": column}).replace_schema_metadata(metadata), tmp_path / "shard.parquet")
    with pytest.raises(StoreError, match=r"another release \(f in format 1, not f in format 2\); remove that folder") as refused:
        EmbeddingStore(tmp_path, "f")
    assert "\n" not in str(refused.value)


def test_weights_that_another_process_wrote_with_since_are_refused_before_rows_are_mixed(tmp_path):
    first, second = EmbeddingStore(tmp_path, "f"), EmbeddingStore(tmp_path, "g")
    for store in (first, second):
        fill(store, 1)
    first.flush()
    with pytest.raises(StoreError, match="other weights"):
        second.flush()
    assert len(list(tmp_path.glob("*.parquet"))) == 1


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


def test_floats_come_back_to_the_last_bit(directory):
    values = np.random.default_rng(0).standard_normal((40, 2, 8)).astype(np.float32)
    values[3] = [np.nan, np.inf, -np.inf, -0.0, 1e-40, 3e38, 1e-9, 0.0]
    store = EmbeddingStore(directory, "f", shard_size=40)
    for i, one in enumerate(values):
        store.add(f"k{i}", {"embedding": one})
    read = EmbeddingStore(directory, "f").read([f"k{i}" for i in range(40)], ["embedding"])["embedding"]
    assert read.dtype == np.float32 and read.tobytes() == values.tobytes()


def test_last_bits_that_are_zero_take_no_room(tmp_path):
    values = np.random.default_rng(0).standard_normal((32, 1, 512)).astype(np.float32)
    sizes = []
    for name, one in (("whole", values), ("rounded", (values.view(np.uint32) >> 8 << 8).view(np.float32))):
        store = EmbeddingStore(tmp_path / name, "f", shard_size=32)
        for i in range(32):
            store.add(f"k{i}", {"embedding": one[i]})
        sizes.append(sum(path.stat().st_size for path in (tmp_path / name).iterdir()))
    assert sizes[1] < 0.8 * sizes[0]


def test_columns_and_rows_that_were_not_asked_for_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP", 4)
    store = EmbeddingStore(tmp_path, "f", shard_size=16)
    fill(store, 16)
    usual, asked = pq.ParquetFile.read_row_groups, []
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, columns, **how: asked.append((groups, columns)) or usual(self, groups, columns, **how),
    )
    store.read(["k5", "k14"], ["thumbnail"])
    assert asked == [([1, 3], ["thumbnail"])]


def full_when_syncing(monkeypatch):
    monkeypatch.setattr(os, "fsync", raising(errno.ENOSPC, "No space left on device"))


def full_when_renaming(monkeypatch):
    monkeypatch.setattr(os, "replace", raising(errno.ENOSPC, "No space left on device"))


def full_when_writing(monkeypatch):
    class Half(io.FileIO):
        """Takes the first bytes only."""

        def write(self, content):
            super().write(bytes(content)[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "open", Half, raising=False)


def raising(number, words):
    def full(*args, **kwargs):
        raise OSError(number, words)

    return full


@pytest.mark.parametrize("full", [full_when_writing, full_when_syncing, full_when_renaming])
def test_a_full_disk_loses_nothing_that_was_whole(tmp_path, monkeypatch, full):
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 4)
    with monkeypatch.context() as patched:
        full(patched)
        with pytest.raises(
            StoreError, match=r"cannot be written: No space left on device; free space or pass another --store"
        ) as error:
            fill(store, 4, 4)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*.tmp"))
    assert table_of(EmbeddingStore(tmp_path, "f"), 4) == expected(4)
    store.flush()  # there is space again: what waited is not lost either
    assert table_of(EmbeddingStore(tmp_path, "f"), 8) == expected(8)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EEXIST])
def test_a_rename_that_a_network_refuses_once_is_tried_again(tmp_path, monkeypatch, impatient, number):
    usual, tries = os.replace, []

    def replace(source, target):
        tries.append(target)
        if len(tries) == 1:
            raise OSError(number, os.strerror(number))
        usual(source, target)

    monkeypatch.setattr(os, "replace", replace)
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 4)
    assert len(tries) == 2 and table_of(EmbeddingStore(tmp_path, "f"), 4) == expected(4)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ESTALE, errno.EIO])
def test_a_rename_that_was_done_though_its_answer_was_lost_is_done(tmp_path, monkeypatch, impatient, number):
    usual = os.replace

    def replace(source, target):
        usual(source, target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", replace)
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 4)
    assert table_of(store, 4) == expected(4)


def test_a_rename_that_is_refused_for_good_is_told_in_one_line(tmp_path, monkeypatch, impatient):
    monkeypatch.setattr(os, "replace", raising(errno.ESTALE, "Stale file handle"))
    with pytest.raises(StoreError, match="cannot be written: Stale file handle"):
        fill(EmbeddingStore(tmp_path, "f", shard_size=4), 4)


@pytest.fixture
def late(tmp_path, monkeypatch):
    """A store whose folder another one has filled, which the first three listings do not show; and a list that grows with each listing."""
    monkeypatch.setattr(module, "LOOK_AGAIN", 0.001)
    store = EmbeddingStore(tmp_path, "f")
    fill(EmbeddingStore(tmp_path, "f", shard_size=4), 4)
    usual, calls = shards.ShardFolder.names, []
    monkeypatch.setattr(shards.ShardFolder, "names", lambda self: calls.append(1) or (usual(self) if len(calls) > 3 else []))
    return store, calls


def test_a_shard_that_a_listing_shows_late_is_waited_for(late):
    store, calls = late
    assert table_of(store, 4) == expected(4) and len(calls) == 4


def test_keys_that_other_processes_say_they_wrote_are_waited_for(late):
    store, _ = late
    store.refresh({"k0", "k3"})
    assert "k0" in store and "k3" in store


def test_a_shard_that_vanishes_between_listing_and_reading_is_made_again(tmp_path, monkeypatch):
    fill(EmbeddingStore(tmp_path, "f", shard_size=2), 4)
    gone = sorted(tmp_path.glob("*.parquet"))[0]
    usual = shards.ShardFolder.names

    def names(self):
        found = usual(self)
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(shards.ShardFolder, "names", names)
    store = EmbeddingStore(tmp_path, "f", shard_size=2)
    assert len(store) == 2
    fill(store, 4)
    assert table_of(store, 4) == expected(4)


def vanish(shard):
    shard.unlink()


def cut_short(shard):
    shard.write_bytes(shard.read_bytes()[:200])


def flip_bits(shard):
    """In the pages, where the keys of the footer stay as they were."""
    content = bytearray(shard.read_bytes())
    place = pq.ParquetFile(shard).metadata.row_group(0).column(1).data_page_offset
    for i in range(place + 20, place + 60):
        content[i] ^= 0xFF
    shard.write_bytes(content)


@pytest.mark.parametrize("harm", [vanish, cut_short, flip_bits])
def test_a_shard_that_is_harmed_after_it_was_indexed_is_made_again(tmp_path, impatient, harm):
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 8)
    harm(tmp_path / store._where["k0"][0])
    with pytest.raises(StoreError, match=r"must hold the 8 images that are read. Got 4: .*; run the same again") as error:
        table_of(store, 8)
    assert "\n" not in str(error.value)
    for again in (store, EmbeddingStore(tmp_path, "f", shard_size=4)):
        assert len(again) == 4 and "k0" not in again and "k7" in again
    fill(store, 8)
    assert table_of(store, 8) == table_of(EmbeddingStore(tmp_path, "f"), 8) == expected(8)


@pytest.mark.parametrize("harm", [vanish, cut_short, flip_bits])
def test_a_row_that_two_shards_hold_outlives_one_of_them(tmp_path, impatient, harm):
    made = EmbeddingStore(tmp_path / "other", "f", shard_size=4)
    fill(made, 4)
    store = EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 4)
    own = tmp_path / store._where["k0"][0]
    for shard in (tmp_path / "other").glob("*.parquet"):
        shard.rename(tmp_path / shard.name)
    harm(own)
    assert table_of(store, 4) == expected(4)


def test_a_damaged_shard_is_not_taken_for_whole(tmp_path):
    store = EmbeddingStore(tmp_path, "f", shard_size=2)
    fill(store, 4)
    shard = sorted(tmp_path.glob("*.parquet"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    again = EmbeddingStore(tmp_path, "f")
    assert len(again) == 2 and again.unreadable == [shard.name]
    again.refresh()
    assert again.unreadable == [shard.name]
    shard.write_bytes(whole)  # a network that showed the end of it late
    again.refresh()
    assert len(again) == 4 and again.unreadable == []


def test_what_a_killed_run_left_is_cleared_and_what_another_process_is_writing_is_not(tmp_path):
    for name, age in (("left", 2 * shards.LEFT_BEHIND), ("writing", 1)):
        (tmp_path / f"{name}.tmp").write_bytes(b"half")
        os.utime(tmp_path / f"{name}.tmp", times=2 * (time.time() - age,))
    EmbeddingStore(tmp_path, "f")
    assert [p.name for p in tmp_path.glob("*.tmp")] == ["writing.tmp"]


def test_a_refresh_reads_the_shards_that_are_new_and_no_others(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path, "f", shard_size=2)
    fill(EmbeddingStore(tmp_path, "f", shard_size=2), 4)
    usual, opened = EmbeddingStore._keys_of, []
    monkeypatch.setattr(EmbeddingStore, "_keys_of", lambda self, name: opened.append(name) or usual(self, name))
    store.refresh()
    assert len(opened) == 2
    store.refresh()
    assert len(opened) == 2


def test_what_another_process_wrote_since_is_not_written_twice(tmp_path):
    store, other = EmbeddingStore(tmp_path, "f", shard_size=4), EmbeddingStore(tmp_path, "f", shard_size=4)
    fill(store, 3)
    fill(other, 4)
    fill(store, 1, 3)
    assert len(list(tmp_path.glob("*.parquet"))) == 1 and table_of(store, 4) == expected(4)


def written(directory, count, shard_size=2):
    store = EmbeddingStore(directory, "f", shard_size=shard_size)
    fill(store, count)
    store.flush()


@forks
def test_processes_that_write_the_same_keys_at_once_leave_one_row_of_each(tmp_path):
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=written, args=(tmp_path, 60, size)) for size in (2, 2, 3)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0, 0]
    store = EmbeddingStore(tmp_path, "f")
    assert len(store) == 60 and table_of(store, 60) == expected(60)


@forks
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_table(tmp_path):
    context, moments = multiprocessing.get_context("fork"), random.Random(0)
    done = [0]
    for _ in range(20):
        child = context.Process(target=written, args=(tmp_path, 400, 1))
        child.start()
        until = done[-1] + moments.randrange(12)  # shards, so that a slow machine kills at moments of the same kind
        while len(list(tmp_path.glob("*.parquet"))) < until and child.is_alive():
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.003))
        os.kill(child.pid, signal.SIGKILL)
        child.join(60)
        done.append(len(EmbeddingStore(tmp_path, "f")))
    assert done == sorted(done) and 0 < done[-1] < 400  # nothing that was whole is lost
    written(tmp_path, 400)
    store = EmbeddingStore(tmp_path, "f")
    assert len(store) == 400 and store.unreadable == [] and table_of(store, 400) == expected(400)


def test_threads_that_read_at_once_see_what_one_would(tmp_path, monkeypatch):
    class Slow(dict):
        """Between a block that is kept and its use there is time for another thread to drop it."""

        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            time.sleep(0.001)

    monkeypatch.setattr(module, "KEPT_BYTES", 40)  # two thumbnails
    store = EmbeddingStore(tmp_path, "f", shard_size=1)
    fill(store, 6)
    store._kept = Slow()
    with ThreadPoolExecutor(4) as pool:
        for key, found in pool.map(lambda i: (i % 6, store.read([f"k{i % 6}"], ["thumbnail"], keep=True)), range(60)):
            assert (found["thumbnail"] == key).all()
    assert len(store._kept) <= 2


def test_what_is_kept_in_memory_is_bounded_and_used_last(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 3 * 16)
    store = EmbeddingStore(tmp_path, "f", shard_size=1)
    fill(store, 6)
    for i in (0, 1, 2, 0, 3):
        store.read([f"k{i}"], ["thumbnail"], keep=True)
    held = {place[0] for place in store._kept}
    assert held == {store._where[f"k{i}"][0] for i in (2, 0, 3)} and store._kept_bytes == 3 * 16


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        EmbeddingStore(tmp_path / "file" / "store", "f")


def test_a_url_of_no_known_storage_is_told_in_one_line():
    with pytest.raises(InputError, match=r"must be a folder or a URL that fsspec knows.*Got 'nowhere://bucket/store'") as error:
        EmbeddingStore("nowhere://bucket/store", "f")
    assert "\n" not in str(error.value)


def test_a_storage_whose_package_is_missing_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(
        shards.fsspec.core, "url_to_fs", lambda url: (_ for _ in ()).throw(ImportError("Install s3fs to access S3"))
    )
    with pytest.raises(DoppelscanError, match="Install s3fs") as error:
        EmbeddingStore("s3://bucket/store", "f")
    assert "\n" not in str(error.value)


def test_pandas_reads_a_shard(tmp_path):
    pd = pytest.importorskip("pandas")
    store = EmbeddingStore(tmp_path, "f")
    for i in range(3):
        store.add(f"k{i}", row(i))
    store.flush()
    frame = pd.read_parquet(next(tmp_path.glob("*.parquet")))
    assert frame["key"].tolist() == ["k0", "k1", "k2"] and frame["embedding"][1].tolist() == [1, 2, 3, 4, 5, 6]
    assert frame["thumbnail"][2] == bytes([2]) * 16
