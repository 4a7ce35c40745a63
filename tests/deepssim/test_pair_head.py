"""The pair head: symmetric, 1 for equal images, the same in every runtime, and better for a little training."""

from __future__ import annotations

import io
import warnings

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from doppelscan.deepssim import (
    TEXTURE_SIZE,
    CohortDataset,
    DeepSSIMEncoder,
    OnnxEncoder,
    PairDataset,
    PairFeatures,
    PairInferer,
    PairSSIM,
    PreparePairs,
    SSIMAgreement,
    TorchScriptEncoder,
    best_views,
    even_sampler,
    foreground_views,
    laid_on,
    load_pair_head,
    pair_columns,
    pair_features,
    predicted_ssim,
    quarter_turn_poses,
    rotated,
    start_from,
    state_digest,
    texture,
    texture_poses,
    texture_views,
    zscore,
)
from doppelscan.errors import InputError, WeightsError
from doppelscan.images import generate_cohort
from doppelscan.workflows.training import write_weights
from safetensors.torch import save_file


def encoder(outputs=("deepssim", "texture"), **changes) -> DeepSSIMEncoder:
    torch.manual_seed(0)
    return DeepSSIMEncoder(
        channels=(4, 8, 8, 16), blocks=(1, 1, 1, 1), embedding_size=12, reduced_channels=4, outputs=outputs, **changes
    ).eval()


@pytest.fixture(scope="module")
def views() -> torch.Tensor:
    """float32 [6, 1, 64, 64], z-scored: what the network sees of six generated patients."""
    return foreground_views(generate_cohort(6, 1, 96, 5)[0].float() / 255, 64)


@pytest.fixture(scope="module")
def features(views) -> torch.Tensor:
    with torch.no_grad():
        return encoder()(views)


@pytest.fixture(scope="module")
def head() -> PairSSIM:
    torch.manual_seed(1)
    return PairSSIM(12, channels=4).eval()


def test_texture_is_the_mean_and_the_log_variance_of_the_windows_of_ssim(views):
    found = texture(views)
    assert found.shape == (6, TEXTURE_SIZE)
    window = F.pad(views[2], [3, 3, 3, 3], mode="replicate")[0, 20:28, 40:48]  # of the 2 x 2 pixels of cell (10, 20)
    patches = window.unfold(0, 7, 1).unfold(1, 7, 1).flatten(2)
    torch.testing.assert_close(found[2, 10 * 32 + 20], patches.mean())
    log = (patches.var(2, unbiased=False) + 1e-3).log().mean()
    torch.testing.assert_close(found[2, 1024 + 10 * 32 + 20], log, atol=1e-4, rtol=1e-4)
    assert found[2, -2:].tolist() == [views[2].min().item(), views[2].max().item()]


def test_texture_joins_the_encoder_and_changes_no_other_output(views):
    with torch.no_grad():
        both, plain = encoder(("deepssim", "embedding", "texture")), encoder(("deepssim", "embedding"))
        plain.load_state_dict(both.state_dict())  # no weights of its own
        torch.testing.assert_close(both(views)[:, :24], plain(views), rtol=0, atol=0)
        torch.testing.assert_close(both(views)[:, both.output_slices["texture"]], texture(views))


def test_poses_of_a_texture_are_the_textures_of_the_poses(views):
    computed = torch.stack([texture(view) for view in quarter_turn_poses(views)])
    # The log of what rounding leaves of a flat window is off by more than rounding.
    torch.testing.assert_close(texture_poses(texture(views)), computed, atol=3e-3, rtol=0)


def test_a_turned_flipped_copy_is_laid_on_its_source(views):
    copy = zscore(rotated(views, 10.0)).flip(-1)
    turned, pose = best_views(texture(views), texture_poses(texture(copy)))
    assert pose.tolist() == [4] * len(views)
    apart = (texture(copy.flip(-1)) - texture(views))[:, :1024].abs().mean()
    assert (turned - texture(views))[:, :1024].abs().mean() < 0.7 * apart
    assert torch.equal(texture_views(texture(views))[0], texture(views))


