"""Training batches, targets and loss."""

from __future__ import annotations

import pytest
import torch
from doppelscan.deepssim import (
    CohortBatchSampler,
    CohortDataset,
    CopyRetrieval,
    DeepSSIMLoss,
    MakeViews,
    SSIMError,
    ViewStrength,
    augment,
    held_out_share,
)
from doppelscan.images import InputError, LoadSliced, SquareThumbnaild, Windowd
from made_files import save_png
from monai.transforms import Compose

READ = Compose([LoadSliced("image"), Windowd("image"), SquareThumbnaild("image", 64)])


@pytest.fixture(scope="module")
def dataset():
    return CohortDataset(generated_cohorts=3, generated_patients=6, spatial_size=64)


def batch_of(dataset, size=8):
    sampler = CohortBatchSampler(dataset, groups=2, group_size=size, batches=1)
    return torch.utils.data.default_collate([dataset[i] for i in next(iter(sampler))])


def test_groups_come_from_one_cohort_and_change_with_the_epoch(dataset):
    sampler = CohortBatchSampler(dataset, groups=2, group_size=6, batches=4)
    first, second = list(sampler), list(sampler)
    assert first != second and list(CohortBatchSampler(dataset, groups=2, group_size=6, batches=4)) == first
    for batch in first:
        cohorts = dataset.cohorts[batch].view(2, 6)
        assert (cohorts == cohorts[:, :1]).all()


def test_ranks_draw_different_batches(dataset):
    assert list(CohortBatchSampler(dataset, batches=2, rank=0)) != list(CohortBatchSampler(dataset, batches=2, rank=1))


def test_targets_are_symmetric_ssim_and_cover_copies(dataset):
    views = MakeViews(group_size=8, spatial_size=48)
    images, targets = views(batch_of(dataset), "cpu")
    assert images.shape == (32, 1, 48, 48) and targets["ssim"].shape == (2, 8, 8)
    assert abs(float(images.mean())) < 1e-4
    diagonal = torch.diagonal(targets["ssim"], dim1=1, dim2=2).flatten()
    assert (diagonal[targets["is_copy"]] > 0.5).all() and float(targets["ssim"].max()) <= 1.0001


def test_loss_falls_for_the_right_answer_and_rises_for_the_wrong_one():
    loss = DeepSSIMLoss(embedding_size=8)
    head = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    targets = {"ssim": (head @ head.T)[None], "is_copy": torch.ones(4, dtype=torch.bool), "patient": torch.arange(4)}
    right = torch.cat([torch.cat([head, head]), torch.cat([torch.eye(4, 8), torch.eye(4, 8)])], 1)
    wrong = torch.cat([torch.cat([head, -head]), torch.cat([torch.eye(4, 8), torch.eye(4, 8).roll(1, 0)])], 1)
    assert float(loss(right, targets)) < 1e-4 < float(loss(wrong, targets))


def test_neighbouring_slices_of_a_patient_are_no_negatives():
    loss = DeepSSIMLoss(embedding_size=4, ssim_weight=0.0)
    same = torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 0]])
    prediction = torch.cat([torch.cat([same, same]), torch.cat([same, same])], 1)
    targets = {"ssim": torch.full((1, 2, 2), 0.95), "is_copy": torch.ones(2, dtype=torch.bool), "patient": torch.tensor([1, 1])}
    assert float(loss(prediction, targets)) < 1e-6
    assert float(loss(prediction, {**targets, "patient": torch.tensor([1, 2])})) > 0.5


def test_the_other_image_of_a_blend_is_no_negative_of_it():
    loss = DeepSSIMLoss(embedding_size=4, ssim_weight=0.0)
    first = torch.eye(2, 4)
    blend = torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])  # of the first image and the second
    prediction = torch.cat([torch.cat([first, first], 1), torch.cat([blend, blend], 1)])
    targets = {"ssim": torch.zeros(1, 2, 2), "is_copy": torch.ones(2, dtype=torch.bool), "patient": torch.tensor([1, 2])}
    alone = float(loss(prediction, {**targets, "other": torch.tensor([1, 1])}))
    assert alone < 1e-3 < 0.5 < float(loss(prediction, targets))
    assert float(loss(prediction, {**targets, "other": torch.arange(2)})) == float(loss(prediction, targets))


