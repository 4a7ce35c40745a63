"""The self-test: copies of this training set, changed as transforms and generators change them, go through the audit as synthetic images do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from doppelscan.decide import Planted, Reference
from doppelscan.errors import InputError
from doppelscan.images import PrincipalReconstruction, SpectrumMatch, SquareImages, evenly_chosen, plant_copy, unpadded
from doppelscan.memorization import spread_over_patients
from doppelscan.search import EmbeddedSet

__all__ = ["CopyPlanter", "change_of", "planted_images", "planted_scores", "size_of"]

# Of the benchmark's transforms one of each kind: an audit has seconds for them.
BENCHMARK = {
    "rotation 10": "turned by 10 degrees",
    "flip, rotation, noise": "mirrored, turned by 8 degrees and slightly noisy",
    "shift 6 %": "shifted by 6 % of the field",
    "crop 15 %": "enlarged by 18 %",
    "gamma 1.5": "of another contrast (gamma 1.5)",
    "blend 75/25": "mixed with a quarter of another patient",
}
# A weak generator and a better one; of fewer images fewer components.
COMPONENTS, NEAREST = (40, 80), 5
# With 18 copies that are all found the lower 95 % limit is 81 %; 30 forgive one that is not.
FEWEST, MOST, SHARE = 18, 30, 0.3
SPECTRUM_IMAGES, PRINCIPAL_IMAGES = 200, 1000


@dataclass(frozen=True)
class PlantedImages:
    """Images of one transform: their pixels float32 [H, W] in [0, 1], the training row that each is a copy of or -1, and who it shows; whether
    a claim of none found is to cover the transform."""

    name: str
    words: str
    pixels: list[np.ndarray]
    sources: list[int]
    patients: list[str]
    declared: bool = True


class CopyPlanter:
    """Plants copies of training images, one a patient, and images of nobody.

    Everything is made of the thumbnails that registration looks at, whatever the files are, of fewer pixels where the image has fewer: half the
    resolution of a small image is half of its own.

    Args:
        training: the training set.
        synthetic: the synthetic set, whose sharpness and noise copies are given, too.
        strangers: real images of other patients, which the same is done to, and whose sharpness and noise are none that a generator added; None leaves
            that out.
        size: copies a transform, at most; one of each patient.
        seed: of draws.
        reconstruct: TorchScript file of an autoencoder, float32 [B, 1, S, S] in [0, 1] to the same.
        declared: changes that a claim of none found is to cover, as :func:`change_of` names them; None is all.

    Raises:
        InputError: ``reconstruct`` cannot be run.
    """

    def __init__(
        self,
        training: EmbeddedSet,
        synthetic: EmbeddedSet,
        strangers: EmbeddedSet | None,
        size: int,
        seed: int = 0,
        reconstruct: str | os.PathLike | None = None,
        declared: Collection[str] | None = None,
    ) -> None:
        self.declared = declared
        self.training, self.rng = training, np.random.default_rng(seed)
        people = len(set(training.patients))
        self.rows = spread_over_patients(training.patients, min(size, people), seed)
        self.own = _pixels(training, self.rows)
        self.strangers: list[np.ndarray] = []
        self.stranger_patients: list[str] = []
        if strangers is not None:
            rows = spread_over_patients(strangers.patients, min(max(5, size // 5), len(set(strangers.patients))), seed)
            self.strangers, self.stranger_patients = _pixels(strangers, rows), [strangers.patients[row] for row in rows]
        chosen = evenly_chosen(len(training), PRINCIPAL_IMAGES).tolist()
        self.whole = _pixels(training, chosen, square=True)
        self.whole_patients = [training.patients[row] for row in chosen]
        spectrum = SpectrumMatch(
            SquareImages(np.stack(self.whole), training.native_shapes(chosen), self.whole_patients),
            _squares(synthetic),
            None if strangers is None else _squares(strangers),
        )
        self.made = self._made_by_generators(np.stack(self.whole), spectrum, seed, reconstruct)

    def _made_by_generators(
        self, training: np.ndarray, spectrum: SpectrumMatch, seed: int, reconstruct: str | os.PathLike | None
    ) -> dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]:
        """Name -> words and what is done to a square image [S, S]."""
        rng = self.rng
        made: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
            "noise 0.1": ("with noise of a tenth of the range", lambda i: i + 0.1 * rng.standard_normal(i.shape)),
            "blur 2": ("blurred (sigma 2 of 128 pixels)", lambda i: ndimage.gaussian_filter(i, 2.0 * len(i) / 128)),
            "half resolution": ("of half the resolution", lambda i: plant_copy(i, "down-up", rng)),
            "spectrum": ("with the sharpness and noise of the synthetic set", lambda i: spectrum(i[None], rng)[0]),
        }
        ranks = sorted({min(rank, len(training) // 2) for rank in COMPONENTS})
        if ranks[-1] >= 2:
            principal = PrincipalReconstruction(training, ranks[-1], seed)
            for rank in ranks:
                made[f"components {rank}"] = (f"smoothed by {rank} principal components", _reconstructed(principal, rank))
        if reconstruct is not None:
            made["reconstruct"] = ("through the given autoencoder", _autoencoder(reconstruct, training.shape[-1]))
        return made

    def _side(self, name: str) -> int | None:
        """Side of the square that what a generator does is fitted to; None where any will do."""
        return self.whole[0].shape[-1] if name.split()[0] in ("spectrum", "components", "reconstruct") else None

    def copies(self) -> Iterator[PlantedImages]:
        """Copies, a transform after the other."""
        patients = [self.training.patients[row] for row in self.rows]
        partner = self.rng.permutation(len(self.own))
        for name, words in BENCHMARK.items():
            # A blend is of two people: nobody is mixed with himself.
            pairs = [
                (one, self.own[j if j != i else (j + 1) % len(self.own)])
                for i, (one, j) in enumerate(zip(self.own, partner, strict=True))
            ]
            pixels = [plant_copy(one, name, self.rng, other) for one, other in pairs]
            yield PlantedImages(name, words, pixels, list(self.rows), patients, self._declares(name))
        for name, (words, change) in self.made.items():
            own = [_within(one, change, self._side(name)) for one in self.own]
            yield PlantedImages(name, words, own, list(self.rows), patients, self._declares(name))

    def _declares(self, name: str) -> bool:
        return self.declared is None or change_of(name) in self.declared

    def negatives(self) -> Iterator[PlantedImages]:
        """Strangers through what generators do, and means of training images: a copy of nobody."""
        if self.strangers:
            nobody = [-1] * len(self.strangers)
            for name, (words, change) in self.made.items():
                pixels = [_within(one, change, self._side(name)) for one in self.strangers]
                yield PlantedImages(name, f"strangers {words}", pixels, nobody, self.stranger_patients)
        # Of different people, or a mean would be of slices of one.
        first = np.stack([self.whole[i] for i in spread_over_patients(self.whole_patients, len(set(self.whole_patients)), 0)])
        means = [_mean_of_nearest(first, i) for i in evenly_chosen(len(first), max(5, len(self.own) // 5))]
        names = [f"mean {i}" for i in range(len(means))]
        yield PlantedImages(
            "means", f"means of {min(NEAREST, len(first))} training images that are alike", means, [-1] * len(means), names
        )


def change_of(name: str) -> str:
    """The word of a transform by which it is declared: one of :data:`~doppelscan.arguments.CHANGES`."""
    return "resolution" if name == "half resolution" else name.split()[0].rstrip(",")


def _reconstructed(principal: PrincipalReconstruction, rank: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image: principal(image[None], rank)[0]


def _mean_of_nearest(images: np.ndarray, row: int) -> np.ndarray:
    distance = ((images - images[row]) ** 2).mean((1, 2))
    return images[np.argsort(distance, kind="stable")[:NEAREST]].mean(0)


def _pixels(images: EmbeddedSet, rows: Sequence[int], square: bool = False) -> list[np.ndarray]:
    """Thumbnails float32 in [0, 1]; without ``square`` without their padding, [H, W]."""
    pixels = images.thumbnails(rows)[:, 0].numpy().astype(np.float32) / 255
    if square:
        return list(pixels)
    size, shapes = pixels.shape[-1], images.native_shapes(rows)
    cut = []
    for one, shape in zip(pixels, shapes, strict=True):
        own = unpadded(one, shape)
        cut.append(_resized(own, (max(8, int(shape[0])), max(8, int(shape[1])))) if shape.max() < size else own)
    return cut


def _squares(images: EmbeddedSet) -> SquareImages:
    """Some of a set, whose spectrum is taken."""
    rows = evenly_chosen(len(images), SPECTRUM_IMAGES).tolist()
    shown = [images.patients[row] for row in rows]
    return SquareImages(np.stack(_pixels(images, rows, square=True)), images.native_shapes(rows), shown)


def _resized(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return torch.nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)[0, 0].numpy()


def _within(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray], side: int | None) -> np.ndarray:
    """``change`` of ``image`` [H, W] padded to a square, of ``side`` pixels where given, cut back."""
    size, (height, width) = max(image.shape), image.shape
    top, left = (size - height) // 2, (size - width) // 2
    whole = np.zeros((size, size), np.float32)
    whole[top : top + height, left : left + width] = image
    if side is None or side == size:
        changed = change(whole)
    else:
        changed = _resized(np.asarray(change(_resized(whole, (side, side))), np.float32), (size, size))
    return np.clip(changed, 0, 1).astype(np.float32)[top : top + height, left : left + width]


def _autoencoder(path: str | os.PathLike, size: int) -> Callable[[np.ndarray], np.ndarray]:
    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            made = network(torch.from_numpy(np.ascontiguousarray(image))[None, None])
        if not isinstance(made, torch.Tensor) or made.shape != (1, 1, *image.shape):
            raise ValueError(f"its result is no float32 [1, 1, {size}, {size}]")
        return made[0, 0].float().numpy()

    try:
        network = torch.jit.load(os.fspath(path), map_location="cpu").eval()
        run(np.zeros((size, size), np.float32))
    except (RuntimeError, ValueError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"The 'reconstruct' parameter must be a TorchScript autoencoder of float32 [B, 1, {size}, {size}] in [0, 1]. Got {os.fspath(path)!r}: {why}."
        ) from error
    return run


def size_of(images: int) -> int:
    """Copies a transform for an audit of ``images`` synthetic and control images: so many that they take 30 % of its time, from 18 to 30."""
    return int(np.clip(SHARE / (1 - SHARE) * images / (len(BENCHMARK) + 6), FEWEST, MOST))


def planted_images(size: int) -> int:
    """About how many images a self-test of ``size`` copies a transform plants, negatives among them."""
    return size * (len(BENCHMARK) + 6) + 7 * max(5, size // 5)


def planted_scores(planter: CopyPlanter, reference: Reference, embed: Callable[[str], EmbeddedSet], folder: Path) -> list[Planted]:
    """Plant, embed and score.

    Args:
        planter: of the images.
        reference: the training set that they are scored against.
        embed: gives the images of a folder of PNG files in 8 poses.
        folder: where the files lie meanwhile; they are deleted.
    """
    groups = [*planter.copies(), *planter.negatives()]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="self-test-") as place:
        for number, image in enumerate(image for group in groups for image in group.pixels):
            Image.fromarray(np.round(image * 255).astype(np.uint8)).save(Path(place) / f"{number:06d}.png")
        images = embed(place)
        scored = reference.scored(images, "self-test")
        # An image that cannot be used, as one that is black all over, is not there.
        row_of = {int(Path(record.paths[0]).stem): row for row, record in enumerate(images.records)}
        result, start = [], 0
        for group in groups:
            kept = [i for i in range(len(group.pixels)) if start + i in row_of]
            own = replace(scored, scored=tuple(scored.scored[row_of[start + i]] for i in kept))
            sources = np.array([group.sources[i] for i in kept], np.int64)
            result.append(Planted(group.name, group.words, own, sources, tuple(group.patients[i] for i in kept), group.declared))
            start += len(group.pixels)
    return [one for one in result if len(one.sources)]