def test_a_copy_of_another_contrast_that_was_moved_is_brought_back_to_its_source(views):
    """What registration undoes and a turn by 5 degrees does not: a window that lies aside, another size, a gamma."""
    whole = (views - views.amin((1, 2, 3), keepdim=True)) / (
        views.amax((1, 2, 3), keepdim=True) - views.amin((1, 2, 3), keepdim=True)
    )
    theta = torch.tensor([[1.06, -0.06, 0.08], [0.06, 1.06, -0.05]]).expand(len(whole), 2, 3)
    copy = zscore(F.grid_sample(whole, F.affine_grid(theta, list(whole.shape), align_corners=False), align_corners=False) ** 1.6)
    source, other = texture(views), texture(copy)
    laid = laid_on(source, other, torch.zeros(len(views), dtype=torch.long))
    before, after = ((one - source)[:, :2048].abs().mean(1) for one in (other, laid))
    assert bool((after < 0.6 * before).all()), (before, after)
    torch.testing.assert_close(laid_on(source, source, torch.zeros(len(views), dtype=torch.long)), source, rtol=0, atol=0)


def test_alignment_that_finds_nothing_leaves_the_texture_as_it_is(views):
    flat = texture(torch.zeros(len(views), 1, 64, 64))
    laid = laid_on(texture(views), flat, torch.zeros(len(views), dtype=torch.long))
    torch.testing.assert_close(laid, flat, rtol=0, atol=0)


def test_equal_images_have_1_and_nothing_has_more(head, features):
    torch.testing.assert_close(head(features, features), torch.ones(6))
    assert bool((head(features, features.roll(1, 0)) < 1).all())


def test_the_two_images_may_change_places(head, features):
    torch.testing.assert_close(head(features, features.roll(1, 0)), head(features.roll(1, 0), features))


def test_flat_images_are_no_division_by_zero(head):
    flat = encoder()(torch.zeros(2, 1, 64, 64))
    found = head(flat, flat)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.ones(2))


def test_torchscript_and_onnx_give_the_same(head, features):
    other = features.roll(2, 0)
    with torch.no_grad():
        expected = head(features, other)
    script = torch.jit.script(head)
    torch.testing.assert_close(script(features, other), expected)
    buffer = io.BytesIO()
    axes = {"first": {0: "batch"}, "second": {0: "batch"}, "ssim": {0: "batch"}}
    names = {"input_names": ["first", "second"], "output_names": ["ssim"], "dynamic_axes": axes, "dynamo": False}
    torch.onnx.export(head, (features[:2], other[:2]), buffer, **names)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"first": features.numpy(), "second": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_with_texture_is_exported_to_both(tmp_path):
    network = encoder()
    views = foreground_views(generate_cohort(3, 1, 96, 5)[0].float() / 255, 128)
    with torch.no_grad():
        expected = network(views)
    torch.jit.save(torch.jit.script(network), tmp_path / "a.ts")
    torch.testing.assert_close(torch.jit.load(tmp_path / "a.ts")(views), expected)
    torch.testing.assert_close(OnnxEncoder.of(network)(views), expected, atol=1e-3, rtol=1e-3)
    # Read back, it is an encoder whose texture is one more layer; the head then says what it lacks.
    with pytest.raises(InputError, match="without texture"):
        pair_columns(TorchScriptEncoder(tmp_path / "a.ts").output_slices)


def test_all_pairs_are_the_pairs_one_by_one_in_their_best_pose(head, views):
    network = encoder()
    with torch.no_grad():
        first = network(views)
        second = torch.stack([network(pose) for pose in quarter_turn_poses(views[:3].flip(-1))], 1)
    found = predicted_ssim(head, first, second)
    assert found.shape == (6, 3)
    for row in range(6):
        for column in range(3):
            turned, pose = best_views(first[row : row + 1, 12:], second[column][:, None, 12:])
            other = torch.cat([second[column, pose, :12], turned], 1)
            with torch.no_grad():
                torch.testing.assert_close(head(first[row : row + 1], other)[0], found[row, column], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.diagonal(), torch.ones(3), atol=1e-3, rtol=0)  # flipped copies of the first three
    with pytest.raises(InputError, match=r"'second' parameter must be features of 2062"):
        predicted_ssim(head, first, second[..., :-1])


