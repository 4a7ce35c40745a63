"""The encoder of volumes, its views, batches, targets and embeddings; on generated volumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import (
    CohortBatchSampler,
    CubeThumbnaild,
    DeepSSIMLoss,
    MakeVolumeViews,
    VolumeCohortDataset,
    VolumeEncoder,
    VolumePoseInferer,
    VolumeStrength,
    augment_volumes,
    axis_views,
    cube_views,
    pairwise_ssim,
    ssim,
    turned_volumes,
    volume_features,
    volume_view_differences,
)
from doppelscan.errors import InputError
from doppelscan.images import AXIS_POSES, ImageError, axis_pose, generate_volumes
from monai.data import MetaTensor
from scipy.ndimage import rotate
from skimage.metrics import structural_similarity

STILL = VolumeStrength(probability=0.0, geometry=0.0, half=0.0)


@pytest.fixture(scope="module")
def dataset():
    return VolumeCohortDataset(generated_cohorts=2, generated_people=6, spatial_size=24, seed=3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return VolumeEncoder(channels=(4, 8, 8, 8), outputs=["deepssim", "embedding", "layer2", "layer4"]).eval()


def batch_of(dataset, groups=2, size=4):
    sampler = CohortBatchSampler(dataset, groups=groups, group_size=size, batches=1)
    return torch.utils.data.default_collate([dataset[i] for i in next(iter(sampler))])


def test_outputs_lie_where_they_are_said_to_and_heads_have_unit_length(network):
    cubes = torch.randn(3, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(cubes)
    slices = network.output_slices
    assert found.shape == (3, slices["layer4"].stop) and slices["layer2"] == slice(512, 576)
    for head in ("deepssim", "embedding"):
        torch.testing.assert_close(found[:, slices[head]].norm(dim=1), torch.ones(3))
    assert not torch.equal(found[0], found[1])
    with pytest.raises(InputError, match=r"'outputs'.*layer9"):
        VolumeEncoder(outputs=["layer9"])


def test_training_in_bfloat16_never_meets_maps_of_two_voxels():
    """oneDNN's gradient of a 3D convolution on 2 x 2 x 2 voxels holds memory that nobody wrote."""
    network, sizes = VolumeEncoder(), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] > 1:
            module.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        network(torch.zeros(2, 1, 32, 32, 32))
    assert len(sizes) == 9 and min(sizes) >= 3


def test_torchscript_gives_the_same(network):
    cubes = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(cubes), network(cubes))


def test_frozen_normalisation_keeps_its_statistics_in_training():
    for frozen in (False, True):
        network = VolumeEncoder(channels=(4, 4, 4, 4), frozen_norm=frozen).train()
        before = network.stem[1].running_mean.clone()
        network(torch.randn(2, 1, 32, 32, 32) + 1)
        assert torch.equal(before, network.stem[1].running_mean) is frozen


def test_ssim_of_volumes_is_scikit_images():
    generator = np.random.default_rng(0)
    a = generator.random((12, 13, 14)).astype(np.float32)
    b = (0.6 * a + 0.4 * generator.random(a.shape)).astype(np.float32)
    wanted, whole = structural_similarity(a, b, win_size=5, data_range=max(a.max(), b.max()) - min(a.min(), b.min()), full=True)
    pair = [torch.from_numpy(one)[None, None] for one in (a, b)]
    assert abs(float(ssim(*pair, window_size=5)) - whole[2:-2, 2:-2, 2:-2].mean()) < 1e-4
    assert abs(float(pairwise_ssim(*pair, window_size=5)[0, 0]) - float(ssim(*pair, window_size=5))) < 1e-6
    assert abs(wanted - whole.mean()) < 0.05