def test_blends_are_copies_of_the_stronger_image(dataset):
    views = MakeViews(group_size=8, spatial_size=48, working_size=64, blends=1.0, near_duplicates=0.55)
    clean = torch.rand(16, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    variant, is_copy, other, _ = views._variants(clean)
    assert is_copy.all() and torch.equal(other, torch.arange(16).view(2, 8).roll(1, 1).flatten())
    share = ((variant - clean[other]) / (clean - clean[other])).flatten(1).median(1).values
    assert 0.65 <= float(share.min()) < 0.7 and 0.8 < float(share.max()) <= 0.85
    torch.testing.assert_close(variant, share.view(-1, 1, 1, 1) * (clean - clean[other]) + clean[other], atol=1e-4, rtol=0)


def test_without_blends_only_a_near_duplicate_holds_another_image(dataset):
    _, targets = MakeViews(8, 48, 64, near_duplicates=0.0)(batch_of(dataset))
    assert torch.equal(targets["other"], torch.arange(16)) and targets["is_copy"].all()


def test_an_average_of_others_is_a_copy_of_nobody_and_a_negative_of_all(dataset):
    clean = torch.rand(16, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    variant, is_copy, other, averaged = MakeViews(8, 48, 64, averages=1.0, blends=1.0)._variants(clean)
    assert averaged.all() and not is_copy.any() and torch.equal(other, torch.arange(16))
    torch.testing.assert_close(variant[9], clean[[8, 15, 14, 13]].mean(0))
    _, targets = MakeViews(8, 48, 64)(batch_of(dataset))
    assert not targets["averaged"].any()

    loss = DeepSSIMLoss(embedding_size=4, ssim_weight=0.0)
    prediction = torch.cat([torch.eye(4), torch.eye(4)[[0, 1, 0, 3]]]).repeat(1, 2)  # the average lies on the first image
    targets = {"ssim": torch.zeros(1, 4, 4), "is_copy": torch.tensor([True, True, False, True]), "patient": torch.arange(4)}
    taken = float(loss(prediction, {**targets, "averaged": torch.tensor([False, False, True, False])}))
    left_out = float(loss(prediction, {**targets, "averaged": torch.zeros(4, dtype=torch.bool)}))
    assert left_out < 1e-4 < 0.1 < taken and float(loss(prediction, targets)) == left_out


def test_averages_of_four_others_need_a_group_of_five():
    with pytest.raises(InputError, match=r"'averages'.*5 or more. Got 4"):
        MakeViews(group_size=4, averages=0.1)


def test_a_group_of_look_alikes_is_nearer_to_its_first(dataset):
    def likeness(share):
        sampler = CohortBatchSampler(dataset, groups=4, group_size=3, batches=40, look_alikes=share)
        groups = torch.tensor(list(sampler)).view(-1, 3)
        return float((sampler.tiny[groups[:, :1]] * sampler.tiny[groups[:, 1:]]).sum(-1).mean())

    assert likeness(0.0) < likeness(0.5) < likeness(1.0)


def test_a_loss_of_heads_of_another_size_is_refused():
    targets = {"ssim": torch.zeros(1, 2, 2), "is_copy": torch.ones(2, dtype=torch.bool), "patient": torch.arange(2)}
    for width, identity in ((8, 1.0), (20, 1.0), (24, 0.0)):
        with pytest.raises(InputError, match=f"'embedding_size'.*Got 16, and a network that gives {width}"):
            DeepSSIMLoss(16, identity_weight=identity)(torch.ones(4, width), targets)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"groups": 0}, "groups=0"),
        ({"group_size": 0}, "group_size=0"),
        ({"batches": 1.5}, "batches=1.5"),
        ({"weights": [1]}, "for each of the 0"),
    ],
)
def test_a_sampler_refuses_what_gives_no_batch(dataset, settings, words):
    with pytest.raises(InputError, match=words):
        CohortBatchSampler(dataset, **settings)


def test_sources_of_one_image_each_and_weights_of_nothing_are_refused(tmp_path, cohort):
    for name in ("one", "two"):
        save_png(tmp_path / name / f"{name}.png", cohort[["one", "two"].index(name)])
    made = CohortDataset([str(tmp_path / "one"), str(tmp_path / "two")], preprocessing=READ, spatial_size=64)
    with pytest.raises(InputError, match=r"'dataset_dir'.*one image each"):
        CohortBatchSampler(made)
    with pytest.raises(InputError, match=r"for each of the 2 sources, one above 0. Got \[0, 0\]"):
        CohortBatchSampler(made, weights=[0, 0])


def test_an_effect_that_is_off_changes_no_pixel():
    images = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    off = {
        "probability": 1.0,
        "geometry": 0.0,
        "gamma": 1.0,
        "bias": 0.0,
        "noise": 0.0,
        "blur": 0.0,
        "reduction": 1.0,
        "elastic": 0.0,
        "occlusion": 0.0,
    }
    torch.testing.assert_close(augment(images, ViewStrength(**off), torch.Generator().manual_seed(1)), images, atol=1e-5, rtol=0)


