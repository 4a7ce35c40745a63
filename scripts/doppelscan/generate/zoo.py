"""Generators of MONAI's model zoo: what configs/zoo/*.json lay over a bundle's own inference.json, so that each sample has a seed and can be made again."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Randomizable, Transform
from monai.utils import set_determinism
from torch import nn

from doppelscan.arguments import Count, Folder, Whole, checked
from doppelscan.deepssim import file_sha256, read_checkpoint
from doppelscan.errors import InputError, WeightsError
from doppelscan.files import write_atomic
from doppelscan.generate.conditioning import as_text
from doppelscan.generate.sampling import Sample, write_samples
from doppelscan.images.readers import encode_png

__all__ = [
    "BrightestToOne",
    "BundleFiles",
    "BundleSampler",
    "GanImages",
    "LatentDiffusionImages",
    "MaisiFiles",
    "NiftiFiles",
    "PngFiles",
    "SampleRequest",
    "ask_bundle",
    "load_bundle_weights",
]

LABELS = "labels"


class SampleRequest:
    """What is asked of a bundle, checked before any of its networks is made.

    Args:
        bundle_root: folder of the bundle.
        written_for: versions of the bundle that the overlay was written against, for messages.
        ids: of configs/inference.json that the overlay refers to.
        output_dir: where the samples go.
        samples: how many.
        seed: of the first; the next has the next.
        batch_size: samples at a time; changes a sample by rounding at most.

    Raises:
        InputError: no such bundle, one without these ids, a number that cannot be one.
    """

    def __init__(
        self,
        bundle_root: str | os.PathLike,
        written_for: str,
        ids: Sequence[str],
        output_dir: str | os.PathLike,
        samples: int,
        seed: int = 0,
        batch_size: int = 1,
    ) -> None:
        self.samples, self.seed = checked("samples", Count, samples), checked("seed", Whole, seed)
        self.batch_size, self.output_dir = checked("batch_size", Count, batch_size), Path(checked("output_dir", Folder, output_dir))
        root = Path(bundle_root)
        config = root / "configs" / "inference.json"
        if not config.is_file():
            raise InputError(
                f"The 'bundle_root' parameter must be the folder of a bundle of the model zoo. Got {str(root)!r}, which has no configs/inference.json; "
                "download the bundle, and pass --bundle_root FOLDER."
            )
        missing = sorted(set(ids) - set(_read(config)))
        if missing:
            version = _read(root / "configs" / "metadata.json").get("version", "unknown")
            raise InputError(
                f"The bundle must have the ids that the overlay refers to, as version {written_for} has. Got version {version} in {str(root)!r} without "
                f"{', '.join(missing)}; take version {written_for}, or adapt the overlay."
            )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"The bundle's {str(path)!r} must be a JSON object. Got {' '.join(str(error).split())}.") from error


class BundleFiles:
    """Files of a bundle that are not part of its repository and have to be downloaded, so often are not there.

    Args:
        checkpoints: weights, all that decide what a sample is.
        others: what the bundle reads besides.

    Raises:
        WeightsError: a checkpoint is missing.
        InputError: another file is missing.
    """

    def __init__(self, checkpoints: Sequence[str], others: Sequence[str] = ()) -> None:
        for path in checkpoints:
            if not Path(path).is_file():
                raise WeightsError(
                    f"The bundle must have its weights. Got no file {str(path)!r}; download what its large_files.yml or its page lists."
                )
        for path in others:
            if not Path(path).exists():
                raise InputError(
                    f"The bundle must have all that it reads. Got no {str(path)!r}; download what its large_files.yml or its page lists."
                )
        self.checkpoints = tuple(str(path) for path in checkpoints)

    @property
    def sha256(self) -> str:
        """Of each checkpoint, in their order, with spaces between them."""
        return " ".join(file_sha256(path) for path in self.checkpoints)


def load_bundle_weights(network: nn.Module, path: str | os.PathLike) -> nn.Module:
    """``network`` in evaluation mode with a bundle's weights, read on any device and without running what a pickle holds.

    Networks that were trained with MONAI Generative Models before it became part of MONAI are renamed by the network's own ``load_old_state_dict``.

    Args:
        network: of MONAI.
        path: checkpoint, bare or under the key ``model`` or ``state_dict``.

    Raises:
        WeightsError: no such file, not a plain state dict, or weights of another network.
    """
    BundleFiles([str(path)])
    state = read_checkpoint(path)
    state = dict(state.get("model", state.get("state_dict", state)))
    old = getattr(network, "load_old_state_dict", None)
    # load_old_state_dict keeps the random weights of what it does not find.
    renamed = (".attn.", "out_proj", "postconv") if old else ()
    lost = sorted(key for key in network.state_dict() if key not in state and not any(part in key for part in renamed))
    error: Exception | None = None
    try:
        if not lost:
            (old or network.load_state_dict)(state)
    except (RuntimeError, KeyError) as raised:
        error = raised
    if lost or error is not None:
        what = f"no {', '.join(lost[:3])}" if lost else " ".join(str(error).split())[:160]
        raise WeightsError(
            f"The weights {str(path)!r} must fit the bundle's network {type(network).__name__}. Got {what}; the configs and the weights are of different "
            "versions: download both again."
        ) from error
    return network.eval()


class SeededImages(Protocol):
    """Draws images, each of a seed of its own."""

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """float [N, C, ...], one a seed."""
        ...


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


class LatentDiffusionImages:
    """Images of a latent diffusion bundle, drawn by the bundle's own sampler; DDIM without noise of its own (arXiv 2010.02502, eq. 12 with sigma 0).

    Args:
        inferer: the bundle's ``LDMSampler``, whose ``sampling_fn`` takes noise, autoencoder, network and scheduler.
        autoencoder: decodes.
        network: denoises.
        scheduler: of MONAI, deterministic.
        latent_shape: channels and sides of a latent.
        sampling_steps: of the scheduler.
        show_steps: show the bar over the steps that the sampler draws, for volumes, which take minutes each.

    Raises:
        InputError: more steps than the scheduler has.
    """

    def __init__(
        self,
        inferer: Any,
        autoencoder: nn.Module,
        network: nn.Module,
        scheduler: Any,
        latent_shape: Sequence[int],
        sampling_steps: int = 50,
        show_steps: bool = False,
    ) -> None:
        most = int(scheduler.num_train_timesteps)
        if checked("sampling_steps", Count, sampling_steps) > most:
            raise InputError(f"The 'sampling_steps' parameter must be an integer >= 1 and <= {most}. Got {sampling_steps} instead.")
        scheduler.set_timesteps(num_inference_steps=int(sampling_steps))
        self.inferer, self.autoencoder, self.network, self.scheduler = inferer, autoencoder, network, scheduler
        self.latent_shape, self.show_steps = tuple(int(side) for side in latent_shape), show_steps

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """float [N, C, ...]; the noise is drawn on the CPU, so it is the same on every device."""
        noise = torch.stack([torch.randn(self.latent_shape, generator=_generator(seed)) for seed in seeds])
        parts = (noise.to(_device(self.network)), self.autoencoder, self.network, self.scheduler)
        with torch.no_grad():
            if self.show_steps:
                return self.inferer.sampling_fn(*parts)
            with redirect_stderr(StringIO()):
                return self.inferer.sampling_fn(*parts)


class GanImages:
    """Images of a generative adversarial network.

    Args:
        network: latent vectors [N, L] to images [N, 1, H, W].
        latent_size: L.
        latent: ``uniform`` in [0, 1), as the inference of mednist_gan draws, or ``normal``, as MONAI's ``GanTrainer`` drew while it was trained.

    Raises:
        InputError: another ``latent``.
    """

    def __init__(self, network: nn.Module, latent_size: int, latent: str = "uniform") -> None:
        draws = {"uniform": torch.rand, "normal": torch.randn}
        if latent not in draws:
            raise InputError(f"The 'latent' parameter must be uniform or normal. Got {latent!r} instead.")
        self.network, self.latent_size, self.draw = network, int(latent_size), draws[latent]

    def __call__(self, seeds: Sequence[int]) -> torch.Tensor:
        """float [N, 1, H, W]."""
        latents = torch.stack([self.draw(self.latent_size, generator=_generator(seed)) for seed in seeds])
        with torch.no_grad():
            return self.network(latents.to(_device(self.network)))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(seed))


class BrightestToOne(Transform):
    """Clip an image at 0 and divide it by its brightest pixel, as the brats bundles do before they write a picture; one that stays below 0.1 is left."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """float [C, ...] to [0, 1]."""
        image = image.clamp_min(0)
        highest = image.max()
        return image / highest if highest > 0.1 else image


class SeededFiles(Protocol):
    """Writes samples as files, each of a seed of its own."""

    suffix: str

    def __call__(self, seeds: Sequence[int], paths: Sequence[Path]) -> None:
        """Write the sample of each seed to its path."""
        ...

    def condition(self, name: str) -> dict[str, Any]:
        """What the manifest says of the sample of this file name, beside what is asked of all."""
        ...


class _TensorFiles:
    suffix = ""

    def __init__(self, images: SeededImages, postprocessing: Callable[[torch.Tensor], torch.Tensor] | None = None) -> None:
        self.images, self.postprocessing = images, postprocessing

    def __call__(self, seeds: Sequence[int], paths: Sequence[Path]) -> None:
        for seed, image, path in zip(seeds, self.images(seeds), paths, strict=True):
            image = image.float().cpu()
            if not bool(torch.isfinite(image).all()):
                raise WeightsError(
                    f"The samples of a generator must be finite. Got NaN or Inf of seed {seed}; its weights are damaged."
                )
            image = self.postprocessing(image) if self.postprocessing else image
            write_atomic(path, self.encode(torch.as_tensor(image)[0].numpy()))

    def encode(self, pixels: np.ndarray) -> bytes:
        raise NotImplementedError

    def condition(self, name: str) -> dict[str, Any]:
        return {}


class PngFiles(_TensorFiles):
    """Samples as 8-bit PNG.

    Args:
        images: draws float [N, 1, ...].
        postprocessing: transform of each [1, H, W], to [0, 1] and rows downwards; outside of [0, 1] is clipped.
    """

    suffix = ".png"

    def encode(self, pixels: np.ndarray) -> bytes:
        """Bytes of the file of ``pixels`` [H, W]."""
        return encode_png(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))


class NiftiFiles(_TensorFiles):
    """Samples as float32 NIfTI in RAS+, whose axes the bundles train in.

    Args:
        images: draws float [N, 1, X, Y, Z].
        spacing: of the voxels in mm.
        postprocessing: transform of each [1, X, Y, Z].
    """

    suffix = ".nii.gz"

    def __init__(
        self,
        images: SeededImages,
        spacing: Sequence[float],
        postprocessing: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        super().__init__(images, postprocessing)
        self.spacing = tuple(float(side) for side in spacing)

    def encode(self, pixels: np.ndarray) -> bytes:
        """Bytes of the file of ``pixels`` [X, Y, Z]; the same pixels are the same bytes."""
        return _nifti(pixels.astype(np.float32), np.diag([*self.spacing, 1]))


def _nifti(volume: np.ndarray, affine: np.ndarray) -> bytes:
    image = nib.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def ask_bundle(check: Callable[..., Any], **asked: Any) -> None:
    """Let a bundle check what is asked of it.

    Args:
        check: function of the bundle.
        asked: its parameters.

    Raises:
        InputError: the bundle refuses, in its own words.
    """
    try:
        check(**asked)
    except (ValueError, KeyError, OSError) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> InputError:
    return InputError(f"The bundle must be able to make what it is asked for. Got from it: {' '.join(str(error).split())}")


class MaisiFiles:
    """Volumes of MAISI (arXiv 2409.11169): int16 NIfTI in Hounsfield units, and in ``labels/`` the label map that each was made from.

    The bundle draws from the global generators of PyTorch, NumPy, Python and MONAI's transforms: all are set to the seed before each sample. Which mask it
    takes and how it changes it are drawn, too. The spacing in both headers is the one that was asked for: the bundle's files have that of the mask before it
    was zoomed, divided by the zoom.

    Args:
        sampler: the bundle's ``LDMSampler``, whose ``sample_multiple_images(1)`` writes an image and its label map and gives their paths.
        spacing: of the voxels in mm.
    """

    suffix = ".nii.gz"

    def __init__(self, sampler: Any, spacing: Sequence[float]) -> None:
        self.sampler, self.spacing = sampler, np.array([float(side) for side in spacing])

    def __call__(self, seeds: Sequence[int], paths: Sequence[Path]) -> None:
        """Write the volume of each seed, its label map first: a volume that is there has one.

        Raises:
            InputError: the bundle refuses what it is asked for, or does not say what it wrote.
        """
        for seed, path in zip(seeds, paths, strict=True):
            with tempfile.TemporaryDirectory(prefix="doppelscan-") as place:
                image, label = self._sampled(seed, place)
                (path.parent / LABELS).mkdir(exist_ok=True)
                write_atomic(path.parent / LABELS / path.name, self._encode(label))
                write_atomic(path, self._encode(image))

    def _encode(self, path: str) -> bytes:
        image: Any = nib.load(path)
        axes = image.affine[:3, :3]
        affine = image.affine.copy()
        affine[:3, :3] = axes / np.linalg.norm(axes, axis=0) * self.spacing
        return _nifti(np.round(image.get_fdata(dtype=np.float32)).astype(np.int16), affine)

    def _sampled(self, seed: int, place: str) -> tuple[str, str]:
        self.sampler.output_dir = place
        before = Randomizable.R
        set_determinism(seed)
        # A state of the class, which set_determinism leaves as it was when MONAI was imported.
        Randomizable.R = np.random.RandomState(seed)
        try:
            written = self.sampler.sample_multiple_images(1)
        except (ValueError, KeyError, OSError) as error:
            raise _refusal(error) from error
        finally:
            Randomizable.R = before
        if not written or len(written[0]) != 2:
            raise InputError(
                f"The bundle's sampler must give the paths of an image and its label map. Got {written!r}; it is of another version."
            )
        return written[0][0], written[0][1]

    def condition(self, name: str) -> dict[str, Any]:
        """Where the label map lies, from the manifest's folder."""
        return {"label": f"{LABELS}/{name}"}