def test_views_of_nothing_change_nothing_and_rotation_is_about_any_axis():
    volumes = generate_volumes(2, 24, 0)[0].float() / 255
    torch.testing.assert_close(augment_volumes(volumes, STILL, torch.Generator()), volumes, atol=1e-5, rtol=0)
    turned = turned_volumes(volumes, 90.0)
    assert turned.shape == (7, 2, 1, 24, 24, 24)
    poses = axis_views(volumes)
    for view in turned[1:]:  # a quarter turn is an axis pose, and no mirror image
        errors = (poses - view).abs().flatten(1).mean(1)
        axes, flips = AXIS_POSES[int(errors.argmin())]
        assert (
            float(errors.min()) < 1e-3
            and sorted(axes) == [0, 1, 2]
            and np.linalg.det(np.eye(3)[list(axes)]) * (-1) ** sum(flips) > 0
        )
    wanted = rotate(volumes[0, 0].numpy(), 20, axes=(1, 2), reshape=False, order=1)
    errors = [np.abs(view[0, 0].numpy() - wanted).mean() for view in turned_volumes(volumes, 20.0)[1:]]
    assert min(errors) < 0.1 * np.median(errors)


def test_each_effect_alone_changes_the_view_and_stays_finite():
    volumes = generate_volumes(8, 24, 5)[0].float() / 255
    nothing = {"rotation": 0.0, "scale": 1.0, "shift": 0.0, "gamma": 1.0, "bias": 0.0, "noise": 0.0, "blur": 0.0, "reduction": 1.0,
               "elastic": 0.0, "crop": 0.0, "half": 0.0, "probability": 1.0, "geometry": 1.0}  # fmt: skip
    for name, amount in {"rotation": 25.0, "scale": 1.3, "shift": 0.2, "gamma": 2.0, "bias": 0.5, "noise": 0.1, "blur": 2.0, "reduction": 3.0,
                         "elastic": 0.05, "crop": 0.2, "half": 1.0}.items():  # fmt: skip
        view = augment_volumes(volumes, VolumeStrength(**{**nothing, name: amount}), torch.Generator().manual_seed(1))
        assert torch.isfinite(view).all() and float((view - volumes).abs().mean()) > 1e-3, name
    still = augment_volumes(volumes, VolumeStrength(**nothing), torch.Generator().manual_seed(1))
    torch.testing.assert_close(still, volumes, atol=1e-5, rtol=0)


def test_groups_keep_one_pose_and_targets_reach_from_unrelated_to_identical(dataset):
    views = MakeVolumeViews(group_size=4, spatial_size=16, working_size=24, near_duplicates=0.0, zoom_share=0.0)
    batch = batch_of(dataset)
    cubes, targets = views(batch, "cpu")
    assert cubes.shape == (16, 1, 16, 16, 16) and abs(float(cubes.mean())) < 1e-3 and targets["is_copy"].all()
    diagonal = torch.diagonal(targets["ssim"], dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal), atol=1e-3, rtol=0)
    apart = batch["index"].view(2, 4)
    others = targets["ssim"][apart[:, :, None] != apart[:, None]]
    assert float(others.max()) < 0.999
    group = batch["image"][:4].float() / 255
    seen = views._seen(group)
    errors = torch.stack([(axis_pose(group, number) - seen).abs().mean() for number in range(48)])
    assert float(errors.min()) < 1e-5


def test_a_volume_joined_from_two_is_still_a_copy_of_the_first(dataset):
    views = MakeVolumeViews(group_size=4, near_duplicates=1.0)
    clean = batch_of(dataset)["image"].float() / 255
    found = [views._variants(clean) for _ in range(6)]
    variants, copies = torch.stack([one[0] for one in found]), torch.stack([one[1] for one in found])
    assert copies.any() and not copies.all() and torch.isfinite(variants).all()
    same = ((variants == clean).float().flatten(2).mean(2) > 0.3) & (variants != clean).flatten(2).any(2)
    assert same.any() and copies[same].all()


def test_an_epoch_draws_the_same_after_a_restart(dataset):
    def epoch(number):
        views = MakeVolumeViews(group_size=4, spatial_size=16, working_size=20)
        views.set_epoch(number)
        return views(batch_of(dataset), "cpu")[0]

    torch.testing.assert_close(epoch(3), epoch(3))
    assert not torch.equal(epoch(3), epoch(4))


