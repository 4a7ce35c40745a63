"""What generators do to what they copy: they keep few components of it, and give it the sharpness and the noise of all that they make.

A self-test that plants clean copies alone would promise what an audit of smooth or noisy images cannot keep.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from doppelscan.errors import InputError

__all__ = ["PrincipalReconstruction", "SpectrumMatch", "radial_power"]


def radial_power(images: np.ndarray) -> np.ndarray:
    """Mean power spectrum of ``images`` float [N, S, S] by distance from the origin, in cycles an image: float64 [S // 2 + 1]."""
    size = images.shape[-1]
    power = np.abs(np.fft.fft2(images - images.mean((1, 2), keepdims=True))).astype(np.float64) ** 2
    rings = _rings(size)
    inside = rings <= size // 2
    sums = np.bincount(rings[inside], power.mean(0)[inside], size // 2 + 1)
    return sums / np.bincount(rings[inside], minlength=size // 2 + 1)


def _rings(size: int) -> np.ndarray:
    frequency = np.fft.fftfreq(size, 1 / size)
    return np.round(np.hypot(frequency[:, None], frequency[None])).astype(int)


class SpectrumMatch:
    """Gives images the sharpness and noise of a set: less power where the set has less than training, noise where it has more.

    Args:
        training: float [N, S, S] in [0, 1].
        target: float [M, S, S] in [0, 1], the set whose spectrum is taken.

    Attributes:
        gain: float64 [S // 2 + 1], what is kept of the amplitude at each frequency, 0 to 1.
        noise: float64 [S // 2 + 1], power that is added.
    """

    def __init__(self, training: np.ndarray, target: np.ndarray) -> None:
        own, wanted = radial_power(training), radial_power(target)
        self.gain = np.sqrt(np.clip(wanted / np.maximum(own, 1e-12), 0, 1))
        self.noise = np.clip(wanted - own, 0, None)
        # The lowest frequencies are anatomy and pose, not sharpness: sets of other people differ in them.
        self.gain[:4], self.noise[:4] = 1, 0

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise that is added, in units of the images."""
        size = 2 * (len(self.gain) - 1)
        rings = np.minimum(_rings(size), size // 2)
        return float(np.sqrt(self.noise[rings].sum()) / size**2)

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``images`` float [n, S, S] so changed: float32, clipped to [0, 1]."""
        size = images.shape[-1]
        rings = np.minimum(_rings(size), size // 2)
        mean = images.mean((1, 2), keepdims=True)
        blurred = np.fft.ifft2(np.fft.fft2(images - mean) * self.gain[rings]).real
        white = np.fft.fft2(rng.standard_normal(images.shape)) / size
        added = np.fft.ifft2(white * np.sqrt(self.noise[rings])).real
        return np.clip(blurred + mean + added, 0, 1).astype(np.float32)


class PrincipalReconstruction:
    """Images through the principal components of a training set, as a smooth autoencoder would give them back.

    Args:
        training: float [N, S, S] in [0, 1].
        components: that are kept, at most; fewer where there are fewer images.
        seed: of the decomposition.

    Raises:
        InputError: fewer than two images.
    """

    def __init__(self, training: np.ndarray, components: int, seed: int = 0) -> None:
        if len(training) < 2:
            raise InputError(
                f"The 'training' parameter must hold at least 2 images for a reconstruction. Got {len(training)} instead."
            )
        self.components = min(components, len(training) - 1)
        self.pca = PCA(self.components, svd_solver="randomized", random_state=seed).fit(training.reshape(len(training), -1))

    def __call__(self, images: np.ndarray, rank: int) -> np.ndarray:
        """``images`` float [n, S, S] through the first ``rank`` components: float32, clipped to [0, 1].

        Raises:
            InputError: there are not so many.
        """
        if not 1 <= rank <= self.components:
            raise InputError(
                f"The 'rank' parameter must lie between 1 and {self.components}, the components there are. Got {rank!r} instead."
            )
        axes = self.pca.components_[:rank]
        centred = images.reshape(len(images), -1) - self.pca.mean_
        made = (centred @ axes.T) @ axes + self.pca.mean_
        return np.clip(made, 0, 1).reshape(images.shape).astype(np.float32)
