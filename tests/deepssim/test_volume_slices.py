"""Volumes by the encoder of slices: poses, turns, heads and layers; on generated volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import DeepSSIMEncoder, VolumeSliceInferer, cube_slices, halved_cubes, turned_cubes, zscore
from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES, axis_pose, cut_cubes, generate_volumes
from scipy.ndimage import rotate


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), outputs=["deepssim", "embedding", "layer4"]).eval()


@pytest.fixture(scope="module")
def volumes():
    return generate_volumes(3, 32, 7)[0]


def test_slices_are_planes_of_the_three_axes_in_their_order(volumes):
    cubes = volumes[:2].float()
    # With 32 voxels a side the middle lies between voxels 15 and 16, a quarter of the way to a face between 11 and 12.
    slices = cube_slices(cubes, (-0.25, 0.0, 0.25), 32)
    assert slices.shape == (2, 9, 32, 32)
    wanted = [
        (cubes[1, 0, 11] + cubes[1, 0, 12]) / 2, (cubes[1, 0, :, 15] + cubes[1, 0, :, 16]) / 2, (cubes[1, 0, :, :, 19] + cubes[1, 0, :, :, 20]) / 2
    ]  # fmt: skip
    for place, plane in zip((0, 4, 8), wanted, strict=True):
        torch.testing.assert_close(slices[1, place], zscore(plane[None, None])[0, 0], atol=1e-4, rtol=1e-4)
    assert cube_slices(torch.zeros(1, 1, 8, 8, 8)).abs().max() == 0


@pytest.mark.parametrize("places", [(-0.25, 0.0, 0.25), (-0.4, 0.4), (0.0,)])
def test_the_row_of_each_axis_pose_is_that_of_the_posed_volume(volumes, places):
    """The 8 turns of the slices must come together as 48 volumes posed one after the other would."""
    weights = torch.randn(16 * 16, 12, generator=torch.Generator().manual_seed(1))

    def network(slices):
        return slices.flatten(1) @ weights

    query = VolumeSliceInferer({"embedding": slice(0, 8), "layer1": slice(8, 12)}, 48, places=places, spatial_size=16)
    alone = VolumeSliceInferer({"embedding": slice(0, 8), "layer1": slice(8, 12)}, 1, 0.0, False, places, 16)
    views = query(volumes[:1], network)[0]
    assert views.shape == (48, 3 * len(places) * 8 + 4)
    wanted = torch.cat([alone(axis_pose(volumes[:1], pose), network)[0] for pose in range(48)])
    torch.testing.assert_close(views, wanted, atol=1e-4, rtol=1e-4)
    assert len(torch.unique((views * 1000).round(), dim=0)) == 48


def test_heads_are_means_of_cosines_and_layers_means_of_slices(volumes, network):
    inferer = VolumeSliceInferer(network.output_slices, 1, 0.0, False, spatial_size=64)
    with torch.no_grad():
        rows = inferer(volumes, network)[:, 0]
    parts = inferer.output_slices
    assert rows.shape[1] == parts["layer4"].stop == 2 * 9 * 256 + 32 and inferer.slots == 9
    with torch.no_grad():
        found = torch.stack([network(one[:, None]) for one in cube_slices(volumes, size=64)])
    heads = F.normalize(found[..., network.output_slices["embedding"]], dim=-1)
    cosines = torch.einsum("akc,bkc->ab", heads, heads) / 9
    row = rows[:, parts["embedding"]]
    torch.testing.assert_close(row @ row.T, cosines, atol=1e-4, rtol=0)
    torch.testing.assert_close(row.norm(dim=1), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows[:, parts["layer4"]], found[..., network.output_slices["layer4"]].mean(1), atol=1e-4, rtol=1e-4)


def test_a_query_in_any_axis_pose_meets_its_source(volumes, network):
    inferer = VolumeSliceInferer(network.output_slices, spatial_size=64)
    part = inferer.output_slices["embedding"]
    with torch.no_grad():
        training = inferer(volumes, network)
    assert training.shape[:2] == (3, 13) and inferer.view_weights == (1.0,) * 7 + (0.6,) * 6
    for number in (0, 13, 29, 47):
        with torch.no_grad():
            query = inferer.with_poses(48)(axis_pose(volumes[1:2], number), network)[0]
        similarity = query[:, part] @ training[:, 0, part].T
        best = divmod(int(similarity.argmax()), 3)
        assert best[1] == 1 and float(similarity.max()) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(axis_pose(axis_pose(volumes[1], number), best[0]), volumes[1])
    assert inferer(volumes[:0], network).shape == (0, 1, 1)


def test_turned_views_are_turns_about_each_axis_and_no_mirror_images(volumes):
    cubes = volumes[:1].float()
    views = turned_cubes(cubes, 90.0)
    assert views.shape == (7, 1, 1, 32, 32, 32) and torch.equal(views[0], cubes)
    poses = torch.stack([axis_pose(cubes, number) for number in range(48)])
    numbers = []
    for view in views[1:]:
        errors = (poses - view).abs().flatten(1).mean(1)
        numbers.append(int(errors.argmin()))
        axes, flips = AXIS_POSES[numbers[-1]]
        assert float(errors.min()) < 0.1 and np.linalg.det(np.eye(3)[list(axes)]) * (-1) ** sum(flips) > 0
    assert len(set(numbers)) == 6
    for pair, axes in ((1, (1, 2)), (3, (0, 2)), (5, (0, 1))):
        for sign in (1, -1):
            wanted = rotate(cubes[0, 0].numpy(), sign * 20, axes=axes, reshape=False, order=1)
            errors = [np.abs(one[0, 0].numpy() - wanted).mean() for one in turned_cubes(cubes, 20.0)[1:]]
            assert int(np.argmin(errors)) in (pair - 1, pair) and min(errors) < 0.2 * np.median(errors)
    assert turned_cubes(volumes, 0.0).shape == (1, 3, 1, 32, 32, 32)


def test_poses_and_places_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"'poses'.*8"):
        VolumeSliceInferer({}, poses=8)
    with pytest.raises(InputError, match=r"'places'.*0\.3"):
        VolumeSliceInferer({}, places=(-0.2, 0.3))


def test_halved_views_are_what_is_left_of_a_volume_seen_whole():
    cubes = cut_cubes(generate_volumes(1, 32, 0)[0].float(), 32)
    views = halved_cubes(cubes)
    assert views.shape == (6, 1, 1, 32, 32, 32)
    for place, (axis, upper) in enumerate((axis, upper) for axis in range(3) for upper in (0, 1)):
        left = cubes.clone()
        left.movedim(2 + axis, 0)[slice(16, None) if upper else slice(16)] = 0
        torch.testing.assert_close(views[place], cut_cubes(left, 32))
    assert float((views - cubes).abs().flatten(1).mean(1).min()) > 1
