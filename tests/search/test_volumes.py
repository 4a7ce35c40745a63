"""Search for the source of volumes, on generated ones and the shipped encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from doppelscan.deepssim import DeepSSIMEncoder, VolumeSliceInferer, load_weights, volume_view_differences
from doppelscan.errors import InputError
from doppelscan.images import axis_pose, cut_cubes, generate_volumes
from doppelscan.images.cubes import inverse_axis_pose
from doppelscan.search import VolumeSearch

WEIGHTS = Path(__file__).parents[2] / "bundles/deepssim_encoder/models/model.pt"


@pytest.fixture(scope="module")
def setting():
    network = load_weights(DeepSSIMEncoder(outputs=["embedding"]), WEIGHTS)
    cubes = cut_cubes(generate_volumes(9, 32, 2)[0].float() / 255, 32)
    inferer = VolumeSliceInferer(network.output_slices)
    plain = VolumeSliceInferer(network.output_slices, degrees=0.0, halves=False)
    with torch.no_grad():
        training = inferer(cubes[:6], network).numpy()
        differences = volume_view_differences(lambda views: plain(views, network)[:, 0], cubes[:6], views=2)

    def embedded(queries):
        with torch.no_grad():
            return inferer.with_poses(48)(queries, network).numpy()

    return cubes, training, VolumeSearch(3).fit(training, differences.numpy(), inferer.view_weights), embedded


def test_a_posed_copy_names_its_source_and_the_pose_to_register(setting):
    cubes, _, search, embedded = setting
    found = search.propose(embedded(torch.cat([axis_pose(cubes[2:3], 13), axis_pose(cubes[4:5], 46), cubes[7:8]])))
    assert found.rows.shape == (3, 3) and found.poses.shape == (3, 3, 5) and found.rows[:2, 0].tolist() == [2, 4]
    np.testing.assert_allclose(found.similarity[:2, 0], 1, atol=1e-4)
    assert found.similarity[2, 0] < 0.9 and found.views[:2, 0].tolist() == [0, 0]
    assert found.poses[:2, 0, 0].tolist() == [inverse_axis_pose(13), inverse_axis_pose(46)]


def test_every_candidate_is_tried_as_the_volume_lies_and_as_its_first_candidate_does(setting):
    """The next patient was registered in poses that its views liked by accident: 0.3 in place of 0.8, so that any margin was wide."""
    cubes, _, search, embedded = setting
    found = search.propose(embedded(torch.cat([axis_pose(cubes[2:3], 13), cubes[7:8]])))
    for own in found.poses:
        assert all({0, int(own[0, 0])} <= set(poses.tolist()) and len(set(poses.tolist())) == 5 for poses in own)
    white = search.whitened(embedded(axis_pose(cubes[2:3], 13)))
    alone, _ = search.likely(white, found.rows[:1])
    assert np.array_equal(alone[0], found.poses[0, :, :3]), "those of its own come first"


def test_half_a_volume_and_a_turned_one_name_the_view_of_their_source(setting):
    cubes, training, search, embedded = setting
    half = cubes[3:4].clone()
    half[..., 16:, :, :] = 0
    found = search.propose(embedded(cut_cubes(half, 32)))
    assert (
        found.rows[0, 0] == 3 and found.similarity[0, 0] == pytest.approx(0.6, abs=0.01) and found.views[0, 0] == 8
    )  # 7 turned ones, then the halves
    even = VolumeSearch(3).fit(training).propose(embedded(cut_cubes(half, 32)))
    alone = VolumeSearch(3).fit(training[:, :1]).propose(embedded(cut_cubes(half, 32)))
    assert even.similarity[0, 0] > 0.99 and alone.similarity[0, 0] < 0.9
    with pytest.raises(InputError, match=r"'view_weights'.*13 views"):
        VolumeSearch(3).fit(training, view_weights=(1.0,))


def test_one_training_volume_needs_no_whitening_and_gives_one_candidate(setting):
    cubes, training, _, embedded = setting
    found = VolumeSearch(3).fit(training[:1]).propose(embedded(cubes[:1]))
    assert found.rows.shape == (1, 1) and found.rows[0, 0] == 0 and found.similarity[0, 0] == pytest.approx(1, abs=1e-4)
