"""``doppelscan info``: what a bundle is, before anybody downloads or runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doppelscan.deepssim import hub_client, hub_errors, hub_file, hub_versions, repository_and_version
from doppelscan.errors import InputError
from doppelscan.publish.pack import bundle_folder

__all__ = ["info"]

LATEST = "latest_version"


def info(bundle: str | os.PathLike) -> dict[str, Any]:
    """Name, version, task, size, licence and references of a bundle.

    Args:
        bundle: folder of a bundle, deepssim_encoder or mi_scorer, or a repository on the Hub, ``hf://OWNER/NAME[@VERSION]`` or
            ``OWNER/NAME[@VERSION]``; of that only the metadata is downloaded. Without a version it is the latest.

    Raises:
        InputError: nothing of these.
        HubError: see :func:`~doppelscan.deepssim.hub_file`.
    """
    try:
        folder = bundle_folder(bundle)
    except InputError:
        if "/" not in str(bundle) or Path(bundle).expanduser().exists():
            raise
        return _published(str(bundle))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return {**_described(metadata, sizes), "place": str(folder)}


def _published(reference: str) -> dict[str, Any]:
    repository, version = repository_and_version(reference)
    versions = hub_versions(repository)
    revision = version or (LATEST if LATEST in versions else "main")
    metadata = json.loads(hub_file(repository, revision, "configs/metadata.json", version is not None).read_text())
    with hub_errors(repository, version):
        tree = hub_client().HfApi().list_repo_tree(repository, recursive=True, revision=revision)
        sizes = [entry.size for entry in tree if hasattr(entry, "size")]
    others = [one for one in versions if one != LATEST]
    return {**_described(metadata, sizes), "place": f"hf://{repository}@{metadata['version']}", "published": ", ".join(others)}


def _described(metadata: Mapping[str, Any], sizes: list[int]) -> dict[str, Any]:
    return {
        "name": metadata["name"],
        "version": metadata["version"],
        "task": metadata["task"],
        "size": f"{sum(sizes) / 1e6:.1f} MB in {len(sizes)} files",
        "licence": metadata.get("license", "not told"),
        "references": "; ".join(metadata.get("references", [])),
    }