def test_loss_that_is_not_finite_names_the_batch():
    targets = {"ssim": torch.zeros(1, 2, 2), "is_copy": torch.ones(2, dtype=torch.bool), "patient": torch.tensor([4, 9])}
    targets["index"] = torch.tensor([4, 9])
    with pytest.raises(FloatingPointError, match=r"\[4, 9\]"):
        DeepSSIMLoss(4)(torch.full((4, 8), torch.nan), targets)


def test_metrics_count_sources_and_errors():
    head = torch.eye(4, 6)
    prediction = torch.cat([torch.cat([head, head]), torch.cat([head, head[[0, 1, 3, 2]]])], 1)
    targets = {"ssim": torch.eye(4)[None], "is_copy": torch.tensor([True, True, True, False])}
    retrieval, error = CopyRetrieval(6), SSIMError(6)
    retrieval(prediction, targets)
    error(prediction, targets)
    assert abs(float(retrieval.aggregate()) - 2 / 3) < 1e-6 and float(error.aggregate()) < 1e-6


def test_one_image_one_patient_and_equal_images_are_refused(tmp_path, cohort):
    with pytest.raises(InputError, match="at least 2 images"):
        CohortDataset(spatial_size=64)
    for i in range(3):
        save_png(tmp_path / "one" / f"p1_{i}.png", cohort[i])
        save_png(tmp_path / "same" / f"{i}.png", cohort[0])
    with pytest.raises(InputError, match="2 patients"):
        CohortDataset([str(tmp_path / "one")], preprocessing=READ, patient_pattern=r"(p\d)", spatial_size=64)
    with pytest.raises(InputError, match="all the same"):
        CohortDataset([str(tmp_path / "same")], preprocessing=READ, spatial_size=64)


def test_one_folder_is_one_source_and_not_a_list_of_letters(tmp_path, cohort):
    for i in range(4):
        save_png(tmp_path / "images" / f"p{i}.png", cohort[i])
    folder = str(tmp_path / "images")
    one, same = (CohortDataset(sources, preprocessing=READ, spatial_size=64) for sources in (folder, [folder]))
    assert one.real_cohorts == 1 and one.paths == same.paths and len(one) == 4


def test_an_image_that_cannot_be_prepared_is_listed_with_its_reason(tmp_path, cohort):
    for i in range(3):
        save_png(tmp_path / f"p{i}.png", cohort[i])
    save_png(tmp_path / "p3.png", 0 * cohort[3])
    truncated = save_png(tmp_path / "p4.png", cohort[4])
    truncated.write_bytes(truncated.read_bytes()[:-400])
    dataset = CohortDataset([str(tmp_path)], preprocessing=READ, spatial_size=64)
    assert [path.rpartition("/")[2] for path in dataset.paths] == ["p0.png", "p1.png", "p2.png"]
    reasons = {one.path.rpartition("/")[2]: one.reason for one in dataset.skipped}
    assert reasons.keys() == {"p3.png", "p4.png"} and "constant" in reasons["p3.png"]
    assert all(reason and "\n" not in reason and "transform" not in reason for reason in reasons.values())
    for i in range(3):
        (tmp_path / f"p{i}.png").unlink()
    with pytest.raises(InputError, match=r"Got 0 and 2 that cannot be used, the first '.*p3.png': .*constant"):
        CohortDataset([str(tmp_path)], preprocessing=READ, spatial_size=64)


def test_a_fault_of_the_preprocessing_is_no_reason_to_skip_an_image(tmp_path, cohort):
    for i in range(3):
        save_png(tmp_path / f"p{i}.png", cohort[i])

    def broken(item):
        raise KeyError("thumbnail")

    with pytest.raises(RuntimeError, match="applying transform"):
        CohortDataset([str(tmp_path)], preprocessing=Compose([LoadSliced("image"), broken]), spatial_size=64)


def test_targets_cover_from_unrelated_to_identical(dataset):
    sampler = CohortBatchSampler(dataset, groups=3, group_size=12, batches=6)
    views = MakeViews(group_size=12, spatial_size=64, working_size=64)
    found = torch.cat([views(torch.utils.data.default_collate([dataset[i] for i in b]))[1]["ssim"].flatten() for b in sampler])
    counts = torch.histc(found, bins=7, min=0.3, max=1.0)
    assert (counts >= 5).all(), counts.tolist()


def test_an_epoch_draws_the_same_after_a_restart(dataset):
    def epoch(number):
        sampler, views = CohortBatchSampler(dataset, groups=1, group_size=8, batches=2), MakeViews(8, 32, 48)
        for item in (sampler, views):
            item.set_epoch(number)
        return torch.stack([views(torch.utils.data.default_collate([dataset[i] for i in b]))[0] for b in sampler])

    torch.testing.assert_close(epoch(3), epoch(3))
    assert not torch.equal(epoch(3), epoch(4))


