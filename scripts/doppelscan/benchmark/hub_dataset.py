"""``doppelscan benchmark-pack``: images whose licence allows it, a generator's samples with their labels, and its weights, as a dataset for the Hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doppelscan.benchmark.croissant import croissant
from doppelscan.benchmark.labels import TRUTHS, LabelTable, named_samples
from doppelscan.deepssim import file_sha256
from doppelscan.errors import InputError
from doppelscan.files import to_csv, write_atomic
from doppelscan.images import table_values

__all__ = ["COLUMNS", "PackedFile", "benchmark_pack", "licence_of"]

COLUMNS = ("file_name", "kind", "role", "source", "patient", "licence", "truth", "truth_by", "paper_class", "ssim", "nearest")
ROLES = ("training", "holdout", "unused")
FORMATS = (".png", ".jpg", ".jpeg")
CARD, TABLE, MARK = "README.md", "metadata.csv", "croissant.json"
URLS = {
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "cc-by-4.0": "https://creativecommons.org/licenses/by/4.0/",
}


@dataclass(frozen=True)
class PackedFile:
    """A picture of the pack.

    Attributes:
        path: of the file that is copied.
        row: its row of metadata.csv, see :data:`COLUMNS`.
    """

    path: Path
    row: Mapping[str, str]


def licence_of(text: str) -> str | None:
    """``cc0-1.0`` or ``cc-by-4.0``, as the Hub names them, of words such as "CC BY 4.0 (figshare doi ...)"; None for any other licence."""
    if re.match(r"(?i)\s*cc[ -]?0\b", text):
        return "cc0-1.0"
    # Share-alike, non-commercial and no-derivatives are other licences; and of CC BY the version is part.
    return "cc-by-4.0" if re.match(r"(?i)\s*cc[ -]by[ -]4\.0\b", text) else None


def benchmark_pack(
    output: str | os.PathLike,
    images: str | os.PathLike,
    samples: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    weights: Sequence[str | os.PathLike] = (),
    sources: Sequence[str] | None = None,
    repo: str = "OWNER/memorization-benchmark",
    training: str | os.PathLike | None = None,
    holdout: str | os.PathLike | None = None,
) -> Path:
    """Make a folder that the Hub takes as a dataset: pictures, ``metadata.csv``, a card, and ``croissant.json`` (Croissant 1.0).

    Args:
        output: new, empty, or an earlier pack.
        images: .csv with the columns ``path``, ``source`` and ``licence``, and ``patient`` or ``subject``; rows whose column ``kind`` says
            ``generated`` are passed over. A PROVENANCE.md beside it is packed with it.
        samples: folder of a generator's samples.
        labels: of these, as ``doppelscan benchmark`` writes them or its page exports them.
        weights: of the generator.
        sources: of the column ``source``; None for all.
        repo: OWNER/NAME on the Hub, for the addresses in ``croissant.json``.
        training: .csv of the images that the generator was trained on, by the column ``path``, or ``source`` where these are made of ``images``, as
            in a study's tables; it fills the column ``role``.
        holdout: likewise, of images of which it saw nothing.

    Returns:
        the folder.

    Raises:
        InputError: a licence that is neither CC0 nor CC BY 4.0, a file that is no PNG or JPEG, or an ``output`` that holds something else; a table that cannot be
            read, or that names none of the images; an image that is in training and in holdout.
    """
    output = Path(output).expanduser().resolve()
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / MARK).is_file())):
        raise InputError(
            f"The 'output' parameter must be a new or empty folder, or an earlier pack. Got {str(output)!r}, which holds other files."
        )
    table, names = Path(images), dict[str, Path]()
    told = None if labels is None else LabelTable.read(labels)
    listed = table_values(table, "images")
    files = _real(table, listed, sources, names)
    origins = {name: _origins(path, name) for name, path in (("training", training), ("holdout", holdout)) if path is not None}
    files = _with_roles(files, origins)
    of_all = "cc-by-4.0" if any(one.row["licence"] == "cc-by-4.0" for one in files) else "cc0-1.0"
    attributions = _attributions(listed, {one.row["source"] for one in files})
    files += _generated(samples, told, of_all, _packed_names(files, origins), names)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=output.parent) as scratch:
        folder = Path(scratch) / "dataset"
        _copy(files, [Path(one) for one in weights], folder)
        provenance = table.with_name("PROVENANCE.md")
        if provenance.is_file():
            shutil.copyfile(provenance, folder / provenance.name)
        write_atomic(folder / TABLE, to_csv(COLUMNS, [one.row for one in files]))
        packed_weights = {Path(one).name: file_sha256(one) for one in weights}
        description = croissant(COLUMNS, file_sha256(folder / TABLE), URLS[of_all], attributions, repo, packed_weights)
        write_atomic(folder / MARK, json.dumps(description, indent=1))
        write_atomic(folder / CARD, _card(files, of_all, attributions, [Path(one).name for one in weights]))
        if output.exists():
            shutil.rmtree(output)
        os.replace(folder, output)
    return output


def _real(
    table: Path, listed: Mapping[str, Mapping[str, str]], sources: Sequence[str] | None, names: dict[str, Path]
) -> list[PackedFile]:
    found: list[PackedFile] = []
    for path, told in listed.items():
        if told.get("kind") == "generated" or (sources is not None and told.get("source") not in sources):
            continue
        source, licence = told.get("source", ""), licence_of(told.get("licence", ""))
        if licence is None:
            raise InputError(
                f"The column 'licence' of the 'images' table must say CC0 or CC BY 4.0. Got {told.get('licence', '')!r} for {source or path!r}; leave it "
                "out with --sources."
            )
        name = f"images/{source}-{Path(path).name}" if source else f"images/{Path(path).name}"
        _require_picture(Path(path), name, names)
        patient = told.get("patient") or told.get("subject") or ""
        row = {"file_name": name, "kind": "real", "source": source, "patient": patient, "licence": licence}
        found.append(PackedFile(Path(path), {**dict.fromkeys(COLUMNS, ""), **row}))
    if not found:
        raise InputError(f"The 'images' table must name real images to pack. Got none in {str(table)!r}; see --sources.")
    return found


def _require_picture(path: Path, name: str, names: dict[str, Path]) -> None:
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"A pack holds PNG and JPEG pictures alone. Got {str(path)!r}; leave its source out with --sources.")
    if not path.is_file():
        raise InputError(f"The 'images' table must name files that are there. Got {str(path)!r}, which does not exist.")
    if names.setdefault(name, path) != path:
        raise InputError(f"The files of one source must have different names. Got {str(names[name])!r} and {str(path)!r}.")


def _file(path: str) -> str:
    """Of an image such as FILE#slice=12, the file."""
    return os.path.realpath(path.partition("#")[0])


