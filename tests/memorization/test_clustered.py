"""Rows in an inverted file."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys

import numpy as np
import pytest
from doppelscan.errors import StoreError
from doppelscan.memorization import ClusteredRows, mapped, nearest_rows


@pytest.fixture(scope="module")
def cohort() -> np.ndarray:
    """float32 [4000, 32], groups of look-alikes."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100, 32))[rng.integers(100, size=4000)] + 0.7 * rng.standard_normal((4000, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def clustered(cohort) -> ClusteredRows:
    return ClusteredRows(cohort, probes=8)


def copies(cohort: np.ndarray) -> np.ndarray:
    """float32 [50, 8, 32], the fourth pose is a noisy copy of row 70 * i."""
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((50, 8, 32))
    queries[:, 3] = cohort[::80] + 0.05 * rng.standard_normal((50, 32))
    return (queries / np.linalg.norm(queries, axis=2, keepdims=True)).astype(np.float32)


def test_copies_are_found_as_by_exact_search(cohort, clustered):
    queries = copies(cohort)
    exact, found = nearest_rows(queries, cohort, 5), nearest_rows(queries, clustered, 5)
    assert found.rows[:, 0].tolist() == exact.rows[:, 0].tolist() == list(range(0, 4000, 80))
    np.testing.assert_allclose(found.similarity[:, 0], exact.similarity[:, 0], atol=5e-4)
    assert (found.poses[:, 0] == 3).all() and (np.diff(found.similarity, axis=1) <= 1e-5).all()


def test_rows_that_are_left_out_are_not_proposed(cohort, clustered):
    out = np.zeros(4000, bool)
    out[::80] = True
    found = nearest_rows(copies(cohort), clustered, 5, left_out=out)
    assert not np.isin(found.rows, np.flatnonzero(out)).any() and (found.rows >= 0).all()


def test_rows_of_the_own_group_do_not_take_part(cohort, clustered):
    groups = np.arange(4000) // 40
    found = nearest_rows(cohort[:200], clustered, 3, groups=(groups[:200], groups))
    assert (groups[found.rows] != groups[:200, None]).all()


def test_a_row_is_read_back_at_half_precision_and_unit_length(cohort, clustered):
    np.testing.assert_allclose(clustered[[5, 700]], cohort[[5, 700]], atol=5e-4)
    np.testing.assert_allclose(np.linalg.norm(clustered[10:20], axis=1), 1, atol=1e-6)
    assert clustered[np.array([[1, 2], [3, 4]])].shape == (2, 2, 32)


def test_another_process_finds_the_same(cohort, clustered):
    again = pickle.loads(pickle.dumps(clustered))
    queries = copies(cohort)
    assert (nearest_rows(queries, again, 5).rows == nearest_rows(queries, clustered, 5).rows).all()


def test_another_process_finds_the_same_where_simpleitk_was_imported_first():
    """Both are wrapped by SWIG, and the wrapper of std::vector that comes first is everybody's."""
    told = """
import SimpleITK, pickle, numpy as np
from doppelscan.memorization.clustered import ClusteredRows
rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
rows /= np.linalg.norm(rows, axis=1, keepdims=True)
again = pickle.loads(pickle.dumps(ClusteredRows(rows)))
assert again.proposed(rows[:3, None], 1)[:, 0].tolist() == [0, 1, 2]
"""
    subprocess.run([sys.executable, "-c", told], check=True)


def test_fewer_rows_than_are_asked_for_are_filled_up():
    few = ClusteredRows(np.eye(60, dtype=np.float32)[:50])
    found = nearest_rows(np.eye(60, dtype=np.float32)[:2], few, 50)
    assert found.rows[:, 0].tolist() == [0, 1]


def test_the_values_of_an_index_are_not_copied_when_it_is_opened_and_live_as_long_as_it(cohort):
    made = ClusteredRows(cohort, probes=8)
    assert made.file.stored.nbytes > cohort.nbytes / 2
    buffers: list[pickle.PickleBuffer] = []
    told = pickle.dumps(made, protocol=5, buffer_callback=buffers.append)
    assert len(told) < 10_000 and sum(one.raw().nbytes for one in buffers) == made.file.stored.nbytes
    again = pickle.loads(told, buffers=buffers)
    assert np.shares_memory(again.file.stored, made.file.stored)
    expected = nearest_rows(cohort[:4], made, 5).rows
    del made, buffers
    gc.collect()
    assert (nearest_rows(cohort[:4], again, 5).rows == expected).all()


def test_a_full_folder_for_temporary_files_is_told():
    def full(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="TMPDIR"):
        mapped(full)
