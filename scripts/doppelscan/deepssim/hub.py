"""Weights on the Hugging Face Hub, ``hf://OWNER/NAME@VERSION``: pinned, checked by sha256, from the cache before the network."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doppelscan.deepssim.weights import CHECKSUMS, file_sha256, listed_sha256
from doppelscan.errors import InputError, WeightsError

__all__ = [
    "HUB_PREFIX",
    "HubError",
    "hub_client",
    "hub_encoder",
    "hub_errors",
    "hub_file",
    "hub_versions",
    "repository_and_version",
]

HUB_PREFIX = "hf://"
WEIGHTS = "models/model.safetensors"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class HubError(WeightsError):
    """The Hub could not be used; the text is one line that says what to do."""


def hub_client() -> Any:
    """The module ``huggingface_hub``.

    Raises:
        HubError: it is missing.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as error:
        raise HubError('The Hub needs huggingface_hub: pip install ".[hub]".') from error
    return huggingface_hub


def repository_and_version(reference: str) -> tuple[str, str | None]:
    """``hf://OWNER/NAME@VERSION`` or ``OWNER/NAME`` -> ("OWNER/NAME", "VERSION" or None).

    Raises:
        HubError: it has another form.
    """
    repository, _, version = reference.removeprefix(HUB_PREFIX).partition("@")
    if not REPOSITORY.fullmatch(repository):
        raise HubError(f"A repository on the Hub must be named OWNER/NAME, with @VERSION to pin it. Got {reference!r} instead.")
    return repository, version or None


@contextmanager
def hub_errors(repository: str, version: str | None = None) -> Iterator[None]:
    """Tell what the Hub's client raises in one line."""
    client = hub_client()
    errors = client.errors
    named = f"{repository}@{version}" if version else repository
    try:
        yield
    except (HubError, InputError):
        raise
    except errors.RevisionNotFoundError as error:
        known = ", ".join(hub_versions(repository)) or "none"
        raise HubError(
            f"The version of hf://{repository} must be one that was published: {known}. Got {version!r} instead."
        ) from error
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubError(
                f"hf://{named} is not in the cache and {client.constants.ENDPOINT} cannot be reached; run once with a network, or pass the path of a file."
            ) from error
        raise HubError(
            f"hf://{named} must be a packed bundle. Got a repository without a file that one has: {_first(error)}"
        ) from error
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise HubError(
            f"hf://{repository} does not exist or is private to others; check the name, or log in with a token that may read it: hf auth login."
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        hint = "; log in with a token that may write: hf auth login" if status in (401, 403) else ""
        raise HubError(f"The Hub refused {named}: {_first(error)}{hint}") from error
    except ValueError as error:  # a card that the Hub does not take, a name that is none
        raise HubError(f"The Hub refused {named}: {_first(error)}") from error
    except (OSError, RuntimeError, errors.OfflineModeIsEnabled, *_transport_errors()) as error:
        raise HubError(
            f"The connection for {named} broke off: {_first(error)}; nothing of the unfinished file is used, run it again to go on."
        ) from error


def _transport_errors() -> tuple[type[Exception], ...]:
    found: list[type[Exception]] = []
    for name, base in (("httpx2", "HTTPError"), ("httpx", "HTTPError"), ("requests", "RequestException")):
        try:
            found.append(getattr(__import__(name), base))
        except (ImportError, AttributeError):
            continue
    return tuple(found)


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def hub_versions(repository: str) -> list[str]:
    """Names of the tags of ``repository``; empty when the Hub does not tell."""
    try:
        return sorted(tag.name for tag in hub_client().HfApi().list_repo_refs(repository).tags)
    except Exception:
        return []


def hub_file(repository: str, version: str, name: str, pinned: bool = True) -> Path:
    """One file of a published bundle: from the cache when it is there, else downloaded into it.

    Args:
        repository: OWNER/NAME.
        version: tag, branch or commit.
        name: path of the file in it.
        pinned: False asks the Hub first, since a branch or ``latest_version`` moves.

    Raises:
        HubError: no such repository, version or file; no connection; a download that broke off, of which nothing is used.
    """
    client = hub_client()
    if pinned:
        try:
            return Path(client.hf_hub_download(repository, name, revision=version, local_files_only=True))
        except client.errors.LocalEntryNotFoundError:
            pass
    with hub_errors(repository, version):
        return Path(client.hf_hub_download(repository, name, revision=version))


def hub_encoder(reference: str) -> str:
    """Path of the encoder's weights that ``hf://OWNER/NAME@VERSION`` names, once their sha256 is the one that the version lists.

    What was downloaded once is used again without a connection. VERSION is a tag or a commit; a commit cannot be moved by anybody.

    Raises:
        HubError: see :func:`hub_file`; a reference without a version; weights with another sha256, which are removed from the cache.
    """
    repository, version = repository_and_version(reference)
    if version is None:
        known = ", ".join(hub_versions(repository)) or "unknown, the Hub does not tell"
        raise HubError(f"The 'encoder' parameter must pin a version: hf://{repository}@VERSION. Got none; published are: {known}.")
    listed = hub_file(repository, version, f"models/{CHECKSUMS}")
    # The files are of one commit, also when the tag is moved between two downloads.
    commit = listed.parents[1].name
    weights = hub_file(repository, commit, WEIGHTS)
    expected = listed_sha256(listed).get(weights.name)
    found = file_sha256(weights)
    if found != expected:
        os.unlink(weights.resolve())
        weights.unlink(missing_ok=True)
        raise HubError(
            f"The weights of hf://{repository}@{version} must have the sha256 {str(expected)[:16]}... that {CHECKSUMS} lists. Got {found[:16]}...; "
            "they were removed from the cache: run it again, and if it stays so, tell the publisher."
        )
    return str(weights)
