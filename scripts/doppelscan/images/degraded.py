"""What generators do to what they copy: they keep few components of it, and give it the sharpness and the noise of all that they make.

A self-test that plants clean copies alone would promise what an audit of smooth or noisy images cannot keep.
"""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from doppelscan.errors import InputError
from doppelscan.images.records import evenly_chosen

__all__ = ["PrincipalReconstruction", "SpectrumMatch", "radial_power"]

BLOCK = 64  # images whose spectra are held at a time
# Frequencies that no spectrum changes; how many images, and how often, noise is tried on, and how much more than is missing is added at most.
LOWEST, TRIED, TRIALS, MOST_NOISE = 4, 32, 6, 3.0


def radial_power(images: np.ndarray, shapes: np.ndarray | None = None) -> np.ndarray:
    """Mean power spectrum by distance from the origin, in cycles an image, as if what is seen went on: float64 [S // 2 + 1].

    What lies near a border weighs nothing (a Hann window): to a Fourier transform the left border goes on at the right one, and that jump, as
    that between an image and its padding, is as sharp in a blurred image as in any other. Chest X-rays blurred to nothing above 20 cycles
    seemed to have kept half of them.

    Args:
        images: float [N, S, S].
        shapes: int [N, 2], height and width of what each shows before it was padded to a square; None for squares.
    """
    size = images.shape[-1]
    shapes = np.ones((len(images), 2)) if shapes is None else np.asarray(shapes)
    different, which = np.unique(shapes / shapes.max(1, keepdims=True), axis=0, return_inverse=True)
    kinds, power = np.stack([_window(size, shape) for shape in different]), np.zeros((size, size))
    for start in range(0, len(images), BLOCK):
        some, windows = images[start : start + BLOCK], kinds[which.reshape(-1)[start : start + BLOCK]]
        weight = (windows**2).mean((1, 2))
        means = (windows * some).sum((1, 2)) / windows.sum((1, 2))
        spectra = np.abs(np.fft.fft2(windows * (some - means[:, None, None]))).astype(np.float64)
        power += (spectra**2 / weight[:, None, None]).sum(0)
    rings = _rings(size)
    inside = rings <= size // 2
    sums = np.bincount(rings[inside], power[inside] / len(images), size // 2 + 1)
    return sums / np.bincount(rings[inside], minlength=size // 2 + 1)


def _window(size: int, shape: np.ndarray) -> np.ndarray:
    """Hann window of what is not padding, ``shape`` of a square of 1: float64 [S, S]."""
    sides = []
    for share in shape:
        inside = max(8, round(size * share))
        side = np.zeros(size)
        side[(size - inside) // 2 : (size - inside) // 2 + inside] = np.hanning(inside + 2)[1:-1]
        sides.append(side)
    return np.outer(*sides)


def _rings(size: int) -> np.ndarray:
    frequency = np.fft.fftfreq(size, 1 / size)
    return np.round(np.hypot(frequency[:, None], frequency[None])).astype(int)


class SpectrumMatch:
    """Gives images the sharpness and noise of a set: less power where the set has less than training, noise where it has more.

    Images end at black and white, which takes of the noise what lies beyond: a set with noise of 0.2 has lost half of it on a dark ground. As
    much is added as leaves what the set has.

    Args:
        training: float [N, S, S] in [0, 1].
        target: float [M, S, S] in [0, 1], the set whose spectrum is taken.
        shapes: int [N, 2] of ``training``, see :func:`radial_power`.
        target_shapes: int [M, 2] of ``target``.

    Attributes:
        gain: float64 [S // 2 + 1], what is kept of the amplitude at each frequency, 0 to 1.
        noise: float64 [S // 2 + 1], power that is added.
    """

    def __init__(
        self,
        training: np.ndarray,
        target: np.ndarray,
        shapes: np.ndarray | None = None,
        target_shapes: np.ndarray | None = None,
    ) -> None:
        own, wanted = radial_power(training, shapes), radial_power(target, target_shapes)
        self.gain = np.sqrt(np.clip(wanted / np.maximum(own, 1e-12), 0, 1))
        # The lowest frequencies are anatomy and pose, not sharpness: sets of other people differ in them.
        self.gain[:LOWEST] = 1
        missing = np.clip(wanted - own, 0, None)
        missing[:LOWEST] = 0
        self.noise = missing.copy()
        if not missing.any():
            return
        rows = evenly_chosen(len(training), TRIED)
        tried, fields = training[rows], None if shapes is None else np.asarray(shapes)[rows]
        before, rng = radial_power(np.clip(self._blurred(tried), 0, 1), fields), np.random.default_rng(0)
        for _ in range(TRIALS):
            kept = radial_power(self(tried, rng), fields) - before
            # Of noise that is lost whatever is added, no more is asked.
            more = np.clip(missing / np.maximum(kept, 1e-12), 0.5, 2)
            self.noise = np.clip(self.noise * more, 0, MOST_NOISE * missing)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise that is added, in units of the images."""
        size = 2 * (len(self.gain) - 1)
        rings = np.minimum(_rings(size), size // 2)
        return float(np.sqrt(self.noise[rings].sum()) / size**2)

    def _blurred(self, images: np.ndarray) -> np.ndarray:
        rings = np.minimum(_rings(images.shape[-1]), images.shape[-1] // 2)
        mean = images.mean((1, 2), keepdims=True)
        return np.fft.ifft2(np.fft.fft2(images - mean) * self.gain[rings]).real + mean

    def __call__(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """``images`` float [n, S, S] so changed: float32, clipped to [0, 1]."""
        size = images.shape[-1]
        rings = np.minimum(_rings(size), size // 2)
        white = np.fft.fft2(rng.standard_normal(images.shape)) / size
        added = np.fft.ifft2(white * np.sqrt(self.noise[rings])).real
        return np.clip(self._blurred(images) + added, 0, 1).astype(np.float32)


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