def test_a_step_of_training_lowers_the_loss(dataset):
    torch.manual_seed(1)
    network = VolumeEncoder(channels=(4, 8, 8, 16), embedding_size=16).train()
    loss, optimizer = DeepSSIMLoss(embedding_size=16), torch.optim.AdamW(network.parameters(), 3e-3)
    cubes, targets = MakeVolumeViews(group_size=6, spatial_size=32, working_size=32)(batch_of(dataset, 1, 6), "cpu")
    losses = []
    for _ in range(12):
        value = loss(network(cubes), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_a_query_in_any_axis_pose_meets_its_source_and_turned_views_are_of_the_source(network):
    volumes = generate_volumes(3, 32, 7)[0]
    inferer, outputs = VolumePoseInferer(degrees=15.0), network.output_slices
    source = volume_features(network, volumes, outputs, inferer)
    posed = axis_pose(volumes[1:2], 29)
    query = volume_features(network, posed, outputs, inferer.with_poses(48))
    assert (
        source["embedding"].shape == (3, 7, 256)
        and query["embedding"].shape == (1, 48, 256)
        and query["layer4"].shape == (1, 48, 64)
    )
    similarity = np.einsum("vc,nc->vn", query["embedding"][0], source["embedding"][:, 0])
    assert similarity[:, 1].max() == pytest.approx(1, abs=1e-5) and similarity.argmax() % 3 == 1
    alone = volume_features(network, volumes, outputs, VolumePoseInferer(degrees=0.0))
    np.testing.assert_allclose(alone["embedding"][:, 0], source["embedding"][:, 0], atol=1e-6)
    assert VolumePoseInferer(poses=48)(torch.zeros(0, 1, 32, 32, 32), network).shape == (0, 1, 1)
    with pytest.raises(InputError, match=r"'poses'.*8"):
        VolumePoseInferer(poses=8)


def test_view_differences_are_those_of_each_volumes_own_views(network):
    volumes = generate_volumes(2, 24, 9)[0]

    def mean_of(views):
        return views.mean((2, 3, 4))

    assert volume_view_differences(mean_of, volumes, 16, views=2).abs().max() < 1e-4  # z-scored: the mean is 0 in every view
    found = volume_view_differences(lambda views: F.normalize(views.flatten(1), dim=1), volumes, 16, views=3)
    assert found.shape == (6, 16**3) and float(found.norm(dim=1).min()) > 0.05
    again = volume_view_differences(lambda views: F.normalize(views.flatten(1), dim=1), volumes, 16, views=3)
    torch.testing.assert_close(found, again)


def test_a_cube_has_one_scale_along_all_axes_whatever_the_spacing():
    volume = generate_volumes(1, 32, 4)[0][0].float() / 255
    thick = F.interpolate(volume[None], (32, 32, 16), mode="area")[0]
    make = CubeThumbnaild("image", 24)
    whole = make({"image": MetaTensor(volume, affine=torch.eye(4))})["thumbnail"]
    assert whole.shape == (1, 24, 24, 24) and whole.dtype == np.uint8
    affine = torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0]))
    assert np.corrcoef(whole.ravel(), make({"image": MetaTensor(thick, affine=affine)})["thumbnail"].ravel())[0, 1] > 0.97
    assert np.corrcoef(whole.ravel(), make({"image": MetaTensor(thick, affine=torch.eye(4))})["thumbnail"].ravel())[0, 1] < 0.9


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (MetaTensor(torch.zeros(1, 8, 8, 8)), "a constant volume"),
        (MetaTensor(torch.full((1, 8, 8, 8), torch.nan)), "512 of 512 voxels are NaN"),
        (MetaTensor(torch.rand(4, 8, 8, 8)), "4 channels"),
        (MetaTensor(torch.rand(1, 8, 8, 8), affine=torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0]))), "spacing"),
    ],
)
def test_a_volume_without_content_says_why(broken, reason):
    with pytest.raises(ImageError, match=reason):
        CubeThumbnaild("image")({"image": broken})


def test_one_person_alone_is_refused():
    with pytest.raises(InputError, match=r"at least 2 people.*Got 1"):
        VolumeCohortDataset(generated_cohorts=1, generated_people=1, spatial_size=16)
    assert len(cube_views(generate_volumes(2, 16, 0)[0], 8)) == 2