def _origins(table: str | os.PathLike, name: str) -> dict[str, str]:
    """Of each image of a set, by its path: the file that it was made of, or itself."""
    found = {}
    for path, told in table_values(table, name).items():
        values = {column.lower(): text for column, text in told.items()}
        source = Path(values.get("source", "").partition("#")[0]) if values.get("source") else None
        # A column source may also name a data set.
        made = source is not None and (source.is_absolute() or len(source.parts) > 1)
        found[os.path.realpath(path)] = _file(str(source)) if made else _file(path)
    return found


def _with_roles(files: Sequence[PackedFile], origins: Mapping[str, Mapping[str, str]]) -> list[PackedFile]:
    """Files with what the generator has seen of them; without tables nobody knows."""
    if not origins:
        return list(files)
    role_of: dict[str, str] = {}
    for role, images in origins.items():
        for path in {*map(_file, images), *images.values()} & {_file(str(one.path)) for one in files}:
            if role_of.setdefault(path, role) != role:
                raise InputError(
                    f"The 'holdout' table must name other images than training. Got {path!r} in both; leave it out of one."
                )
        if role not in role_of.values():
            raise InputError(
                f"The {role!r} table must name images of the 'images' table, in its column path or source. Got none of the {len(files)} that are packed; "
                "see --sources."
            )
    return [PackedFile(one.path, {**one.row, "role": role_of.get(_file(str(one.path)), "unused")}) for one in files]


