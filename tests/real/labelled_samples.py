"""Which samples of a real generator are copies, by pixels alone: no encoder, no registration and no score of ours is asked.

Two measures in two bands: how well a sample correlates with the training image nearest to it, shifted by 3 % at most, and by how much better
than with the next. Real images of other people, as they are and as blurred as samples are, say what is usual. Beyond all of them in everything is a copy, within
the lower 95 % of them in everything is none, the rest is unsure.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image
from scipy import ndimage

__all__ = ["Label", "labelled"]

Label = Literal["copy", "clean", "unsure"]
# Of bands, Gaussians in pixels of a sample of 96: coarser than its noise, finer than a head's outline.
BANDS = ((1.0, 3.0), (1.5, 5.0))
SHIFT, BLUR, USUAL = 0.03, 1.2, 0.95


def labelled(samples: np.ndarray, training: np.ndarray, people: list[str], strangers: np.ndarray) -> list[Label]:
    """Label each of ``samples``.

    Args:
        samples: float32 [M, S, S] in [0, 1].
        training: float32 [N, T, T] in [0, 1], on the same frame.
        people: patient of each training image: the next is of another one.
        strangers: float32 [n, T, T], of other patients.
    """
    size = samples.shape[-1]
    own, others = (_resized(one, size) for one in (training, strangers))
    usual = np.concatenate([_nearness(one, own, people) for one in (others, _blurred(others, BLUR * size / 96))])
    most, common = usual.max(0), np.quantile(usual, USUAL, axis=0)
    near = _nearness(samples, own, people)
    beyond, within = (near > most).all(1), (near <= common).all(1)
    return ["copy" if far else "clean" if same else "unsure" for far, same in zip(beyond, within, strict=True)]


def _nearness(images: np.ndarray, training: np.ndarray, people: list[str]) -> np.ndarray:
    """Correlation with the nearest and what it is above that with the next person, in each band: float64 [M, 2 * bands]."""
    codes = np.unique(people, return_inverse=True)[1].reshape(-1)
    columns = []
    for low, high in BANDS:
        found = _correlations(_band(images, low, high), _band(training, low, high))
        by_person = np.stack([found[:, codes == code].max(1) for code in range(codes.max() + 1)], 1)
        first, second = np.sort(by_person, 1)[:, :-3:-1].T
        columns += [first, first - second]
    return np.stack(columns, 1)


def _correlations(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Highest correlation over small shifts: float64 [M, N]."""
    spectra, middle = np.fft.fft2(others).conj(), images.shape[-1] // 2
    reach = max(1, round(SHIFT * images.shape[-1]))
    near = slice(middle - reach, middle + reach + 1)
    found = []
    for image in images:
        shifted = np.fft.fftshift(np.fft.ifft2(np.fft.fft2(image) * spectra).real, (1, 2))
        found.append(shifted[:, near, near].max((1, 2)))
    return np.stack(found)


def _band(images: np.ndarray, low: float, high: float) -> np.ndarray:
    """What lies between two blurs, of mean 0 and length 1: float64 [N, S, S]."""
    size = images.shape[-1]
    made = _blurred(images, low * size / 96).astype(np.float64) - _blurred(images, high * size / 96)
    made -= made.mean((1, 2), keepdims=True)
    return made / np.maximum(np.sqrt((made**2).sum((1, 2), keepdims=True)), 1e-12)


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(images, (0, sigma, sigma))


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in images])
