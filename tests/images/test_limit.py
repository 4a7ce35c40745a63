"""A sample of a set: the same each time, spread over what the set is made of, and nothing else is opened."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from doppelscan.images import find_images, spread_order
from doppelscan.images import records as module
from made_files import dicom, save_png

SMALL = np.linspace(0, 1, 256).reshape(16, 16)


def made_folders(folder: Path, **counts: int) -> Path:
    for name, count in counts.items():
        for i in range(count):
            save_png(folder / name / f"{i:03d}.png", SMALL)
    return folder


def folder_of(record) -> str:
    return os.path.basename(os.path.dirname(record.paths[0]))


def test_every_beginning_of_the_order_holds_each_stratum_by_its_share():
    strata = ["a"] * 60 + ["b"] * 30 + ["c"] * 10
    order = spread_order(strata, 0)
    assert sorted(order) == list(range(100)) and order == spread_order(strata, 0) != spread_order(strata, 1)
    for size in (10, 20, 50, 90):
        held = Counter(strata[row] for row in order[:size])
        assert all(abs(held[name] - size * share) <= 2 for name, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)))


def test_every_image_is_as_likely_as_any_other_whatever_its_folder():
    strata = ["a"] * 12 + ["b"] * 5 + ["c"] * 2 + ["d"]
    drawn = Counter(row for seed in range(3000) for row in spread_order(strata, seed)[:5])
    assert all(abs(drawn[row] / 3000 - 0.25) < 0.05 for row in range(20)), drawn


def test_a_sample_is_spread_over_folders_and_opens_no_other_file(tmp_path, monkeypatch):
    made_folders(tmp_path, epoch1=20, epoch2=10)
    opened = []
    read = module.read_header
    monkeypatch.setattr(module, "read_header", lambda path: (opened.append(path), read(path))[1])
    found = find_images(tmp_path, name="synthetic", limit=6, seed=3)
    paths = [record.paths[0] for record in found.records]
    assert (found.sample.drawn, found.sample.total) == (6, 30) and paths == sorted(paths)
    assert 3 <= Counter(map(folder_of, found.records))["epoch1"] <= 5
    assert set(opened) == set(paths)
    again = find_images(tmp_path, name="synthetic", limit=6, seed=3)
    assert again == found and find_images(tmp_path, name="synthetic", limit=6, seed=4).records != found.records


@pytest.mark.parametrize("limit", [None, 6, 7, 1000])
def test_a_limit_that_the_set_does_not_reach_changes_nothing(tmp_path, limit):
    made_folders(tmp_path, one=4, two=2)
    assert find_images(tmp_path, name="synthetic", limit=limit) == find_images(tmp_path, name="synthetic")


def test_a_table_is_spread_over_its_conditions(tmp_path):
    made_folders(tmp_path, images=40)
    with open(tmp_path / "set.csv", "w", newline="") as file:
        rows = [(f"images/{i:03d}.png", "rare" if i < 10 else "common") for i in range(40)]
        csv.writer(file).writerows([("path", "condition"), *rows])
    for seed in range(5):
        found = find_images(tmp_path / "set.csv", name="synthetic", limit=8, seed=seed)
        rare = sum(int(os.path.basename(record.paths[0])[:3]) < 10 for record in found.records)
        assert len(found.records) == 8 and 1 <= rare <= 3, "a quarter of eight"


def test_an_unreadable_file_is_listed_and_another_one_is_drawn_for_it(tmp_path):
    made_folders(tmp_path, images=10)
    for i in range(5):
        (tmp_path / "images" / f"{i:03d}.png").write_bytes(b"nothing")
    found = find_images(tmp_path, name="synthetic", limit=4)
    assert len(found.records) == found.sample.drawn == 4 and found.sample.total == 10
    assert all("nothing" not in one.reason for one in found.skipped) and len(found.skipped) <= 5


def test_volumes_are_drawn_whole(tmp_path):
    for i in range(6):
        voxels = np.random.default_rng(i).random((12, 12, 12)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{i}.nii.gz")
    found = find_images(tmp_path, name="synthetic", limit=8)
    slices = Counter(record.volume for record in found.records)
    assert set(slices.values()) == {6} and len(slices) == found.sample.drawn == 2 and found.sample.total == 6


def test_files_of_a_dicom_series_are_drawn_together(tmp_path):
    voxels = (np.random.default_rng(0).random((16, 16)) * 1000).astype(np.uint16)
    for i in range(4):
        for k in range(8):
            dicom(tmp_path / f"{i}-{k}.dcm", voxels, series=f"1.2.{i}", number=k, position=(0, 0, 3 * k))
    found = find_images(tmp_path, name="synthetic", limit=5)
    assert found.sample.total == 4 and not found.skipped
    assert all(len(record.paths) == 8 for record in found.records)
