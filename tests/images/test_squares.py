"""The one resampling: Pillow's filter, in batches, for training and for use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doppelscan.deepssim import foreground_views
from doppelscan.images import ForegroundSquared, cut_foreground, generate_cohort, resample_boxes, whole_squares
from monai.transforms import Compose, NormalizeIntensityd
from PIL import Image


def by_pillow(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """The same box by Pillow, with a wide border of zeros only where the box reaches out."""
    height, width = pixels.shape
    left, top, right, bottom = (300 if out else 0 for out in (box[0] < 0, box[1] < 0, box[2] > width, box[3] > height))
    padded = np.pad(pixels, ((top, bottom), (left, right)))
    moved = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    return np.asarray(Image.fromarray(padded).resize(size[::-1], Image.Resampling.BILINEAR, box=moved))


@pytest.mark.parametrize("size", [(64, 64), (128, 96)])
@pytest.mark.parametrize("shape", [(40, 40), (150, 260), (311, 97)])
def test_boxes_are_resampled_as_pillow_does(shape, size):
    rng = np.random.default_rng(sum(shape))
    pixels = rng.random((6, *shape)).astype(np.float32)
    extent = rng.uniform(0.2, 1.5, (6, 2)) * shape[::-1]
    start = rng.uniform(-0.2, 0.6, (6, 2)) * shape[::-1]
    boxes = np.hstack([start, start + extent])
    made = resample_boxes(torch.from_numpy(pixels)[:, None], torch.from_numpy(boxes), size)
    for image, box, found in zip(pixels, boxes, made[:, 0], strict=True):
        inside = by_pillow(image, tuple(box), size)
        # Where a wide filter straddles the image's edge, zeros beyond 2 pixels outside of the box are not looked at.
        np.testing.assert_allclose(found[4:-4, 4:-4], inside[4:-4, 4:-4], atol=5e-5)


def test_what_is_not_resampled_is_kept_exactly():
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(whole_squares(image, 32), image, atol=1e-6, rtol=0)
    moved = resample_boxes(image, torch.tensor([[8.0, 0.0, 40.0, 32.0]]), (32, 32))
    torch.testing.assert_close(moved[..., :24], image[..., 8:], atol=1e-6, rtol=0)
    assert moved[..., 24:].abs().max() == 0


def test_fine_stripes_do_not_alias_when_an_image_is_reduced():
    stripes = torch.zeros(1, 1, 512, 512)
    stripes[..., ::2] = 1
    assert (whole_squares(stripes, 100) - 0.5).abs().max() < 0.06


@pytest.mark.parametrize("shape", [(400, 400), (96, 96), (300, 150)])
def test_training_and_use_prepare_an_image_alike(shape):
    images = generate_cohort(3, 1, 400, seed=5)[0].float() / 255
    images = resample_boxes(images, torch.tensor([[0.0, 0.0, 400.0, 400.0]]).expand(3, 4), shape)
    use = Compose([ForegroundSquared("image", 128), NormalizeIntensityd("image")])
    used = torch.stack([torch.as_tensor(np.asarray(use({"image": image.numpy()})["image"])) for image in images])
    torch.testing.assert_close(foreground_views(images, 128), used, atol=1e-4, rtol=0)


def test_an_image_in_a_batch_is_cut_as_alone():
    images = generate_cohort(4, 1, 160, seed=2)[0].float() / 255
    alone = torch.cat([cut_foreground(image[None], 128) for image in images])
    torch.testing.assert_close(cut_foreground(images, 128), alone, atol=1e-5, rtol=0)