def _packed_names(files: Sequence[PackedFile], origins: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Path of a real image, or of what a set's table says was made of it -> its name in the pack."""
    packed = {os.path.realpath(one.path): one.row["file_name"] for one in files}
    made = {path: packed[file] for images in origins.values() for path, file in images.items() if file in packed}
    return made | packed


def _generated(
    samples: str | os.PathLike | None, labels: LabelTable | None, licence: str, packed: Mapping[str, str], names: dict[str, Path]
) -> list[PackedFile]:
    """Samples are made of the real images, so they carry the strictest licence among these."""
    if samples is None:
        return []
    paths = sorted(one for one in Path(samples).rglob("*") if one.suffix.lower() in FORMATS)
    if not paths:
        raise InputError(
            f"The 'samples' parameter must be a folder of PNG or JPEG pictures. Got {str(samples)!r}, which holds none."
        )
    told: dict[int | None, Mapping[str, str]] = {}
    if labels is not None:
        told = dict(zip(named_samples(labels, [str(one) for one in paths]), labels.rows, strict=True))
    found = []
    for i, path in enumerate(paths):
        # Conditions start at one seed, so their samples have the same names.
        name = f"images/generated-{'__'.join(path.relative_to(samples).parts)}"
        _require_picture(path, name, names)
        label = told.get(i, {})
        source = label.get("source", "")
        row = {
            "file_name": name, "kind": "generated", "source": "generated", "licence": licence, "truth": label.get("truth", ""),
            "truth_by": label.get("by", ""), "paper_class": label.get("paper_class", ""), "ssim": label.get("ssim", ""),
            "nearest": packed.get(os.path.realpath(source), packed.get(_file(source), "")) if source else "",
        }  # fmt: skip
        found.append(PackedFile(path, {**dict.fromkeys(COLUMNS, ""), **row}))
    return found


def _attributions(listed: Mapping[str, Mapping[str, str]], sources: set[str]) -> dict[str, str]:
    """Source -> what its column ``licence`` says, which is where the images come from."""
    told = {one.get("source", ""): one.get("licence", "") for one in listed.values()}
    return {source: told[source] for source in sorted(sources)}


def _copy(files: Sequence[PackedFile], weights: Sequence[Path], folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for one in files:
        shutil.copyfile(one.path, folder / one.row["file_name"])
    for path in weights:
        if not path.is_file():
            raise InputError(f"The 'weights' parameter must name files of weights. Got {str(path)!r}, which does not exist.")
        (folder / "weights").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "weights" / path.name)


def _card(files: Sequence[PackedFile], licence: str, attributions: Mapping[str, str], weights: Sequence[str]) -> str:
    """README.md with the front matter that the Hub reads."""
    real = [one.row for one in files if one.row["kind"] == "real"]
    generated = [one.row for one in files if one.row["kind"] == "generated"]
    front: dict[str, Any] = {
        "license": licence,
        "pretty_name": "Memorization of medical images: benchmark",
        "task_categories": ["image-feature-extraction"],
        "tags": ["medical", "memorization", "privacy", "generative-models", "croissant"],
        "size_categories": ["n<1K" if len(files) < 1000 else "1K<n<10K" if len(files) < 10_000 else "10K<n<100K"],
        "configs": [
            {"config_name": "default", "drop_labels": True, "data_files": [{"split": "train", "path": [TABLE, "images/*"]}]}
        ],
    }
    rows = [
        f"| {source} | {sum(one['source'] == source for one in real)} | {len({one['patient'] for one in real if one['source'] == source})} | {words} |"
        for source, words in attributions.items()
    ]
    truths = [f"| {truth} | {count} |" for truth in TRUTHS if (count := sum(one["truth"] == truth for one in generated))]
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {front['pretty_name']}", ""]
    lines += [
        f"{len(real)} real images of {len({(one['source'], one['patient']) for one in real})} people, and {len(generated)} images that a generator made, with labels: "
        "which of them are copies of a training image. For measuring whether a method finds memorized training patients.",
        "",
        f"`{TABLE}`: `file_name`, `kind` (real or generated), `role` (of real ones: {', '.join(ROLES)}, for the generator; empty where nobody says), `source`, "
        "`patient` (the identifier of the public data set), `licence`, and of generated images `truth` (copy, same patient, blend, novel, unsure), `truth_by` "
        "(pixels, by distances in place and after dense registration, or person), `paper_class` (different, similar, duplicate) by `ssim`, registered, with "
        "the nearest in pixels, and `nearest`: that one, or the one that a person named.",
        f"`{MARK}` is the same in Croissant 1.0." + (f" `weights/`: {', '.join(weights)}, the generator." if weights else ""),
        "",
        "## Sources and licences",
        "",
        "| source | images | people | licence and origin |",
        "|---|---|---|---|",
        *rows,
        "",
        f"The images were not changed. As a whole: {licence}, {URLS[licence]}; attribute each source that you use.",
        "Do not try to identify anyone.",
    ]
    if generated:
        lines += ["", "## Generated images", "", "| truth | images |", "|---|---|", *truths]
        lines += [
            "",
            "Labels by pixels are no expert's: unsure ones are so on purpose, and a copy that was bent beyond recognition may be called novel.",
        ]
    lines += [
        "",
        "## Use",
        "",
        "```bash",
        "doppelscan benchmark --training TRAINING.csv --holdout OTHERS.csv --output OUT --samples SAMPLES --labels LABELS.csv",
        "```",
        "",
    ]
    return "\n".join(lines)
