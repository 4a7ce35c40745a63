"""The sample cohort: patients made from the MNI152 template that nilearn ships, with planted copies and the truth.

Tissue maps of the template are bent by a smooth random deformation, given a random contrast per tissue, a bias field and
noise; every patient has three axial slices. No download, no patient.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage

from doppelscan.errors import InputError
from doppelscan.images.copies import plant_copy
from doppelscan.images.readers import encode_png

__all__ = ["template_maps", "template_patient", "write_sample"]

SIZE = 160
SLICES = (68, 80, 92)  # of the 1 mm template, in the middle of the brain
# Names of what an earlier sample wrote, one a line: that alone is replaced.
WRITTEN = ".doppelscan-sample"
COPIES = ("exact", "flip-x", "rotation 10", "crop 15 %", "noise", "quarter turn", "shift 6 %", "flip, rotation, noise")


def template_maps() -> dict[str, np.ndarray]:
    """The MNI152 template of nilearn at 1 mm: name -> float32 [X, Y, Z] of t1, grey, white, head and fluid."""
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise InputError("The sample cohort needs nilearn, which ships the MNI152 template; pip install '.[sample]'.") from error
    maps = {
        "t1": load_mni152_template(resolution=1),
        "grey": load_mni152_gm_template(resolution=1),
        "white": load_mni152_wm_template(resolution=1),
    }
    arrays = {name: np.asarray(nib.as_closest_canonical(image).dataobj, dtype=np.float32) for name, image in maps.items()}
    arrays["head"] = (arrays["t1"] > 0.05 * arrays["t1"].max()).astype(np.float32)
    arrays["fluid"] = np.clip(arrays["head"] - arrays["grey"] - arrays["white"], 0, 1)
    return arrays


def _smooth(axes: list[np.ndarray], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of about unit variance on the grid of ``axes`` (x, y, z in voxels): random values every ``sigma``, splined.

    One axis after the other: a spline on a grid is a product, and a fifth of the time of all points at once.
    """
    values = rng.standard_normal([int(points.max() / sigma) + 6 for points in axes]).astype(np.float32)
    for points in axes:
        knots = np.eye(values.shape[0], dtype=np.float32)
        weights = [ndimage.map_coordinates(knot, [points / sigma + 2], order=2) for knot in knots]
        values = np.tensordot(values, np.stack(weights), (0, 0))  # the next axis comes to the front
    return 1.6 * values


def template_patient(maps: dict[str, np.ndarray], rng: np.random.Generator, slices: tuple[int, ...] = SLICES) -> np.ndarray:
    """One made-up patient: float32 [len(slices), 160, 160] in [0, 1], shown with the front of the head up."""
    shape = maps["t1"].shape
    axes = [np.arange(shape[0], dtype=np.float32), np.arange(shape[1], dtype=np.float32), np.array(slices, dtype=np.float32)]
    grid = np.meshgrid(*axes, indexing="ij")
    centre = [(n - 1) / 2 for n in shape]
    scale = 1 + 0.05 * rng.standard_normal(3)
    moved = [(g - c) / s + c for g, c, s in zip(grid, centre, scale, strict=True)]
    moved = [m + 4.0 * _smooth(axes, 25, rng) + 1.6 * _smooth(axes, 9, rng) for m in moved]
    moved[2] = moved[2] + 3 * rng.standard_normal()
    white, grey, fluid = (
        0.85 + 0.05 * rng.standard_normal(),
        0.55 + 0.05 * rng.standard_normal(),
        0.18 + 0.03 * rng.standard_normal(),
    )
    levels = {"white": white, "grey": grey, "fluid": fluid}
    volume = sum(level * ndimage.map_coordinates(maps[name], moved, order=1) for name, level in levels.items())
    volume = volume * np.exp(0.12 * _smooth(axes, 60, rng))
    images = []
    for index in range(len(slices)):
        plane = np.rot90(volume[:, :, index])
        plane = plane + 0.015 * rng.standard_normal(plane.shape)
        images.append(np.asarray(Image.fromarray(_square(np.clip(plane, 0, 1))).resize((SIZE, SIZE), Image.Resampling.BILINEAR)))
    return np.stack(images).astype(np.float32)


def _square(plane: np.ndarray) -> np.ndarray:
    height, width = plane.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(plane, ((top, side - height - top), (left, side - width - left))).astype(np.float32)


