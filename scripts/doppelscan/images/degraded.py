"""What generators do to what they copy: they keep few components of it, and give it the sharpness and the noise of all that they make.

A self-test that plants clean copies alone would promise what an audit of smooth or noisy images cannot keep.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA

from doppelscan.errors import InputError
from doppelscan.images.records import evenly_chosen

__all__ = ["PrincipalReconstruction", "SpectrumMatch", "SquareImages", "radial_power"]

BLOCK = 64  # images whose spectra are held at a time
# Frequencies that no spectrum changes; how many images, and how often, noise is tried on, and how much more than is missing is added at most.
LOWEST, TRIED, TRIALS, MOST_NOISE = 4, 32, 6, 3.0
# Standard errors within which sets of other people differ.
ERRORS = 3.0


def radial_power(images: np.ndarray, shapes: np.ndarray | None = None) -> np.ndarray:
    """Mean of :func:`radial_powers`: float64 [S // 2 + 1]."""
    return radial_powers(images, shapes).mean(0)


def radial_powers(images: np.ndarray, shapes: np.ndarray | None = None) -> np.ndarray:
    """Power spectrum of each image by distance from the origin, in cycles an image, as if what is seen went on: float64 [N, S // 2 + 1].

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
    kinds, rings = np.stack([_window(size, shape) for shape in different]), _rings(size)
    inside = rings <= size // 2
    ring, powers = rings[inside], np.empty((len(images), size // 2 + 1))
    members = np.bincount(ring)
    for start in range(0, len(images), BLOCK):
        some, windows = images[start : start + BLOCK], kinds[which.reshape(-1)[start : start + BLOCK]]
        weight = (windows**2).mean((1, 2))
        means = (windows * some).sum((1, 2)) / windows.sum((1, 2))
        spectra = np.abs(np.fft.fft2(windows * (some - means[:, None, None]))).astype(np.float64)
        for row, power in enumerate(spectra**2 / weight[:, None, None], start):
            powers[row] = np.bincount(ring, power[inside]) / members
    return powers


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


@dataclass(frozen=True)
class SquareImages:
    """Images of a set as squares, and who they show.

    Attributes:
        pixels: float [N, S, S] in [0, 1].
        shapes: int [N, 2], see :func:`radial_power`; None for squares.
        people: whom each shows, or the volume that it is of: images of one are no independent ones. None counts each for itself.
    """

    pixels: np.ndarray
    shapes: np.ndarray | None = None
    people: Sequence[Hashable] | None = None

    def powers_of_people(self) -> np.ndarray:
        """Mean power spectrum of each person: float64 [P, S // 2 + 1]."""
        powers = radial_powers(self.pixels, self.shapes)
        if self.people is None:
            return powers
        rows: dict[Hashable, list[int]] = {}
        for row, who in enumerate(self.people):
            rows.setdefault(who, []).append(row)
        return np.stack([powers[own].mean(0) for own in rows.values()])


class SpectrumMatch:
    """Gives images the sharpness and noise of a set: less power where the set has less than training, noise where it has more.

    Only what people do not differ in is sharpness or noise of the set: the mean spectra of two sets of few people differ, most at low frequencies,
    where anatomy has its power. So a difference counts by as much as it exceeds that: as far as it is seen in ``strangers``, too, or lies within three
    standard errors of so many people, it is none; from twice that on it counts whole (firm shrinkage, Gao and Bruce 1997). Noise and blur go on below
    the frequencies at which anatomy hides them, as white noise and a Gaussian do.

    Images end at black and white, which takes of the noise what lies beyond: a set with noise of 0.2 has lost half of it on a dark ground. As
    much is added as leaves what the set has.

    Args:
        training: the training set.
        target: the set whose spectrum is taken.
        strangers: real images of other people, where there are any: whatever they have more or less than training is nothing that a generator added.

    Attributes:
        gain: float64 [S // 2 + 1], what is kept of the amplitude at each frequency, 0 to 1.
        noise: float64 [S // 2 + 1], power that is added.
    """

    def __init__(self, training: SquareImages, target: SquareImages, strangers: SquareImages | None = None) -> None:
        people, seen = training.powers_of_people(), target.powers_of_people()
        own, wanted = np.maximum(people.mean(0), 1e-12), seen.mean(0)
        allowed = _people_differ(people, len(seen))
        if strangers is not None:
            others = strangers.powers_of_people().mean(0)
            allowed = np.maximum(allowed, np.abs(np.log(np.maximum(others, 1e-12) / own)))
        # Of less, as a share: what is left of a blurred set is little.
        less = -np.log(np.maximum(wanted, 1e-12) / own)
        self.gain = np.exp(-_blur_goes_on(_firm(less, allowed), less, allowed) / 2)
        # The lowest frequencies are anatomy and pose, not sharpness: sets of other people differ in them.
        self.gain[:LOWEST] = 1
        # Of more, as power: noise does not depend on what it lies on.
        hidden = own * np.expm1(allowed)
        missing = _firm(wanted - own, hidden)
        missing[:LOWEST] = 0
        known = missing > 0
        missing = _noise_goes_on(missing, np.clip(wanted - own + hidden, 0, None))
        missing[:LOWEST] = 0
        self.noise = missing.copy()
        if not missing.any():
            return
        rows = evenly_chosen(len(training.pixels), TRIED)
        tried, fields = training.pixels[rows], None if training.shapes is None else np.asarray(training.shapes)[rows]
        before, rng = radial_power(np.clip(self._blurred(tried), 0, 1), fields), np.random.default_rng(0)
        for _ in range(TRIALS):
            kept = radial_power(self(tried, rng), fields) - before
            # Where anatomy hides noise, it hides what is kept of it, too. Of noise that is lost whatever is added, no more is asked.
            kept[~known] = missing[~known] * kept[known].sum() / missing[known].sum()
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


def _people_differ(people: np.ndarray, others: int) -> np.ndarray:
    """By how much the logarithm of the mean spectrum of ``others`` people may differ from that of ``people`` [P, R] by accident of who they are."""
    count = len(people)
    if count < 2:
        return np.zeros(people.shape[1])
    spread = people.std(0, ddof=1) / np.maximum(people.mean(0), 1e-12)
    return stats.t.ppf(stats.norm.cdf(ERRORS), count - 1) * spread * np.sqrt(1 / count + 1 / others)


def _firm(difference: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """What counts of ``difference``: nothing up to ``allowed``, all of it from twice that on."""
    return np.clip(np.minimum(difference, 2 * (difference - allowed)), 0, None)


def _noise_goes_on(noise: np.ndarray, most: np.ndarray) -> np.ndarray:
    """``noise`` with the mean of all higher frequencies where none is seen, as far as there may be so much unseen: ``most``."""
    result, members = noise.copy(), np.bincount(_rings(2 * (len(noise) - 1)).ravel())[: len(noise)]
    above = np.cumsum((noise * members)[::-1])[::-1] / np.cumsum(members[::-1])[::-1]
    hidden = np.flatnonzero(noise == 0)
    result[hidden] = np.minimum(above[hidden], most[hidden])
    return result


def _blur_goes_on(counted: np.ndarray, less: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """What of ``less`` counts with that below the first frequency at which it is beyond doubt, as far as a Gaussian has it there, too."""
    sure = np.flatnonzero((less > 2 * allowed)[LOWEST:]) + LOWEST
    if not len(sure):
        return counted
    below = np.arange(sure[0])
    result = counted.copy()
    result[below] = np.maximum(counted[below], np.clip(np.minimum(less[sure[0]] * (below / sure[0]) ** 2, less[below]), 0, None))
    return result


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