def test_an_encoder_without_texture_is_told_what_it_lacks():
    assert pair_columns({"embedding": slice(0, 4), "deepssim": slice(4, 6), "texture": slice(6, 8)}).tolist() == [4, 5, 6, 7]
    with pytest.raises(InputError, match="without texture; add them to 'outputs'"):
        pair_columns({"deepssim": slice(0, 2), "embedding": slice(2, 4)})


def test_evaluation_gives_the_cosine_and_what_the_head_predicts(head, views):
    network = encoder()
    batch = {"image": torch.stack([views, views.flip(-1)], 1).clamp(0, 1), "label": torch.ones(6)}
    inputs, _ = PreparePairs(64, poses=8)(batch)
    with torch.no_grad():
        both = PairInferer(12, 8, head)(inputs, network)
        cosine = PairInferer(12, 8)(inputs, network)
    assert both.shape == (6, 2)
    torch.testing.assert_close(both[:, 0], cosine)
    torch.testing.assert_close(both[:, 1], torch.ones(6), atol=1e-3, rtol=0)
    metric = SSIMAgreement(column=1)
    metric(torch.tensor([[0.0, 0.5], [0.0, 0.7]]), torch.tensor([0.5, 0.8]))
    assert abs(metric.aggregate()["mae"] - 0.05) < 1e-6


def test_weights_are_read_strictly_and_none_is_no_head(head, tmp_path):
    save_file(head.state_dict(), tmp_path / "pair.safetensors")
    torch.testing.assert_close(
        load_pair_head(PairSSIM(12, channels=4), tmp_path / "pair.safetensors").state_dict(), dict(head.state_dict())
    )
    assert load_pair_head(PairSSIM(12), None) is None
    with pytest.raises(WeightsError, match="another architecture"):
        load_pair_head(PairSSIM(12, channels=8), tmp_path / "pair.safetensors")


