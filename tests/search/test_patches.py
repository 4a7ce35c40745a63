"""Local structure finds a copied region that the image as a whole hides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.images import SquareThumbnaild, plant_copy
from doppelscan.search import PatchDescriptor, PatchSearch, mean_agreement


def thumbnails(images) -> torch.Tensor:
    return torch.stack([torch.from_numpy(SquareThumbnaild("image", 128)({"image": i[None]})["thumbnail"]) for i in images])


def paste(source: np.ndarray, host: np.ndarray, radius: float = 0.2) -> np.ndarray:
    """A disc of ``source`` in ``host``, its edge blurred over two pixels."""
    rows, columns = np.mgrid[: host.shape[0], : host.shape[1]] / host.shape[0]
    inside = 1 / (1 + np.exp(-(radius - np.hypot(rows - 0.45, columns - 0.55)) * host.shape[0]))
    return (inside * source + (1 - inside) * host).astype(np.float32)


@pytest.fixture(scope="module")
def search(cohort):
    return PatchSearch().fit(thumbnails(cohort[:30]))


def test_a_copied_region_is_found_where_the_whole_image_is_another(search, cohort):
    pasted = search.search(thumbnails([paste(cohort[i], cohort[40 + i]) for i in range(10)]))
    novel = search.search(thumbnails(cohort[40:60]))
    assert (pasted.part_row == np.arange(10)).mean() >= 0.9
    assert np.median(pasted.part) > novel.part.max() and not pasted.part_mirrored.any()


def test_mirrored_copies_agree_in_place_and_say_so(search, cohort):
    found = search.search(thumbnails([cohort[i][:, ::-1] for i in range(5)]))
    assert (found.rows[:, 0] == np.arange(5)).all() and found.part_mirrored.all() and (found.mean[:, 0] > 0.9).all()


def test_mean_over_cells_tells_copies_and_blends_from_look_alikes(search, cohort):
    rng = np.random.default_rng(0)
    copies = search.search(thumbnails([plant_copy(cohort[i], "gamma 1.5", rng) for i in range(10)]))
    blends = search.search(thumbnails([0.5 * cohort[i] + 0.5 * cohort[i + 10] for i in range(10)]))
    novel = search.search(thumbnails(cohort[40:60]))
    assert copies.mean[:, 0].min() > blends.mean[:, 0].min() > novel.mean[:, 0].max()
    assert all({i, i + 10} == set(blends.rows[i, :2].tolist()) for i in range(10))


def test_blocks_of_queries_and_reference_change_nothing(search, cohort, monkeypatch):
    from doppelscan.search import patches

    whole = search.search(thumbnails(cohort[:12]))
    monkeypatch.setattr(patches, "QUERIES", 5)
    monkeypatch.setattr(patches, "REFERENCES", 7)
    parts = PatchSearch().fit(thumbnails(cohort[:30])).search(thumbnails(cohort[:12]))
    np.testing.assert_array_equal(parts.rows[:, 0], whole.rows[:, 0])
    np.testing.assert_allclose(parts.mean, whole.mean, atol=2e-3)
    np.testing.assert_allclose(parts.part, whole.part, atol=2e-3)


def test_known_matches_and_cells_that_are_not_asked_about_are_left_out(search, cohort):
    structure = search.descriptor.structure(thumbnails(cohort[:4]))
    without = search.search_structure(structure, without=np.arange(4))
    assert (without.rows[:, 0] != np.arange(4)).all() and (without.part_row != np.arange(4)).all()
    nothing = search.search_structure(structure, asked=np.zeros((4, PatchDescriptor.grid**2), bool))
    assert (nothing.part == 0).all() and not nothing.counted.any()


@pytest.mark.parametrize("kind", ["black", "flat", "one training image"])
def test_images_without_structure_agree_with_nothing_and_are_finite(cohort, kind):
    training = thumbnails(cohort[:1] if kind == "one training image" else cohort[:5])
    query = thumbnails([np.zeros((96, 96), np.float32) if kind == "black" else np.full((96, 96), 0.5, np.float32)])
    found = PatchSearch().fit(training).search(query)
    assert np.isfinite(found.mean).all() and np.isfinite(found.part).all() and (found.mean == 0).all() and found.part[0] == 0


def test_few_cells_cannot_make_a_high_mean():
    cells, counted = torch.ones(81, 1), torch.zeros(81, 1, dtype=torch.bool)
    counted[:2] = True
    assert float(mean_agreement(cells * counted, counted)) == 2 / 8


@pytest.mark.parametrize("by_key", [False, True])
def test_an_image_that_is_there_twice_is_found_once_and_left_out_as_one(cohort, by_key):
    once = thumbnails(cohort[:12])
    twice = PatchSearch().fit(torch.cat([once, once]), [*range(12)] * 2 if by_key else None)
    found, expected = twice.search(once), PatchSearch().fit(once).search(once)
    assert (found.rows == expected.rows).all() and (found.part_row == expected.part_row).all()
    without = twice.search_structure(twice.descriptor.structure(once), without=np.arange(12) + 12)
    assert (without.rows % 12 != np.arange(12)[:, None]).all() and (without.part_row % 12 != np.arange(12)).all()


def test_the_only_training_image_left_out_leaves_nothing_to_be_found(cohort):
    search = PatchSearch().fit(thumbnails(cohort[:1]))
    found = search.search_structure(search.descriptor.structure(thumbnails(cohort[:2])), without=np.zeros(2, np.int64))
    assert (found.rows == -1).all() and (found.part_row == -1).all() and (found.mean == -1).all() and (found.part == -1).all()


def test_a_symmetric_image_is_found_as_it_is_and_not_mirrored(cohort):
    symmetric = thumbnails([(c + c[:, ::-1]) / 2 for c in cohort[:6]])
    symmetric = torch.maximum(symmetric, symmetric.flip(-1))
    found = PatchSearch().fit(symmetric).search(symmetric)
    assert (found.rows[:, 0] == np.arange(6)).all() and not found.part_mirrored.any()


def test_the_fingerprint_is_of_the_images_and_not_of_how_a_processor_rounds(cohort):
    images = thumbnails(cohort[:8])
    first, again = PatchDescriptor().fit(images), PatchDescriptor().fit(images)
    again.matrix = again.matrix + 1e-7
    assert first.fingerprint == again.fingerprint != PatchDescriptor().fit(images[:7]).fingerprint
    assert first.fingerprint != PatchDescriptor(components=40).fit(images).fingerprint
    before = first.fingerprint
    assert first.fit(images[1:]).fingerprint != before


def test_in_clusters_copies_and_regions_are_found_as_exactly(search, cohort):
    clustered = PatchSearch(clustered=True).fit(thumbnails(cohort[:30]))
    asked = thumbnails([paste(cohort[i], cohort[40 + i]) for i in range(5)] + [cohort[i][:, ::-1] for i in range(5)])
    exact, found = search.search(asked), clustered.search(asked)
    assert found.part_row.tolist() == exact.part_row.tolist() and found.part_mirrored.tolist() == exact.part_mirrored.tolist()
    np.testing.assert_allclose(found.part, exact.part, atol=1e-5)
    np.testing.assert_allclose(found.mean[:, 0], exact.mean[:, 0], atol=1e-5)


@pytest.mark.parametrize("clustered", [False, True])
def test_training_images_of_another_fold_are_not_found(cohort, clustered):
    search = PatchSearch(clustered=clustered).fit(thumbnails(cohort[:30]))
    out = np.arange(30) < 15
    found = search.without(out).search(thumbnails(cohort[:20]))
    assert found.rows[:, 0].min() >= 15 and found.part_row.min() >= 15
    assert found.rows[15:, 0].tolist() == [15, 16, 17, 18, 19]
    assert search.search(thumbnails(cohort[:20])).rows[:, 0].tolist() == list(range(20)), "the whole search stays as it was"