class BundleSampler:
    """Samples of a bundle as files and manifest.csv, resumed where it was killed; see :func:`~doppelscan.generate.sampling.write_samples`.

    Args:
        request: how many, from which seed, where to.
        files: writes the sample of a seed.
        checkpoints: whose sha256 the manifest tells.
        sampling_steps: of the scheduler; None for a generator without one.
        condition: what all samples are asked to be, plain values under names.
    """

    def __init__(
        self,
        request: SampleRequest,
        files: SeededFiles,
        checkpoints: BundleFiles,
        sampling_steps: int | None = None,
        condition: Mapping[str, Any] | None = None,
    ) -> None:
        self.request, self.files, self.condition = request, files, dict(condition or {})
        self.sampling_steps = "" if sampling_steps is None else str(checked("sampling_steps", Count, sampling_steps))
        self.sha256 = checkpoints.sha256

    def write(self) -> Path:
        """Write what is missing of the samples.

        Returns:
            path of the manifest, which is a set that an audit takes.

        Raises:
            InputError: a folder of other samples, or one that cannot be written.
            WeightsError: a sample is not finite.
        """
        asked = self.request
        return write_samples(asked.output_dir, "samples", asked.samples, asked.seed, asked.batch_size, self._row, self.files)

    def _row(self, seed: int) -> Sample:
        name = f"sample_{seed:06d}{self.files.suffix}"
        condition = as_text({**self.condition, **self.files.condition(name)})
        return Sample(name, str(seed), condition, self.sha256, "", self.sampling_steps)