def test_a_group_looked_at_through_a_window_is_magnified_together(dataset):
    batch = batch_of(dataset)
    whole, zoomed = MakeViews(8, 48, 64, zoom_share=0.0), MakeViews(8, 48, 64, zoom=2.0, zoom_share=1.0)
    images = batch["image"].float() / 255
    assert torch.allclose(whole._window(images), images, atol=1e-6)
    assert zoomed._window(images).shape == (16, 1, 64, 64) and not torch.allclose(zoomed._window(images), images, atol=0.1)


def test_plain_contrastive_batches_need_no_groups(dataset):
    sampler = CohortBatchSampler(dataset, groups=6, group_size=1, batches=1)
    views = MakeViews(1, 32, 48, near_duplicates=0.0, ssim_targets=False)
    _, targets = views(torch.utils.data.default_collate([dataset[i] for i in next(iter(sampler))]))
    assert targets["is_copy"].all() and float(targets["ssim"].abs().max()) == 0.0
    prediction = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)
    assert torch.isfinite(DeepSSIMLoss(embedding_size=4, ssim_weight=0.0)(prediction, targets))


def test_papers_form_needs_one_head_and_its_own_augmentation(dataset):
    views = MakeViews(8, 48, 64, near_duplicates=0.0, paper_augmentation=0.33)
    images, targets = views(batch_of(dataset))
    loss = DeepSSIMLoss(embedding_size=8, ssim_weight=1.0, identity_weight=0.0, balanced=False)
    prediction = torch.nn.functional.normalize(torch.randn(len(images), 8), dim=1)
    first, second = prediction.view(2, 2, 8, 8)
    error = (first @ second.transpose(1, 2) - targets["ssim"]) ** 2
    near = (first @ first.transpose(1, 2) - targets["ssim_first"]) ** 2
    torch.testing.assert_close(loss(prediction, targets), (error.mean() + near.mean()) / 2)


def test_rare_likeness_weighs_by_the_root_of_its_share():
    loss = DeepSSIMLoss(embedding_size=2, ssim_weight=1.0, identity_weight=0.0)
    target = torch.tensor([[[0.95, 0.35], [0.35, 0.35]]])
    zero = torch.zeros(4, 2)  # every cosine is 0: the errors are the squared targets
    expected = (0.95**2 * 1 + 3 * 0.35**2 / 3**0.5) / (1 + 3 / 3**0.5)
    assert abs(float(loss(zero, {"ssim": target})) - expected) < 1e-6


def test_sources_are_weighted_as_asked(tmp_path, cohort):
    for name in ("a", "b"):
        for i in range(4):
            save_png(tmp_path / name / f"{name}{i}.png", cohort[i + 4 * (name == "b")])
    dataset = CohortDataset([str(tmp_path / "a"), str(tmp_path / "b")], preprocessing=READ, spatial_size=64)
    only_b = CohortBatchSampler(dataset, groups=2, group_size=2, batches=8, weights=[0.0, 1.0])
    assert {int(dataset.cohorts[i]) for batch in only_b for i in batch} == {1}
    with pytest.raises(InputError, match="2 sources"):
        CohortBatchSampler(dataset, weights=[1.0])


def test_patients_who_are_held_out_are_validated_on_and_not_trained_on(tmp_path, cohort):
    for source, count in (("one", 5), ("two", 12)):
        for i in range(count):
            for view in "ab":  # two images a patient
                save_png(tmp_path / source / f"p{i:02d}{view}.png", cohort[(2 * i + (view == "b")) % len(cohort)])
    sources = [str(tmp_path / "one"), str(tmp_path / "two")]

    def part(take: bool, **more) -> CohortDataset:
        return CohortDataset(
            sources, preprocessing=READ, spatial_size=64, patient_pattern=r"(p\d\d)", held_out=0.25, take_held_out=take, **more
        )

    training, validation = part(False, generated_cohorts=2, seed=1), part(True, seed=2)
    assert not set(training.paths) & set(validation.paths)
    assert len([one for one in training.paths if one]) == 24 and len(validation.paths) == 10  # 2 of 5 and 3 of 12 patients
    assert not set(training.patients[:24].tolist()) & set(training.patients[24:].tolist())  # generated patients are others
    assert set(validation.cohorts.tolist()) == {0, 1}
    with pytest.raises(InputError, match=r"validation_share 0 .*or --validation_dir"):
        sources[:] = [str(tmp_path / "few")]
        for i in range(3):
            save_png(tmp_path / "few" / f"p{i:02d}.png", cohort[i])
        part(False)
    assert held_out_share(["a"], ["a"], 0.2) == 0.2 and held_out_share(["a"], ["b"], 0.2) == 0
