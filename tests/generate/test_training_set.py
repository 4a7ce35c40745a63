"""What is trained on: every slice prepared once, what could not be, and what is refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from doppelscan.errors import InputError, WeightsError
from doppelscan.generate import Latents, TrainingImages, Unconditional, fit_condition
from doppelscan.images import LoadSliced, SquareThumbnaild, Windowd
from made_files import save_png
from made_generators import SIZE, UNET, tiny_autoencoder
from monai.transforms import Compose


def prepared(source, size: int = SIZE, **settings) -> TrainingImages:
    transforms = [LoadSliced(keys="image"), Windowd(keys="image"), SquareThumbnaild(keys="image", spatial_size=size)]
    return TrainingImages(source, Compose(transforms), **settings)


@pytest.fixture
def table(tmp_path, cohort):
    """Six images of three patients under a table with what is known of them."""
    rows = ["path,patient,repeats,age"]
    for i in range(6):
        save_png(tmp_path / "images" / f"{i}.png", cohort[i])
        rows.append(f"images/{i}.png,p{i // 2},{1 + 3 * (i == 2)},{20 + i}")
    (tmp_path / "set.csv").write_text("\n".join(rows))
    return tmp_path / "set.csv"


def test_images_are_in_the_unit_range_with_patient_values_and_repeats(table):
    images = prepared(table, duplication="column")
    assert images.images.shape == (6, 1, SIZE, SIZE) and images.images.dtype == torch.uint8
    assert images.repeats == [1, 1, 4, 1, 1, 1] and [r.patient for r in images.records] == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert images.values[3]["age"] == "23"
    item = images[2]
    assert item["index"] == 2 and item["image"].dtype == torch.float32 and item["label"] is item["image"]
    assert float(item["image"].min()) == 0 and 0.7 < float(item["image"].max()) <= 1
    again, once = prepared(table, duplication="column"), prepared(table)
    assert images.digest == again.digest != once.digest


def test_a_data_list_says_what_a_table_says(table, tmp_path):
    items = [{"image": f"images/{i}.png", "subject": f"p{i}", "age": 20 + i} for i in range(6)]
    (tmp_path / "set.json").write_text(json.dumps({"training": items}))
    images = prepared(tmp_path / "set.json")
    assert [values["age"] for values in images.values] == [str(20 + i) for i in range(6)]


def test_slices_of_volumes_are_images(tmp_path):
    volume = np.random.default_rng(0).random((20, 24, 30)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "volume.nii.gz")
    images = prepared(tmp_path, slice_axis="axial", slice_range=(0.2, 0.8), slice_step=6)
    assert [record.slice for record in images.records] == [6, 12, 18] and images.images.shape[0] == 3


def test_an_image_that_cannot_be_prepared_is_left_out_with_its_reason(table, tmp_path):
    save_png(tmp_path / "images" / "flat.png", np.full((32, 32), 0.5))
    images = prepared(tmp_path / "images")
    assert len(images) == 6 and [one.reason for one in images.skipped] == ["a constant image (every pixel is 128)"]


def test_one_image_is_refused_in_one_line(tmp_path, cohort):
    save_png(tmp_path / "one" / "a.png", cohort[0])
    save_png(tmp_path / "one" / "flat.png", np.full((32, 32), 0.5))
    with pytest.raises(
        InputError, match=r"at least 2 images to train on. Got 1 in .* and 1 that cannot be used.*constant"
    ) as error:
        prepared(tmp_path / "one")
    assert "\n" not in str(error.value)
    for i in range(3):
        save_png(tmp_path / "same" / f"{i}.png", cohort[0])
    with pytest.raises(InputError, match=r"Got 3 that are all the same"):
        prepared(tmp_path / "same")
    with pytest.raises(InputError, match=r"Got None instead; pass --dataset_dir DIR"):
        prepared(None)


def test_validation_may_not_hold_a_patient_of_training(table, tmp_path, cohort):
    training = prepared(table)
    with pytest.raises(InputError, match=r"'validation_dir' parameter must name other patients than training. Got 3"):
        prepared(table, name="validation_dir", apart_from=training)
    for i in range(2):
        save_png(tmp_path / "others" / f"{i}.png", cohort[10 + i])
    assert len(prepared(tmp_path / "others", name="validation_dir", apart_from=training)) == 2


def test_latents_have_unit_variance_by_a_scale_that_is_measured(table):
    images, autoencoder = prepared(table), tiny_autoencoder()
    latents = Latents(images, autoencoder, UNET, Unconditional(), batch_size=4)
    assert latents.latents.shape == (6, *autoencoder.latent_shape) == (6, 2, 8, 8)
    assert float(latents.latents.std()) == pytest.approx(1, rel=1e-5) and abs(latents.scale_factor - 1) > 0.05
    wanted, _ = autoencoder.network.encode(images.images.float() / 255)
    torch.testing.assert_close(latents.latents / latents.scale_factor, wanted.detach(), rtol=1e-4, atol=1e-5)
    assert set(latents[0]) == {"image", "index"}
    fixed = Latents(images, autoencoder, UNET, Unconditional(), scale_factor=2.0)
    torch.testing.assert_close(fixed.latents, wanted.detach() * 2, rtol=1e-4, atol=1e-5)


def test_latents_carry_the_condition_of_their_image(table):
    images = prepared(table)
    condition = fit_condition("variables", ["age"], images.values)
    latents = Latents(images, tiny_autoencoder(), UNET, condition)
    assert torch.equal(latents[4]["condition"], condition.embed({"age": "24"})) and latents[4]["condition"].shape == (1, 1)


def test_sizes_that_do_not_fit_are_told_with_one_that_does(table):
    with pytest.raises(InputError, match=r"multiple of 2, at least 4, .* Got 15; the nearest is 16"):
        tiny_autoencoder(15)
    with pytest.raises(InputError, match=r"multiple of 8, at least 16, .* Got 12; the nearest is 16"):
        Latents(prepared(table, 12), tiny_autoencoder(12), {**UNET, "channels": [8, 8, 8]}, Unconditional())
    with pytest.raises(InputError, match=r"must be the 32 of the autoencoder. Got 16"):
        Latents(prepared(table), tiny_autoencoder(32), UNET, Unconditional())


def test_an_autoencoder_that_says_nothing_is_refused(table):
    autoencoder = tiny_autoencoder()
    torch.nn.init.constant_(autoencoder.network.quant_conv_mu.conv.bias, float("nan"))
    with pytest.raises(WeightsError, match=r"differ and are finite"):
        Latents(prepared(table), autoencoder, UNET, Unconditional())