def write_sample(
    output: str | os.PathLike, *, training: int = 30, holdout: int = 40, novel: int = 14, copies: int = 24, seed: int = 0
) -> str:
    """Write ``training/``, ``synthetic/``, ``holdout/`` (PNG), ``volumes/`` (NIfTI) and ``truth.csv`` to ``output``.

    Args:
        output: new or empty folder, or an earlier sample, whose files are replaced; other files in it stay as they are.
        training: patients in training, three slices each.
        holdout: other patients, three slices each.
        novel: patients who are in neither, whose slices are the synthetic images that are no copies.
        copies: planted copies of training images, by turns exact, flipped, rotated, cropped, noisy, turned, shifted, combined.
        seed: the same seed writes the same files.

    Returns:
        a sentence that says what was written.

    Raises:
        InputError: nilearn is not installed, or ``output`` holds other files or cannot be written.
    """
    output = Path(output)
    earlier = _earlier(output)
    maps = template_maps()
    children = np.random.SeedSequence(seed).spawn(training + holdout + novel + 1)
    patients = [template_patient(maps, np.random.default_rng(child)) for child in children[:-1]]
    rng = np.random.default_rng(children[-1])
    files: dict[str, bytes] = {}
    sources: list[tuple[str, np.ndarray]] = []
    for number, images in enumerate(patients[: training + holdout]):
        part, index = ("training", number) if number < training else ("holdout", number - training)
        for slice_number, image in enumerate(images):
            name = f"{'train' if part == 'training' else 'other'}{index:03d}_slice{slice_number}.png"
            files[f"{part}/{name}"] = _png(image)
            if part == "training":
                sources.append((name, image))
        if index < 4:
            affine = np.diag([1.0, 1.0, 4.0, 1.0])
            volume = np.round(np.rot90(images, -1, (1, 2)).transpose(1, 2, 0) * 1000).astype(np.int16)
            files[f"volumes/{part}{index:03d}.nii.gz"] = gzip.compress(nib.Nifti1Image(volume, affine).to_bytes(), mtime=0)
    truth = []
    chosen = rng.choice(len(sources), size=min(copies, len(sources)), replace=False)
    planted = [(COPIES[i % len(COPIES)], *sources[j]) for i, j in enumerate(chosen.tolist())]
    made = [(name, plant_copy(image, name, rng), source) for name, source, image in planted]
    made += [("novel", image, "") for images in patients[training + holdout :] for image in images]
    for number, place in enumerate(rng.permutation(len(made)).tolist()):
        transform, image, source = made[place]
        name = f"synthetic{number:04d}.png"
        files[f"synthetic/{name}"] = _png(image)
        truth.append((f"synthetic/{name}", f"training/{source}" if source else "", transform))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("image", "source", "transform"), *truth])
    _replace(output, earlier, files | {"truth.csv": table.getvalue().encode()})
    return (
        f"{len(sources)} training, {len(made)} synthetic ({len(planted)} of them copies) and {3 * holdout} holdout images "
        f"in {output}; the truth is in {output / 'truth.csv'}"
    )


def _png(image: np.ndarray) -> bytes:
    return encode_png(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))


def _earlier(output: Path) -> set[str]:
    """Names of the files that an earlier sample wrote to ``output`` and that are still there."""
    try:
        names = (output / WRITTEN).read_text().splitlines() if (output / WRITTEN).is_file() else []
        if not names and output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise InputError(
                f"The 'output' parameter must be a new or empty folder, or an earlier sample. Got {str(output)!r}, which holds other files; "
                "pass another folder."
            )
    except OSError as error:
        raise _not_writable(output, error) from error
    root = output.resolve()
    return {name for name in names if (output / name).is_file() and (output / name).resolve().is_relative_to(root)}


def _replace(output: Path, earlier: set[str], files: dict[str, bytes]) -> None:
    """Write ``files`` in the place of those of an earlier sample."""
    foreign = [name for name in files if name not in earlier and os.path.lexists(output / name)]
    if foreign:
        raise InputError(
            f"The 'output' parameter must be a new or empty folder, or an earlier sample. Got {str(output)!r}, whose {foreign[0]} is none of the "
            "sample's; pass another folder."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in earlier:
            (output / name).unlink()
        (output / WRITTEN).write_text("".join(f"{name}\n" for name in files))
        for name, content in files.items():
            (output / name).parent.mkdir(exist_ok=True)
            (output / name).write_bytes(content)
    except OSError as error:
        raise _not_writable(output, error) from error


def _not_writable(output: Path, error: OSError) -> InputError:
    return InputError(f"The 'output' parameter must be a folder that can be written. Got {str(output)!r}: {error.strerror}.")