def test_a_head_beside_another_encoder_than_its_own_is_told(head, tmp_path):
    own, other = encoder(), encoder()
    torch.nn.init.zeros_(next(other.parameters()))
    path = tmp_path / "pair.safetensors"
    write_weights(path, head, {"encoder": state_digest(own)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrapped = torch.nn.Sequential(own)  # the same values under other names
        for known in (own, wrapped, None, object()):
            load_pair_head(PairSSIM(12, channels=4), path, encoder=known)
        save_file(head.state_dict(), tmp_path / "silent.safetensors")
        load_pair_head(PairSSIM(12, channels=4), tmp_path / "silent.safetensors", encoder=other)
    with pytest.warns(UserWarning, match="another encoder.*--pair_ckpt none"):
        load_pair_head(PairSSIM(12, channels=4), path, encoder=other)


def test_a_head_takes_the_width_of_its_own_encoder_and_refuses_another(head, tmp_path):
    own, narrow = (
        encoder(),
        DeepSSIMEncoder(channels=(4, 8, 8, 8), blocks=(1, 1, 1, 1), embedding_size=6, outputs=("deepssim", "texture")),
    )
    path = tmp_path / "pair.safetensors"
    write_weights(path, head, {"encoder": state_digest(own)})
    assert load_pair_head(PairSSIM(channels=4), path, encoder=own).embedding_size == 12
    told = r"of 6 values.*--pair_ckpt none.*ssim_pairs.json with --ckpt_path FILE and --encoder_def::embedding_size 6"
    with pytest.raises(WeightsError, match=told) as error:
        load_pair_head(PairSSIM(12, channels=4), path, encoder=narrow)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trained() -> PairFeatures:
    return PairFeatures(CohortDataset((), 3, spatial_size=96, seed=3), encoder(), pairs=60, misaligned=0.5, spatial_size=64)


def test_misaligned_pairs_come_a_second_time_with_the_target_of_the_clean_pair(trained):
    assert len(trained) == 90 and trained[0]["image"].shape == (2, 12 + TEXTURE_SIZE)
    torch.testing.assert_close(trained.labels[60:], trained.labels[:30])
    assert not torch.equal(trained.features[60:], trained.features[:30])
    again = PairFeatures(trained.images, trained.network, pairs=60, misaligned=0.5, spatial_size=64)
    assert torch.equal(again.features, trained.features)  # by its seed


def test_a_few_seconds_of_training_lower_the_error(trained):
    network = start_from(PairSSIM(12, channels=4), None)
    first, second = trained.features.float().unbind(1)

    def error() -> float:
        with torch.no_grad():
            return float((network.eval()(first, second) - trained.labels).abs().mean())

    before = error()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        F.mse_loss(network(first, second), trained.labels).backward()
        optimizer.step()
    assert error() < 0.6 * before


def test_rare_values_of_the_ssim_are_drawn_more_often(trained):
    sampler = even_sampler(trained, 4000, seed=1)
    drawn = trained.labels[list(sampler)]
    rare = (trained.labels > 0.65) & (trained.labels < 0.8)
    share = rare.float().mean()
    assert 0 < share < 0.3
    assert ((drawn > 0.65) & (drawn < 0.8)).float().mean() > 1.2 * share


def test_zoomed_windows_and_samples_of_a_generator_make_pairs_too(monkeypatch):
    monkeypatch.setattr(pair_features, "CHUNK", 4)
    images = CohortDataset((), 2, spatial_size=96, seed=3)
    images.real_cohorts = 2  # as if they had been read
    partners = CohortDataset((), 1, spatial_size=96, seed=9)
    zoomed = PairFeatures(images, encoder(), pairs=8, misaligned=0, spatial_size=64)
    whole = PairFeatures(images, encoder(), pairs=8, misaligned=0, windows=False, spatial_size=64)
    assert not torch.equal(zoomed.features, whole.features)
    made = PairDataset(images.images, images.cohorts.tolist(), 6, spatial_size=64, partners=partners.images)
    seconds = (made.pairs[:, 1] * 255).round().to(torch.uint8)
    assert all(any(torch.equal(one, other) for other in partners.images) for one in seconds)
    assert made.kinds == ["other image", "look-alike"] * 3


def test_half_of_the_pairs_are_with_samples_however_few_there_are(monkeypatch):
    asked = []

    class Noted(PairDataset):
        def __init__(self, images, cohorts, pairs, seed, size, partners=None):
            asked.append((pairs, partners is not None))
            super().__init__(images, cohorts, pairs, seed, size, partners=partners)

    monkeypatch.setattr(pair_features, "PairDataset", Noted)
    images = CohortDataset((), 2, spatial_size=96, seed=3)
    images.real_cohorts = 2
    partners = CohortDataset((), 1, spatial_size=96, seed=9)
    made = PairFeatures(images, encoder(), pairs=5, misaligned=0, windows=False, spatial_size=64, partners=partners)
    assert asked == [(3, True), (2, False)] and len(made) == 5
    asked.clear()
    PairFeatures(images, encoder(), pairs=1, misaligned=0, windows=False, spatial_size=64, partners=partners)
    assert asked == [(1, True)]


@pytest.mark.parametrize(("settings", "words"), [({"pairs": 0}, "'pairs'"), ({"misaligned": 2}, "'misaligned'")])
def test_settings_that_cannot_be_are_refused_in_one_line(settings, words):
    with pytest.raises(InputError, match=words) as error:
        PairFeatures(CohortDataset((), 1, spatial_size=64), encoder(), **settings)
    assert "\n" not in str(error.value)
