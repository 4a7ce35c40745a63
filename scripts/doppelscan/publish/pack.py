"""``doppelscan pack``: one bundle and everything that it needs in one folder, the same bytes every time."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError
from doppelscan.publish.card import model_card, requirements
from doppelscan.publish.checksums import CHECKSUMS, list_checksum, write_checksums
from doppelscan.publish.export import export_models
from doppelscan.workflows import audit_root, bundle_id, bundle_root, encoder_weights

__all__ = ["bundle_folder", "pack", "write_card"]

PACKAGE = Path(__file__).resolve().parents[1]
LARGE = 25_000_000
PARTS = ("configs", "docs", "models", "LICENSE")


def bundle_folder(bundle: str | os.PathLike) -> Path:
    """The folder that a ``bundle`` names: a path, or the name of a bundle that comes with doppelscan.

    Raises:
        InputError: neither.
    """
    folder = Path(bundle).expanduser()
    if bundle_id(folder) is not None:
        return folder.resolve()
    try:
        if folder.name == str(bundle):
            return Path(bundle_root(str(bundle)))
    except FileNotFoundError:
        pass
    raise InputError(
        f"The 'bundle' parameter must be a bundle's folder, with configs/metadata.json in it, or deepssim_encoder or mi_scorer. Got {str(bundle)!r} instead."
    )


def pack(
    bundle: str | os.PathLike, output: str | os.PathLike, weights: str | os.PathLike | None = None, repo: str | None = None
) -> Path:
    """Make a self-contained bundle in the folder ``output``.

    It holds configs, docs, LICENSE, model card, requirements.txt, models/model.pt, .ts, .onnx, .safetensors and the canary (an input and what
    the networks make of it), a copy of this package with the audit's config, large_files.yml where a file is over 25 MB, and checksums.json
    of every file. Packed twice it is the same bytes; a pack that fails leaves ``output`` as it was.

    Args:
        bundle: see :func:`bundle_folder`.
        output: new, empty, or what an earlier pack made.
        weights: packed as models/model.pt instead of the bundle's own: an encoder that you trained, or a scorer that you fitted, whose
            file holds features of its training images.
        repo: OWNER/NAME on the Hub, for the card and the addresses in large_files.yml.

    Returns:
        the folder.

    Raises:
        InputError: no such bundle, ``output`` holds something else, onnx is missing, or a file is over 25 MB and ``repo`` is missing.
        WeightsError: weights that are not the network's.
    """
    source, output = bundle_folder(bundle), Path(output).expanduser().resolve()
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / CHECKSUMS).is_file())):
        raise InputError(
            f"The 'output' parameter must be a new or empty folder, or an earlier pack. Got {str(output)!r}, which holds other files."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=output.parent) as scratch:
        folder = Path(scratch) / (bundle_id(source) or source.name)
        _copy_parts(source, folder)
        if weights is not None:
            _copy_weights(Path(weights), folder / "models" / "model.pt")
        config = json.loads((folder / "configs" / "inference.json").read_text())
        if config.get("ckpt_path") == "$encoder_weights()" and not (folder / "models" / "encoder.pt").is_file():
            shutil.copyfile(encoder_weights(), folder / "models" / "encoder.pt")
        _copy_package(folder)
        export_models(folder)
        for path in sorted((folder / "models").iterdir()):
            if path.name != CHECKSUMS:
                list_checksum(path)
        _write_large_files(folder, repo)
        write_card(folder, repo)
        if output.exists():
            shutil.rmtree(output)
        os.replace(folder, output)
    return output


def write_card(folder: Path, repo: str | None) -> None:
    """Write README.md and requirements.txt of a packed bundle, and its checksums.json anew."""
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    (folder / "README.md").write_text(model_card(folder, metadata, bundle_id(folder) or folder.name, repo))
    (folder / "requirements.txt").write_text(requirements(metadata))
    write_checksums(folder)


def _copy_parts(source: Path, folder: Path) -> None:
    for part in PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, copy_function=shutil.copyfile)
        elif (source / part).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / part, folder / part)
        elif part != "models":
            raise InputError(
                f"The 'bundle' parameter must be a folder with {', '.join(PARTS)}. Got {str(source)!r}, which has no {part}."
            )
    (folder / "models").mkdir(exist_ok=True)
    # In the repository the commands start there; in the pack, in the folder of the bundle.
    page = folder / "docs" / "README.md"
    page.write_text(page.read_text().replace(f"bundles/{folder.name}/", ""))


def _copy_weights(weights: Path, target: Path) -> None:
    if not weights.is_file():
        raise InputError(f"The 'weights' parameter must be a weights file. Got {str(weights)!r}, which does not exist.")
    shutil.copyfile(weights, target)
    listed = target.parent / CHECKSUMS
    if listed.is_file():  # of the weights that these take the place of
        entries = json.loads(listed.read_text())
        entries[target.name] = file_sha256(target)
        listed.write_text(json.dumps(entries))


def _copy_package(folder: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "bundle")
    shutil.copytree(PACKAGE, folder / "doppelscan", copy_function=shutil.copyfile, ignore=ignored)
    root, carried = Path(audit_root()), folder / "doppelscan" / "bundle"
    shutil.copytree(root / "configs", carried / "configs", copy_function=shutil.copyfile)


def _write_large_files(folder: Path, repo: str | None) -> None:
    """MONAI's list of files that are too large for a git repository; the sha256 is there too, which its download checks when it is given."""
    large = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size > LARGE]
    if not large:
        return
    if repo is None:
        names = ", ".join(p.relative_to(folder).as_posix() for p in large)
        raise InputError(
            f"The 'repo' parameter must be OWNER/NAME when files are over 25 MB, for large_files.yml. Got nothing, and {names}."
        )
    version = json.loads((folder / "configs" / "metadata.json").read_text())["version"]
    lines = ["large_files:"]
    for path in large:
        name = path.relative_to(folder).as_posix()
        lines += [
            f'  - path: "{name}"',
            f'    url: "https://huggingface.co/{repo}/resolve/{version}/{name}"',
            f'    hash_val: "{file_sha256(path)}"',
            '    hash_type: "sha256"',
        ]
    (folder / "large_files.yml").write_text("\n".join(lines) + "\n")
